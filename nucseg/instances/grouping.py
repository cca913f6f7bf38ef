"""Instances without a flood: every voxel joins the peak of the votes that its vector points to.

What a voxel becomes depends on its surroundings up to a fixed distance, whatever the volume: a foreground that is one
piece over many nuclei, or without end, costs a block no more than any other.
"""

from math import prod

import numpy as np
from numba import njit

from nucseg.errors import InputError
from nucseg.instances.detection import Peaks

Triple = tuple[int, int, int]


def group_by_vectors(
    vectors: np.ndarray, foreground: np.ndarray, peaks: Peaks, within: int, reach: float
) -> np.ndarray:
    """Give each foreground voxel to the peak that is nearest to where its vector ends.

    A voxel at index p with vector v joins the peak nearest to p + round(v) (halves to even), if one is at most
    `within` voxels from there; of several at the same distance, the first in z,y,x order. Other voxels become
    background, as do those whose vector is longer than `reach`, leaves the array or is not finite.

    Args:
        vectors: float (3, z, y, x), z,y,x components in voxels.
        foreground: bool (z, y, x); only these voxels join a peak.
        peaks: Centres of the instances, in z,y,x order, such as `local_maxima` of the smoothed votes.
        within: Farthest peak, voxels (Euclidean), 0 or more.
        reach: Longest vector, voxels (Euclidean).

    Returns:
        uint32 (z, y, x): 1 + the number of the peak, 0 background. A peak that no voxel joins has none.

    Raises:
        InputError: Wrong shapes, or `within` is negative.
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    shape = foreground.shape
    if vectors.shape != (3, *shape) or within < 0:
        raise InputError(
            "vectors to group voxels by",
            expected=f"an array (3, z, y, x) of the foreground's shape {shape}, within 0 or more voxels",
            received=f"{vectors.shape}, within {within}",
            remedy="pass the cpv channels of the same region",
        )
    if prod(shape) == 0 or len(peaks.points) == 0:
        return np.zeros(shape, np.uint32)
    steps = np.arange(-within, within + 1)
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    squares = (offsets**2).sum(axis=1)
    near = squares <= within**2
    # numpy, unlike numba, asks the system for large pages
    nearest, joined = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)
    _nearest(peaks.points, offsets[near], squares[near], nearest, np.empty(shape, np.int32))
    _join(vectors, np.ascontiguousarray(foreground, np.bool_), nearest, float(reach) ** 2, joined)
    return joined


def peak_ids(peaks: Peaks, begin: Triple, volume_shape: Triple) -> np.ndarray:
    """Ids that every block computes alike, uint64 (1 + n,): 0 for background, then one for each peak.

    A peak's id is the linear index (C order, in the whole volume) of its voxel, plus 1.

    Args:
        peaks: In index coordinates of a region.
        begin: Where the region begins in the whole volume, voxels z,y,x.
        volume_shape: Shape of the whole volume, voxels z,y,x.
    """
    places = (peaks.points + np.array(begin)).T
    ids = np.ravel_multi_index(tuple(places), volume_shape).astype(np.uint64) + np.uint64(1)
    return np.concatenate([np.zeros(1, np.uint64), ids])


@njit(cache=True, nogil=True)
def _nearest(
    points: np.ndarray, offsets: np.ndarray, squares: np.ndarray, nearest: np.ndarray, best: np.ndarray
) -> None:
    """1 + the number of the nearest point at each voxel that is near one; of equals, the first.

    `best`, the squared distance, is read only where there is a nearest.
    """
    depth, height, width = nearest.shape
    for number in range(len(points)):
        for k in range(squares.size):
            z, y, x = (
                points[number, 0] + offsets[k, 0],
                points[number, 1] + offsets[k, 1],
                points[number, 2] + offsets[k, 2],
            )
            if not (0 <= z < depth and 0 <= y < height and 0 <= x < width):
                continue
            if nearest[z, y, x] == 0 or squares[k] < best[z, y, x]:
                nearest[z, y, x] = number + 1
                best[z, y, x] = squares[k]


@njit(cache=True, nogil=True)
def _join(
    vectors: np.ndarray, foreground: np.ndarray, nearest: np.ndarray, limit: float, joined: np.ndarray
) -> None:
    depth, height, width = foreground.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if not foreground[z, y, x]:
                    continue
                vz = np.float64(vectors[0, z, y, x])
                vy = np.float64(vectors[1, z, y, x])
                vx = np.float64(vectors[2, z, y, x])
                # written so that a NaN fails every comparison
                if not vz * vz + vy * vy + vx * vx <= limit:
                    continue
                tz, ty, tx = z + np.rint(vz), y + np.rint(vy), x + np.rint(vx)
                if 0 <= tz < depth and 0 <= ty < height and 0 <= tx < width:
                    joined[z, y, x] = nearest[np.int64(tz), np.int64(ty), np.int64(tx)]
