"""Points from instances: their centres of mass."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import PrivateAttr

from nucseg.blockwise.grid import Block, Grid, clipped
from nucseg.blockwise.labels import labels_records
from nucseg.blockwise.point_table import table_files, write_points
from nucseg.blockwise.records import identity
from nucseg.blockwise.task import Task
from nucseg.errors import InputError
from nucseg.instances.centroids import centroids
from nucseg.storage.remote import absolute
from nucseg.volume import Volume, open_labels


class DetectInstances(Task):
    """`OUT/tables/points` from labels: the centres of mass of the instances, as `Measure` has them.

    Columns: `id`, the label; `z, y, x` in voxels, and `z_um, y_um, x_um`. Instances have no score.
    """

    name: ClassVar[str] = "detect"  # as Detect, which writes the same table: one of the two, never a mixture

    labels: str | None = None
    """Labels made elsewhere; None is OUT/labels/nuclei."""

    _labels: Volume = PrivateAttr()

    def resolved(self) -> Self:
        """See `Task.resolved`; blocks are those that the labels are stored in.

        Raises:
            InputError: No labels, or labels with blocks missing.
        """
        made = None if self.labels else labels_records(self.out)
        if made is not None and not made.complete():
            raise InputError(
                f"{self.out}: labels",
                expected="all blocks of a segmentation, whose instances are the points",
                received="a segmentation with blocks missing" if made.head() else "no segmentation",
                remedy="run `nucseg segment` with the same PREDICTION and OUT first, or take another --source",
            )
        labels = self._open()
        return self.model_copy(
            update={
                "labels": self.labels and absolute(self.labels),
                "block": clipped(self.block or labels.write_unit, labels.shape),
            }
        )

    def inputs(self) -> dict[str, Any]:
        """The run that made the labels, or their file."""
        made = None if self.labels else labels_records(self.out).head()
        return {"labels": made["hash"] if made else identity(self.labels or "")}

    def grid(self) -> Grid:
        """Blocks of the labels."""
        labels = self._open()
        return Grid(labels.shape, self.block or labels.write_unit)

    def outputs(self) -> list[Path]:
        """Both files of the table."""
        return table_files(self.out)

    def create(self) -> None:
        """Nothing: the table is written when all blocks are done."""

    def start_worker(self) -> None:
        """Open the labels."""
        self._labels = self._open()

    def process(self, block: Block) -> dict[str, Any]:
        """Add up one block: `id`, and for each the `sums` of z, y, x in the volume and its voxels."""
        found = centroids(self._labels.read(block.begin, block.shape))
        sums = np.rint(found.centers * found.sizes[:, None]).astype(np.int64)  # whole numbers
        sums += found.sizes[:, None] * np.array(block.begin)
        return {"id": found.ids.tolist(), "sums": np.column_stack([sums, found.sizes]).tolist()}

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Write the table. Returns `nuclei`, its rows, `digest`, of the places, and `table`, its path."""
        every = np.array([i for block in blocks for i in block["id"]], np.uint64)
        parts = np.array([row for block in blocks for row in block["sums"]], np.int64).reshape(-1, 4)
        ids, place = np.unique(every, return_inverse=True)
        sums = np.zeros((len(ids), 4), np.int64)
        np.add.at(sums, place, parts)
        return write_points(self.out, self._open(), ids, sums[:, :3] / sums[:, 3:])

    def expected_memory(self) -> tuple[int, int]:
        """Two copies of a block of labels, and 0.3 GiB."""
        size = prod(self.grid().block) * 2 * self._open().dtype.itemsize + 3 * 2**30 // 10
        return size, size

    def expected_output(self) -> int:
        """Unknown before the nuclei are counted, and small."""
        return 0

    def elsewhere(self, out: str) -> Self:
        """See `Task.elsewhere`; the labels stay where they are."""
        return self.model_copy(
            update={"out": out, "labels": self.labels or str(Path(self.out) / "labels" / "nuclei")}
        )

    def _open(self) -> Volume:
        return open_labels(self.labels or Path(self.out) / "labels" / "nuclei")
