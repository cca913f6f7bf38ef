"""Points from a map of scores: local maxima, one a window, the same in every block."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from nucseg.errors import InputError

Core = tuple[slice, slice, slice]


class Peaks(NamedTuple):
    """Voxels that stand out, in z,y,x order.

    Attributes:
        points: Their indices z,y,x in the array, int64 (n, 3).
        scores: The array's values there, (n,), of the array's type.
    """

    points: np.ndarray
    scores: np.ndarray


def local_maxima(values: np.ndarray, threshold: float, distance: int, core: Core | None = None) -> Peaks:
    """Non-maximum suppression: voxels above a threshold that no voxel of their window exceeds.

    The window of a voxel are the 2 * distance + 1 voxels a side around it, clipped at the array's border. Among
    equal values the first voxel in z,y,x order wins: a voxel is a point if its value exceeds the threshold,
    no voxel of its window has a larger one, and none before it in its window has the same. So two points are
    always more than `distance` apart along some axis. A plateau that fits in a window gives one point, its first
    voxel. A wider one gives a point at each of its voxels that has none of the plateau before it in its window:
    its first voxel, and where it is not convex perhaps others, more than `distance` away from each other. Voxels of
    one value that are no plateau but lie in each other's windows are treated alike.

    A voxel's answer depends on its window alone, so blocks that see `distance` voxels more than they report agree
    with the whole volume.

    Args:
        values: Integers, or floats with any infinities; NaN is never a point and suppresses none. (z, y, x).
        threshold: Values up to it are no points.
        distance: Half the window, voxels, at least 1.
        core: The part to look for points in; its surroundings are looked at. None: all.

    Returns:
        Points, in index coordinates of `values`, and their values.

    Raises:
        InputError: Not a three-dimensional array of numbers, or a distance or threshold out of range.
    """
    values = _comparable(values)
    if distance < 1 or math.isnan(threshold):
        raise InputError(
            "non-maximum suppression",
            expected="a distance of at least 1 voxel and a threshold that is a number",
            received=f"distance {distance}, threshold {threshold}",
            remedy="use for instance distance 4",
        )
    parts = core or tuple(slice(0, n) for n in values.shape)
    begin = np.array([part.start for part in parts], np.int64)
    end = np.array([part.stop for part in parts], np.int64)
    points = _maxima(values, _in_type(threshold, values.dtype), int(distance), begin, end)
    return Peaks(points, values[tuple(points.T)])


def _comparable(values: np.ndarray) -> np.ndarray:
    """The values in one of four types, so that few kernels are compiled."""
    values = np.asarray(values)
    kind = {"b": np.int64, "i": np.int64, "u": np.uint64, "f": np.float32}.get(values.dtype.kind)
    if values.ndim != 3 or kind is None:
        raise InputError(
            "map of scores",
            expected="an array of numbers (z, y, x)",
            received=f"{values.dtype} {values.shape}",
            remedy="pass one channel",
        )
    wanted = np.dtype(np.float64) if values.dtype.kind == "f" and values.itemsize > 4 else np.dtype(kind)
    return np.ascontiguousarray(values, wanted)


def _in_type(threshold: float, dtype: np.dtype) -> np.generic:
    """The threshold such that comparing in the values' own type is right: v > t is v > floor(t) for integers."""
    if dtype.kind == "f":
        return dtype.type(threshold)
    limits = np.iinfo(dtype)
    if threshold < limits.min:
        raise InputError(
            "threshold of integer scores",
            expected=f"at least {limits.min}",
            received=f"{threshold}",
            remedy="use 0",
        )
    return dtype.type(limits.max if threshold >= limits.max else math.floor(threshold))


@njit(cache=True, nogil=True)
def _maxima(
    values: np.ndarray, threshold: np.generic, distance: int, begin: np.ndarray, end: np.ndarray
) -> np.ndarray:
    depth, height, width = values.shape
    points = np.empty((256, 3), np.int64)
    count = 0
    for z in range(begin[0], end[0]):
        for y in range(begin[1], end[1]):
            row = values[z, y]
            for x in range(begin[2], end[2]):
                value = row[x]
                if not value > threshold:  # NaN, too
                    continue
                # Most voxels have a larger one, or the plateau's earlier one, right beside them.
                if (x > 0 and row[x - 1] >= value) or (x + 1 < width and row[x + 1] > value):
                    continue
                if (y > 0 and values[z, y - 1, x] >= value) or (
                    y + 1 < height and values[z, y + 1, x] > value
                ):
                    continue
                if (z > 0 and values[z - 1, y, x] >= value) or (
                    z + 1 < depth and values[z + 1, y, x] > value
                ):
                    continue
                if _wins(values, z, y, x, distance):
                    if count == len(points):
                        more = np.empty((2 * count, 3), np.int64)
                        more[:count] = points
                        points = more
                    points[count, 0], points[count, 1], points[count, 2] = z, y, x
                    count += 1
    return points[:count].copy()


@njit(cache=True, nogil=True)
def _wins(values: np.ndarray, z: int, y: int, x: int, distance: int) -> bool:
    """Whether no voxel of the window is larger, and none before this one in z,y,x order is equal."""
    depth, height, width = values.shape
    value = values[z, y, x]
    y_begin, y_end = max(0, y - distance), min(height, y + distance + 1)
    x_begin, x_end = max(0, x - distance), min(width, x + distance + 1)
    for k in range(max(0, z - distance), min(depth, z + distance + 1)):
        for j in range(y_begin, y_end):
            row = values[k, j]
            before = k < z or (k == z and j < y)
            for i in range(x_begin, x_end):
                other = row[i]
                if other > value or (other == value and (before or (k == z and j == y and i < x))):
                    return False
    return True
