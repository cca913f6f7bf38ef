"""Local maxima against scipy's maximum filter and a loop over windows; the same points in every block."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nucseg.errors import InputError
from nucseg.instances.detection import local_maxima


def slow_maxima(values, threshold, distance):
    """All windows, one after the other; Python compares integers and floats exactly."""
    order = {place: number for number, place in enumerate(np.ndindex(*values.shape))}
    points = []
    for place in order:
        value = values[place].item()
        window = product(
            *(
                range(max(0, p - distance), min(n, p + distance + 1))
                for p, n in zip(place, values.shape, strict=True)
            )
        )
        others = [(values[other].item(), order[other]) for other in window if other != place]
        if value > threshold and not any(
            other > value or (other == value and number < order[place]) for other, number in others
        ):
            points.append(place)
    return np.array(points, np.int64).reshape(-1, 3)


@pytest.mark.parametrize("distance", [1, 2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tie_free_maps_as_scipy(distance, dtype):
    rng = np.random.default_rng(distance)
    smooth = ndimage.gaussian_filter(rng.standard_normal((21, 26, 33)), (0.7, 1.0, 1.6))
    ranks = np.argsort(np.argsort(smooth, axis=None)).reshape(smooth.shape)  # no two are equal
    values = (ranks / smooth.size - 0.5).astype(dtype)
    maxima = ndimage.maximum_filter(values, 2 * distance + 1, mode="constant", cval=-np.inf)
    expected = np.argwhere((values == maxima) & (values > 0.05))
    found = local_maxima(values, 0.05, distance)
    assert len(expected) > 3
    np.testing.assert_array_equal(found.points, expected)
    np.testing.assert_array_equal(found.scores, values[tuple(expected.T)])
    assert found.scores.dtype == dtype


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.sampled_from([np.uint8, np.int16, np.int64, np.uint64, np.float16, np.float32, np.float64]),
    st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
)
def test_ties_as_a_loop_over_windows(seed, distance, dtype, threshold):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, rng.integers(1, 9, 3)).astype(dtype)
    if values.dtype.kind == "u":
        threshold = max(threshold, 0.0)
    found = local_maxima(values, threshold, distance)
    np.testing.assert_array_equal(found.points, slow_maxima(values, threshold, distance))


@pytest.mark.parametrize("distance", [1, 3])
def test_a_plateau_in_a_window_gives_its_first_voxel(distance):
    values = np.zeros((12, 13, 14), np.int32)
    values[4 : 4 + distance, 5 : 6 + distance, 6 : 7 + distance] = 7
    values[4, 5, 6] = 0  # the first voxel in z,y,x order is now (4, 5, 7)
    np.testing.assert_array_equal(local_maxima(values, 0, distance).points, [(4, 5, 7)])


def test_plateaus_wider_than_the_window():
    convex = np.zeros((9, 9, 30), np.float32)
    convex[2:7, 2:7, 3:27] = 1
    np.testing.assert_array_equal(local_maxima(convex, 0.5, 2).points, [(2, 2, 3)])
    fork = np.zeros((3, 9, 13), np.float32)  # one plateau, two tips that do not see each other
    for step in range(6):
        fork[1, step, [6 - (5 - step), 6 + (5 - step)]] = 1
    np.testing.assert_array_equal(local_maxima(fork, 0.5, 2).points, [(1, 0, 1), (1, 0, 11)])
    np.testing.assert_array_equal(local_maxima(fork, 0.5, 10).points, [(1, 0, 1)])


def test_nan_is_no_point_and_hides_none():
    values = np.full((5, 5, 5), np.nan, np.float32)
    values[2, 3, 1], values[4, 4, 4], values[0, 0, 4] = 1.0, np.inf, -np.inf
    np.testing.assert_array_equal(local_maxima(values, 0, 1).points, [(2, 3, 1), (4, 4, 4)])
    assert len(local_maxima(np.full((3, 3, 3), np.nan), -np.inf, 1).points) == 0


def test_large_integers_are_compared_exactly():
    values = np.full((3, 3, 3), 2**60, np.uint64)
    values[1, 2, 0] = 2**60 + 1  # as a float64 the same number
    np.testing.assert_array_equal(local_maxima(values, 0, 2).points, [(1, 2, 0)])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.tuples(st.integers(3, 12), st.integers(3, 12), st.integers(3, 12)),
    st.booleans(),
)
def test_blocks_find_the_points_of_the_whole(seed, distance, block, ties):
    rng = np.random.default_rng(seed)
    values = ndimage.gaussian_filter(rng.standard_normal((15, 18, 22)), 0.8)
    values = np.round(values * 6).astype(np.int64) if ties else values
    whole = local_maxima(values, 0, distance)
    pieces = []
    for index in np.ndindex(*(-(-n // b) for n, b in zip(values.shape, block, strict=True))):
        begin = np.array(index) * block
        end = np.minimum(begin + block, values.shape)
        low, high = np.maximum(begin - distance, 0), np.minimum(end + distance, values.shape)
        region = values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        core = tuple(slice(b - a, e - a) for b, e, a in zip(begin, end, low, strict=True))
        pieces.append(local_maxima(region, 0, distance, core).points + low)
    found = np.concatenate(pieces)
    np.testing.assert_array_equal(found[np.lexsort(found.T[::-1])], whole.points)


def test_points_of_one_map_keep_their_distance():
    values = np.random.default_rng(0).integers(0, 100, (20, 20, 20))
    points = local_maxima(values, 0, 2).points
    apart = np.abs(points[:, None] - points).max(axis=-1) + 99 * np.eye(len(points))
    assert len(points) > 20
    assert apart.min() > 2


@pytest.mark.parametrize(
    ("values", "threshold", "distance"),
    [
        (np.zeros((3, 3)), 0, 1),
        (np.zeros((3, 3, 3), complex), 0, 1),
        (np.zeros((3, 3, 3)), 0, 0),
        (np.zeros((3, 3, 3)), float("nan"), 1),
        (np.zeros((3, 3, 3), np.uint8), -1, 1),
    ],
)
def test_what_makes_no_sense_is_refused(values, threshold, distance):
    with pytest.raises(InputError):
        local_maxima(values, threshold, distance)
