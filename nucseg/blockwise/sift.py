"""The second pass of a segmentation with a smallest size: copy the labels without what is too small.

Whether an instance is too small is known only when all blocks are, because it may lie in several. The first
pass writes its labels aside and this pass writes the final ones, so that each array is written once: a late
worker of the first pass cannot bring anything back.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import Field, PrivateAttr

from nucseg.blockwise.across_blocks import contained, count_instances, too_small
from nucseg.blockwise.grid import Block, Grid, chunk_shape
from nucseg.blockwise.labels import stored_label_digest
from nucseg.blockwise.records import FOLDER, Records
from nucseg.blockwise.result import cost_of_both
from nucseg.blockwise.task import Task
from nucseg.instances.centroids import centroids
from nucseg.instances.digest import block_digest, combine
from nucseg.volume import Volume, create_labels, open_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from nucseg.blockwise.launch import Launcher

UNSIFTED = f"{FOLDER}/unsifted.zarr"
"""Labels of all sizes, below OUT."""


class Sift(Task):
    """`OUT/labels/nuclei` from the labels of all sizes."""

    name: ClassVar[str] = "sift"
    stored_part: ClassVar[float] = 0.1

    min_size: int = Field(ge=1)
    """Instances of fewer voxels, counted over all blocks, are dropped."""

    _source: Volume = PrivateAttr()
    _labels: Volume = PrivateAttr()
    _small: np.ndarray = PrivateAttr()

    def resolved(self) -> Self:
        """The block is that of the labels."""
        return self.model_copy(update={"block": self._unsifted().write_unit})

    def inputs(self) -> dict[str, Any]:
        """The segmentation."""
        return {"segment": (Records(self.out, "segment").head() or {}).get("hash")}

    def grid(self) -> Grid:
        """As the labels are stored."""
        source = self._unsifted()
        return Grid(source.shape, self.block or source.write_unit)

    def outputs(self) -> list[Path]:
        """The labels."""
        return [Path(self.out) / "labels" / "nuclei"]

    def create(self) -> None:
        """Create the labels, empty, and add the sizes up over the blocks of the first pass."""
        self._small_ids().parent.mkdir(parents=True, exist_ok=True)
        lines = Records(self.out, "segment").read()[0].values()  # of a whole volume there is one
        np.save(self._small_ids(), too_small(lines, self.min_size))
        source = self._unsifted()
        create_labels(
            self.out,
            "nuclei",
            shape=source.shape,
            dtype=source.dtype,
            scale_um=source.scale_um,
            shards=source.write_unit,
            chunks=chunk_shape(source.write_unit),
        )

    def start_worker(self) -> None:
        """Open both arrays, and map the ids that are dropped: only pages that are looked at are read."""
        self._source = self._unsifted()
        self._labels = open_volume(Path(self.out) / "labels" / "nuclei")
        self._small = np.load(self._small_ids(), mmap_mode="r")

    def process(self, block: Block) -> dict[str, Any]:
        """Copy one block. Returns `digest`, `ids` and `sizes` as the segmentation does."""
        labels = self._source.read(block.begin, block.shape)
        found = centroids(labels)
        dropped = contained(found.ids, self._small)
        if dropped.any():
            labels[np.isin(labels, found.ids[dropped])] = 0
        if not dropped.all():
            self._labels.write(block.begin, labels)
        return {
            "digest": f"{block_digest(labels, block.begin, self._source.shape):032x}",
            "ids": found.ids[~dropped].tolist(),
            "sizes": found.sizes[~dropped].tolist(),
        }

    def written(self) -> Path:
        """The labels."""
        return self.outputs()[0]

    def stored_digest(self, block: Block) -> str:
        """See `Task.stored_digest`."""
        return stored_label_digest(self._written(), block)

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`nuclei` and `digest`."""
        return {
            "nuclei": count_instances(blocks, self.grid()),
            "digest": combine((int(block["digest"], 16) for block in blocks), self.grid().volume),
        }

    def expected_memory(self) -> tuple[int, int]:
        """Two copies of a block and 0.3 GiB."""
        size = 16 * prod(self.grid().block) + 3 * 2**30 // 10
        return size, size

    def expected_output(self) -> int:
        """One label a voxel."""
        source = self._unsifted()
        return prod(source.shape) * source.dtype.itemsize

    def _small_ids(self) -> Path:
        return Records(self.out, self.name).folder / "small_ids.npy"

    def _unsifted(self) -> Volume:
        return open_volume(Path(self.out) / UNSIFTED / "labels" / "nuclei")


def second_pass(
    task: Task,
    result: dict[str, Any],
    launcher: "Launcher",
    log: "Callable[[str], None] | None" = None,
) -> dict[str, Any]:
    """Drop or renumber instances, and say what both passes made together.

    Args:
        task: `Sift` or `Compact`.
        result: What the first pass returned.
        launcher: Where workers run.
        log: Takes lines about what goes on.

    Raises:
        InputError: The first pass is of other settings than an earlier second one.
        BlocksFailed: Blocks are not done; the others are, and stay so.
    """
    second = task.blockwise(launcher, log=log)
    return result | {
        "nuclei": second["nuclei"],
        "dropped": result["nuclei"] - second["nuclei"],
        "digest": second["digest"],
        **cost_of_both(result, second),
    }
