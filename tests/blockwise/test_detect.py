"""Blockwise detection against the whole volume, for every block shape; centres of instances; what is refused."""

import numpy as np
import pytest
from blockwise_cases import random_prediction, save_prediction
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from nucseg.blockwise.decoding import Origin, choose_points, read_origin, write_origin
from nucseg.blockwise.detect import Detect
from nucseg.blockwise.detect_instances import DetectInstances
from nucseg.blockwise.launch import Local
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.steps import detect, segment
from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.evaluate import evaluate_paths
from nucseg.evaluate.detect import points
from nucseg.evaluate.grid import instances
from nucseg.evaluate.matching import detection
from nucseg.heads.center_vectors import CenterVectors, vote_threshold_grid
from nucseg.heads.gaussian_centers import GaussianCenters
from nucseg.heads.scenario import Decoding, PointDecoding, Scenario
from nucseg.points import read_points, read_table
from nucseg.volume import create_image, create_labels, open_volume

HERE = Local(workers=0)
SHAPE = (30, 34, 41)
BOTH = Scenario([GaussianCenters(), CenterVectors()])
PEAKS = PointDecoding(threshold=0.4, distance=3)
VOTES = PointDecoding(source="votes", threshold=0.5, distance=2, foreground_threshold=0.0, reach=4)

OF_ALL = PointDecoding(source="votes", threshold=0.5, distance=2, vote_passes=1, votes_from="all", reach=4)


def blobs(seed, levels=0):
    """A prediction of blobs and vectors (4, z, y, x); rounded to `levels`, to have ties and plateaus."""
    rng = np.random.default_rng(seed)
    height = gaussian_filter(rng.standard_normal(SHAPE), 1.5)
    height /= height.max()
    if levels:
        height = np.round(height * levels) / levels
    vectors = gaussian_filter(rng.standard_normal((3, *SHAPE)), (0, 1.5, 1.5, 1.5))
    return np.concatenate([height[None], np.round(8 * vectors / vectors.std()) / 4]).astype(np.float32)


@pytest.mark.parametrize("decoding", [PEAKS, VOTES, OF_ALL], ids=["peaks", "votes", "all"])
@pytest.mark.parametrize("levels", [0, 5])
def test_every_block_shape_finds_the_points_of_the_whole(tmp_path, decoding, levels):
    prediction = blobs(seed=levels, levels=levels)
    path = save_prediction(tmp_path / "p.npy", prediction)
    whole = points(prediction, BOTH, decoding)
    scores = BOTH.score_map(prediction, decoding)[tuple(whole.astype(int).T)]
    assert len(whole) > 8
    digests = set()
    for number, block in enumerate([SHAPE, (7, 11, 13), (16, 34, 5), None]):
        out = tmp_path / str(number)
        task = Detect(out=str(out), prediction=path, scenario=BOTH, decoding=decoding, block=block)
        result = task.blockwise(HERE)
        table = read_table(out / "tables" / "points.parquet")
        assert list(table) == ["id", "z", "y", "x", "score"]  # .npy files do not say their voxel size
        np.testing.assert_array_equal(np.stack([table[a] for a in "zyx"], 1), whole)
        np.testing.assert_array_equal(table["score"], scores)
        np.testing.assert_array_equal(table["id"], np.ravel_multi_index(whole.astype(int).T, SHAPE) + 1)
        np.testing.assert_array_equal(read_points(out / "tables" / "points.csv"), whole)
        assert result["nuclei"] == len(whole)
        digests.add(result["digest"])
    assert len(digests) == 1


def test_two_workers_and_a_second_call(tmp_path):
    path = save_prediction(tmp_path / "p.zarr", blobs(seed=3))
    write_origin(path, Origin(BOTH, None, 1.0, PEAKS))
    calm = detect(path, str(tmp_path / "a"), launcher=HERE, block=SHAPE)
    busy = detect(path, str(tmp_path / "b"), launcher=Local(workers=2), block=(16, 16, 16))
    assert busy.digest == calm.digest
    assert (busy.blocks, busy.skipped, busy.failed) == (2 * 3 * 3, 0, 0)
    again = detect(path, str(tmp_path / "b"), launcher=HERE, block=(16, 16, 16))
    assert (again.skipped, again.digest, again.nuclei) == (18, calm.digest, calm.nuclei)
    table = read_table(tmp_path / "b" / "tables" / "points.csv")
    for axis, size in zip("zyx", (0.2, 0.1, 0.1), strict=True):
        np.testing.assert_allclose(table[f"{axis}_um"], table[axis] * size)
    with pytest.raises(InputError, match=r"decoding\.threshold 0\.4.*overwrite"):
        detect(path, str(tmp_path / "b"), launcher=HERE, block=(16, 16, 16), threshold=0.5)
    other = detect(path, str(tmp_path / "b"), launcher=HERE, threshold=0.5, overwrite=True)
    assert 0 < other.nuclei < calm.nuclei
    assert other.digest != calm.digest


def test_nothing_found_is_an_empty_table(tmp_path):
    path = save_prediction(tmp_path / "p.npy", np.zeros((1, *SHAPE), np.float32))
    result = detect(path, str(tmp_path / "o"), head="gauss", launcher=HERE)
    assert result.nuclei == 0
    assert read_points(tmp_path / "o" / "tables" / "points.csv").shape == (0, 3)


def test_a_prediction_remembers_its_points(tmp_path):
    path = save_prediction(tmp_path / "p.zarr", blobs(seed=1))
    assert read_origin(path) == Origin()
    write_origin(path, Origin(BOTH, None, 1.5, VOTES))
    assert read_origin(path) == Origin(BOTH, None, 1.5, VOTES)
    settled = Detect(out=str(tmp_path / "o"), prediction=path).resolved()
    assert (settled.scenario, settled.decoding) == (BOTH, VOTES)


def test_instances_are_detected_at_their_centres_of_mass(tmp_path):
    prediction = random_prediction(SHAPE, seed=5)
    path, out = save_prediction(tmp_path / "p.zarr", prediction), tmp_path / "o"
    settings = {"head": "three_label", "launcher": HERE}
    with pytest.raises(InputError, match="nucseg segment"):
        detect(path, str(out), **settings)
    made = segment(
        path, str(out), block=(16, 16, 16), seed_threshold=0.5, foreground_threshold=0.6, **settings
    )
    found = detect(path, str(out), **settings)
    assert found.nuclei == made.nuclei > 3
    raw = tmp_path / "raw.npy"
    np.save(raw, np.zeros(SHAPE, np.uint8))
    Measure(volume=str(raw), out=str(out)).blockwise(HERE)
    nuclei, table = (read_table(out / "tables" / f"{name}.csv") for name in ("nuclei", "points"))
    assert list(table) == ["id", "z", "y", "x", "z_um", "y_um", "x_um"]
    for name in table:
        np.testing.assert_array_equal(table[name], nuclei[name])
    other = DetectInstances(out=str(tmp_path / "other"), labels=str(out), block=(9, 40, 12)).blockwise(HERE)
    assert other["digest"] == found.digest
    with pytest.raises(InputError, match="instances of"):
        detect(save_prediction(tmp_path / "q.zarr", prediction), str(out), **settings)
    with pytest.raises(InputError, match="threshold: expected none"):
        detect(path, str(out), threshold=0.3, **settings)


def test_the_output_is_evaluated_as_points(tmp_path):
    prediction = blobs(seed=2)
    path, out = save_prediction(tmp_path / "p.npy", prediction), tmp_path / "o"
    Detect(out=str(out), prediction=path, scenario=BOTH, decoding=PEAKS).blockwise(HERE)
    truth = np.zeros(SHAPE, np.uint32)
    truth[:, :, 5:20], truth[:, 20:, 25:] = 1, 2
    create_labels(tmp_path / "truth", shape=SHAPE, scale_um=None).write((0, 0, 0), truth)
    scores = evaluate_paths(out, tmp_path / "truth")
    assert scores.detection == detection(points(prediction, BOTH, PEAKS), truth)
    assert scores.detection.tp == 2
    assert scores.ap == {}
    create_labels(out, "nuclei", shape=SHAPE, scale_um=None).write((0, 0, 0), truth)
    assert evaluate_paths(out, tmp_path / "truth").ap[0.5] == 1  # labels go before points


@pytest.mark.parametrize("passes", [0, 3])
def test_the_command_line_takes_voters_and_passes(tmp_path, passes):
    """`segment` and `detect` against decoding in memory, with both options away from their defaults."""
    prediction = random_prediction(SHAPE, 3, "three_label_cpv")
    path, out = save_prediction(tmp_path / "p.zarr", prediction), str(tmp_path / "o.zarr")
    scenario = Scenario.named("three_label_cpv")
    how = [
        "--head",
        scenario.name,
        "--nucleus-um",
        "0.4",
        "--foreground-threshold",
        "0.55",
        "--block",
        "16",
        "17",
        "18",
    ]
    how += ["--vote-passes", str(passes), "--votes-from", "all", "--launcher", "local:0", "--json"]
    fields = {"foreground_threshold": 0.55, "reach": 4, "vote_passes": passes, "votes_from": "all"}
    done = CliRunner().invoke(
        cli, ["segment", path, out, "--seeds", "votes", "--seed-threshold", "0.7", *how]
    )
    assert done.exit_code == 0, done.output
    expected = instances(prediction, scenario, Decoding(seeds="votes", seed_threshold=0.7, **fields))
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(open_volume(f"{out}/labels/nuclei").read(), expected)
    done = CliRunner().invoke(
        cli, ["detect", path, out, "--source", "votes", "--threshold", "0.7", "--distance", "2", *how]
    )
    assert done.exit_code == 0, done.output
    decoding = PointDecoding(source="votes", threshold=0.7, distance=2, **fields)
    np.testing.assert_array_equal(
        read_points(f"{out}/tables/points.csv"), points(prediction, scenario, decoding)
    )
    refused = CliRunner().invoke(cli, ["segment", path, out, *how])
    assert refused.exit_code == 1


def test_choices():
    gauss, cpv = Scenario.named("gauss"), Scenario.named("three_label_cpv")
    assert choose_points(gauss, None) == gauss.default_point_decoding()
    assert choose_points(gauss, None, known_reach=28).distance == 5
    assert choose_points(gauss, PEAKS, threshold=0.1, distance=None).threshold == 0.1
    assert choose_points(BOTH, PEAKS, source="votes", known_reach=9) == BOTH.default_votes(9)
    assert choose_points(BOTH, VOTES, reach=7) == VOTES.model_copy(update={"reach": 7})
    assert choose_points(BOTH, VOTES, known_reach=7) == VOTES
    assert choose_points(BOTH, VOTES, votes_from="all") == VOTES.model_copy(update={"votes_from": "all"})
    sharper = choose_points(BOTH, VOTES, vote_passes=1)
    assert sharper.threshold == vote_threshold_grid(5.5, 1)[3] > BOTH.default_votes(9).threshold
    assert choose_points(BOTH, VOTES, vote_passes=1, threshold=2.0).threshold == 2.0
    assert choose_points(cpv, None, reach=9, foreground_threshold=0.7).foreground_threshold == 0.7
    for scenario, base, fields, says in (
        (gauss, None, {"source": "votes"}, "expected peaks"),
        (cpv, None, {"source": "peaks"}, "expected votes"),
        (cpv, None, {"source": "votes"}, "--nucleus-um"),
        (gauss, None, {"foreground_threshold": 0.5}, "foreground threshold"),
        (gauss, None, {"vote_passes": 1}, "settings of votes"),
        (BOTH, PEAKS, {"votes_from": "all"}, "--source votes"),
        (Scenario.named("three_label"), PEAKS, {}, "centres of instances"),
    ):
        with pytest.raises(InputError, match=says):
            choose_points(scenario, base, **fields)


def test_a_prediction_of_other_channels_is_refused(tmp_path):
    path = tmp_path / "three.zarr"
    create_image(path, shape=(3, 4, 4, 4), dtype="float32", scale_um=None, axes=("c", "z", "y", "x"))
    with pytest.raises(InputError, match="expected 1 channels"):
        detect(str(path), str(tmp_path / "o"), head="gauss", launcher=HERE)
    assert not (tmp_path / "o").exists()
