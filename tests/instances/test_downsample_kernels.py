"""Cells against slow loops in Python's own numbers."""

from collections import Counter
from fractions import Fraction
from itertools import product
from math import isnan, nan

import numpy as np
import pytest

from nucseg.errors import InputError
from nucseg.instances.downsample import cell_means, coarse_shape, frequent_labels

SHAPE = (5, 6, 9)
FACTORS = [(1, 2, 3), (2, 2, 2), (3, 1, 2), (4, 7, 5), (1, 1, 1)]


def cells(values, factor):
    """Each coarse voxel's place and the voxels of its cell, in the order of z, y, x."""
    shape = tuple(-(-n // f) for n, f in zip(values.shape, factor, strict=True))
    for place in product(*map(range, shape)):
        box = tuple(slice(p * f, (p + 1) * f) for p, f in zip(place, factor, strict=True))
        yield place, values[box].ravel().tolist()


def slow(values, factor, rule):
    out = np.zeros(coarse_shape(values.shape, factor), values.dtype)
    for place, cell in cells(values, factor):
        out[place] = rule(cell)
    return out


def mean_of(cell):
    kept = [value for value in cell if not isnan(value)]
    total = 0.0
    for value in kept:
        total += value
    return total / len(kept) if kept else nan


def label_of(cell):
    counts = Counter(cell)
    most = max(counts.values())
    best = sorted(label for label, count in counts.items() if count == most)
    return next((label for label in best if label > 0), best[0])


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint64"])
def test_integer_means_are_exact_and_halves_go_to_even(factor, dtype):
    rng = np.random.default_rng(1)
    limits = np.iinfo(dtype)
    for low, high in ((limits.min, limits.max), (0, 3), (limits.max - 2, limits.max)):
        values = rng.integers(low, high, SHAPE, dtype=dtype, endpoint=True)
        expected = slow(values, factor, lambda cell: round(Fraction(sum(cell), len(cell))))
        got = cell_means(values, factor)
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == dtype


def test_the_rule_of_rounding_on_single_cells():
    for cell, mean in (((0, 1), 0), ((1, 2), 2), ((2, 3), 2), ((3, 4), 4), ((1, 1), 1)):
        assert cell_means(np.array(cell, np.uint8).reshape(1, 1, 2), (1, 1, 2)).item() == mean
        below = -np.array(cell, np.int8).reshape(1, 1, 2)
        assert cell_means(below, (1, 1, 2)).item() == -mean
    truth = np.array([True, True, False], bool).reshape(1, 1, 3)
    assert cell_means(truth, (1, 1, 3)).item() is True


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_float_means_leave_nan_out(factor, dtype):
    values = np.random.default_rng(2).standard_normal(SHAPE).astype(dtype)
    values[1:3, ::2] = np.nan
    values[:2, :2, :3] = np.nan
    got = cell_means(values, factor)
    np.testing.assert_array_equal(got, slow(values.astype(got.dtype), factor, mean_of))
    assert got.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64", ">u2"])
def test_labels_are_voted_and_never_mixed(factor, dtype):
    rng = np.random.default_rng(3)
    labels = rng.choice([0, 0, 3, 4, 7, 100], SHAPE).astype(dtype)
    if dtype == "uint64":
        labels[labels > 0] += np.uint64(2**63)  # beyond what a float tells apart
    got = frequent_labels(labels, factor)
    np.testing.assert_array_equal(got, slow(labels, factor, label_of))
    assert set(np.unique(got)) <= set(np.unique(labels))


def test_among_equals_the_smallest_that_is_not_background():
    for cell, label in (
        ((0, 9), 9),
        ((9, 5), 5),
        ((0, 9, 0), 0),
        ((0, 9, 5), 5),
        ((7, 7, 2), 7),
        ((0, 0, 8, 8, 3), 8),
        ((-1, 4), 4),
        ((-1, 0), -1),
    ):
        for order in (cell, cell[::-1]):
            line = np.array(order, np.int16).reshape(-1, 1, 1)
            assert frequent_labels(line, (len(cell), 1, 1)).item() == label


def test_a_part_that_begins_at_a_multiple_of_the_factor_equals_the_whole():
    values = np.random.default_rng(4).integers(0, 9, (9, 10, 11)).astype(np.uint16)
    for reduce in (cell_means, frequent_labels):
        whole = reduce(values, (2, 3, 2))
        np.testing.assert_array_equal(reduce(values[4:, 3:9, 2:], (2, 3, 2)), whole[2:, 1:3, 1:])


def test_what_cannot_be_reduced_is_told():
    with pytest.raises(InputError, match="axes z, y, x"):
        cell_means(np.zeros((2, 2)), (1, 1, 1))
    with pytest.raises(InputError, match="an integer dtype"):
        frequent_labels(np.zeros((2, 2, 2)), (1, 1, 1))
    with pytest.raises(InputError, match="factor"):
        cell_means(np.zeros((2, 2, 2)), (1, 0, 1))
