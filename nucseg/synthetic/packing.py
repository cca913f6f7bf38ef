"""Crowding ellipsoids into the tube: they push one another until each has its room.

The distance at which two ellipsoids touch is approximated by the sum of their radii along the line between
their centres, which is exact for spheres and close for the mild ellipsoids of nuclei. All lengths are um.
"""

import math

import numpy as np
from numba import njit

from nucseg.synthetic.body import middle, taper


@njit(cache=True, nogil=True)
def _cells(centers: np.ndarray, cell: float) -> tuple:
    """Sort points into a grid of cubes: lowest corner, cells per axis, start of each cell, points by cell."""
    n = centers.shape[0]
    low = np.empty(3)
    counts = np.empty(3, np.int64)
    for k in range(3):
        low[k] = centers[:, k].min() - 1e-9
        counts[k] = int((centers[:, k].max() - low[k]) / cell) + 1
    start = np.zeros(counts[0] * counts[1] * counts[2] + 1, np.int64)
    home = np.empty(n, np.int64)
    for i in range(n):
        a = int((centers[i, 0] - low[0]) / cell)
        b = int((centers[i, 1] - low[1]) / cell)
        c = int((centers[i, 2] - low[2]) / cell)
        home[i] = (a * counts[1] + b) * counts[2] + c
        start[home[i] + 1] += 1
    start = np.cumsum(start)
    at = start.copy()
    order = np.empty(n, np.int64)
    for i in range(n):
        order[at[home[i]]] = i
        at[home[i]] += 1
    return low, counts, start, order


@njit(cache=True, nogil=True)
def neighbour_pairs(centers: np.ndarray, sizes: np.ndarray, skin: float) -> np.ndarray:
    """All pairs (i < j) nearer than the sum of their sizes plus a skin, as int64[n, 2], in a fixed order.

    Args:
        centers: float64[n, 3], um.
        sizes: float64[n], radius of a sphere around each centre, um.
        skin: um.
    """
    reach = 2.0 * sizes.max() + skin
    low, counts, start, order = _cells(centers, reach)
    pairs = np.empty((64, 2), np.int64)
    found = 0
    for i in range(centers.shape[0]):
        home = np.empty(3, np.int64)
        for k in range(3):
            home[k] = int((centers[i, k] - low[k]) / reach)
        for a in range(max(0, home[0] - 1), min(counts[0], home[0] + 2)):
            for b in range(max(0, home[1] - 1), min(counts[1], home[1] + 2)):
                for c in range(max(0, home[2] - 1), min(counts[2], home[2] + 2)):
                    cell = (a * counts[1] + b) * counts[2] + c
                    for at in range(start[cell], start[cell + 1]):
                        j = order[at]
                        if j <= i:
                            continue
                        square = 0.0
                        for k in range(3):
                            square += (centers[i, k] - centers[j, k]) ** 2
                        if square < (sizes[i] + sizes[j] + skin) ** 2:
                            if found == pairs.shape[0]:
                                larger = np.empty((2 * found, 2), np.int64)
                                larger[:found] = pairs
                                pairs = larger
                            pairs[found, 0], pairs[found, 1] = i, j
                            found += 1
    return pairs[:found].copy()


@njit(cache=True, nogil=True)
def radius_along(form: np.ndarray, z: float, y: float, x: float) -> float:
    """Radius of an ellipsoid along a unit vector.

    Args:
        form: float64[3, 3], the ellipsoid as `u' form u = 1`.
        z: The unit vector's component.
        y: Likewise.
        x: Likewise.
    """
    square = form[0, 0] * z * z + form[1, 1] * y * y + form[2, 2] * x * x
    square += 2.0 * (form[0, 1] * z * y + form[0, 2] * z * x + form[1, 2] * y * x)
    return 1.0 / math.sqrt(square)


@njit(cache=True, nogil=True)
def _keep_inside(
    center: np.ndarray, reach: np.ndarray, axis: int, first: int, second: int, dials: np.ndarray
) -> None:
    """Move one centre so that its ellipsoid's box stays inside of the tube."""
    cap = max(reach[0], reach[1], reach[2])
    # where the caps are as wide as the nucleus, see `taper`
    narrow = 1.0 - math.sqrt(1.0 - min(1.0, 1.1 * cap / min(dials[5], dials[9])) ** 2)
    head, tail = max(dials[2] * narrow, 1.1 * cap), max(dials[3] * narrow, 1.1 * cap)
    center[axis] = min(max(center[axis], dials[0] + head), dials[1] - tail)
    width = taper(center[axis], dials)
    u = center[first] - middle(center[axis], 0, dials)
    v = center[second] - middle(center[axis], 1, dials)
    room_u = max(width * dials[5] - reach[first], 0.05 * cap)
    room_v = max(width * dials[9] - reach[second], 0.05 * cap)
    out = math.sqrt((u / room_u) ** 2 + (v / room_v) ** 2)
    if out > 1.0:
        center[first] += u / out - u
        center[second] += v / out - v


@njit(cache=True, nogil=True)
def relax(
    centers: np.ndarray,
    forms: np.ndarray,
    reaches: np.ndarray,
    longest: np.ndarray,
    contact: float,
    axis: int,
    across: tuple[int, int],
    dials: np.ndarray,
    rounds: int,
) -> np.ndarray:
    """Let neighbours push each other apart, pair after pair, until nothing presses or the rounds are over.

    Args:
        centers: float64[n, 3], um, z, y, x; changed in place.
        forms: float64[n, 3, 3], the ellipsoids.
        reaches: float64[n, 3], half sizes of the ellipsoids' boxes, um.
        longest: float64[n], the longest semi-axis of each, um.
        contact: Pairs push below `contact` times the distance at which they touch.
        axis: The axis of the tube; `across` are the two others.
        across: See `axis`.
        dials: The tube, see `Body`.
        rounds: Most rounds.

    Returns:
        float64[n], how deep each ellipsoid is still pressed into its worst neighbour, as a share of the
        distance.
    """
    n = centers.shape[0]
    sizes = contact * longest
    skin = 0.3 * longest.max()
    pressed = np.zeros(n)
    pairs = neighbour_pairs(centers, sizes, skin)
    anchor = centers.copy()
    for _ in range(rounds):
        drift = 0.0
        for i in range(n):
            square = 0.0
            for k in range(3):
                square += (centers[i, k] - anchor[i, k]) ** 2
            drift = max(drift, square)
        if drift > (0.5 * skin) ** 2:
            pairs = neighbour_pairs(centers, sizes, skin)
            anchor[:] = centers
        pressed[:] = 0.0
        for at in range(pairs.shape[0]):
            i, j = pairs[at, 0], pairs[at, 1]
            dz = centers[j, 0] - centers[i, 0]
            dy = centers[j, 1] - centers[i, 1]
            dx = centers[j, 2] - centers[i, 2]
            distance = math.sqrt(dz * dz + dy * dy + dx * dx) + 1e-9
            if distance >= sizes[i] + sizes[j]:
                continue
            if distance < 1e-6:  # two in one place: any direction parts them
                dz, dy, dx = distance, 0.0, 0.0
            dz, dy, dx = dz / distance, dy / distance, dx / distance
            wanted = contact * (radius_along(forms[i], dz, dy, dx) + radius_along(forms[j], dz, dy, dx))
            if distance >= wanted:
                continue
            depth = 1.0 - distance / wanted
            pressed[i], pressed[j] = max(pressed[i], depth), max(pressed[j], depth)
            push = 0.5 * (wanted - distance)
            centers[i, 0] -= push * dz
            centers[i, 1] -= push * dy
            centers[i, 2] -= push * dx
            centers[j, 0] += push * dz
            centers[j, 1] += push * dy
            centers[j, 2] += push * dx
        for i in range(n):
            _keep_inside(centers[i], reaches[i], axis, across[0], across[1], dials)
        if pressed.max() < 0.02:
            break
    return pressed


@njit(cache=True, nogil=True)
def own_shares(centers: np.ndarray, forms: np.ndarray, radii: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Which share of each ellipsoid is its own, if a point belongs to the ellipsoid that it is deepest in.

    Args:
        centers: float64[n, 3], um.
        forms: float64[n, 3, 3].
        radii: float64[n, 3, 3], columns are the semi-axes as vectors, um.
        samples: float64[m, 3], points of the unit ball at which the share is estimated.

    Returns:
        float64[n].
    """
    n = centers.shape[0]
    longest = np.zeros(n)
    for i in range(n):
        for k in range(3):
            longest[i] = max(longest[i], math.sqrt((radii[i, :, k] ** 2).sum()))
    pairs = neighbour_pairs(centers, longest, 0.0)
    lost = np.zeros((n, samples.shape[0]), np.bool_)
    for at in range(pairs.shape[0]):
        for turn in range(2):
            i, j = pairs[at, turn], pairs[at, 1 - turn]
            for m in range(samples.shape[0]):
                if lost[i, m]:
                    continue
                point = np.zeros(3)
                own = 0.0
                for k in range(3):
                    own += samples[m, k] ** 2
                for d in range(3):
                    point[d] = centers[i, d] - centers[j, d]
                    for k in range(3):
                        point[d] += radii[i, d, k] * samples[m, k]
                other = 0.0
                for d in range(3):
                    for e in range(3):
                        other += point[d] * forms[j, d, e] * point[e]
                lost[i, m] = other < own
    shares = np.empty(n)
    for i in range(n):
        shares[i] = 1.0 - lost[i].sum() / samples.shape[0]
    return shares
