"""Matching, AP and detection against slow, obvious references and against StarDist's own code."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from nucseg.errors import InputError
from nucseg.evaluate.matching import THRESHOLDS, _assign_dense, _assign_sparse, detection, match
from nucseg.evaluate.overlap import contingency

SHAPE = (3, 4, 5)
labels_ = hnp.arrays(np.uint8, SHAPE, elements=st.integers(0, 5))


def spheres(centers, radius, shape=(20, 30, 40), dtype=np.uint32):
    """One ball per centre, later ones on top."""
    labels = np.zeros(shape, dtype)
    grid = np.indices(shape)
    for number, center in enumerate(centers, start=1):
        inside = sum((g - c) ** 2 for g, c in zip(grid, center, strict=True)) <= radius**2
        labels[inside] = number
    return labels


def iou_matrix(truth, predicted):
    """IoU of every pair of objects by counting masks."""
    a, b = (np.unique(x[x > 0]) for x in (truth, predicted))
    result = np.zeros((len(a), len(b)))
    for (i, t), (j, p) in itertools.product(enumerate(a), enumerate(b)):
        both = np.count_nonzero((truth == t) & (predicted == p))
        result[i, j] = both / np.count_nonzero((truth == t) | (predicted == p))
    return result


def most_pairs(iou, threshold):
    """(most pairs, largest sum of IoU among those) over every subset of the allowed pairs."""
    if iou.shape[0] > iou.shape[1]:
        iou = iou.T
    best = (0, 0.0)
    n, m = iou.shape
    for columns in itertools.permutations(range(m), n):
        taken = [iou[i, j] for i, j in enumerate(columns) if iou[i, j] >= threshold]
        best = max(best, (len(taken), sum(taken)))
    return best


@settings(max_examples=60, deadline=None)
@given(labels_, labels_, st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.75]))
def test_matching_is_the_best_of_all_assignments(truth, predicted, threshold):
    scores = match(truth, predicted, thresholds=(threshold,))
    iou = iou_matrix(truth, predicted)
    pairs, total = most_pairs(iou, threshold) if iou.size else (0, 0.0)
    assert scores.tp[threshold] == pairs
    assert scores.fn[threshold] == iou.shape[0] - pairs
    assert scores.fp[threshold] == iou.shape[1] - pairs
    true_ids, predicted_ids = scores.objects.true_positives(threshold)
    a, b = (np.unique(x[x > 0]) for x in (truth, predicted))
    ours = sum(iou[list(a).index(t), list(b).index(p)] for t, p in zip(true_ids, predicted_ids, strict=True))
    assert ours == pytest.approx(total)
    assert len(set(predicted_ids)) == len(predicted_ids) == pairs


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_matching_equals_the_dense_assignment(seed, objects):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, objects, (6, 8, 9))
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, objects, truth.shape))
    scores = match(truth, predicted, thresholds=(0.02, 0.1, 0.2))
    iou = iou_matrix(truth, predicted)
    for threshold in scores.thresholds:
        allowed = iou >= threshold
        rows, columns = linear_sum_assignment(-(allowed + iou / (2 * objects)))
        assert scores.tp[threshold] == np.count_nonzero(allowed[rows, columns])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_agrees_with_stardist(seed):
    stardist = pytest.importorskip("stardist.matching")
    rng = np.random.default_rng(seed)
    centers = rng.uniform(2, (18, 28, 38), (rng.integers(1, 30), 3))
    truth = spheres(centers, rng.uniform(2, 5))
    moved = centers[rng.random(len(centers)) < 0.9] + rng.normal(0, 1, 3)
    predicted = spheres(moved, rng.uniform(2, 5)) if len(moved) else np.zeros_like(truth)
    iou = contingency(truth, predicted).iou()
    # StarDist compares single-precision IoUs: a pair that lies on a threshold may round to either side there.
    assume(not np.isclose(iou[:, None], THRESHOLDS, rtol=0, atol=1e-6).any())
    ours = match(truth, predicted)
    for theirs in stardist.matching(truth, predicted, thresh=THRESHOLDS):
        t = theirs.thresh
        assert (ours.tp[t], ours.fp[t], ours.fn[t]) == (theirs.tp, theirs.fp, theirs.fn)
        assert ours.ap[t] == pytest.approx(theirs.accuracy)


def test_a_greedy_choice_would_lose_a_pair():
    """Below 0.5 the best partner of one object may be the only partner of another."""
    truth, predicted = np.zeros((2, 1, 1, 40), np.uint8)
    truth[..., :12], truth[..., 12:32] = 1, 2
    predicted[..., 4:24], predicted[..., 24:40] = 7, 8
    iou = iou_matrix(truth, predicted)
    assert (iou >= 0.2).tolist() == [[True, False], [True, True]]
    scores = match(truth, predicted, thresholds=(0.2,))
    assert scores.tp[0.2] == 2
    assert scores.objects.matched[0.2].tolist() == [7, 8]


def test_an_iou_on_the_threshold_counts():
    truth, predicted = np.zeros((2, 1, 1, 10), np.uint8)
    truth[...] = 1
    for voxels, threshold in zip(range(1, 10), THRESHOLDS, strict=True):
        predicted[...] = 0
        predicted[..., :voxels] = 1
        assert match(truth, predicted).tp[threshold] == 1
    assert match(truth, predicted, thresholds=(0.90001,)).tp[0.90001] == 0


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">u4"]
)
def test_every_integer_dtype_and_huge_ids(dtype):
    truth = spheres([(6, 8, 8), (12, 20, 30)], 5).astype(dtype)
    huge = np.where(truth == 1, np.uint64(2**64 - 1), np.where(truth == 2, np.uint64(2**63), np.uint64(0)))
    scores = match(truth, huge)
    assert scores.av_ap == 1.0
    assert scores.objects.matched[0.5].tolist() == [2**64 - 1, 2**63]
    assert scores.detection == (2, 0, 0, 1.0)


def test_a_view_and_a_fortran_array_are_read_right():
    truth = spheres([(6, 8, 8), (12, 20, 30)], 5)
    assert match(truth[::-1].copy()[::-1], np.asfortranarray(truth)).av_ap == 1.0
    assert match(truth.T, truth.T).av_ap == 1.0


@pytest.mark.parametrize(
    ("truth", "predicted", "ap", "detection_ap"),
    [
        (np.zeros(SHAPE, int), np.zeros(SHAPE, int), 1.0, 1.0),
        (np.ones(SHAPE, int), np.zeros(SHAPE, int), 0.0, 0.0),
        (np.zeros(SHAPE, int), np.ones(SHAPE, int), 0.0, 0.0),
        (np.ones(SHAPE, int), np.ones(SHAPE, int), 1.0, 1.0),
        (np.zeros((0, 3, 3), int), np.zeros((0, 3, 3), int), 1.0, 1.0),
    ],
    ids=["both empty", "nothing predicted", "nothing there", "equal", "no voxels"],
)
def test_empty_cases(truth, predicted, ap, detection_ap):
    scores = match(truth, predicted)
    assert set(scores.ap.values()) == {ap}
    assert scores.av_ap == ap
    assert scores.detection_ap == detection_ap


def test_min_size():
    truth, predicted = np.zeros((2, 1, 1, 60), np.uint32)
    truth[..., 0:10], truth[..., 20:23], truth[..., 30:40] = 1, 2, 3  # 2 is a sliver
    predicted[..., 0:10], predicted[..., 19:24], predicted[..., 50:53] = 1, 2, 5  # 2 sits on it; 5 is small
    everything = match(truth, predicted, thresholds=(0.5,))
    assert (everything.tp[0.5], everything.fp[0.5], everything.fn[0.5]) == (2, 1, 1)
    filtered = match(truth, predicted, thresholds=(0.5,), min_size=4)
    assert (filtered.tp[0.5], filtered.fp[0.5], filtered.fn[0.5]) == (1, 0, 1)
    assert (filtered.n_true, filtered.n_predicted) == (2, 1)
    assert filtered.detection[:3] == (1, 0, 1)
    predicted[..., 19:27] = 2  # now 5 of its 8 voxels lie elsewhere: an object of its own, and false
    counted = match(truth, predicted, thresholds=(0.5,), min_size=4)
    assert (counted.fp[0.5], counted.n_predicted) == (1, 2)
    assert counted.detection[:3] == (1, 1, 1)


def test_detection_counts_one_point_per_label():
    truth = spheres([(6, 8, 8), (12, 20, 30)], 4)
    points = [(6, 8, 8), (6.4, 8.4, 8), (0, 0, 0), (-5, 8, 8), (6, 8, 400)]
    assert detection(np.array(points), truth) == (1, 4, 1, 1 / 6)
    assert detection(np.zeros((0, 3)), truth) == (0, 0, 2, 0.0)
    assert detection(np.array([(12, 20, 30), (6, 8, 8)]), truth).ap == 1.0
    assert detection(np.array([(12, 20, 30), (6, 8, 8)]), truth, min_size=10**6) == (0, 0, 0, 1.0)


def test_a_point_counts_at_the_nearest_voxel():
    truth = np.zeros((3, 3, 3), np.uint8)
    truth[1, 1, 1] = 1
    for point, inside in [
        ((0.5, 1, 1), True),
        ((0.49, 1, 1), False),
        ((1, 1.49, 1), True),
        ((1, 1.5, 1), False),
    ]:
        assert detection(np.array([point]), truth).tp == int(inside), point
    with pytest.raises(InputError, match="finite"):
        detection(np.array([(np.nan, 1, 1)]), truth)


@settings(max_examples=40, deadline=None)
@given(labels_, labels_)
def test_detection_of_labels_is_detection_of_their_centres(truth, predicted):
    centers = [np.argwhere(predicted == i).mean(0) for i in np.unique(predicted[predicted > 0])]
    expected = detection(np.array(centers).reshape(-1, 3), truth)
    assert match(truth, predicted).detection == expected
    hits = [truth[tuple(np.floor(c + 0.5).astype(int))] for c in centers]
    assert expected.tp == len({h for h in hits if h})


def test_best_iou_and_the_lists_of_misses():
    truth = spheres([(6, 8, 8), (12, 20, 30), (4, 25, 8)], 4)
    predicted = np.where(truth == 2, 9, 0)
    predicted[truth == 1] = np.where(np.arange((truth == 1).sum()) % 4 == 0, 5, 0)
    predicted[0, 0, :3] = 4
    scores = match(truth, predicted)
    assert scores.objects.best_predicted.tolist() == [5, 9, 0]
    assert scores.objects.best_iou == pytest.approx([0.25, 1, 0], abs=0.01)
    assert scores.objects.false_negatives(0.5).tolist() == [1, 3]
    assert scores.objects.false_positives(0.5).tolist() == [4, 5]
    assert scores.objects.true_positives(0.2)[1].tolist() == [5, 9]
    with pytest.raises(InputError, match="threshold"):
        scores.objects.false_negatives(0.55)


def test_bad_input_is_named():
    labels = np.ones(SHAPE, np.uint8)
    with pytest.raises(InputError, match="shape"):
        match(labels, labels[1:])
    with pytest.raises(InputError, match="integers"):
        match(labels, labels.astype(float))
    with pytest.raises(InputError, match="integers"):
        match(labels > 0, labels)
    with pytest.raises(InputError, match="the label -1"):
        match(labels, -labels.astype(np.int8))
    with pytest.raises(InputError, match="thresholds"):
        match(labels, labels, thresholds=(50,))
    with pytest.raises(InputError, match="min_size"):
        match(labels, labels, min_size=-1)


def grid_of_squares(objects_a_side, side):
    """Truth of touching squares, `side` voxels wide, one voxel deep."""
    index = np.indices((objects_a_side * side, objects_a_side * side)) // side
    return (index[0] * objects_a_side + index[1] + 1).astype(np.uint32)[None]


def test_a_hundred_thousand_objects_are_cheap():
    truth = grid_of_squares(320, 4)
    predicted = np.roll(truth, 1, axis=2)
    predicted[:, :, :40] = truth[:, :, :40] // 2 + 1  # and a strip in which pairs are merged
    match(truth[:1, :4, :4], predicted[:1, :4, :4])  # compiles
    start = time.perf_counter()
    scores = match(truth, predicted)
    assert time.perf_counter() - start < 10
    assert scores.n_true == 102400
    assert scores.tp[0.1] > 100000


def test_rivals_in_one_large_group():
    """Shifted by half a square both ways, every object has four rivals, and all of them hang together."""
    truth = grid_of_squares(60, 2)
    scores = match(truth, np.roll(truth, (1, 1), axis=(1, 2)), thresholds=(0.1, 0.5))
    assert scores.tp == {0.1: 3600, 0.5: 0}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_large_groups_are_assigned_as_small_ones_are(seed, n, m):
    rng = np.random.default_rng(seed)
    row, column = np.nonzero(rng.random((n, m)) < 0.4)
    iou = rng.uniform(0.05, 1, len(row))
    value = dict(zip(zip(row, column, strict=True), iou, strict=True))
    dense, sparse = (solve(row, column, iou, n, m) for solve in (_assign_dense, _assign_sparse))
    assert len(dense[0]) == len(sparse[0])
    totals = [sum(value[pair] for pair in zip(*taken, strict=True)) for taken in (dense, sparse)]
    assert totals[0] == pytest.approx(totals[1])
