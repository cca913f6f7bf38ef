"""Votes against a loop over voxels; the same votes in every block."""

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nucseg.errors import InputError
from nucseg.instances.centroids import center_vectors, centroids
from nucseg.instances.votes import smooth_votes, vote_map, votes_above


def slow_votes(vectors, foreground, reach):
    votes = np.zeros(foreground.shape, np.int32)
    for place in np.argwhere(foreground):
        vector = vectors[(slice(None), *place)].astype(float)
        if reach is not None and not np.sqrt((vector**2).sum()) <= reach:
            continue
        target = place + np.array([round(v) for v in vector])  # Python rounds halves to even
        if (target >= 0).all() and (target < foreground.shape).all():
            votes[tuple(target)] += 1
    return votes


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 0.5, 2.0, 3.7]))
def test_votes_of_random_vectors(seed, reach):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, 3))
    vectors = (rng.integers(-10, 11, (3, *shape)) / 4).astype(np.float32)  # many exact halves
    foreground = rng.random(shape) < 0.7
    np.testing.assert_array_equal(
        vote_map(vectors, foreground, reach), slow_votes(vectors, foreground, reach)
    )


def test_true_vectors_vote_for_the_centre():
    labels = cases.touching_pair()
    found = centroids(labels)
    votes = vote_map(center_vectors(labels, found.ids, found.centers), labels > 0)
    assert votes.sum() == (labels > 0).sum()
    assert votes.dtype == np.int32
    # centres of boxes of even size lie between voxels: halves to even send every vote to one of the eight around
    assert votes[3:5, 4:6, 3:5].sum() == 64
    assert votes[3:5, 4:6, 7:9].sum() == 64


def test_not_finite_and_too_long_vectors_cast_no_vote():
    vectors = np.zeros((3, 1, 1, 5), np.float32)
    vectors[:, 0, 0, 0] = np.nan
    vectors[0, 0, 0, 1] = np.inf
    vectors[2, 0, 0, 2] = -np.inf
    vectors[2, 0, 0, 3] = 1e30
    np.testing.assert_array_equal(vote_map(vectors), [[[0, 0, 0, 0, 1]]])


def test_without_a_foreground_every_voxel_votes():
    assert vote_map(np.zeros((3, 2, 3, 4), np.float32)).sum() == 24


@pytest.mark.parametrize("passes", [0, 1, 2, 3])
def test_smoothing_is_the_binomial_kernel(passes):
    votes = np.random.default_rng(passes).integers(0, 50, (5, 7, 6)).astype(np.int32)
    expected = votes.astype(np.int64)
    for _ in range(passes):
        for axis in range(3):
            expected = ndimage.correlate1d(expected, [1, 2, 1], axis=axis, mode="constant")
    smoothed = smooth_votes(votes, passes)
    assert smoothed.dtype == np.int64
    np.testing.assert_array_equal(smoothed, expected)


def test_two_passes_have_a_standard_deviation_of_one_voxel():
    votes = np.zeros((21, 21, 21), np.int32)
    votes[10, 10, 10] = 1
    kernel = smooth_votes(votes, 2) / 64**2
    assert kernel.sum() == 1
    along = kernel.sum(axis=(0, 1))
    assert (along * (np.arange(21) - 10) ** 2).sum() == pytest.approx(1)


def test_the_threshold_is_exact():
    smoothed = smooth_votes(np.full((5, 5, 5), 3, np.int32), 2)
    assert not votes_above(smoothed, 3.0, 2)[2, 2, 2]
    assert votes_above(smoothed, np.nextafter(3.0, 0), 2)[2, 2, 2]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_block_counts_the_same_votes_as_the_whole(seed):
    rng = np.random.default_rng(seed)
    shape, reach, passes = tuple(rng.integers(8, 20, 3)), int(rng.integers(1, 4)), int(rng.integers(0, 3))
    vectors = rng.normal(0, 2, (3, *shape)).astype(np.float32)
    foreground = rng.random(shape) < 0.5
    whole = smooth_votes(vote_map(vectors, foreground, reach), passes)
    begin = [int(rng.integers(0, n)) for n in shape]
    end = [int(rng.integers(b, n)) + 1 for b, n in zip(begin, shape, strict=True)]
    context = reach + passes
    read = tuple(slice(max(0, b - context), e + context) for b, e in zip(begin, end, strict=True))
    inner = tuple(slice(b - r.start, e - r.start) for b, e, r in zip(begin, end, read, strict=True))
    block = smooth_votes(vote_map(vectors[(slice(None), *read)], foreground[read], reach), passes)
    core = tuple(slice(b, e) for b, e in zip(begin, end, strict=True))
    np.testing.assert_array_equal(block[inner], whole[core])


def test_bad_shapes_are_named():
    with pytest.raises(InputError, match="vectors"):
        vote_map(np.zeros((2, 3, 3, 3), np.float32))
    with pytest.raises(InputError, match="foreground"):
        vote_map(np.zeros((3, 3, 3, 3), np.float32), np.ones((3, 3, 4), bool))
    with pytest.raises(InputError, match="passes"):
        smooth_votes(np.zeros((3, 3, 3), np.int32), 7)
