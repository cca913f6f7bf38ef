"""Where nuclei start, and their shapes: crowded in the head, in rows along the body. All lengths are um."""

import math

import numpy as np
from scipy.spatial import cKDTree

from nucseg.synthetic.body import Body, middle, taper
from nucseg.synthetic.difficulty import BODY_RADIUS_UM, HEAD_RADIUS_UM, RADIUS_SPREAD

FEW, INNER = 12, 0.35
"""So few rows lie in two rings only: under the skin, and at this share of its radius, as the gut's nuclei do."""


def mean_volume(radius_um: float) -> float:
    """Mean volume of nuclei of a mean radius, um^3: that of the radii's log-normal distribution."""
    return 4.0 / 3.0 * math.pi * radius_um**3 * math.exp(4.5 * RADIUS_SPREAD**2)


def draw_ellipsoids(nuclei: int, in_head: int, body: Body, rng: np.random.Generator) -> np.ndarray:
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


def lay_head(body: Body, volume: float, along: np.ndarray) -> tuple[float, float]:
    """Give the head its volume: where it ends along the axis (um), and up to which radius it is hollow.

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


def in_volume(
    count: int, body: Body, neck: float, hollow: float, along: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Random centres in the head, um, uniform in its volume."""
    along = along[along <= neck] if np.count_nonzero(along <= neck) > 2 else np.linspace(body.start, neck, 65)
    area = body.area(along)
    filled = np.concatenate([[0.0], np.cumsum(0.5 * (area[1:] + area[:-1]) * np.diff(along))])
    at = np.interp(rng.uniform(0.0, filled[-1], count), filled, along)
    out = np.sqrt(rng.uniform(hollow**2, 1.0, count))
    return _in_tube(body, at, 0.95 * out, rng.uniform(0.0, 2.0 * math.pi, count))


def move_to_gaps(
    centers_um: np.ndarray, crushed: np.ndarray, body: Body, along: np.ndarray, rng: np.random.Generator
) -> None:
    """Move the crushed nuclei, each to the emptiest of some random places in the tube."""
    kept = cKDTree(centers_um[~crushed])
    tries = 64
    for i in np.flatnonzero(crushed):
        places = in_volume(tries, body, body.end, 0.0, along, rng)
        centers_um[i] = places[int(np.argmax(kept.query(places)[0]))]


def in_rows(count: int, body: Body, neck: float, rng: np.random.Generator) -> np.ndarray:
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
            around = min(around, math.ceil(0.7 * left) if wanted <= FEW else left)
            rows += [(ring, 2.0 * math.pi * (k + 0.5 * (len(rows) % 2)) / around) for k in range(around)]
            ring = INNER * ring if wanted <= FEW else ring - spacing / min(body.half_widths)
        spacing *= 0.93
    index = np.arange(count)
    row = np.array(rows)[index % len(rows)]
    steps = max(1, math.ceil(count / len(rows)))
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
