"""Scores of files, read block by block, against scores of the whole arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import nucseg.evaluate.streaming as streaming
from nucseg.errors import InputError
from nucseg.evaluate import evaluate_paths
from nucseg.evaluate.matching import detection, labels_at, match
from nucseg.evaluate.paths import evaluate_points, evaluate_volumes
from nucseg.evaluate.streaming import CenterSum, InMemory, TableSum, blocks_of, labels_of_points
from nucseg.points import write_table
from nucseg.volume import create_labels, open_labels


class Blocked(InMemory):
    """An array in blocks of a given shape."""

    def __init__(self, array, unit):
        super().__init__(array)
        self.write_unit = unit


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of one write unit, and sums that are folded all the time."""
    monkeypatch.setattr(streaming, "_LEAST_BLOCK", 1)
    monkeypatch.setattr(streaming, "_FOLD", 5)


def balls(rng, n, shape):
    labels = np.zeros(shape, np.uint32)
    grid = np.indices(shape)
    for number in range(1, n + 1):
        center = rng.uniform(0, shape)
        labels[sum((g - c) ** 2 for g, c in zip(grid, center, strict=True)) <= rng.uniform(2, 5) ** 2] = (
            number * 7
        )
    return labels


@pytest.fixture(scope="module")
def volumes():
    rng = np.random.default_rng(5)
    truth = balls(rng, 14, (20, 30, 40))
    predicted = np.where(truth == 14, 0, np.roll(truth, 2, axis=2)).astype(np.uint64) + (truth == 21)
    return truth, predicted


@pytest.mark.parametrize("unit", [(20, 30, 40), (7, 11, 13), (1, 30, 40), (64, 64, 64)])
@pytest.mark.parametrize("min_size", [0, 60])
@pytest.mark.usefixtures("small_blocks")
def test_blocks_give_the_scores_of_the_whole(volumes, unit, min_size):
    truth, predicted = volumes
    whole = match(truth, predicted, min_size=min_size)
    blocked = evaluate_volumes(Blocked(predicted, unit), Blocked(truth, (5, 9, 40)), min_size)
    assert blocked == whole
    for name in ("true_ids", "best_iou", "best_predicted", "predicted_ids"):
        np.testing.assert_array_equal(getattr(blocked.objects, name), getattr(whole.objects, name))
    points = np.random.default_rng(1).uniform(-5, 45, (300, 3))
    assert evaluate_points(points, Blocked(truth, unit), min_size).detection == detection(
        points, truth, min_size
    )


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.uint8, (4, 5, 6), elements=st.integers(0, 4)),
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 7)),
)
def test_centres_add_up_exactly(labels, unit):
    pieces, whole = CenterSum(), CenterSum()
    whole.add(labels, (0, 0, 0))
    for begin in np.ndindex(*(-(-n // u) for n, u in zip(labels.shape, unit, strict=True))):
        at = tuple(b * u for b, u in zip(begin, unit, strict=True))
        pieces.add(labels[tuple(slice(a, a + u) for a, u in zip(at, unit, strict=True))], at)
    for a, b in zip(pieces.total(), whole.total(), strict=True):
        np.testing.assert_array_equal(a, b)
    for label, center, size in zip(*whole.total(), strict=True):
        np.testing.assert_allclose(center, np.argwhere(labels == label).mean(0))
        assert size == (labels == label).sum()


@pytest.mark.usefixtures("small_blocks")
def test_labels_of_points_reads_the_right_blocks(volumes):
    truth = volumes[0]
    points = np.random.default_rng(2).uniform(-3, 43, (500, 3))
    np.testing.assert_array_equal(
        labels_of_points(points, Blocked(truth, (6, 7, 9))), labels_at(points, truth)
    )


def test_blocks_cover_the_volume_once():
    volume = Blocked(np.zeros((300, 130, 70), np.uint8), (50, 200, 3))
    seen = np.zeros(volume.shape, int)
    for begin, shape in blocks_of(volume):
        seen[tuple(slice(b, b + s) for b, s in zip(begin, shape, strict=True))] += 1
        assert all(b % u == 0 for b, u in zip(begin, volume.write_unit, strict=True))
    assert (seen == 1).all()
    assert len(list(blocks_of(volume))) == 2  # 150 x 130 x 70, twice


def test_in_memory_reads_beyond_the_array():
    array = np.arange(24).reshape(2, 3, 4)
    region = InMemory(array).read((-1, 1, 2), (2, 4, 3), fill=-9)
    padded = np.pad(array, 3, constant_values=-9)
    np.testing.assert_array_equal(region, padded[2:4, 4:8, 5:8])
    assert (InMemory(array).read((9, 9, 9), (1, 2, 2), fill=3) == 3).all()
    np.testing.assert_array_equal(InMemory(array).read(), array)


def test_files(volumes, tmp_path):
    truth, predicted = volumes
    for name, labels, dtype in (("truth", truth, "uint32"), ("out", predicted, "uint64")):
        create_labels(
            tmp_path / f"{name}.zarr",
            shape=truth.shape,
            dtype=dtype,
            scale_um=(0.5, 0.2, 0.2),
            shards=(8, 16, 16),
        )
        volume = open_labels(tmp_path / f"{name}.zarr")
        for begin, shape in volume.blocks():
            volume.write(begin, labels[tuple(slice(b, b + s) for b, s in zip(begin, shape, strict=True))])
    seen = []
    scores = evaluate_paths(
        tmp_path / "out.zarr", tmp_path / "truth.zarr", progress=lambda done, of: seen.append((done, of))
    )
    assert scores == match(truth, predicted)
    assert seen[-1][0] == seen[-1][1]
    np.save(tmp_path / "predicted.npy", predicted)
    assert evaluate_paths(tmp_path / "predicted.npy", tmp_path / "truth.zarr", 60) == match(
        truth, predicted, min_size=60
    )
    np.save(tmp_path / "smaller.npy", predicted[1:])
    with pytest.raises(InputError, match=r"smaller\.npy.*shape"):
        evaluate_paths(tmp_path / "smaller.npy", tmp_path / "truth.zarr")
    with pytest.raises(InputError, match=r"nowhere\.zarr"):
        evaluate_paths(tmp_path / "nowhere.zarr", tmp_path / "truth.zarr")


def test_a_table_of_points(volumes, tmp_path):
    truth = volumes[0]
    points = np.argwhere(truth > 0)[::50] + 0.25
    columns = {"id": np.arange(len(points)), **dict(zip("zyx", points.T, strict=True))}
    write_table(tmp_path, "centers", columns)
    np.save(tmp_path / "truth.npy", truth)
    for suffix in (".csv", ".parquet"):
        scores = evaluate_paths(tmp_path / "tables" / f"centers{suffix}", tmp_path / "truth.npy")
        assert scores.detection == detection(points, truth)
        assert scores.n_predicted == len(points)
        assert scores.to_json()["ap"] == {}
        assert scores.to_json()["av_ap"] is None


def test_a_truth_without_objects_is_no_perfect_score(volumes, tmp_path, caplog):
    np.save(tmp_path / "truth.npy", volumes[0])
    np.save(tmp_path / "empty.npy", np.zeros_like(volumes[0]))
    write_table(tmp_path, "none", {axis: np.zeros(0) for axis in ("id", "z", "y", "x")})
    for predicted in (tmp_path / "truth.npy", tmp_path / "empty.npy", tmp_path / "tables" / "none.csv"):
        with pytest.raises(InputError, match=r"empty\.npy: truth.*0 in every voxel"):
            evaluate_paths(predicted, tmp_path / "empty.npy", 3)
    assert not caplog.messages
    scores = evaluate_paths(tmp_path / "truth.npy", tmp_path / "truth.npy", 10**6)
    assert scores.n_true == 0
    assert "no true object has 1000000 voxels" in caplog.text
    assert evaluate_paths(tmp_path / "empty.npy", tmp_path / "truth.npy").ap[0.5] == 0


def test_an_image_given_as_labels_is_named(volumes, tmp_path, caplog):
    np.save(tmp_path / "truth.npy", volumes[0])
    np.save(tmp_path / "raw.npy", np.random.default_rng(0).poisson(200 + 40 * volumes[0]))
    points = np.zeros(volumes[0].shape, np.uint16)
    points[::4, ::5, ::6] = 1 + np.arange(points[::4, ::5, ::6].size).reshape(points[::4, ::5, ::6].shape)
    np.save(tmp_path / "points.npy", points)
    evaluate_paths(tmp_path / "points.npy", tmp_path / "truth.npy")
    assert not caplog.messages
    evaluate_paths(tmp_path / "raw.npy", tmp_path / "truth.npy")
    assert "raw.npy" in caplog.text
    assert "truth.npy" not in caplog.text


def test_sums_of_no_block():
    assert len(TableSum().total().true_ids) == 0
    assert len(CenterSum().total().ids) == 0
