"""Votes for the centres of nuclei: every voxel votes for the voxel that its vector points to.

All counts are integers, so that two blocks that see the same vectors count the same votes to the last bit.
"""

import numpy as np
from numba import njit

from nucseg.errors import InputError

MOST_PASSES = 6
"""Smoothing passes: 64 ** 6 * 2 ** 17 votes still fit exactly into a float64."""


def vote_map(
    vectors: np.ndarray, foreground: np.ndarray | None = None, reach: float | None = None
) -> np.ndarray:
    """Count the votes that each voxel receives.

    A voxel at index p with vector v votes for p + round(v) (halves to even). Only the vector is rounded,
    never the sum, so that the result does not depend on where a block begins.

    Args:
        vectors: float (3, z, y, x), z,y,x components in voxels.
        foreground: bool (z, y, x); only these voxels vote. None: all.
        reach: A vector longer than this (Euclidean, voxels) casts no vote, which bounds the neighbourhood
            that a count depends on: `ceil(reach)` voxels. None: no bound.

    Returns:
        int32 (z, y, x). Votes for a voxel outside the array, and vectors that are not finite, are dropped.

    Raises:
        InputError: Wrong shapes.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 4 or vectors.shape[0] != 3:
        raise InputError(
            "vectors",
            expected="an array (3, z, y, x)",
            received=f"{vectors.shape}",
            remedy="pass the cpv channels",
        )
    vectors = np.ascontiguousarray(vectors, np.float32)
    shape = vectors.shape[1:]
    if foreground is None:
        foreground = np.ones(shape, np.bool_)
    if foreground.shape != shape:
        raise InputError(
            "foreground of the votes",
            expected=f"the vectors' shape {shape}",
            received=f"{foreground.shape}",
            remedy="crop both to the same region",
        )
    limit = np.inf if reach is None else float(reach) ** 2
    return _count(vectors, np.ascontiguousarray(foreground, np.bool_), limit)


def smooth_votes(votes: np.ndarray, passes: int = 2) -> np.ndarray:
    """Smooth a vote map with the binomial kernel [1, 2, 1] along each axis, `passes` times.

    n passes have a standard deviation of sqrt(n / 2) voxels: 2 passes are sigma 1. The kernel is not
    normalised (all sums stay integers and exact): divide by `64 ** passes` for votes, or compare with
    `threshold * 64 ** passes` as `votes_above` does. Outside the array there are no votes.

    Args:
        votes: Integer array (z, y, x).
        passes: Number of passes, 0 to `MOST_PASSES`.

    Returns:
        int64 (z, y, x).

    Raises:
        InputError: `passes` is out of range.
    """
    if not 0 <= passes <= MOST_PASSES:
        raise InputError(
            "vote smoothing passes",
            expected=f"0 to {MOST_PASSES}",
            received=f"{passes}",
            remedy="use 2 (sigma 1)",
        )
    smoothed = np.ascontiguousarray(votes)
    for _ in range(passes):
        smoothed = _smooth_once(smoothed)
    return smoothed.astype(np.int64, copy=passes == 0)


def votes_above(smoothed: np.ndarray, threshold: float, passes: int) -> np.ndarray:
    """Where smoothed votes exceed a threshold given in votes; exact, as 64 ** passes is a power of two.

    Args:
        smoothed: What `smooth_votes` returned, int64 (z, y, x).
        threshold: In votes per voxel after normalised smoothing.
        passes: The number of passes that made `smoothed`.

    Returns:
        bool (z, y, x).
    """
    return smoothed > threshold * 64.0**passes


@njit(cache=True, nogil=True)
def _count(vectors: np.ndarray, foreground: np.ndarray, limit: float) -> np.ndarray:
    depth, height, width = foreground.shape
    votes = np.zeros((depth, height, width), np.int32)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if not foreground[z, y, x]:
                    continue
                vz = np.float64(vectors[0, z, y, x])
                vy = np.float64(vectors[1, z, y, x])
                vx = np.float64(vectors[2, z, y, x])
                tz, ty, tx = z + np.rint(vz), y + np.rint(vy), x + np.rint(vx)
                # written so that a NaN fails every comparison
                if (
                    vz * vz + vy * vy + vx * vx <= limit
                    and 0 <= tz < depth
                    and 0 <= ty < height
                    and 0 <= tx < width
                ):
                    votes[np.int64(tz), np.int64(ty), np.int64(tx)] += 1
    return votes


@njit(cache=True, nogil=True)
def _smooth_once(votes: np.ndarray) -> np.ndarray:
    depth, height, width = votes.shape
    out = np.empty((depth, height, width), np.int64)
    plane = np.zeros((height + 2, width), np.int64)  # with a row of zeros before and behind
    line = np.zeros(width + 2, np.int64)
    nothing = np.zeros((height, width), votes.dtype)
    for z in range(depth):
        below = votes[z - 1] if z > 0 else nothing
        above = votes[z + 1] if z + 1 < depth else nothing
        for y in range(height):
            a, b, c, row = below[y], votes[z, y], above[y], plane[y + 1]
            for x in range(width):
                row[x] = a[x] + 2 * b[x] + c[x]
        for y in range(height):
            a, b, c, row = plane[y], plane[y + 1], plane[y + 2], out[z, y]
            for x in range(width):
                line[x + 1] = a[x] + 2 * b[x] + c[x]
            for x in range(width):
                row[x] = line[x] + 2 * line[x + 1] + line[x + 2]
    return out
