"""The medians of nuclei that lie in several blocks: the second pass of `Measure`.

A block that sees a part of a nucleus cannot know its median, and medians of parts cannot be merged as sums can. So the
first pass notes where the parts lie; here the block in which the nucleus begins reads all of them again. Blocks are
larger than those of the first pass, so that few parts are read more than once; what is held at a time is not.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import PrivateAttr

from nucseg.blockwise.grid import Block, Box, Grid, Shape, clipped
from nucseg.blockwise.presence import Presence
from nucseg.blockwise.records import FOLDER, Records
from nucseg.blockwise.task import Task
from nucseg.errors import InputError
from nucseg.instances.label_table import table_of
from nucseg.instances.medians import counted_median, gather, medians
from nucseg.volume import Volume, open_labels, open_volume

LEAST = 2**23
"""Values a channel that may be held at a time; a block's number of voxels, of the first pass, where that is more."""
PART = 2**20
"""Values of a nucleus with more that are looked at together."""
GROUP = 2**24
"""Voxels of a block of the second pass, unless eight blocks of the first have more."""


class OfImage(Task):
    """What both passes share: the raw image and the labels on it."""

    volume: str
    """The raw image, of the labels' shape."""
    labels: str | None = None
    """Labels made elsewhere; None is OUT/labels/nuclei."""
    channel: int | None = None
    """The channel of the raw image; None: all."""

    _volume: Volume = PrivateAttr()
    _labels: Volume = PrivateAttr()
    _presence: Presence | None = PrivateAttr(None)

    def grid(self) -> Grid:
        """Blocks of the labels."""
        labels = self._open()[1]
        return Grid(labels.shape, self.block or labels.write_unit)

    def start_worker(self) -> None:
        """Open both volumes."""
        self._volume, self._labels = self._open()
        self._presence = Presence.of(self._labels)

    def expected_output(self) -> int:
        """Unknown before the nuclei are counted, and small."""
        return 0

    def elsewhere(self, out: str) -> Self:
        """See `Task.elsewhere`; the labels stay where they are."""
        return self.model_copy(
            update={"out": out, "labels": self.labels or str(Path(self.out) / "labels" / "nuclei")}
        )

    def _open(self) -> tuple[Volume, Volume]:
        labels = open_labels(self.labels or Path(self.out) / "labels" / "nuclei")
        return open_volume(self.volume, channel=self.channel), labels

    def _read(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Labels of a box, unsigned, and the raw image, (c, z, y, x), of a dtype that numba knows."""
        if self._presence:
            self._presence.check(box)
        labels = self._labels.read(box.begin, box.shape)
        raw = self._volume.read(box.begin, box.shape)
        raw = raw.astype(measured_dtype(raw.dtype), copy=False)
        unsigned = labels.astype(f"u{labels.dtype.itemsize}", copy=False)
        return unsigned, raw if raw.ndim == 4 else raw[None]


class Medians(OfImage):
    """Medians of the nuclei of `Measure` that lie in several blocks; `Measure` starts it, and writes its table then.

    Memory of a worker is bounded by the first pass' block: a nucleus with more voxels is counted, see `counted_median`.
    """

    name: ClassVar[str] = "medians"

    unit: Shape
    """Voxels (z, y, x) of a block of the first pass; what is read at a time lies in one of these."""

    _pieces: np.ndarray = PrivateAttr()

    def resolved(self) -> Self:
        """Nothing is left open: `Measure` hands on what it has settled."""
        return self

    def inputs(self) -> dict[str, Any]:
        """The first pass."""
        return {"measure": (Records(self.out, "measure").head() or {}).get("hash")}

    def outputs(self) -> list[Path]:
        """None: what is found is in the records."""
        return []

    def create(self) -> None:
        """Nothing."""

    def start_worker(self) -> None:
        """Open both volumes and map the file of pieces, of which only pages that are looked at are read."""
        super().start_worker()
        self._pieces = np.load(pieces_file(self.out), mmap_mode="r")

    def process(self, block: Block) -> dict[str, Any]:
        """The medians of the nuclei whose bounding box begins in a block. Returns `id`, and `median`, a list a channel.

        None stands for the median of a nucleus without a finite voxel.

        Raises:
            InputError: The labels are not those that the first pass saw.
        """
        pieces = self._owned(block)
        ids, place = np.unique(pieces["id"], return_inverse=True)
        sizes = np.zeros(len(ids), np.int64)
        np.add.at(sizes, place, pieces["voxels"])
        found = np.full((max(1, self._volume.channels), len(ids)), np.nan)
        most = max(LEAST, prod(self.unit))
        for begin, end in _batches(sizes, most):
            own = pieces[(place >= begin) & (place < end)]
            of = self._counted if sizes[begin] > most else self._gathered
            found[:, begin:end] = of(ids[begin:end], sizes[begin:end], own)
        return {"id": ids.tolist(), "median": or_none(found)}

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`id`, uint64 (n,), and `median`, float64 (c, n), of all of these nuclei, for `Measure`."""
        channels = max(1, self._open()[0].channels)
        parts = [np.array(block["median"], np.float64).reshape(channels, -1) for block in blocks]
        return {
            "id": np.array([i for block in blocks for i in block["id"]], np.uint64),
            "median": np.concatenate(parts, axis=1),
        }

    def expected_memory(self) -> tuple[int, int]:
        """As for `Measure`, and as many values as its block has voxels, or `LEAST`."""
        volume, labels = self._open()
        raw = max(1, volume.channels) * measured_dtype(volume.dtype).itemsize
        voxels = prod(self.unit)
        values = max(LEAST, voxels) * raw
        size = voxels * (2 * labels.dtype.itemsize + 2 * raw + 1) + values + 3 * 2**30 // 10
        return size, size

    def _owned(self, block: Block) -> np.ndarray:
        """The pieces of the nuclei that belong to a block."""
        number = int(np.ravel_multi_index(block.index, self.grid().shape))
        begin = bisect_left(self._pieces, number, key=_owner)
        return np.array(self._pieces[begin : bisect_right(self._pieces, number, begin, key=_owner)])

    def _gathered(self, ids: np.ndarray, sizes: np.ndarray, pieces: np.ndarray) -> np.ndarray:
        """Medians (c, n) of nuclei that fit into memory together."""
        limits = np.cumsum(sizes)
        begins = limits - sizes
        channels, dtype = max(1, self._volume.channels), measured_dtype(self._volume.dtype)
        values = np.empty((channels, int(limits[-1])), dtype)
        ends = np.tile(begins, (channels, 1))
        table, unused, met = table_of(ids), np.zeros(len(ids)), 0
        for box in self._boxes(pieces):
            labels, raw = self._read(box)
            for channel in range(channels):
                count = gather(labels, raw[channel], table, values[channel], ends[channel], limits, unused)
                if count < 0:
                    raise self._changed()
            met += count
        if met != limits[-1]:
            raise self._changed()
        return np.stack([medians(values[c], begins, ends[c]) for c in range(channels)])

    def _counted(self, ids: np.ndarray, sizes: np.ndarray, pieces: np.ndarray) -> np.ndarray:
        """The median (c, 1) of one nucleus that does not fit."""
        dtype = measured_dtype(self._volume.dtype)
        parts = [
            partial(self._values, ids[0], int(sizes[0]), pieces, channel)
            for channel in range(max(1, self._volume.channels))
        ]
        return np.array([[counted_median(part, dtype)] for part in parts])

    def _values(self, label: np.uint64, size: int, pieces: np.ndarray, channel: int) -> Iterator[np.ndarray]:
        """The finite values of a nucleus in one channel, at most `PART` at a time."""
        met = 0
        for box in self._boxes(pieces):
            labels, raw = self._read(box)
            values = raw[channel][labels == label]
            met += len(values)
            for begin in range(0, len(values), PART):
                part = values[begin : begin + PART]
                yield part[np.isfinite(part)]
        if met != size:
            raise self._changed()

    def _boxes(self, pieces: np.ndarray) -> Iterator[Box]:
        """For each block of the first pass with some of the pieces the box around these."""
        blocks = pieces["begin"] // np.array(self.unit)
        _, place = np.unique(blocks, axis=0, return_inverse=True)
        for index in range(place.max() + 1):
            inside = pieces[place.ravel() == index]
            begin, end = inside["begin"].min(axis=0).tolist(), inside["end"].max(axis=0).tolist()
            yield Box((begin[0], begin[1], begin[2]), (end[0], end[1], end[2]))

    def _changed(self) -> InputError:
        return InputError(
            self._labels.path,
            expected="the labels that the first pass saw",
            received="nuclei of other sizes",
            remedy="measure again with overwrite (--overwrite), while nothing writes the labels",
        )


def group_of(unit: Shape, volume: Shape) -> Shape:
    """Voxels of a block of the second pass: `unit`, its shortest side doubled again and again.

    Args:
        unit: Voxels z, y, x of a block of the first pass.
        volume: Voxels z, y, x.
    """
    group, most = list(unit), max(GROUP, 8 * prod(unit))
    while 2 * prod(group) <= most:
        short = [axis for axis in range(3) if group[axis] < volume[axis]]
        if not short:
            break
        group[min(short, key=group.__getitem__)] *= 2
    return clipped((group[0], group[1], group[2]), volume)


def pieces_file(out: str | Path) -> Path:
    """The file, written by `Measure`, of the pieces of nuclei that lie in several blocks.

    A `.npy` of `nuclei_table.PIECE`, by owner (a block's number in the order of the second pass' grid), id and place.
    """
    return Path(out) / FOLDER / "measure" / "pieces.npy"


def or_none(values: np.ndarray) -> list[list[float | None]]:
    """Rows of numbers for JSON, which has no NaN."""
    return [[None if np.isnan(value) else value for value in row] for row in values.tolist()]


def measured_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype in which raw values are measured, without loss: numba does not know float16."""
    known: dict[str, np.dtype] = {"float16": np.dtype("f4"), "bool": np.dtype("u1")}
    return known.get(dtype.name, dtype)


def _owner(piece: np.void) -> int:
    return int(piece["owner"])


def _batches(sizes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of nuclei with at most so many voxels together, or of a single nucleus with more."""
    begin, total = 0, 0
    for index, size in enumerate(sizes.tolist()):
        if index > begin and total + size > most:
            yield begin, index
            begin, total = index, 0
        total += size
    if begin < len(sizes):
        yield begin, len(sizes)
