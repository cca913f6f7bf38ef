"""A prediction that is made when it is read, tile by tile of a lattice over the whole volume, and not stored.

The network always sees inputs of one shape whose places do not depend on who asks, so a voxel's prediction is the same
for every block that reads it: a halo that two blocks share is predicted twice and comes out the same, bit by bit.
"""

from collections import Counter
from itertools import product
from typing import NamedTuple

import numpy as np

from nucseg.blockwise.grid import Box, Grid, Shape
from nucseg.blockwise.predictor import COUNTS, Predictor, Tile


class Lattice(NamedTuple):
    """Tiles that cover a volume, voxels z, y, x.

    Attributes:
        volume: Shape of the volume.
        tile: Shape of a tile.
        offset: Tiles begin at `offset` plus multiples of their shape; 0 to `tile` - 1.
    """

    volume: Shape
    tile: Shape
    offset: Shape

    def begin(self, index: Shape) -> Shape:
        """First voxel of a tile; negative where it begins before the volume."""
        z, y, x = (o + i * t for o, i, t in zip(self.offset, index, self.tile, strict=True))
        return z, y, x

    def inside(self, index: Shape) -> Box:
        """The part of a tile that lies in the volume."""
        begin = self.begin(index)
        low = tuple(max(0, b) for b in begin)
        high = tuple(min(n, b + t) for n, b, t in zip(self.volume, begin, self.tile, strict=True))
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def over(self, box: Box) -> list[Shape]:
        """Indices of the tiles that a box touches, in z, y, x order."""
        ranges = [
            range((b - o) // t, (e - 1 - o) // t + 1)
            for b, e, o, t in zip(box.begin, box.end, self.offset, self.tile, strict=True)
        ]
        return [(z, y, x) for z, y, x in product(*ranges)]


class PredictedTiles:
    """Reads like a volume (c, z, y, x), float32; tiles that were predicted are kept until `keep` drops them.

    Args:
        predictor: Predicts them.
        lattice: Where tiles are.
    """

    def __init__(self, predictor: Predictor, lattice: Lattice) -> None:
        self.predictor, self.lattice = predictor, lattice
        self.predicted = 0
        """How many tiles were predicted so far."""
        self._tiles: dict[Shape, Tile] = {}

    @property
    def shape(self) -> Shape:
        """Voxels z, y, x."""
        return self.lattice.volume

    def read(self, begin: Shape, shape: Shape) -> np.ndarray:
        """The values of a region that lies in the volume, float32 (c, z, y, x)."""
        end = tuple(b + n for b, n in zip(begin, shape, strict=True))
        box, values = Box(begin, (end[0], end[1], end[2])), None
        for index in self.lattice.over(box):
            codes = self._tile(index).codes
            tile = self.lattice.inside(index)
            low = tuple(max(a, b) for a, b in zip(box.begin, tile.begin, strict=True))
            high = tuple(min(a, b) for a, b in zip(box.end, tile.end, strict=True))
            part = Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
            if values is None:
                values = np.empty((len(codes), *shape), np.float32)
            values[:, *part.inside(box)] = self.predictor.encoding.decode(codes[:, *part.inside(tile)])
        if values is None:
            raise ValueError(f"an empty region: {box}")
        return values

    def keep(self, box: Box) -> None:
        """Forget all tiles but those that a box touches."""
        wanted = set(self.lattice.over(box))
        self._tiles = {index: tile for index, tile in self._tiles.items() if index in wanted}

    def counts(self, core: Box) -> dict[str, int]:
        """`Tile.counts` of the tiles whose first voxel lies in a core that was read.

        Cores that tile the volume have each tile once, so that their sums are those of the volume.
        """
        counts = Counter(dict.fromkeys(COUNTS, 0))
        for index in self.lattice.over(core):
            begin = self.lattice.inside(index).begin
            if all(b >= low for b, low in zip(begin, core.begin, strict=True)):
                counts.update(self._tile(index).counts)
        return dict(counts)

    def _tile(self, index: Shape) -> Tile:
        if index not in self._tiles:
            self._tiles[index] = self.predictor.tile(self.lattice.begin(index), self.lattice.inside(index))
            self.predicted += 1
        return self._tiles[index]


def best_lattice(grid: Grid, margin: int, tile: Shape, pooling: Shape) -> Lattice:
    """The lattice in which blocks with their margins touch the fewest tiles.

    Args:
        grid: The blocks.
        margin: Voxels that a block reads around itself, cut at the volume's border.
        tile: Shape of a tile.
        pooling: Tiles begin at multiples of it, z, y, x.

    Returns:
        Of several that are as good the one with the smallest offsets.
    """
    offsets = []
    for axis in range(3):
        begin = np.arange(grid.shape[axis]) * grid.block[axis]
        end = np.minimum(begin + grid.block[axis] + margin, grid.volume[axis])
        begin = np.maximum(begin - margin, 0)
        choices = range(0, tile[axis], pooling[axis])
        touched = [int(np.sum((end - 1 - o) // tile[axis] - (begin - o) // tile[axis] + 1)) for o in choices]
        offsets.append(choices[int(np.argmin(touched))])
    return Lattice(grid.volume, tile, (offsets[0], offsets[1], offsets[2]))


def tiles_touched(lattice: Lattice, grid: Grid, margin: int) -> tuple[int, int]:
    """Tiles that all blocks with their margins touch, each block for itself, and the most that one block does."""
    every, most = 1, 1
    for axis in range(3):
        begin = np.arange(grid.shape[axis]) * grid.block[axis]
        end = np.minimum(begin + grid.block[axis] + margin, grid.volume[axis])
        begin = np.maximum(begin - margin, 0)
        offset, side = lattice.offset[axis], lattice.tile[axis]
        touched = (end - 1 - offset) // side - (begin - offset) // side + 1
        every, most = every * int(touched.sum()), most * int(touched.max())
    return every, most
