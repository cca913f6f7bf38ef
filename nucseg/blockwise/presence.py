"""Chunks that are not there: of zeros, which are not stored, or lost. The records of the blocks tell them apart."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import zarr

from nucseg.blockwise.grid import Block, Box, Grid, Shape
from nucseg.blockwise.labels import records_of
from nucseg.blockwise.lines import Lines
from nucseg.blockwise.records import Records
from nucseg.errors import InputError
from nucseg.instances.digest import array_digest
from nucseg.volume import Volume, open_labels


def chunk_files(volume: Volume, box: Box) -> list[Path]:
    """The files (shards, or chunks where there are none) that hold a box of an array, whether they exist or not.

    Empty where these are not known, or may hold voxels of other boxes: no zarr array of this machine, other axes than
    (c,) z, y, x, or shards that the box cuts.

    Args:
        volume: The array, opened.
        box: Voxels z, y, x.
    """
    array = volume.array
    if not isinstance(array, zarr.Array) or not volume.stored.axes.endswith("zyx"):
        return []
    unit = array.shards or array.chunks
    sides = list(zip(box.begin, box.end, unit[-3:], volume.shape, strict=True))
    if any(b % u or (e % u and e != n) for b, e, u, n in sides):
        return []
    leading = [range(-(-n // u)) for n, u in zip(array.shape[:-3], unit[:-3], strict=True)]
    places = [range(b // u, -(-e // u)) for b, e, u, _ in sides]
    root = Path(str(array.store_path).removeprefix("file://"))
    return [root / array.metadata.encode_chunk_key(index) for index in product(*leading, *places)]


class Presence:
    """Whether what is read of an array that a task wrote is still there.

    Costs a look for each file; the records are read only when one is missing.

    Args:
        volume: What the task wrote, opened.
        records: The task's.
    """

    def __init__(self, volume: Volume, records: Records) -> None:
        self._volume, self._records = volume, records
        head = records.head()
        grid = head.get("grid") if head else None
        self._grid = Grid(_triple(grid["volume"]), _triple(grid["block"])) if grid else None
        self._lines: Lines | None = None

    @classmethod
    def of(cls, volume: Volume) -> "Presence | None":
        """Of an array that was opened, in whichever OUT it lies; None: it was not nucseg who wrote it."""
        records = records_of(volume.path)
        return cls(volume, records) if records else None

    def check(self, box: Box) -> None:
        """See that each block of a box is stored, or was of zeros.

        Args:
            box: Voxels z, y, x that are going to be read.

        Raises:
            InputError: One was lost.
        """
        if self._grid is None or self._grid.volume != self._volume.shape:
            return
        for block in self._blocks(box):
            missing = [file for file in chunk_files(self._volume, block) if not file.exists()]
            if missing and not self._was_empty(block, len(missing)):
                raise InputError(
                    f"{self._volume.path} {block}",
                    expected="the voxels that were written there",
                    received=f"nothing: {missing[0]} is gone",
                    remedy="`nucseg verify OUT --repair` makes lost blocks again",
                )

    def _blocks(self, box: Box) -> Iterator[Block]:
        grid = self._grid
        if grid is None:
            return
        sides = (range(b // n, -(-e // n)) for b, e, n in zip(box.begin, box.end, grid.block, strict=True))
        yield from (grid[z, y, x] for z, y, x in product(*sides))

    def _was_empty(self, block: Block, missing: int) -> bool:
        """Whether a block reads as it was written although it is not stored, as far as its record says."""
        if missing < len(chunk_files(self._volume, block)):
            return True
        if self._lines is None or block.index not in self._lines:
            self._lines = self._records.read()[0]
        line = self._lines.get(block.index)
        if line is None or not line.get("digest"):
            return True
        if "ids" in line:
            return not line["ids"]
        return bool(line["digest"] == array_digest(self._volume.read(block.begin, block.shape)))


def _triple(values: list[int]) -> Shape:
    z, y, x = values
    return z, y, x


def check_labels(path: str | Path) -> None:
    """See that the labels that lie somewhere are those of a whole segmentation, if nucseg made them.

    Costs a look for each file, and reads no voxel but of blocks that are not stored.

    Args:
        path: As `open_labels` takes it.

    Raises:
        InputError: Blocks are not done, or were lost since.
    """
    place = Path(path)
    if place.parts[-2:] != ("labels", "nuclei"):
        place = place / "labels" / "nuclei"
    made = records_of(place) if place.exists() else None
    if made is None:
        return
    if not made.complete():
        raise InputError(
            f"{path}: labels",
            expected="all blocks of a segmentation",
            received="a segmentation with blocks missing",
            remedy="run the same command again, which goes on where it stopped",
        )
    labels = open_labels(place)
    Presence(labels, made).check(Box((0, 0, 0), labels.shape))
