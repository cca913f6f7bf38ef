"""Sums over the blocks of a volume: contingency tables and centres of mass, in memory that grows with the objects."""

from collections.abc import Iterator
from itertools import product
from typing import Protocol, cast

import numpy as np

from nucseg.evaluate.matching import labels_at, nearest_voxels
from nucseg.evaluate.overlap import Contingency, merge
from nucseg.instances.centroids import Centroids, centroids

Int3 = tuple[int, int, int]

_LEAST_BLOCK = 128  # voxels a side: smaller write units are read several at a time
_AT_A_TIME = 2**24  # voxels of an array in memory that make a block
_FOLD = 1_000_000  # rows after which partial sums are added up for the first time


class Readable(Protocol):
    """Anything that is read by region: a `nucseg.Volume`, or `InMemory`."""

    @property
    def shape(self) -> Int3:
        """Spatial shape (z, y, x) in voxels."""

    @property
    def write_unit(self) -> Int3:
        """The cheapest region (z, y, x) to read."""

    def read(self, begin: Int3 = ..., shape: Int3 | None = ..., fill: float = ...) -> np.ndarray:
        """A region, which may reach beyond the volume; `fill` is there then."""


class InMemory:
    """An array (z, y, x) that is read as a `nucseg.Volume` is."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = cast(Int3, array.shape)
        planes = max(1, _AT_A_TIME // max(1, array[:1].size))
        self.write_unit = (max(1, min(planes, array.shape[0])), *(max(1, n) for n in array.shape[1:]))

    def read(self, begin: Int3 = (0, 0, 0), shape: Int3 | None = None, fill: float = 0) -> np.ndarray:
        """See `nucseg.Volume.read`; a region inside the array is a view."""
        size = shape or cast(Int3, tuple(n - b for n, b in zip(self.shape, begin, strict=True)))
        low = [min(max(b, 0), n) for b, n in zip(begin, self.shape, strict=True)]
        high = [min(max(b + s, 0), n) for b, s, n in zip(begin, size, self.shape, strict=True)]
        inside = self.array[tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))]
        if inside.shape == tuple(size):
            return inside
        region = np.full(size, fill, self.array.dtype)
        if inside.size:
            at = zip(low, begin, inside.shape, strict=True)
            region[tuple(slice(a - b, a - b + n) for a, b, n in at)] = inside
        return region


def blocks_of(volume: Readable) -> Iterator[tuple[Int3, Int3]]:
    """Begin and shape of blocks of whole write units in C order, about 128 voxels a side or more."""
    step = [unit * -(-_LEAST_BLOCK // unit) for unit in volume.write_unit]
    for begin in product(*(range(0, n, s) for n, s in zip(volume.shape, step, strict=True))):
        shape = tuple(min(s, n - b) for s, n, b in zip(step, volume.shape, begin, strict=True))
        yield cast(Int3, begin), cast(Int3, shape)


def labels_of_points(points: np.ndarray, volume: Readable) -> np.ndarray:
    """As `nucseg.evaluate.matching.labels_at`, reading only the blocks that hold points."""
    found = np.zeros(len(points), np.uint64)
    index = nearest_voxels(points)
    blocks = list(blocks_of(volume))
    begins = np.array([begin for begin, _ in blocks])
    corners = [np.unique(begins[:, axis]) for axis in range(3)]
    at = [np.searchsorted(c, index[:, axis], side="right") - 1 for axis, c in enumerate(corners)]
    inside = ((index >= 0) & (index < volume.shape)).all(axis=1)
    cell = (at[0] * len(corners[1]) + at[1]) * len(corners[2]) + at[2]
    for number in np.unique(cell[inside]):
        here = inside & (cell == number)
        begin, shape = blocks[number]
        found[here] = labels_at(index[here] - np.array(begin), volume.read(begin, shape))
    return found


def labels_hit(points: np.ndarray, truth: Readable, annotated: Readable | None) -> np.ndarray:
    """As `nucseg.evaluate.matching.labels_hit`, reading only the blocks that hold points."""
    if annotated is not None:
        points = np.asarray(points, np.float64).reshape(-1, 3)[~in_unknown(points, annotated)]
    return labels_of_points(points, truth)


def in_unknown(points: np.ndarray, annotated: Readable) -> np.ndarray:
    """Which points fall into a voxel of the volume that is not annotated, bool (n,).

    Args:
        points: (n, 3) z, y, x index coordinates in voxels.
        annotated: 0 where nothing is annotated.
    """
    index = nearest_voxels(points)
    inside = ((index >= 0) & (index < annotated.shape)).all(axis=1)
    return inside & (labels_of_points(index, annotated) == 0)


class TableSum:
    """The contingency table of a volume from those of its blocks; folded whenever the rows have doubled."""

    def __init__(self) -> None:
        self._tables: list[Contingency] = []
        self._rows, self._limit = 0, _FOLD

    def add(self, table: Contingency) -> None:
        """Add a block that shares no voxel with the others."""
        self._tables.append(table)
        self._rows += _rows(table)
        if self._rows > self._limit:
            self._rows = _rows(self.total())
            self._limit = max(_FOLD, 2 * self._rows)

    def total(self) -> Contingency:
        """The table of all blocks so far."""
        self._tables = [merge(self._tables)]
        return self._tables[0]


class IdSum:
    """The union of the ids that blocks hold."""

    def __init__(self) -> None:
        self._ids = [np.zeros(0, np.uint64)]
        self._rows, self._limit = 0, _FOLD

    def add(self, ids: np.ndarray) -> None:
        """Add the ids of a block, uint64."""
        self._ids.append(ids)
        self._rows += len(ids)
        if self._rows > self._limit:
            self._rows = len(self.total())
            self._limit = max(_FOLD, 2 * self._rows)

    def total(self) -> np.ndarray:
        """All ids so far, uint64, ascending."""
        self._ids = [np.unique(np.concatenate(self._ids))]
        return self._ids[0]


class CenterSum:
    """Centres of mass of objects that come in parts. Sums of coordinates are whole numbers, hence exact."""

    def __init__(self) -> None:
        self._ids = [np.zeros(0, np.uint64)]
        self._sums = [np.zeros((0, 4), np.int64)]  # of z, y, x, and the voxels
        self._rows, self._limit = 0, _FOLD

    def add(self, labels: np.ndarray, begin: Int3) -> None:
        """Add a block of labels whose first voxel is `begin` in the volume."""
        ids, centers, sizes = centroids(labels)
        sums = np.rint(centers * sizes[:, None]).astype(np.int64) + sizes[:, None] * np.array(begin)
        self._ids.append(ids)
        self._sums.append(np.column_stack([sums, sizes]))
        self._rows += len(ids)
        if self._rows > self._limit:
            self._rows = len(self.total().ids)
            self._limit = max(_FOLD, 2 * self._rows)

    def total(self) -> Centroids:
        """Ids, ascending, centres in index coordinates of the volume, and sizes of all objects so far."""
        ids, inverse = np.unique(np.concatenate(self._ids), return_inverse=True)
        sums = np.zeros((len(ids), 4), np.int64)
        np.add.at(sums, inverse, np.concatenate(self._sums))
        self._ids, self._sums = [ids], [sums]
        return Centroids(ids, sums[:, :3] / sums[:, 3:], sums[:, 3])


def _rows(table: Contingency) -> int:
    return len(table.overlaps) + len(table.true_ids) + len(table.predicted_ids)
