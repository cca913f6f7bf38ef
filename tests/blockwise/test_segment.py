"""What `Segment` accepts, what it takes from the prediction, and what it refuses."""

import numpy as np
import pytest
from blockwise_cases import balls, labels_of, random_prediction, save_prediction

from nucseg.blockwise.decoding import Origin, choose_decoding, diameter_voxels, read_origin, write_origin
from nucseg.blockwise.flooding import first_halo
from nucseg.blockwise.grid import default_block
from nucseg.blockwise.labels import label_dtype
from nucseg.blockwise.launch import Local
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.steps import segment
from nucseg.errors import BlocksFailed, InputError
from nucseg.heads.center_vectors import vote_threshold_grid
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.volume import open_volume

HERE = Local(workers=0)


@pytest.fixture
def prediction(tmp_path):
    return save_prediction(tmp_path / "p.zarr", random_prediction((18, 20, 24), 5, "three_label_cpv"))


def test_labels_are_an_ome_zarr_label_image_in_shards_of_the_block(tmp_path, prediction):
    segment(prediction, str(tmp_path / "o"), head="three_label_cpv", block=(9, 10, 11), launcher=HERE)
    labels = open_volume(tmp_path / "o" / "labels" / "nuclei")
    assert labels.dtype == np.uint32
    assert labels.write_unit == (9, 10, 11)
    assert labels.scale_um == (0.2, 0.1, 0.1)
    assert label_dtype((2**11, 2**11, 2**10)) == np.uint64
    assert label_dtype((2**11, 2**11, 2**9)) == np.uint32


def test_a_prediction_says_how_it_decodes(tmp_path, prediction):
    scenario = Scenario.named("three_label_cpv")
    selected = Decoding(seed_threshold=0.62, foreground_threshold=0.55)
    origin = Origin(scenario, selected, 1.5)
    write_origin(prediction, origin)
    assert read_origin(prediction) == origin
    said = segment(prediction, str(tmp_path / "a"), launcher=HERE)
    named = Segment(out=str(tmp_path / "b"), prediction=prediction, scenario=scenario, decoding=selected)
    assert said.digest == named.blockwise(HERE)["digest"]
    other = segment(prediction, str(tmp_path / "c"), seed_threshold=0.9, launcher=HERE)
    assert other.digest != said.digest
    assert set(said.to_json()) >= {
        *("nuclei", "blocks", "skipped", "failed", "digest", "mvox_per_s", "peak_memory_bytes")
    }


def test_a_selection_of_points_alone_says_nothing_of_instances(tmp_path, prediction, caplog):
    scenario = Scenario.named("three_label_cpv")
    points = scenario.default_votes(9)
    write_origin(prediction, Origin(scenario, None, 1.5, points))
    said = segment(prediction, str(tmp_path / "a"), launcher=HERE)
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    message = record.getMessage()
    assert "points only (votes)" in message
    assert "default seed threshold 0.8 and foreground threshold 0.5" in message
    assert "--for segmentation" in message
    caplog.clear()
    segment(prediction, str(tmp_path / "b"), seed_threshold=0.7, launcher=HERE)
    assert "take the default foreground threshold 0.5;" in caplog.text
    caplog.clear()
    both = {"seed_threshold": 0.8, "foreground_threshold": 0.5}
    assert segment(prediction, str(tmp_path / "c"), launcher=HERE, **both).digest == said.digest
    write_origin(prediction, Origin(scenario, scenario.default_decoding(), 1.5, points))
    segment(prediction, str(tmp_path / "d"), launcher=HERE)
    write_origin(prediction, Origin(scenario))
    segment(prediction, str(tmp_path / "e"), launcher=HERE)
    assert not caplog.text


def test_a_decoding_with_changes():
    scenario = Scenario.named("three_label_cpv")
    base = Decoding(seed_threshold=0.9, foreground_threshold=0.7)
    assert choose_decoding(scenario, base, dilate=1, min_size=None).model_dump() == {
        **base.model_dump(),
        "dilate": 1,
    }
    votes = choose_decoding(scenario, base, seeds="votes", reach=9)
    assert votes.seed_threshold == scenario.auxiliary.default_vote_threshold
    assert choose_decoding(scenario, votes, seeds="main").seed_threshold == 0.8
    assert choose_decoding(scenario, None).seed_threshold == 0.8
    with pytest.raises(InputError, match="nucleus-um"):
        choose_decoding(scenario, base, seeds="votes")
    every = choose_decoding(scenario, votes, votes_from="all")
    assert every == votes.model_copy(update={"votes_from": "all"})
    sharper = choose_decoding(scenario, base, seeds="votes", reach=9, vote_passes=1)
    assert sharper.seed_threshold == vote_threshold_grid(5.5, 1)[3] > votes.seed_threshold
    assert choose_decoding(scenario, votes, vote_passes=1, seed_threshold=3.0).seed_threshold == 3.0
    with pytest.raises(InputError, match="--seeds votes"):
        choose_decoding(scenario, base, votes_from="all")
    grouped = choose_decoding(scenario, base.model_copy(update={"dilate": 1}), seeds="vectors", reach=18)
    assert (grouped.within, grouped.distance, grouped.dilate) == (4, 3, 0)
    assert choose_decoding(scenario, grouped, within=6) == grouped.model_copy(update={"within": 6})
    with pytest.raises(InputError, match="--seeds vectors"):
        choose_decoding(scenario, votes, within=6)
    with pytest.raises(InputError, match="center vectors"):
        choose_decoding(Scenario.named("three_label"), base, seeds="votes", reach=9)
    assert diameter_voxels(1.05, (0.2, 0.1, 0.1)) == 11
    with pytest.raises(InputError, match="voxel size"):
        diameter_voxels(1.05, None)
    for wrong in (-3.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"positive length.*--nucleus-um"):
            diameter_voxels(wrong, (0.2, 0.1, 0.1))


def test_a_nucleus_diameter_sets_reach_and_halo(tmp_path, prediction):
    result = segment(
        prediction,
        str(tmp_path / "o"),
        head="three_label_cpv",
        seeds="votes",
        seed_threshold=1.0,
        nucleus_um=0.5,
        block=(9, 10, 12),
        launcher=HERE,
    )
    assert result.nuclei > 0
    again = Segment(
        out=str(tmp_path / "o2"),
        prediction=prediction,
        scenario="three_label_cpv",
        decoding=Decoding(seeds="votes", seed_threshold=1.0, foreground_threshold=0.5, reach=5),
    )
    assert again.blockwise(HERE)["digest"] == result.digest
    assert result.steps["segment"]["largest_halo"] % 5 == 0


def test_small_instances_are_dropped_by_their_whole_size(tmp_path):
    shape = (16, 16, 40)
    prediction = balls(shape, [(8, 8, 8), (8, 8, 20)], 3)
    prediction[:, 12, 12, 30] = (0.05, 0.9, 0.05)
    path = save_prediction(tmp_path / "p.zarr", prediction)
    # a block border cuts the ball at x = 20: each half is below the limit, the whole is not
    settled = {"head": "three_label", "block": (16, 16, 20), "launcher": HERE}
    result = segment(path, str(tmp_path / "o"), min_size=100, **settled)
    labels = labels_of(tmp_path / "o")
    assert result.nuclei == 2
    assert result.steps["segment"]["dropped"] == 1
    assert labels[12, 12, 30] == 0
    assert labels[8, 8, 19] == labels[8, 8, 21] > 0
    assert segment(path, str(tmp_path / "o"), min_size=100, **settled).skipped == 2
    # without a limit again: nothing of the second pass is left over
    result = segment(path, str(tmp_path / "o"), overwrite=True, **settled)
    assert result.nuclei == 3
    assert labels_of(tmp_path / "o")[12, 12, 30] > 0


def test_what_does_not_fit_is_told(tmp_path, prediction):
    out = str(tmp_path / "o")
    with pytest.raises(InputError, match="head"):
        segment(prediction, out, launcher=HERE)
    with pytest.raises(InputError, match="3 channels"):
        segment(prediction, out, head="three_label", launcher=HERE)
    with pytest.raises(InputError, match="prediction"):
        Segment(out=out).blockwise(HERE)
    with pytest.raises(InputError, match="at least 4 voxels to dilate"):
        segment(prediction, out, head="three_label_cpv", dilate=4, max_halo=3, launcher=HERE)
    with pytest.raises(InputError, match="three positive numbers"):
        segment(prediction, out, head="three_label_cpv", block=(0, 64, 40), launcher=HERE)
    assert not (tmp_path / "o").exists()


def test_the_whole_volume_says_what_a_block_means_then(tmp_path, prediction):
    lines = []
    how = {"head": "three_label_cpv", "block": (9, 10, 12), "launcher": HERE, "log": lines.append}
    segment(prediction, str(tmp_path / "o"), engine="mahotas", **how)
    assert any("the whole volume at once" in line for line in lines)
    lines.clear()
    segment(prediction, str(tmp_path / "b"), **how)
    assert not any("the whole volume at once" in line for line in lines)


@pytest.mark.parametrize(
    ("scenario", "change", "message"),
    [
        ("three_label", lambda p: np.round(255 * p).astype(np.uint8), "uint8.*divided by 255"),
        ("three_label", lambda p: np.round(255 * p), "0 to 1; received values from .* to 2"),
        ("three_label", lambda p: np.log(p / (1 - p)), "0 to 1; received values from -.*activation"),
        ("sdt", lambda p: 20 * p[:1], "-1 to 1; received"),
        ("three_label", lambda p: 1.04 * p, None),
        ("sdt", lambda p: 0.5 - p[:1], None),
    ],
)
def test_only_values_after_the_activation_are_taken(tmp_path, scenario, change, message):
    maps = np.clip(random_prediction((18, 20, 24), 5), 0.001, 0.999)
    path = save_prediction(tmp_path / "p.zarr", change(maps))
    if message is None:
        assert segment(path, str(tmp_path / "o"), head=scenario, launcher=HERE).nuclei > 0
        return
    with pytest.raises(InputError, match=message):
        segment(path, str(tmp_path / "o"), head=scenario, launcher=HERE)
    assert not (tmp_path / "o").exists()


def test_a_single_wrong_value_fails_its_block_whatever_the_channel(tmp_path):
    prediction = balls((100, 16, 32), [(8, 8, 8), (80, 8, 24)], 4)
    prediction[2, 0, 0, 0] = 7.0  # the boundary is not used, and the sample is the middle of thirds
    path = save_prediction(tmp_path / "p.zarr", prediction)
    with pytest.raises(BlocksFailed, match=r"1 of 4 blocks failed: \[0:50, 0:16, 0:16\].*three_label"):
        segment(path, str(tmp_path / "o"), head="three_label", block=(50, 16, 16), launcher=HERE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed_threshold": 200.0},
        {"seed_threshold": -0.1},
        {"foreground_threshold": 1.5},
        {"foreground_threshold": float("nan")},
        {"seeds": "votes", "reach": 4, "seed_threshold": -1.0},
    ],
)
def test_thresholds_beyond_the_heads_range_are_refused(tmp_path, prediction, wrong):
    with pytest.raises(InputError, match="threshold: expected"):
        segment(prediction, str(tmp_path / "o"), head="three_label_cpv", launcher=HERE, **wrong)


def test_the_first_halo_follows_from_the_nuclei():
    scale = (0.2, 0.1, 0.1)
    assert first_halo(scale, None, None) == first_halo(None, None, 9.0) == 32
    assert first_halo(scale, None, 3.0) == 32
    assert first_halo(scale, None, 9.05) == 69  # of 91 voxels
    assert first_halo(scale, 1.05, 9.05) == 11


def test_a_volume_of_one_default_block_is_cut_all_the_same():
    assert default_block((100, 100, 1000)) == (100, 100, 256)
    assert default_block((200, 200, 200)) == (128, 128, 128)
    assert default_block((60, 70, 80)) == (60, 70, 80)


def test_an_empty_prediction_has_no_nuclei(tmp_path):
    prediction = np.zeros((3, 20, 20, 20), np.float32)
    prediction[0] = 1
    path = save_prediction(tmp_path / "p.zarr", prediction)
    result = segment(path, str(tmp_path / "o"), head="three_label", block=(10, 10, 10), launcher=HERE)
    assert (result.nuclei, result.blocks, result.steps["segment"]["largest_halo"]) == (0, 8, 0)
    assert not labels_of(tmp_path / "o").any()
