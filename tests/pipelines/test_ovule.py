"""The cross-validated ovule: halves that share nothing, a matrix that is what the README says."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import nucseg as ns
from nucseg.experiment import ExperimentConfig
from nucseg.experiment.config import STARDIST

HERE = Path(__file__).resolve().parents[2] / "pipelines" / "ovule"
sys.path.insert(0, str(HERE))

from crossvalidate import GAP, SCALE_UM, WIDTH, cut, enlarged, floor, rescored  # noqa: E402


@pytest.fixture
def data(tmp_path):
    """A stack of 60 planes with a bright ball every 12."""
    labels = np.zeros((60, 20, 22), np.uint16)
    grid = np.indices(labels.shape)
    for number, z in enumerate(range(6, 60, 12), start=1):
        labels[(((grid.T - (z, 10, 11)) ** 2).sum(-1) <= 16).T] = number
    folder = tmp_path / "data" / "ovule_1135"
    folder.mkdir(parents=True)
    tifffile.imwrite(folder / "raw.tif", (50 + 150 * (labels > 0)).astype(np.uint8))
    tifffile.imwrite(folder / "labels.tif", labels)
    return tmp_path / "data"


def test_the_halves_share_no_voxel_and_miss_only_the_gap(data, tmp_path):
    front, back = cut(data, tmp_path / "out")
    whole = tifffile.imread(data / "ovule_1135" / "raw.tif")
    averaged = np.mean([whole[:, y::WIDTH, x::WIDTH] for y in range(WIDTH) for x in range(WIDTH)], axis=0)
    first, second = ns.open_volume(front), ns.open_volume(back)
    assert first.shape[0] + GAP + second.shape[0] == len(whole)
    np.testing.assert_allclose(first.read(), averaged[: first.shape[0]])
    np.testing.assert_allclose(second.read(), averaged[-second.shape[0] :])
    assert first.scale_um == pytest.approx((SCALE_UM[0], WIDTH * SCALE_UM[1], WIDTH * SCALE_UM[2]))
    for half in (front, back):
        copy = half.with_name(f"{half.stem}_copy.zarr")
        np.testing.assert_array_equal(ns.open_labels(copy).read(), ns.open_labels(half).read())
    assert cut(data, tmp_path / "out") == [front, back]


def test_the_floor_is_scored_on_the_other_half(data, tmp_path):
    front, back = cut(data, tmp_path / "out")
    scores = floor(front, back, min_size=0)
    assert scores.n_true == len(np.unique(ns.open_labels(back).read())) - 1
    assert scores.ap[0.5] > 0.5  # balls on black


def test_kept_instances_are_scored_against_the_published_labels(data, tmp_path):
    published = tifffile.imread(data / "ovule_1135" / "labels.tif")
    back = published[len(published) // 2 + GAP // 2 :]
    found = back[:, 1::2, 1::2].astype(np.uint32)
    found[found == found.max()] = 0  # one of the balls is missed
    place = tmp_path / "results" / "back" / "three_label" / "7" / "instances" / "0"
    stored = ns.create_labels(place, "main", shape=found.shape, dtype="uint32", scale_um=(1.0, 1.0, 1.0))
    stored.write((0, 0, 0), found)
    expected = ns.match(back, found.repeat(2, 1).repeat(2, 2)).ap[0.5]
    assert 0 < expected < 1
    text = rescored(tmp_path / "results", data, min_size=0)
    assert text == f"back three_label 7 main: AP.5 {expected:.3f} against the published labels"
    np.testing.assert_array_equal(enlarged(found)[:, ::2, 1::2], found)


def test_the_matrix_has_all_scenarios_and_both_halves():
    config = ExperimentConfig.from_toml(HERE / "experiment.toml")
    assert config.names[-1] == STARDIST
    assert len(config.names) == 8
    assert {Path(d.test[0].raw).stem: Path(d.train[0].raw).stem for d in config.datasets} == {
        "back": "front",
        "front": "back",
    }
