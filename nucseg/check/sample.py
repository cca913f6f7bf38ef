"""Which part of a volume is looked at."""

from dataclasses import dataclass
from math import prod

import numpy as np

from nucseg.check.finding import Finding, finding
from nucseg.storage.stored import Int3

WHOLE = 2**26
"""A volume of at most this many voxels is looked at whole."""
BOX = 256
"""Side of the boxes that stand for a larger volume, in voxels."""
BOXES = 8
"""Number of these boxes."""


@dataclass(frozen=True)
class Box:
    """A part of a volume, and which of its faces cut through the volume's inside.

    Attributes:
        begin: First voxel (z, y, x).
        shape: Number of voxels (z, y, x).
        cut: For each axis, whether the low and the high face lie inside the volume.
    """

    begin: Int3
    shape: Int3
    cut: tuple[tuple[bool, bool], ...]


def boxes(shape: Int3) -> list[Box]:
    """The whole volume, or `BOXES` boxes taken regularly, in C order, from the grid of boxes of side `BOX`."""
    if prod(shape) <= WHOLE:
        return [_box((0, 0, 0), shape, shape)]
    grid = [-(-length // BOX) for length in shape]
    count = prod(grid)
    chosen = sorted({round(index) for index in np.linspace(0, count - 1, min(BOXES, count) + 2)[1:-1]})
    result = []
    for index in chosen:
        corner = [int(i) for i in np.unravel_index(index, grid)]
        begin = [place * BOX for place in corner]
        size = [min(BOX, length - first) for length, first in zip(shape, begin, strict=True)]
        result.append(_box((begin[0], begin[1], begin[2]), (size[0], size[1], size[2]), shape))
    return result


def sampling(shape: Int3, chosen: list[Box]) -> list[Finding]:
    """Says which boxes stand for the volume, if it is not looked at whole."""
    if len(chosen) == 1 and chosen[0].shape == shape:
        return []
    voxels = sum(prod(box.shape) for box in chosen)
    return [
        finding(
            "sampled",
            "info",
            expected=f"at most {WHOLE} voxels for a look at all of them",
            received=f"{prod(shape)}",
            remedy=f"{len(chosen)} boxes with {voxels / prod(shape):.1%} of them were looked at",
            where="; ".join(f"{box.begin} + {box.shape}" for box in chosen),
        )
    ]


def _box(begin: Int3, size: Int3, shape: Int3) -> Box:
    cut = tuple((b > 0, b + n < length) for b, n, length in zip(begin, size, shape, strict=True))
    return Box(begin, size, cut)
