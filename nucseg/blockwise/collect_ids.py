"""The ids of all labels of a volume, each once, in a sorted file: the first pass of `Compact`."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, PrivateAttr

from nucseg.blockwise.grid import Block, Grid, Shape, clipped
from nucseg.blockwise.id_files import merge_ids, write_ids
from nucseg.blockwise.labels import records_of
from nucseg.blockwise.presence import Presence
from nucseg.blockwise.records import FOLDER, Records, identity
from nucseg.blockwise.sift import UNSIFTED
from nucseg.blockwise.task import Task
from nucseg.errors import InputError
from nucseg.instances.centroids import centroids
from nucseg.instances.digest import array_digest
from nucseg.storage.remote import absolute, is_remote
from nucseg.volume import Volume, open_labels, open_volume

IDS = f"{FOLDER}/ids"
"""Folder of the ids of each block, below OUT."""


class OfLabels(Task):
    """What both passes share: the labels that are read, and the blocks, which are those that these are stored in."""

    labels: str | None = None
    """Labels to renumber, of another OUT; None: those that the segmentation of this OUT wrote aside."""
    min_size: int = Field(0, ge=0)
    """Instances of fewer voxels, counted over all blocks, are dropped."""

    _source: Volume = PrivateAttr()
    _presence: Presence | None = PrivateAttr(None)

    def resolved(self) -> Self:
        """See `Task.resolved`.

        Raises:
            InputError: No labels, labels with blocks missing, or those of this OUT itself.
        """
        task = self
        if self.labels is not None:
            path = absolute(open_labels(self.labels).path)
            _check_other(path, self.out)
            task = self.model_copy(update={"labels": path})
        source = task._open()
        block = clipped(self.block or source.write_unit, source.shape)
        return task.model_copy(update={"block": block})

    def inputs(self) -> dict[str, Any]:
        """The run that made the labels, or their file."""
        made = Records(self.out, "segment") if self.labels is None else records_of(self.labels)
        head = made.head() if made else None
        return {"labels": head["hash"] if head else identity(self.labels or "")}

    def grid(self) -> Grid:
        """As the labels are stored."""
        source = self._open()
        return Grid(source.shape, self.block or source.write_unit)

    def start_worker(self) -> None:
        """Open the labels."""
        self._source = self._open()
        own = Records(self.out, "segment")
        self._presence = Presence.of(self._source) if self.labels else Presence(self._source, own)

    def expected_memory(self) -> tuple[int, int]:
        """A block as it is read, twice, and as it is written, and 0.3 GiB; pages of the sorted ids are not counted."""
        size = (2 * self._open().dtype.itemsize + 4) * prod(self.grid().block) + 3 * 2**30 // 10
        return size, size

    def _open(self) -> Volume:
        if self.labels is None:
            return open_volume(Path(self.out) / UNSIFTED / "labels" / "nuclei")
        return open_labels(self.labels)

    def _read(self, block: Block) -> np.ndarray:
        if self._presence:
            self._presence.check(block)
        return self._source.read(block.begin, block.shape)

    def elsewhere(self, out: str) -> Self:
        """See `Task.elsewhere`; the labels stay where they are."""
        aside = str(Path(self.out) / UNSIFTED / "labels" / "nuclei")
        return self.model_copy(update={"out": out, "labels": self.labels or aside})


class CollectIds(OfLabels):
    """`OUT/tables/original_ids.npy`: all ids of labels, ascending, uint64 (n,), in memory bounded by `id_files.BUCKET`.

    Memory of a worker is bounded by the block, that of the driver by the bucket, whatever the number of instances.
    """

    name: ClassVar[str] = "collect_ids"

    def outputs(self) -> list[Path]:
        """The merged ids, and those of each block."""
        return [original_ids(self.out), Path(self.out) / IDS]

    def create(self) -> None:
        """Make the folder."""
        (Path(self.out) / IDS).mkdir(parents=True, exist_ok=True)

    def process(self, block: Block) -> dict[str, Any]:
        """Write the ids of one block and their sizes to a file. Returns `instances`, how many, and its `ids_digest`."""
        found = centroids(self._read(block))
        if len(found.ids):
            write_ids(self._file(block.index), found.ids, found.sizes)
        return {"instances": len(found.ids), "ids_digest": array_digest(found.ids)}

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merge them. Returns `nuclei`, how many there are that are large enough.

        Raises:
            InputError: More instances than uint32 can number, or a file of ids was lost.
        """
        files = [
            self._file((line["block"][0], line["block"][1], line["block"][2]))
            for line in blocks
            if line["instances"]
        ]
        lost = [file for file in files if not file.exists()]
        if lost:
            raise InputError(
                str(lost[0]),
                expected="the ids of a block, which were written there",
                received="nothing",
                remedy="collect them again (--overwrite)",
            )
        return {"nuclei": merge_ids(files, original_ids(self.out), self.min_size)}

    def expected_output(self) -> int:
        """Unknown before the instances are counted, and small."""
        return 0

    def _file(self, index: Shape) -> Path:
        return Path(self.out) / IDS / f"{index[0]}.{index[1]}.{index[2]}.npy"


def original_ids(out: str | Path) -> Path:
    """The file that says which id an instance of compact labels had before."""
    return Path(out) / "tables" / "original_ids.npy"


def _check_other(labels: str, out: str) -> None:
    """See that labels are complete, and not those that would be written."""
    own = str(Path(out).resolve())
    if not is_remote(labels) and own in (labels, *map(str, Path(labels).parents)):
        raise InputError(
            labels,
            expected="labels of another OUT than the one that is written",
            received=f"those of {own}",
            remedy="name another OUT; or segment with --compact, which renumbers in one go",
        )
    made = records_of(labels)
    if made is not None and made.head() is not None and not made.complete():
        raise InputError(
            labels,
            expected="complete labels",
            received="a segmentation with blocks missing",
            remedy="run `nucseg segment` again, which goes on where it stopped",
        )
