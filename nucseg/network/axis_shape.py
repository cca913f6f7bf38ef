"""The arithmetic of a U-Net's shapes along one axis."""

from math import prod
from typing import NamedTuple


class AxisShape(NamedTuple):
    """A U-Net along one axis; levels are counted from 0, the finest.

    Attributes:
        stride: Voxels of which the network takes the mean before its first level, and makes its output at the end.
        pool: Factor of the pooling below each level but the last.
        convolutions: Convolutions of width 3 on each level, on the way down and on the way up.
        valid: Whether convolutions take away a voxel at both ends; else they pad zeros.
    """

    stride: int
    pool: tuple[int, ...]
    convolutions: int
    valid: bool

    @property
    def step(self) -> int:
        """Total down-sampling, voxels: the prediction repeats itself when moved by so much, and not by less."""
        return self.stride * prod(self.pool)

    @property
    def context(self) -> int:
        """Voxels a side that an output needs around it which begins at a multiple of `step`."""
        if self.valid:
            return self.stride * self.lost(0)
        reach = max(max(x - self._low(x), self._high(x) - x) for x in range(self.step))
        return -(-reach // self.step) * self.step

    def lost(self, level: int) -> int:
        """Voxels of this level a side, lost from this level down and back."""
        if not self.valid:
            return 0
        if level == len(self.pool):
            return self.convolutions
        return 2 * self.convolutions + self.pool[level] * self.lost(level + 1)

    def smallest(self, size: int) -> int:
        """Smallest input >= `size` that the network can take."""
        lost = 2 * self.convolutions if self.valid else 0
        step = prod(self.pool)
        shift = lost * sum(prod(self.pool[:level]) for level in range(len(self.pool)))
        # An input is stride * (step * bottom + shift). The bottom keeps a voxel after its own convolutions, and
        # the finest level one at the end.
        least = max(-(-size // self.stride), 2 * self.lost(0) + 1)
        bottom = max(-(-(least - shift) // step), lost + 1)
        return self.stride * (step * bottom + shift)

    def _low(self, x: int) -> int:
        """Lowest input voxel that output voxel `x` depends on."""
        return self.stride * self._lowest(0, x // self.stride)

    def _high(self, x: int) -> int:
        """Highest such voxel."""
        return self.stride * self._highest(0, x // self.stride) + self.stride - 1

    def _lowest(self, level: int, x: int) -> int:
        if level == len(self.pool):
            return x - self.convolutions
        joined, factor = x - self.convolutions, self.pool[level]
        return min(joined, factor * self._lowest(level + 1, joined // factor)) - self.convolutions

    def _highest(self, level: int, x: int) -> int:
        if level == len(self.pool):
            return x + self.convolutions
        joined, factor = x + self.convolutions, self.pool[level]
        return (
            max(joined, factor * self._highest(level + 1, joined // factor) + factor - 1) + self.convolutions
        )
