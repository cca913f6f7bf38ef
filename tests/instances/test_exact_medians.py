"""Medians of stretches of an array, and of values that are only counted, against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nucseg.instances.label_table import table_of
from nucseg.instances.medians import counted_median, gather, medians

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")


@st.composite
def values(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    numbers = (
        st.floats(
            width=8 * dtype.itemsize,
            allow_nan=False,
            allow_infinity=False,
            min_value=-(2.0**100),
            max_value=2.0**100,
        )
        if dtype.kind == "f"
        else None
    )
    return draw(arrays.arrays(dtype, st.integers(1, 40), elements=numbers))


@settings(max_examples=200, deadline=None)
@given(values(), st.integers(1, 7))
def test_both_ways_are_the_median_of_numpy(numbers, step):
    expected = np.median(numbers.astype(np.float64))
    assert medians(numbers.copy(), np.array([0]), np.array([len(numbers)])).tolist() == [expected]
    parts = [numbers[begin : begin + step] for begin in range(0, len(numbers), step)]
    assert counted_median(lambda: parts, numbers.dtype) == expected


def test_neighbouring_values_of_64_bits_are_told_apart():
    numbers = np.array([2**63 + 2**12, 2**63 + 2**13, 2**63 + 2**12 + 2**11], np.uint64)
    expected = float(2**63 + 2**12 + 2**11)
    assert medians(numbers.copy(), np.array([0]), np.array([3]))[0] == expected
    assert counted_median(lambda: [numbers], numbers.dtype) == expected
    close = np.nextafter(np.float64(1), [2, 0])
    assert counted_median(lambda: [close], close.dtype) == np.median(close)


def test_nothing_has_no_median():
    nothing = np.zeros(0, np.float32)
    assert np.isnan(counted_median(lambda: [nothing], nothing.dtype))
    assert np.isnan(medians(nothing, np.array([0]), np.array([0]))).all()


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
def test_finite_values_of_the_wanted_labels_are_gathered(dtype):
    rng = np.random.default_rng(3)
    labels = rng.choice(np.array([0, 5, 7, np.iinfo(dtype).max], dtype), (4, 5, 6))
    raw = rng.standard_normal(labels.shape)
    raw[rng.random(labels.shape) < 0.2] = np.nan
    raw[0, 0, 0] = np.inf
    wanted = np.array([5, np.iinfo(dtype).max, 11], np.uint64)  # 11 is not there
    sizes = np.array([np.count_nonzero(labels == label) for label in wanted])
    limits = np.cumsum(sizes)
    ends, found, sums = limits - sizes, np.empty(limits[-1]), np.zeros(3)
    begins = ends.copy()
    assert gather(labels, raw, table_of(wanted), found, ends, limits, sums) == limits[-1]
    for label, begin, end, total in zip(wanted, begins, ends, sums, strict=True):
        own = raw[labels == label]
        own = own[np.isfinite(own)]
        np.testing.assert_array_equal(found[begin:end], own)
        assert total == pytest.approx(own.sum())
    assert gather(labels, raw, table_of(wanted), found, ends, limits - 1, sums) == -1
