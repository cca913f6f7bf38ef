"""Mirroring and transposing boxes of voxels, exactly."""

from dataclasses import dataclass
from itertools import permutations, product

import gunpowder as gp
import numpy as np


@dataclass(frozen=True)
class Mirror:
    """A map of the voxel grid onto itself: mirror some axes of a box, then transpose.

    Mirroring maps the box onto itself (in index
    coordinates `begin + end - 1 - x`); transposing keeps the offset from the box's middle voxel, so that a
    box with equal sides maps onto itself too.

    Args:
        begin: First voxel of the box that is mirrored, the union of all that is requested.
        shape: Its shape.
        flip: Whether each axis is mirrored.
        order: Axis `a` of the source is axis `order[a]` of the mirrored patch.
    """

    begin: tuple[int, int, int]
    shape: tuple[int, int, int]
    flip: tuple[bool, bool, bool] = (False, False, False)
    order: tuple[int, int, int] = (0, 1, 2)

    def box(self, roi: gp.Roi) -> gp.Roi:
        """The box of the source that fills a roi of the augmented patch."""
        first, last = self._map(tuple(roi.begin)), self._map(tuple(roi.end - 1))
        begin = gp.Coordinate(map(min, first, last))
        end = gp.Coordinate(map(max, first, last))
        return gp.Roi(begin, end - begin + 1)

    def view(self, data: np.ndarray) -> np.ndarray:
        """The augmented patch, a view of the source's voxels over `box(roi)`."""
        lead = data.ndim - 3
        inverse = np.argsort(self.order)
        # Axis b of the patch is axis inverse[b] of the source.
        moved = data.transpose(*range(lead), *(lead + inverse))
        z, y, x = (slice(None, None, -1 if flip else 1) for flip in self.flip)
        return moved[..., z, y, x]

    def _map(self, voxel: tuple[int, ...]) -> tuple[int, ...]:
        mirrored = [
            b + b + n - 1 - x if flip else x
            for x, b, n, flip in zip(voxel, self.begin, self.shape, self.flip, strict=True)
        ]
        middle = [b + n // 2 for b, n in zip(self.begin, self.shape, strict=True)]
        return tuple(middle[a] + mirrored[o] - middle[o] for a, o in enumerate(self.order))


def all_flips(mirror: bool) -> list[tuple[bool, bool, bool]]:
    """The 8 ways to mirror, or only the one that does not."""
    if not mirror:
        return [(False, False, False)]
    return [(z, y, x) for z, y, x in product((False, True), repeat=3)]


def all_orders(axes: list[set[int]]) -> list[tuple[int, int, int]]:
    """The transpositions that keep each axis within its set of exchangeable axes."""
    return [
        (z, y, x)
        for z, y, x in permutations(range(3))
        if all(any({a, o} <= group for group in axes) for a, o in enumerate((z, y, x)))
    ]
