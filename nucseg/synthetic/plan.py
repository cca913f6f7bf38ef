"""The plan of a synthetic worm: where every nucleus lies and what it is like, before any voxel is drawn."""

import math
from dataclasses import dataclass

import numpy as np

from nucseg.errors import InputError
from nucseg.synthetic.body import Body, lay_body, middle, taper
from nucseg.synthetic.difficulty import (
    BODY_RADIUS_UM,
    HEAD_RADIUS_UM,
    RADIUS_SPREAD,
    Difficulty,
    difficulty_named,
)
from nucseg.synthetic.packing import own_shares, relax

DEFAULT_SCALE_UM = (0.122, 0.116, 0.116)
CROWDED = 0.56
"""Most of the tube's volume that nuclei may fill."""
SMALLEST_SHARE = 0.6
"""Least share of its ellipsoid that each nucleus must keep when its neighbours press into it."""
COARSEST_UM = 0.6
"""Largest voxel size at which every nucleus still has voxels."""


@dataclass(frozen=True)
class Plan:
    """All nuclei of a synthetic volume; `render_block` draws any part of it.

    Attributes:
        shape: Volume, voxels.
        scale_um: Voxel, um.
        seed: What everything random follows from.
        look: The difficulty's dials.
        body: The tube.
        centers_um: float64[n, 3], um; the nucleus of label `i + 1` is row `i`. Index 0 of the volume lies at
            0 um.
        axes_um: float64[n, 3, 3], columns are the semi-axes as vectors, um.
        brightness: float64[n].
        bumps: float64[n, 6], coefficients of the deviation from an ellipsoid, see `render`.
        nucleoli: float64[n, 4], centre (in units of the semi-axes) and radius (share of the mean radius) of
            the nucleolus.
    """

    shape: tuple[int, int, int]
    scale_um: tuple[float, float, float]
    seed: int
    look: Difficulty
    body: Body
    centers_um: np.ndarray
    axes_um: np.ndarray
    brightness: np.ndarray
    bumps: np.ndarray
    nucleoli: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        """float64[n, 3], centres in voxels (index coordinates), z, y, x."""
        return self.centers_um / np.asarray(self.scale_um)

    @property
    def voxels(self) -> np.ndarray:
        """float64[n], nominal number of voxels of each nucleus."""
        return 4.0 / 3.0 * math.pi * np.abs(np.linalg.det(self.axes_um)) / math.prod(self.scale_um)


def plan_worm(
    shape: tuple[int, int, int],
    nuclei: int,
    seed: int,
    scale_um: tuple[float, float, float] = DEFAULT_SCALE_UM,
    difficulty: str = "worm",
) -> Plan:
    """Place the nuclei of a worm.

    Args:
        shape: Volume, voxels, z, y, x.
        nuclei: How many.
        seed: The same seed gives the same worm.
        scale_um: Voxel, um. Nuclei and blur are physical: smaller voxels give larger nuclei in voxels.
        difficulty: `easy`, `worm` or `hard`.

    Raises:
        InputError: When the nuclei do not fit, the voxels are too coarse for them, or an argument makes no
            sense.
    """
    look = difficulty_named(difficulty)
    _check(shape, nuclei, seed, scale_um)
    rng = np.random.default_rng([seed, 1])
    extent_um = (np.array(shape) - 1.0) * np.array(scale_um)
    body = lay_body(extent_um, rng)
    _check_width(body, shape)

    in_head = round(look.head_share * nuclei)
    axes_um = _ellipsoids(nuclei, in_head, body, rng)
    volume = float(np.abs(np.linalg.det(axes_um)).sum()) * 4.0 / 3.0 * math.pi
    along = np.linspace(body.start, body.end, 513)
    tube = float(np.trapezoid(body.area(along), along))
    if volume > CROWDED * tube:
        _refuse(nuclei, int(nuclei * CROWDED * tube / volume), shape)

    head_volume = volume / nuclei * in_head * (HEAD_RADIUS_UM / BODY_RADIUS_UM) ** 2 / look.head_packing
    neck, hollow = _head(body, head_volume, along)
    centers_um = np.concatenate(
        [_in_head(in_head, body, neck, hollow, along, rng), _in_rows(nuclei - in_head, body, neck, rng)]
    )
    near = np.lexsort((centers_um // (4.0 * BODY_RADIUS_UM)).T)  # neighbours lie close in memory, too
    centers_um, axes_um = centers_um[near], axes_um[near]
    forms = np.linalg.inv(axes_um @ axes_um.transpose(0, 2, 1))
    reaches = np.linalg.norm(axes_um, axis=2)
    longest = np.linalg.norm(axes_um, axis=1).max(axis=1)
    relax(centers_um, forms, reaches, longest, look.contact, body.axis, body.across, body.dials, 600)
    shares = own_shares(centers_um, forms, axes_um, _ball(160))
    if shares.min() < SMALLEST_SHARE:
        _refuse(nuclei, int(0.97 * np.count_nonzero(shares >= SMALLEST_SHARE)), shape)

    order = np.argsort(centers_um[:, body.axis], kind="stable")
    nucleoli = np.column_stack([rng.normal(0.0, 0.15, (nuclei, 3)), rng.uniform(0.32, 0.48, nuclei)])
    return Plan(
        shape=shape,
        scale_um=scale_um,
        seed=seed,
        look=look,
        body=body,
        centers_um=centers_um[order],
        axes_um=axes_um[order],
        brightness=np.exp(look.brightness_spread * rng.standard_normal(nuclei)),
        bumps=rng.normal(0.0, 0.09, (nuclei, 6)),
        nucleoli=nucleoli,
    )


def _check(shape: tuple[int, int, int], nuclei: int, seed: int, scale_um: tuple[float, float, float]) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(
            "shape",
            expected="three positive numbers of voxels, z y x",
            received=str(shape),
            remedy="give three",
        )
    if len(scale_um) != 3 or not all(0.0 < s <= COARSEST_UM for s in scale_um):
        raise InputError(
            "scale_um",
            expected=f"three voxel sizes of at most {COARSEST_UM} um (nuclei are about 1.3 um wide)",
            received=str(scale_um),
            remedy="choose smaller voxels",
        )
    if math.prod(scale_um) > 0.35**3:
        raise InputError(
            "scale_um",
            expected="voxels of at most 0.35 um on the geometric mean (nuclei are about 1.3 um wide)",
            received=str(scale_um),
            remedy="choose smaller voxels",
        )
    if nuclei < 1:
        raise InputError("nuclei", expected="at least 1", received=str(nuclei), remedy="ask for one or more")
    if seed < 0:
        raise InputError("seed", expected="0 or more", received=str(seed), remedy="choose another")


def _check_width(body: Body, shape: tuple[int, int, int]) -> None:
    if min(body.half_widths) < 1.8 * BODY_RADIUS_UM:
        raise InputError(
            "shape",
            expected=f"a cross-section at least {3.9 * BODY_RADIUS_UM:.1f} um wide, so that nuclei fit",
            received=f"{shape} voxels",
            remedy="make the two shorter axes larger, or the voxels larger",
        )


def _refuse(nuclei: int, fit: int, shape: tuple[int, int, int]) -> None:
    raise InputError(
        "nuclei",
        expected=f"at most about {fit} in {shape[0]} x {shape[1]} x {shape[2]} voxels of this scale",
        received=str(nuclei),
        remedy="ask for fewer nuclei or a larger shape",
    )


def _ellipsoids(nuclei: int, in_head: int, body: Body, rng: np.random.Generator) -> np.ndarray:
    """Draw semi-axes: the head's nuclei round and any way up, the body's larger, longer, along the worm."""
    mean = np.where(np.arange(nuclei) < in_head, HEAD_RADIUS_UM, BODY_RADIUS_UM)
    radius = mean * np.exp(np.clip(RADIUS_SPREAD * rng.standard_normal(nuclei), -0.2, 0.2))
    stretch = np.where(np.arange(nuclei) < in_head, 0.10, 0.16)[:, None] * rng.standard_normal((nuclei, 3))
    stretch = np.clip(stretch, -0.24, 0.24)
    stretch -= stretch.mean(axis=1, keepdims=True)
    frames = np.linalg.qr(rng.standard_normal((nuclei, 3, 3)))[0]
    lengths = radius[:, None] * np.exp(stretch)
    lying = np.zeros(3)
    lying[body.axis] = 1.0
    lengths[in_head:] = np.sort(lengths[in_head:], axis=1)[:, ::-1]
    frames[in_head:, :, 0] = lying + 0.35 * rng.standard_normal((nuclei - in_head, 3))
    frames[in_head:] = np.linalg.qr(frames[in_head:])[0]  # the longest axis turns towards the worm's
    return frames * lengths[:, None, :]


def _head(body: Body, volume: float, along: np.ndarray) -> tuple[float, float]:
    """Where the head ends along the axis (um), and up to which radial position it is hollow.

    In a wide tube a plug of that volume would be a thin disc; there the nuclei crowd into a ring below the
    skin, as the nervous system does around the pharynx, about as long as the worm is thick.
    """
    filled = np.concatenate(
        [[0.0], np.cumsum(0.5 * (body.area(along)[1:] + body.area(along)[:-1]) * np.diff(along))]
    )
    wanted = min(1.2 * 2.0 * max(body.half_widths), 0.3 * (body.end - body.start))
    room = float(np.interp(body.start + wanted, along, filled))
    thinnest = min(1.0, 6.0 * HEAD_RADIUS_UM / min(body.half_widths))
    full = 1.0 - (1.0 - thinnest) ** 2
    share = min(1.0, max(volume / room, full))
    neck = float(np.interp(min(volume / share, 0.95 * filled[-1]), filled, along))
    return neck, math.sqrt(1.0 - share)


def _in_head(
    count: int, body: Body, neck: float, hollow: float, along: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Random centres in the head, um, uniform in its volume."""
    along = along[along <= neck] if np.count_nonzero(along <= neck) > 2 else np.linspace(body.start, neck, 65)
    area = body.area(along)
    filled = np.concatenate([[0.0], np.cumsum(0.5 * (area[1:] + area[:-1]) * np.diff(along))])
    at = np.interp(rng.uniform(0.0, filled[-1], count), filled, along)
    out = np.sqrt(rng.uniform(hollow**2, 1.0, count))
    return _in_tube(body, at, 0.95 * out, rng.uniform(0.0, 2.0 * math.pi, count))


def _in_rows(count: int, body: Body, neck: float, rng: np.random.Generator) -> np.ndarray:
    """Centres in rows along the body, um: under the skin first, then in rings further inside."""
    length = body.end - neck
    pitch = 2.4 * BODY_RADIUS_UM
    rows: list[tuple[float, float]] = []
    spacing = pitch
    wanted = max(8, math.ceil(count * pitch / length))
    while len(rows) < wanted:
        rows = []
        ring = 1.0 - 1.3 * BODY_RADIUS_UM / min(body.half_widths)
        while ring > 0.0 and len(rows) < wanted:
            around = max(1, int(2.0 * math.pi * ring * min(body.half_widths) / spacing))
            left = wanted - len(rows)
            around = min(around, math.ceil(0.7 * left) if wanted <= 12 else left)
            rows += [(ring, 2.0 * math.pi * (k + 0.5 * (len(rows) % 2)) / around) for k in range(around)]
            ring -= spacing / min(body.half_widths)
        spacing *= 0.93
    index = np.arange(count)
    row = np.array(rows)[index % len(rows)]
    steps = math.ceil(count / len(rows))
    step = (index // len(rows) + rng.uniform(0.2, 0.8, count)) / steps
    at = neck + length * np.clip(step + 0.25 / steps * rng.standard_normal(count), 0.0, 1.0)
    out = np.clip(row[:, 0] + 0.04 * rng.standard_normal(count), 0.0, 1.0)
    return _in_tube(body, at, out, row[:, 1] + 0.1 * rng.standard_normal(count))


def _in_tube(body: Body, at: np.ndarray, out: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """From positions along the axis (um), radial positions and angles to points, um, z, y, x."""
    points = np.empty((at.size, 3))
    points[:, body.axis] = at
    width = np.array([taper(t, body.dials) for t in at])
    for which, (axis, turn) in enumerate(zip(body.across, (np.cos(angle), np.sin(angle)), strict=True)):
        line = np.array([middle(t, which, body.dials) for t in at])
        points[:, axis] = line + width * body.half_widths[which] * out * turn
    return points


def _ball(count: int) -> np.ndarray:
    """Points spread evenly over the unit ball, float64[count, 3]: a Fibonacci spiral of varied radius."""
    k = np.arange(count) + 0.5
    height = 1.0 - 2.0 * k / count
    angle = math.pi * (1.0 + math.sqrt(5.0)) * k
    ring = np.sqrt(1.0 - height**2)
    radius = ((k * 0.6180339887498949) % 1.0) ** (1.0 / 3.0)
    return radius[:, None] * np.column_stack([height, ring * np.cos(angle), ring * np.sin(angle)])
