"""Coarser arrays: the mean of the voxels of a cell, or its most frequent label.

A cell is the box of `factor` voxels (z, y, x) that becomes one voxel; the first begins at voxel 0 and those at the
far border hold what is left. Each result depends on its own cell only, so that a part which begins at a multiple
of the factor gives the same voxels as the whole.
"""

import numpy as np
from numba import njit

from nucseg.errors import InputError

Factor = tuple[int, int, int]


def coarse_shape(shape: tuple[int, int, int], factor: Factor) -> tuple[int, int, int]:
    """Cells z, y, x of a volume: the length divided by the factor, rounded up."""
    z, y, x = (-(-n // f) for n, f in zip(shape, factor, strict=True))
    return z, y, x


def cell_means(values: np.ndarray, factor: Factor) -> np.ndarray:
    """Mean of the voxels of each cell.

    Integers (and booleans, as 0 and 1) are averaged exactly, whatever their width, and rounded to the nearest
    integer, halves to the even one. Floats are added in float64 in the order of z, y, x; NaN is left out, and a cell
    of nothing but NaN becomes NaN.

    Args:
        values: (z, y, x), of an integer, float or bool dtype.
        factor: Voxels of a cell z, y, x.

    Returns:
        Array of `coarse_shape`, of the dtype of `values` in native byte order.

    Raises:
        InputError: Not three-dimensional, of another dtype, or a factor below 1.
    """
    _check(values, factor, "buif")
    dtype = values.dtype.newbyteorder("=")
    shape, cell = coarse_shape(values.shape, factor), np.array(factor, np.int64)
    if dtype.kind == "f":
        wide = np.float32 if dtype.itemsize == 2 else dtype  # numba knows no float16
        means = np.empty(shape, np.float64 if dtype.itemsize == 2 else dtype)
        _float_means(np.ascontiguousarray(values, wide), cell, means)
        return means.astype(dtype, copy=False)
    plain = np.ascontiguousarray(values, dtype)
    plain = plain.view(np.uint8) if dtype.kind == "b" else plain
    means = np.empty(shape, plain.dtype)
    # uint64 is shifted into int64 and back: a mean moves with its values, and an even shift keeps odd and even
    shift = np.iinfo(np.int64).min if plain.dtype == np.uint64 else 0
    _integer_means(plain, cell, np.int64(shift), means)
    return means.view(dtype)


def frequent_labels(labels: np.ndarray, factor: Factor) -> np.ndarray:
    """The most frequent label of each cell; labels are never mixed, so no new id comes up.

    Background (0) counts as a label. Among equally frequent ones the smallest that is not 0 is taken, and negative
    ones, if there are any, after all others: a nucleus wins over background that is no more frequent.

    Args:
        labels: (z, y, x), of an integer dtype.
        factor: Voxels of a cell z, y, x.

    Returns:
        Array of `coarse_shape`, of the dtype of `labels` in native byte order.

    Raises:
        InputError: Not three-dimensional, not of an integer dtype, or a factor below 1.
    """
    _check(labels, factor, "iu")
    size = (
        8 if labels.dtype.itemsize == 8 else 4
    )  # two types only, so that the kernel is compiled twice at most
    ids = np.ascontiguousarray(labels, f"{labels.dtype.kind}{size}")
    found = np.zeros(coarse_shape(labels.shape, factor), f"u{size}")
    _most_frequent(ids.view(f"u{size}"), np.array(factor, np.int64), found)
    return found.view(ids.dtype).astype(labels.dtype.newbyteorder("="), copy=False)


def _check(values: np.ndarray, factor: Factor, kinds: str) -> None:
    if values.ndim != 3 or values.dtype.kind not in kinds:
        raise InputError(
            "array to downsample",
            expected=f"axes z, y, x and {'an integer' if kinds == 'iu' else 'a numeric'} dtype",
            received=f"{values.dtype} {values.shape}",
            remedy="select one channel, and convert it",
        )
    if len(factor) != 3 or min(factor) < 1:
        raise InputError(
            "factor",
            expected="three whole numbers (z, y, x), 1 or more",
            received=str(factor),
            remedy="correct it",
        )


@njit(cache=True, nogil=True)
def _integer_means(values: np.ndarray, factor: np.ndarray, shift: np.int64, means: np.ndarray) -> None:
    """With v = n q + r for each of n values, their sum is n (sum of q) + sum of r: no sum overflows."""
    depth, height, width = values.shape
    fz, fy, fx = factor
    for cz in range(means.shape[0]):
        z1 = min((cz + 1) * fz, depth)
        for cy in range(means.shape[1]):
            y1 = min((cy + 1) * fy, height)
            for cx in range(means.shape[2]):
                x1 = min((cx + 1) * fx, width)
                count = (z1 - cz * fz) * (y1 - cy * fy) * (x1 - cx * fx)
                whole, rest = np.int64(0), np.int64(0)
                for z in range(cz * fz, z1):
                    for y in range(cy * fy, y1):
                        for x in range(cx * fx, x1):
                            value = np.int64(values[z, y, x]) ^ shift
                            part = value // count
                            whole += part
                            rest += value - part * count
                whole += rest // count
                rest %= count
                if 2 * rest > count or (2 * rest == count and whole & 1):
                    whole += 1
                means[cz, cy, cx] = whole ^ shift


@njit(cache=True, nogil=True)
def _float_means(values: np.ndarray, factor: np.ndarray, means: np.ndarray) -> None:
    depth, height, width = values.shape
    fz, fy, fx = factor
    for cz in range(means.shape[0]):
        z1 = min((cz + 1) * fz, depth)
        for cy in range(means.shape[1]):
            y1 = min((cy + 1) * fy, height)
            for cx in range(means.shape[2]):
                total, count = 0.0, 0
                for z in range(cz * fz, z1):
                    for y in range(cy * fy, y1):
                        for x in range(cx * fx, min((cx + 1) * fx, width)):
                            value = np.float64(values[z, y, x])
                            if not np.isnan(value):
                                total += value
                                count += 1
                means[cz, cy, cx] = total / count if count else np.nan


@njit(cache=True, nogil=True)
def _most_frequent(labels: np.ndarray, factor: np.ndarray, found: np.ndarray) -> None:
    depth, height, width = labels.shape
    fz, fy, fx = factor
    ids = np.zeros(fz * fy * fx, labels.dtype)  # labels of a cell in the order they are met
    counts = np.zeros(fz * fy * fx, np.int64)
    nothing = ids[0]  # typed: numba compares uint64 with a plain 0 as floats
    for cz in range(found.shape[0]):
        z1 = min((cz + 1) * fz, depth)
        for cy in range(found.shape[1]):
            y1 = min((cy + 1) * fy, height)
            for cx in range(found.shape[2]):
                known, place = 0, 0
                for z in range(cz * fz, z1):
                    for y in range(cy * fy, y1):
                        for x in range(cx * fx, min((cx + 1) * fx, width)):
                            label = labels[z, y, x]
                            if known == 0 or label != ids[place]:
                                place = 0
                                while place < known and ids[place] != label:
                                    place += 1
                                if place == known:
                                    ids[known], counts[known] = label, 0
                                    known += 1
                            counts[place] += 1
                best = 0
                for other in range(1, known):
                    if counts[other] > counts[best] or (
                        counts[other] == counts[best]
                        and ids[other] != nothing
                        and (ids[best] == nothing or ids[other] < ids[best])
                    ):
                        best = other
                found[cz, cy, cx] = ids[best]
