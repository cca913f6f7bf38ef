"""Random numbers that belong to a position, not to a moment.

A sequential generator would give a voxel another value whenever the blocks are cut otherwise. Here a value is
a hash of the seed and of where the voxel (or the grain of a texture) lies, so every block shape sees the same
world. The hash is the finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
generators, 2014).
"""

import math
from statistics import NormalDist

import numpy as np
from numba import njit

_BINS = 4096
NORMAL_TABLE = np.array(
    [NormalDist().inv_cdf((i + 0.5) / (_BINS + 1)) for i in range(_BINS + 1)], dtype=np.float64
)
"""Quantiles of the standard normal distribution: a look-up is fast and the same on every CPU."""


@njit(cache=True, nogil=True, inline="always")
def mix(value: np.uint64) -> np.uint64:  # numba function, scalar in, scalar out
    """Spread the bits of a 64-bit integer: one step of splitmix64."""
    value = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True, nogil=True, inline="always")
def unit(bits: np.uint64) -> float:
    """Turn hashed bits into a number in [0, 1)."""
    return (bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True, nogil=True, inline="always")
def normal(bits: np.uint64, table: np.ndarray) -> float:
    """Turn hashed bits into a standard normal number, by linear interpolation in `NORMAL_TABLE`."""
    where = unit(bits) * (table.size - 1)
    low = int(where)
    return table[low] + (where - low) * (table[low + 1] - table[low])


@njit(cache=True, nogil=True)
def poisson(mean: float, bits: np.uint64, table: np.ndarray) -> float:
    """Turn hashed bits into a Poisson number: by inversion; above a mean of 40 by a rounded normal number."""
    if mean <= 0.0:
        return 0.0
    if mean > 40.0:
        return max(0.0, math.floor(mean + math.sqrt(mean) * normal(bits, table) + 0.5))
    left = unit(bits)
    share = math.exp(-mean)
    count = 0
    while left > share and count < 200:
        left -= share
        count += 1
        share *= mean / count
    return float(count)


@njit(cache=True, nogil=True, inline="always")
def _corner(key: np.uint64, z: int, y: int, x: int) -> float:
    packed = np.uint64((z + 1048576) * 4398046511104 + (y + 1048576) * 2097152 + (x + 1048576))
    return 2.0 * unit(mix(packed ^ key)) - 1.0


@njit(cache=True, nogil=True)
def value_noise(key: np.uint64, z: float, y: float, x: float) -> float:
    """Smooth noise in [-1, 1] with grains of size 1: random values on the integer lattice, linear in between.

    Args:
        key: Hash that names this noise field; other keys give other fields.
        z: Position, within +-1,000,000.
        y: Likewise.
        x: Likewise.
    """
    z0, y0, x0 = math.floor(z), math.floor(y), math.floor(x)
    fz, fy, fx = z - z0, y - y0, x - x0
    iz, iy, ix = int(z0), int(y0), int(x0)
    total = 0.0
    for dz in range(2):
        wz = fz if dz else 1.0 - fz
        for dy in range(2):
            wy = fy if dy else 1.0 - fy
            a = _corner(key, iz + dz, iy + dy, ix)
            b = _corner(key, iz + dz, iy + dy, ix + 1)
            total += wz * wy * (a + fx * (b - a))
    return total
