"""The worm's body: a bent tube of elliptical cross-section with a blunt head and a tapering tail."""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

FILLED = 0.485
"""Half width of the tube and its bends together, as a share of the volume's width."""


@dataclass(frozen=True)
class Body:
    """The tube, in um. It lies along the volume's longest axis; the head is at low coordinates.

    Attributes:
        axis: The axis (0, 1, 2 for z, y, x) along which the worm lies.
        across: The two other axes.
        dials: float64[13], what the compiled functions read: start and end of the tube along the axis, length
            of the head's cap, length of the tail's cap; then for each axis across: middle, half width, bend,
            phase; at last how often the tube swings.
    """

    axis: int
    across: tuple[int, int]
    dials: np.ndarray

    @property
    def start(self) -> float:
        """Where the head begins along the axis, um."""
        return float(self.dials[0])

    @property
    def end(self) -> float:
        """Where the tail ends along the axis, um."""
        return float(self.dials[1])

    @property
    def half_widths(self) -> tuple[float, float]:
        """Half widths of the untapered cross-section along the axes `across`, um."""
        return float(self.dials[5]), float(self.dials[9])

    def area(self, along: np.ndarray) -> np.ndarray:
        """Cross-section's area at positions along the axis, um^2."""
        width, height = self.half_widths
        return np.array([math.pi * width * height * taper(t, self.dials) ** 2 for t in along])


def lay_body(extent_um: np.ndarray, rng: np.random.Generator) -> Body:
    """Lay a worm into a volume.

    Args:
        extent_um: float[3], physical size of the volume, z, y, x.
        rng: Draws the bends.
    """
    axis = 2 - int(np.argmax(extent_um[::-1]))
    first, second = (k for k in range(3) if k != axis)
    length = float(extent_um[axis])
    margin = 0.015 * length
    mean_width = 0.25 * float(extent_um[first] + extent_um[second])
    dials = [margin, length - margin, min(mean_width, 0.12 * length), min(2.5 * mean_width, 0.2 * length)]
    for k in (first, second):
        extent = float(extent_um[k])
        bend = 0.05 * extent * min(1.0, length / (6.0 * extent)) * rng.uniform(0.7, 1.0)
        dials += [0.5 * extent, FILLED * extent - bend, bend, rng.uniform(0.0, 2.0 * math.pi)]
    bends = max(0.6, length / (8.0 * mean_width))
    return Body(axis, (first, second), np.array([*dials, bends]))


@njit(cache=True, nogil=True)
def taper(along: float, dials: np.ndarray) -> float:
    """Width of the tube at a position along its axis, as a share of the full width; 0 outside of it."""
    from_head, from_tail = along - dials[0], dials[1] - along
    if from_head <= 0.0 or from_tail <= 0.0:
        return 0.0
    width = 1.0
    if from_head < dials[2]:
        gap = 1.0 - from_head / dials[2]
        width *= math.sqrt(1.0 - gap * gap)
    if from_tail < dials[3]:
        gap = 1.0 - from_tail / dials[3]
        width *= math.sqrt(1.0 - gap * gap)
    return width


@njit(cache=True, nogil=True)
def middle(along: float, which: int, dials: np.ndarray) -> float:
    """Where the tube's centre line lies along the first (0) or second (1) axis across, um."""
    k = 4 + 4 * which
    swing = (along - dials[0]) / (dials[1] - dials[0])
    return dials[k] + dials[k + 2] * math.sin(2.0 * math.pi * dials[12] * swing + dials[k + 3])


@njit(cache=True, nogil=True)
def radial(along: float, first: float, second: float, dials: np.ndarray) -> float:
    """Radial position of a point in the tube: 0 on the centre line, 1 on the skin, above 1 outside."""
    width = taper(along, dials)
    if width <= 0.0:
        return 1e9
    u = (first - middle(along, 0, dials)) / (width * dials[5])
    v = (second - middle(along, 1, dials)) / (width * dials[9])
    return math.sqrt(u * u + v * v)
