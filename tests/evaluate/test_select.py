"""Selection on predictions made from known labels, for which the right thresholds are known."""

import json

import numpy as np
import pytest

from nucseg.errors import InputError
from nucseg.evaluate.matching import match
from nucseg.evaluate.select import instances, largest_extent, select
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.heads.three_label import three_classes
from nucseg.instances.centroids import center_vectors, centroids

CENTERS = [(8, 8, 8), (8, 8, 17), (8, 20, 10), (9, 21, 24), (8, 10, 32)]
RADIUS = 5


def touching_balls(shape=(17, 30, 40)):
    """Each voxel within the radius goes to the nearest centre: the first two touch in a plane."""
    grid = np.indices(shape)
    distance = np.stack([sum((g - c) ** 2 for g, c in zip(grid, center, strict=True)) for center in CENTERS])
    return np.where(distance.min(0) <= RADIUS**2, distance.argmin(0) + 1, 0).astype(np.uint16)


def prediction_of(labels, merged=(1, 2)):
    """A three_label_cpv prediction: perfect vectors; the boundary between two nuclei is weak.

    P(interior) is 0.9 inside and 0.85 on the voxels where the merged pair touches, so that main seeds up to
    0.85 join the two.
    """
    classes = three_classes(labels)
    probability = np.full((3, *labels.shape), 0.05, np.float32)
    np.put_along_axis(probability, classes[None].astype(np.int64), 0.9, axis=0)
    if merged:
        gap = np.isin(labels, merged) & (three_classes((np.isin(labels, merged)).astype(np.uint8)) == 1)
        weak = gap & (classes == 2)
        probability[:, weak] = np.array([0.05, 0.85, 0.1], np.float32)[:, None]
    found = centroids(labels)
    return np.concatenate([probability, center_vectors(labels, found.ids, found.centers)])


@pytest.fixture(scope="module")
def truth():
    return touching_balls()


@pytest.fixture(scope="module")
def scenario():
    return Scenario.named("three_label_cpv")


def test_the_grid_finds_the_threshold_that_parts_the_nuclei(truth, scenario):
    prediction = prediction_of(truth)
    main = [Decoding(seed_threshold=t, foreground_threshold=0.5) for t in (0.7, 0.8, 0.88, 0.95)]
    selection = select([(prediction, truth)], scenario, main)
    assert selection.decoding.seed_threshold == 0.88
    assert selection.score == selection.scores.av_ap == pytest.approx(1.0)
    counts = [row["n_predicted"] for row in selection.table]
    assert counts == [4, 4, 5, 0]


def test_votes_part_what_the_main_head_joins(truth, scenario):
    prediction = prediction_of(truth)
    selection = select([(prediction, truth)], scenario, scenario.decodings(reach=12))
    assert set(selection.best) == {"main", "votes", "vectors"}
    votes = instances(prediction, scenario, selection.best["votes"])
    assert match(truth, votes).ap[0.5] == 1.0
    assert len(selection.table) == len(scenario.decodings(reach=12))


def test_the_default_grid_lets_votes_reach_as_far_as_a_nucleus_is_wide(truth, scenario):
    assert largest_extent([truth]) == 2 * RADIUS + 1
    selection = select([(prediction_of(truth), truth)], scenario)
    assert {row["reach"] for row in selection.table if row["seeds"] == "votes"} == {2 * RADIUS + 1}
    main_only = select([(prediction_of(truth)[:3], truth)], Scenario.named("three_label"))
    assert set(main_only.best) == {"main"}


def test_every_row_is_what_segmenting_and_scoring_gives(truth, scenario):
    rng = np.random.default_rng(2)
    prediction = prediction_of(truth)
    prediction[:3] += rng.normal(0, 0.1, prediction[:3].shape).astype(np.float32)
    grid = [
        Decoding(seed_threshold=0.8, foreground_threshold=0.5, dilate=1),
        Decoding(seed_threshold=0.8, foreground_threshold=0.5, min_size=60),
        Decoding(seeds="votes", seed_threshold=3, foreground_threshold=0.6, reach=11, vote_passes=1),
    ]
    selection = select([(prediction, truth), (prediction, truth)], scenario, grid)
    for row, decoding in zip(selection.table, grid, strict=True):
        scores = match(truth, instances(prediction, scenario, decoding))
        assert row["av_ap"] == row["score"] == pytest.approx(scores.av_ap)
        assert row["ap"]["0.5"] == pytest.approx(scores.ap[0.5])
        assert row["n_true"] == 2 * scores.n_true
        assert Decoding(**{k: v for k, v in row.items() if k in Decoding.model_fields}) == decoding
    again = json.loads(json.dumps(selection.to_json()))
    assert Decoding(**again["parameters"]) == selection.decoding


def test_instances_filters_after_growing(truth, scenario):
    prediction = prediction_of(truth, merged=())
    plain = instances(prediction, scenario, Decoding(seed_threshold=0.8, foreground_threshold=0.5))
    sizes = centroids(plain).sizes
    grown = Decoding(seed_threshold=0.8, foreground_threshold=0.5, dilate=1, min_size=int(sizes.max()))
    assert len(centroids(instances(prediction, scenario, grown)).ids) == len(CENTERS)
    fewer = Decoding(seed_threshold=0.8, foreground_threshold=0.5, min_size=int(sizes.max()))
    assert 0 < len(centroids(instances(prediction, scenario, fewer)).ids) < len(CENTERS)


def test_detection_selects_by_detection(truth, scenario):
    prediction = prediction_of(truth)
    grid = [Decoding(seed_threshold=t, foreground_threshold=0.5) for t in (0.8, 0.88)]
    selection = select([(prediction, truth)], scenario, grid, for_="detection")
    assert selection.goal == "detection"
    assert selection.decoding.seed_threshold == 0.88
    assert selection.score == selection.scores.detection_ap == 1.0


def test_of_equal_decodings_the_first_is_taken(truth, scenario):
    grid = [Decoding(seed_threshold=t, foreground_threshold=0.5) for t in (0.86, 0.88, 0.87)]
    assert select([(prediction_of(truth), truth)], scenario, grid).decoding.seed_threshold == 0.86


def test_progress_and_bad_input(truth, scenario):
    prediction = prediction_of(truth)
    grid = [Decoding(seed_threshold=t, foreground_threshold=0.5) for t in (0.8, 0.88)]
    seen = []
    select([(prediction, truth)], scenario, grid, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 2), (2, 2)]
    with pytest.raises(InputError, match="none with a label"):
        select([(prediction, np.zeros_like(truth))], scenario, grid)
    with pytest.raises(InputError, match="none with a label"):
        select([], scenario, grid)
    with pytest.raises(InputError, match="decodings"):
        select([(prediction, truth)], scenario, [])
    with pytest.raises(InputError, match="segmentation or detection"):
        select([(prediction, truth)], scenario, grid, for_="counting")
