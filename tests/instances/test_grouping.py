"""Grouping by vectors against a loop over voxels and peaks."""

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucseg.errors import InputError
from nucseg.instances.centroids import center_vectors, centroids
from nucseg.instances.detection import Peaks, local_maxima
from nucseg.instances.grouping import group_by_vectors, peak_ids
from nucseg.instances.votes import vote_map


def slow_groups(vectors, foreground, points, within, reach):
    groups = np.zeros(foreground.shape, np.uint32)
    for place in np.argwhere(foreground):
        vector = vectors[(slice(None), *place)].astype(float)
        if not np.sqrt((vector**2).sum()) <= reach:
            continue
        target = place + np.array([round(v) for v in vector])  # Python rounds halves to even
        if not ((target >= 0).all() and (target < foreground.shape).all()):
            continue
        squares = [int(((target - point) ** 2).sum()) for point in points]
        if squares and min(squares) <= within**2:
            groups[tuple(place)] = 1 + squares.index(min(squares))  # the first of equals
    return groups


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4), st.sampled_from([0.5, 2.0, 3.7]), st.integers(0, 9))
def test_groups_of_random_vectors(seed, within, reach, count):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 3))
    vectors = (rng.integers(-10, 11, (3, *shape)) / 4).astype(np.float32)  # many exact halves
    foreground = rng.random(shape) < 0.7
    points = np.unique(rng.integers(0, shape, (count, 3)), axis=0).astype(np.int64).reshape(-1, 3)
    peaks = Peaks(points, np.ones(len(points)))
    got = group_by_vectors(vectors, foreground, peaks, within, reach)
    assert got.dtype == np.uint32
    np.testing.assert_array_equal(got, slow_groups(vectors, foreground, points, within, reach))


def test_true_vectors_give_the_nuclei_back():
    labels = cases.crowded(3, (24, 30, 40), nuclei=25, radius=4)
    labels[np.isin(labels, [i for i, n in enumerate(np.bincount(labels.ravel())) if n < 60])] = 0
    found = centroids(labels)
    vectors = center_vectors(labels, found.ids, found.centers)
    votes = vote_map(vectors, labels > 0)
    groups = group_by_vectors(vectors, labels > 0, local_maxima(votes, 5, 1), 2, 20)
    assert np.array_equal(groups > 0, labels > 0)
    pairs = np.unique(np.stack([labels[labels > 0], groups[labels > 0]]), axis=1)
    assert pairs.shape[1] == len(found.ids) == len(np.unique(pairs[1])), "one group a nucleus"


def test_not_finite_vectors_join_nothing():
    vectors = np.zeros((3, 1, 1, 4), np.float32)
    vectors[0, 0, 0, 1], vectors[2, 0, 0, 2], vectors[1, 0, 0, 3] = np.nan, np.inf, 1e30
    peaks = Peaks(np.zeros((1, 3), np.int64), np.ones(1))
    groups = group_by_vectors(vectors, np.ones((1, 1, 4), bool), peaks, 9, np.inf)
    np.testing.assert_array_equal(groups, [[[1, 0, 0, 0]]])


def test_ids_are_places_in_the_whole_volume():
    points = np.array([[0, 0, 0], [0, 2, 1], [1, 0, 3]], np.int64)
    ids = peak_ids(Peaks(points, np.ones(3)), (5, 6, 7), (10, 20, 30))
    assert ids.dtype == np.uint64
    np.testing.assert_array_equal(
        ids, [0, 5 * 600 + 6 * 30 + 7 + 1, 5 * 600 + 8 * 30 + 8 + 1, 6 * 600 + 6 * 30 + 10 + 1]
    )


def test_what_does_not_fit_is_told():
    peaks = Peaks(np.zeros((0, 3), np.int64), np.zeros(0))
    for vectors, within in (
        (np.zeros((2, 3, 3, 3)), 1),
        (np.zeros((3, 3, 3, 4)), 1),
        (np.zeros((3, 3, 3, 3)), -1),
    ):
        with pytest.raises(InputError, match="vectors to group"):
            group_by_vectors(vectors, np.ones((3, 3, 3), bool), peaks, within, 5)
