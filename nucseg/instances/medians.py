"""Exact medians of many nuclei: the values of each are put side by side, or counted where they are too many."""

from collections.abc import Callable, Iterable

import numpy as np
from numba import njit

from nucseg.instances.label_table import slot_of

DIGIT = 16
"""Bits of a value that are counted at a time."""


@njit(cache=True, nogil=True)
def gather(
    labels: np.ndarray,
    raw: np.ndarray,
    table: tuple[np.ndarray, np.ndarray],
    values: np.ndarray,
    ends: np.ndarray,
    limits: np.ndarray,
    sums: np.ndarray,
) -> int:
    """Put the finite values of some labels side by side, those of each label into a place of its own.

    Args:
        labels: Unsigned integers (z, y, x); 0 is background.
        raw: Values (z, y, x), of `values`' dtype.
        table: What `table_of` makes of the labels that are wanted.
        values: Is written, (n,).
        ends: Where the next value of each label goes in `values`, int64; is counted up.
        limits: Where the place of each label ends, int64.
        sums: The values are added to it, float64.

    Returns:
        Voxels of these labels that were met, finite or not; -1 as soon as the place of one is full.
    """
    depth, height, width = labels.shape
    keys, indices = table
    last, index, met = np.uint64(0), -1, 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                label = np.uint64(labels[z, y, x])
                if label == np.uint64(0):
                    continue
                if label != last:
                    last = label
                    slot = slot_of(keys, label)
                    index = indices[slot] if keys[slot] == label else -1
                if index < 0:
                    continue
                met += 1
                value = raw[z, y, x]
                if np.isfinite(value):
                    end = ends[index]
                    if end >= limits[index]:
                        return -1
                    values[end] = value
                    ends[index] = end + 1
                    sums[index] += np.float64(value)
    return met


def medians(values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The median of each of some stretches of an array, float64 (n,); NaN of an empty one.

    The mean of the two middle values where their number is even, as `numpy.median` of them in float64.

    Args:
        values: Numbers; the values of each stretch are reordered.
        begins: First place of each stretch, (n,).
        ends: Place behind the last of each, (n,).
    """
    found = np.full(len(begins), np.nan)
    for index, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        if begin == end:
            continue
        own = values[begin:end]
        low, high = (len(own) - 1) // 2, len(own) // 2
        own.partition((low, high) if low < high else low)
        found[index] = _middle(own[low].item(), own[high].item())
    return found


def counted_median(parts: Callable[[], Iterable[np.ndarray]], dtype: np.dtype) -> float:
    """The median of any number of values in constant memory: as `medians` has it, NaN if there is none.

    Values are mapped to unsigned integers of the same order, of which `DIGIT` bits are counted at a time, from the
    highest to the lowest: the counts say which digit the middle values have (radix selection).

    Args:
        parts: Iterates over all values, none of them NaN, in arrays of any length; called once a digit.
        dtype: Of the values: integer, float32 or float64.
    """
    bits = 8 * dtype.itemsize
    digit = min(DIGIT, bits)
    ranks, prefixes = [0, 0], [0, 0]
    for shift in range(bits - digit, -1, -digit):
        top = shift == bits - digit
        wanted = range(1 if prefixes[0] == prefixes[1] else 2)
        counts = np.zeros((2, 2**digit), np.int64)
        for part in parts():
            keys = _keys(part)
            for which in wanted:
                kind = keys.dtype.type
                inside = keys if top else keys[keys >> kind(shift + digit) == kind(prefixes[which])]
                digits = (inside >> kind(shift)) & kind(2**digit - 1)
                counts[which] += np.bincount(digits.astype(np.int64), minlength=2**digit)
        if len(wanted) == 1:
            counts[1] = counts[0]
        if top:
            number = int(counts[0].sum())
            if number == 0:
                return float("nan")
            ranks = [(number - 1) // 2, number // 2]
        for which in range(2):
            below = np.concatenate(([0], np.cumsum(counts[which])))
            found = int(np.searchsorted(below, ranks[which], "right")) - 1
            ranks[which] -= int(below[found])
            prefixes[which] = prefixes[which] << digit | found
    low, high = (_value(prefix, dtype) for prefix in prefixes)
    return _middle(low, high)


def _middle(low: float, high: float) -> float:
    """The mean of two Python numbers; whole numbers are rounded to float64 before, as numpy does."""
    return float(low) if low == high else (float(low) + float(high)) / 2


def _keys(values: np.ndarray) -> np.ndarray:
    """Unsigned integers of the same width that are ordered as the values are."""
    if values.dtype.kind == "u":
        return values
    bits = 8 * values.dtype.itemsize
    keys = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    sign = keys.dtype.type(1 << (bits - 1))
    if values.dtype.kind == "i":
        return keys ^ sign
    return np.where(keys & sign, ~keys, keys | sign)


def _value(key: int, dtype: np.dtype) -> float:
    """The value that a key stands for, as a Python number."""
    bits, sign = 8 * dtype.itemsize, 1 << (8 * dtype.itemsize - 1)
    if dtype.kind == "i":
        key ^= sign
    elif dtype.kind == "f":
        key = key ^ sign if key & sign else key ^ ((1 << bits) - 1)
    number: float = np.array(key, f"u{dtype.itemsize}").view(dtype).item()
    return number
