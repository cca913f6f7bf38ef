"""Blockwise labels are those of the whole volume, voxel by voxel, or the block says that they are not."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from blockwise_cases import balls, labels_of, random_prediction, save_prediction
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nucseg.blockwise.grid import Box
from nucseg.blockwise.launch import Local
from nucseg.blockwise.records import Records
from nucseg.blockwise.segment import Segment
from nucseg.errors import BlocksFailed, InputError
from nucseg.evaluate.grid import instances
from nucseg.heads.scenario import Decoding, Scenario

HERE = Local(workers=0)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 26), st.integers(1, 26), st.integers(4, 40)),
    block=st.tuples(st.integers(5, 30), st.integers(7, 30), st.integers(9, 40)),
    halo=st.sampled_from([1, 5]),
    votes=st.sampled_from([None, "foreground", "all"]),
    dilate=st.integers(0, 2),
    min_size=st.sampled_from([0, 0, 12]),
    levels=st.sampled_from([0, 8]),
    density=st.sampled_from([-1.0, 0.0, 1.5]),
)
@example(58, (18, 20, 33), (7, 9, 11), 1, "foreground", 0, 0, 8, -1.0)
@example(58, (18, 20, 33), (7, 9, 11), 1, "all", 0, 0, 8, -1.0)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_blocks_equal_the_whole(seed, shape, block, halo, votes, dilate, min_size, levels, density):
    scenario = "three_label_cpv" if votes else "three_label"
    how = {"seed_threshold": 0.6}
    if votes:
        how = {"seeds": "votes", "seed_threshold": 1.1, "reach": 3, "vote_passes": 1, "votes_from": votes}
    decoding = Decoding(foreground_threshold=0.5, dilate=dilate, min_size=min_size, **how)
    with tempfile.TemporaryDirectory() as folder:
        prediction = random_prediction(shape, seed, scenario, levels, density)
        path = save_prediction(Path(folder) / "p.npy", prediction)
        settled = {"prediction": path, "scenario": scenario, "decoding": decoding}
        settled |= {"block": block, "halo": halo, "max_halo": 64}
        reference = Segment(out=f"{folder}/whole", engine="mahotas", **settled).blockwise(HERE)
        blocks = Segment(out=f"{folder}/blocks", **settled).blockwise(HERE)
        expected, got = labels_of(Path(folder) / "whole"), labels_of(Path(folder) / "blocks")
        assert np.count_nonzero(expected != got) == 0
        assert blocks["digest"] == reference["digest"]
        assert blocks["nuclei"] == reference["nuclei"] == len(np.unique(expected[expected > 0]))
        if min_size:
            assert min(np.unique(expected[expected > 0], return_counts=True)[1], default=min_size) >= min_size


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 26), st.integers(1, 26), st.integers(4, 40)),
    block=st.tuples(st.integers(3, 30), st.integers(4, 30), st.integers(5, 40)),
    votes=st.sampled_from(["foreground", "all"]),
    within=st.integers(0, 3),
    distance=st.integers(1, 3),
    dilate=st.integers(0, 2),
    min_size=st.sampled_from([0, 0, 6]),
)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_blocks_grouped_by_vectors_equal_the_whole(
    seed, shape, block, votes, within, distance, dilate, min_size
):
    decoding = Decoding(
        seeds="vectors",
        seed_threshold=0.4,
        foreground_threshold=0.4,
        reach=3,
        vote_passes=1,
        votes_from=votes,
        within=within,
        distance=distance,
        dilate=dilate,
        min_size=min_size,
    )
    with tempfile.TemporaryDirectory() as folder:
        prediction = random_prediction(shape, seed, "three_label_cpv", 0, 1.5)
        path = save_prediction(Path(folder) / "p.npy", prediction)
        settled = {"prediction": path, "scenario": "three_label_cpv", "decoding": decoding}
        expected = instances(prediction, Scenario.named("three_label_cpv"), decoding)
        for name, way in (("whole", {"whole": True}), ("blocks", {"block": block, "max_halo": 2})):
            result = Segment(out=f"{folder}/{name}", **settled, **way).blockwise(HERE)
            got = labels_of(Path(folder) / name)
            assert np.count_nonzero(expected != got) == 0
            assert result["nuclei"] == len(np.unique(expected[expected > 0]))


def test_grouping_floods_nothing(tmp_path):
    path = save_prediction(tmp_path / "p.npy", random_prediction((6, 7, 8), 1, "three_label_cpv"))
    decoding = Decoding(seeds="vectors", seed_threshold=0.4, foreground_threshold=0.4, reach=3)
    task = Segment(
        out=str(tmp_path / "o"),
        prediction=path,
        scenario="three_label_cpv",
        decoding=decoding,
        engine="mahotas",
    )
    with pytest.raises(InputError, match="nothing is flooded"):
        task.blockwise(HERE)
    assert not (tmp_path / "o").exists()


@given(seed=st.integers(0, 2**32 - 1), max_halo=st.integers(1, 12), dilate=st.integers(0, 1))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_small_halo_gives_the_same_labels_or_none(seed, max_halo, dilate):
    decoding = Decoding(seed_threshold=0.6, foreground_threshold=0.5, dilate=dilate)
    with tempfile.TemporaryDirectory() as folder:
        prediction = random_prediction((20, 24, 30), seed, density=0.7)
        path = save_prediction(Path(folder) / "p.npy", prediction)
        settled = {"prediction": path, "scenario": "three_label", "decoding": decoding}
        Segment(out=f"{folder}/whole", whole=True, **settled).blockwise(HERE)
        expected = labels_of(Path(folder) / "whole")
        task = Segment(out=f"{folder}/blocks", block=(8, 8, 8), max_halo=max_halo, **settled)
        failed = False
        try:
            task.blockwise(HERE)
        except BlocksFailed:
            failed = True
        got = labels_of(Path(folder) / "blocks")
        done = Records(f"{folder}/blocks", "segment").read()[0]
        grid = task.resolved().grid()
        assert failed == (len(done) < len(grid))
        for block in grid:
            part = block.inside(Box((0, 0, 0), grid.volume))
            assert np.array_equal(got[part], expected[part] if block.index in done else 0 * got[part])


@pytest.fixture
def faces(tmp_path):
    """Balls that lie on faces, edges and corners of 16^3 blocks."""
    centers = [(16, 8, 8), (16, 16, 24), (16, 32, 32), (40, 16, 16), (32, 40, 8), (5, 40, 40), (44, 44, 44)]
    return centers, save_prediction(tmp_path / "p.zarr", balls((48, 48, 48), centers, 5))


@pytest.mark.parametrize("block", [(16, 16, 16), (16, 48, 17), (2, 48, 48), (48, 48, 48), (13, 19, 11)])
def test_nuclei_on_faces_edges_and_corners(tmp_path, faces, block):
    centers, path = faces
    task = Segment(out=str(tmp_path / "o"), prediction=path, scenario="three_label", block=block)
    result = task.blockwise(HERE)
    labels = labels_of(tmp_path / "o")
    ids = [labels[center] for center in centers]
    assert result["nuclei"] == len(centers) == len(set(ids) - {0})
    expected = balls((48, 48, 48), centers, 5)[0] < 0.5
    assert np.array_equal(labels > 0, expected)
    # the id of a nucleus is the place of its seed's first voxel, + 1
    seeds = balls((48, 48, 48), centers, 5)[1] > 0.8
    for label in ids:
        assert np.flatnonzero((labels == label) & seeds)[0] + 1 == label


def test_an_object_larger_than_the_halo_is_reported_and_not_written(tmp_path):
    prediction = balls((16, 16, 96), [(8, 8, 88)], 5)
    bar = np.zeros((16, 16, 96), bool)
    bar[5:10, 5:10, 4:70] = True
    prediction[:, bar] = np.array([0.1, 0.2, 0.7])[:, None]  # one object, its only seed at one end
    prediction[:, 6:9, 6:9, 5:8] = np.array([0.05, 0.9, 0.05])[:, None, None, None]
    path = save_prediction(tmp_path / "p.zarr", prediction)
    settled = {"prediction": path, "scenario": "three_label", "block": (16, 16, 16)}
    task = Segment(out=str(tmp_path / "o"), max_halo=12, **settled)
    with pytest.raises(BlocksFailed, match=r"\[0:16, 0:16, 32:48\].*largest halo of 12 voxels") as caught:
        task.blockwise(HERE)
    assert "[0:16, 0:16, 80:96]" not in str(caught.value)
    labels = labels_of(tmp_path / "o")
    assert labels[8, 8, 88] > 0, "other blocks are done"
    assert not labels[:, :, 32:48].any()
    result = Segment(out=str(tmp_path / "o2"), **settled).blockwise(HERE)
    assert result["nuclei"] == 2
    assert result["largest_halo"] == 64


def test_every_way_gives_the_same_digest(tmp_path):
    path = save_prediction(tmp_path / "p.zarr", random_prediction((30, 34, 40), 7))
    common = {"prediction": path, "scenario": "three_label"}
    ways = [
        ({"whole": True}, HERE),
        ({"engine": "mahotas"}, HERE),
        ({"block": (10, 12, 40)}, HERE),
        ({"block": (16, 16, 16)}, Local(workers=1)),
        ({}, HERE),
    ]
    results = [
        Segment(out=str(tmp_path / str(i)), **common, **fields).blockwise(launcher)
        for i, (fields, launcher) in enumerate(ways)
    ]
    assert len({result["digest"] for result in results}) == 1
    assert len({result["nuclei"] for result in results}) == 1
    assert [result["blocks"] for result in results[:2]] == [1, 1]
