"""Exact percentiles of arrays that do not fit into memory."""

from collections.abc import Callable, Iterable

import numpy as np

_BITS = 16


def percentiles(
    blocks: Callable[[], Iterable[np.ndarray]], dtype: np.dtype, percents: tuple[float, ...]
) -> tuple[list[float], float, float]:
    """Percentiles by linear interpolation, as `numpy.percentile` gives them, without holding the data.

    Values are mapped to unsigned integers of the same order, and each wanted rank is found digit by digit
    (16 bits a pass), so the result is exact, independent of the blocks, and needs one pass for 8 and 16 bit
    data, two for 32 and four for 64. Values that are not finite are left out.

    Args:
        blocks: Gives the data's parts, anew at every call.
        dtype: Their dtype (native byte order; integer, float or bool).
        percents: Percentages, 0 to 100.

    Returns:
        The percentiles, the smallest and the largest value; NaN for all if there is no finite value.
    """
    bits = max(dtype.itemsize * 8, _BITS)
    counts = {0: np.zeros(1 << _BITS, dtype=np.int64)}
    _count(blocks, counts, bits, shift=bits - _BITS)
    total = int(counts[0].sum())
    if total == 0:
        return [float("nan")] * len(percents), float("nan"), float("nan")
    positions = [percent / 100 * (total - 1) for percent in percents]
    ranks = sorted({0, total - 1, *(r for p in positions for r in (int(p), min(int(p) + 1, total - 1)))})
    # found[rank]: the leading digits so far, and the rank among the values that share them
    found = {rank: _digit(counts[0], 0, rank) for rank in ranks}
    for shift in range(bits - 2 * _BITS, -1, -_BITS):
        counts = {prefix: np.zeros(1 << _BITS, dtype=np.int64) for prefix, _ in found.values()}
        _count(blocks, counts, bits, shift)
        found = {rank: _digit(counts[prefix], prefix, rest) for rank, (prefix, rest) in found.items()}
    values = {rank: _from_ordered(prefix, dtype) for rank, (prefix, _) in found.items()}
    result = []
    for position in positions:
        low, high = values[int(position)], values[min(int(position) + 1, total - 1)]
        result.append(low + (high - low) * (position - int(position)))
    return result, values[0], values[total - 1]


def _digit(histogram: np.ndarray, prefix: int, rank: int) -> tuple[int, int]:
    upto = np.cumsum(histogram)
    digit = int(np.searchsorted(upto, rank, side="right"))
    return (prefix << _BITS) | digit, rank - int(upto[digit] - histogram[digit])


def _count(
    blocks: Callable[[], Iterable[np.ndarray]], counts: dict[int, np.ndarray], bits: int, shift: int
) -> None:
    """Add to each prefix' histogram the next 16 bits of the values that begin with that prefix."""
    first = shift + _BITS >= bits
    for block in blocks():
        ordered = _to_ordered(np.ravel(block))
        digits = (ordered >> ordered.dtype.type(shift)) & ordered.dtype.type((1 << _BITS) - 1)
        if first:
            counts[0] += np.bincount(digits.astype(np.uint16), minlength=1 << _BITS)
            continue
        prefixes = ordered >> ordered.dtype.type(shift + _BITS)
        for prefix, histogram in counts.items():
            histogram += np.bincount(digits[prefixes == prefix].astype(np.uint16), minlength=1 << _BITS)


def _to_ordered(values: np.ndarray) -> np.ndarray:
    """Unsigned integers in the order of the values (IEEE 754: flip the sign bit, or all bits if negative)."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        values, size = values.astype(np.uint8), 1
    unsigned = np.dtype(f"u{size}")
    sign = unsigned.type(1 << (8 * size - 1))
    if kind == "f":
        values = values[np.isfinite(values)] + values.dtype.type(0)  # -0.0 becomes 0.0
        raw = values.view(unsigned)
        ordered = np.where(raw & sign, ~raw, raw | sign)
    elif kind == "i":
        ordered = values.view(unsigned) ^ sign
    else:
        ordered = values
    return ordered.astype(np.uint16) if size == 1 else ordered


def _from_ordered(ordered: int, dtype: np.dtype) -> float:
    if dtype.kind in "bu":
        return float(ordered)
    size = dtype.itemsize
    sign = 1 << (8 * size - 1)
    if dtype.kind == "i":
        return float(ordered - sign)
    raw = ordered ^ sign if ordered & sign else ordered ^ ((1 << (8 * size)) - 1)
    return float(np.array([raw], dtype=f"u{size}").view(dtype)[0])
