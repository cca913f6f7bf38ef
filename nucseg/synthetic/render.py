"""Drawing a part of a planned worm: stain, optics, camera.

Model of image formation, per voxel:

1. *Label*: the nucleus in whose ellipsoid (with small bumps) the voxel's centre lies deepest; nuclei that
   press into each other meet in a face, as crowded nuclei do.
2. *Stain*: a nucleus shines with its own brightness times speckled chromatin, less in its nucleolus and
   towards its envelope; the body around it shines faintly (autofluorescence); there is nothing outside of the
   worm.
3. *Optics*: a Gaussian point spread function, wider along z; then light from deeper planes (high z) is
   weaker.
4. *Camera*: photons are counted (Poisson) and read out (Gaussian noise, gain, offset) into uint16.

Everything random is a hash of the seed and of the place, and the stain is drawn a halo wider than asked for,
so the voxels do not depend on how the volume is cut into blocks.
"""

import math

import numpy as np
from numba import njit
from scipy.ndimage import correlate1d

from nucseg.synthetic.body import radial
from nucseg.synthetic.noise import NORMAL_TABLE, mix, normal, poisson, value_noise
from nucseg.synthetic.plan import Plan

GAIN = 10.0
"""Grey values for a photon."""
OFFSET = 100.0
"""Grey value of darkness."""
DARK = 0.3
"""Photons counted in darkness."""
REACH = 1.25
"""No voxel of a nucleus lies farther out than this, as a share of its ellipsoid."""


def render_block(
    plan: Plan, begin: tuple[int, int, int], shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a part of the volume.

    Args:
        plan: From `plan_worm`.
        begin: First voxel, z, y, x; may be negative, the world goes on (dark) outside of the volume.
        shape: How many voxels.

    Returns:
        raw uint16 and labels uint32, both of `shape`.
    """
    scale = np.asarray(plan.scale_um)
    kernels = [_gaussian(s / v) for s, v in zip(plan.look.blur_um, plan.scale_um, strict=True)]
    halo = np.array([k.size // 2 for k in kernels])
    low = np.array(begin) - halo
    size = tuple(int(n) for n in np.array(shape) + 2 * halo)

    reach_um = REACH * np.linalg.norm(plan.axes_um, axis=2)
    first = np.ceil((plan.centers_um - reach_um) / scale).astype(np.int64) - low
    last = np.floor((plan.centers_um + reach_um) / scale).astype(np.int64) - low
    here = np.flatnonzero(((last >= 0) & (first < size)).all(axis=1))
    first = np.maximum(first[here], 0)
    last = np.minimum(last[here], np.array(size) - 1)
    to_unit = np.linalg.inv(plan.axes_um[here]) * scale  # from voxels to units of the semi-axes
    centers = plan.centers_um[here] / scale - low

    owner = np.full(size, -1, np.int32)
    depth = np.full(size, np.float32(np.inf))
    _claim(owner, depth, first, last, centers, to_unit, plan.bumps[here])
    look = plan.look
    seed = np.uint64(plan.seed)
    stain = _stain(
        owner,
        depth,
        low,
        scale,
        here,
        centers,
        to_unit,
        plan.brightness[here],
        plan.nucleoli[here],
        np.array([look.texture, look.grain_um, look.nucleolus, look.envelope, look.autofluorescence]),
        plan.body.axis,
        plan.body.across,
        plan.body.dials,
        seed,
    )
    del depth
    for axis, kernel in enumerate(kernels):
        stain = correlate1d(stain, kernel, axis=axis, mode="constant")
    inner = tuple(slice(h, h + n) for h, n in zip(halo, shape, strict=True))
    planes = np.arange(begin[0], begin[0] + shape[0]) / max(1, plan.shape[0] - 1)
    light = look.photons * np.exp(-look.attenuation * np.clip(planes, 0.0, 1.0))
    raw = _count(
        stain[inner], light, np.array(begin), np.array(plan.shape), look.read_noise, seed, NORMAL_TABLE
    )
    labels = _name(owner[inner], here)
    return raw, labels


def _gaussian(sigma: float) -> np.ndarray:
    """Weights of a Gaussian, float64[2 n + 1], cut at 4 sigma, sum 1."""
    n = math.ceil(4.0 * sigma)
    weights = np.exp(-0.5 * (np.arange(-n, n + 1) / sigma) ** 2)
    return weights / weights.sum()


@njit(cache=True, nogil=True)
def _bumpy(z: float, y: float, x: float, bumps: np.ndarray) -> float:
    """How far out a point lies, 1 on the surface: the ellipsoid's distance over a polynomial of the angle."""
    square = z * z + y * y + x * x
    if square < 1e-12:
        return 0.0
    length = math.sqrt(square)
    z, y, x = z / length, y / length, x / length
    surface = 1.0 + bumps[0] * z * y + bumps[1] * y * x + bumps[2] * z * x
    surface += (
        2.0 * bumps[3] * z * y * x
        + 0.5 * bumps[4] * z * (5.0 * x * x - 1.0)
        + 0.5 * bumps[5] * y * (5.0 * z * z - 1.0)
    )
    return length / max(surface, 0.8)


@njit(cache=True, nogil=True)
def _claim(
    owner: np.ndarray,
    depth: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    centers: np.ndarray,
    to_unit: np.ndarray,
    bumps: np.ndarray,
) -> None:
    """Give each voxel to the nucleus that it is deepest in; `depth` is 0 at a centre and 1 on a surface."""
    for i in range(centers.shape[0]):
        m = to_unit[i]
        for z in range(first[i, 0], last[i, 0] + 1):
            dz = z - centers[i, 0]
            for y in range(first[i, 1], last[i, 1] + 1):
                dy = y - centers[i, 1]
                for x in range(first[i, 2], last[i, 2] + 1):
                    dx = x - centers[i, 2]
                    a = m[0, 0] * dz + m[0, 1] * dy + m[0, 2] * dx
                    b = m[1, 0] * dz + m[1, 1] * dy + m[1, 2] * dx
                    c = m[2, 0] * dz + m[2, 1] * dy + m[2, 2] * dx
                    if a * a + b * b + c * c > 1.5625:
                        continue
                    out = _bumpy(a, b, c, bumps[i])
                    if out < 1.0 and out < depth[z, y, x]:
                        depth[z, y, x] = out
                        owner[z, y, x] = i


@njit(cache=True, nogil=True)
def _rise(value: float, low: float, high: float) -> float:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@njit(cache=True, nogil=True)
def _stain(
    owner: np.ndarray,
    depth: np.ndarray,
    low: np.ndarray,
    scale: np.ndarray,
    names: np.ndarray,
    centers: np.ndarray,
    to_unit: np.ndarray,
    brightness: np.ndarray,
    nucleoli: np.ndarray,
    look: np.ndarray,
    axis: int,
    across: tuple[int, int],
    dials: np.ndarray,
    seed: np.uint64,
) -> np.ndarray:
    """Brightness of every voxel before the optics, float32."""
    texture, grain, nucleolus, envelope, glow = look[0], look[1], look[2], look[3], look[4]
    result = np.zeros(owner.shape, np.float32)
    tissue = mix(seed ^ np.uint64(0xB0D7))
    place = np.empty(3)
    for z in range(owner.shape[0]):
        place[0] = (z + low[0]) * scale[0]
        for y in range(owner.shape[1]):
            place[1] = (y + low[1]) * scale[1]
            for x in range(owner.shape[2]):
                place[2] = (x + low[2]) * scale[2]
                i = owner[z, y, x]
                value = 0.0
                out = radial(place[axis], place[across[0]], place[across[1]], dials)
                if out < 1.0:
                    cloud = value_noise(tissue, place[0] / 1.1, place[1] / 1.1, place[2] / 1.1)
                    value = glow * (1.0 + 0.6 * cloud) * (1.0 - _rise(out, 0.9, 1.0))
                if i >= 0:
                    m = to_unit[i]
                    dz, dy, dx = z - centers[i, 0], y - centers[i, 1], x - centers[i, 2]
                    a = m[0, 0] * dz + m[0, 1] * dy + m[0, 2] * dx - nucleoli[i, 0]
                    b = m[1, 0] * dz + m[1, 1] * dy + m[1, 2] * dx - nucleoli[i, 1]
                    c = m[2, 0] * dz + m[2, 1] * dy + m[2, 2] * dx - nucleoli[i, 2]
                    inner = math.sqrt(a * a + b * b + c * c) / nucleoli[i, 3]
                    key = mix(seed ^ mix(np.uint64(names[i] + 1)))
                    speckle = value_noise(key, place[0] / grain, place[1] / grain, place[2] / grain)
                    stained = max(1.0 + 1.8 * texture * speckle, 0.05)
                    stained *= 1.0 - envelope * _rise(depth[z, y, x], 0.7, 1.0)
                    stained *= 1.0 - nucleolus * (1.0 - _rise(inner, 0.7, 1.1))
                    value += brightness[i] * stained
                result[z, y, x] = value
    return result


@njit(cache=True, nogil=True)
def _count(
    stain: np.ndarray,
    light: np.ndarray,
    begin: np.ndarray,
    volume: np.ndarray,
    read_noise: float,
    seed: np.uint64,
    table: np.ndarray,
) -> np.ndarray:
    """The camera: photons counted and read out, uint16."""
    raw = np.empty(stain.shape, np.uint16)
    for z in range(stain.shape[0]):
        for y in range(stain.shape[1]):
            row = ((z + begin[0]) * volume[1] + (y + begin[1])) * volume[2] + begin[2]
            for x in range(stain.shape[2]):
                bits = mix(np.uint64(row + x) ^ mix(seed))
                mean = light[z] * stain[z, y, x] + DARK
                counted = poisson(mean, bits, table)
                read = read_noise * normal(mix(bits), table)
                value = math.floor(OFFSET + GAIN * (counted + read) + 0.5)
                raw[z, y, x] = np.uint16(min(max(value, 0.0), 65535.0))
    return raw


@njit(cache=True, nogil=True)
def _name(owner: np.ndarray, names: np.ndarray) -> np.ndarray:
    labels = np.zeros(owner.shape, np.uint32)
    for z in range(owner.shape[0]):
        for y in range(owner.shape[1]):
            for x in range(owner.shape[2]):
                if owner[z, y, x] >= 0:
                    labels[z, y, x] = names[owner[z, y, x]] + 1
    return labels
