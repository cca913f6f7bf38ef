"""Labels renumbered from 1 without gaps, as uint32, in two passes over the blocks.

Ids of a segmentation are places in the volume, up to its number of voxels; so they need no merge, and for large volumes
64 bits. The first pass collects the ids of each block, which are merged into one sorted file; the second maps each
block: an id becomes its place in that file, + 1. So the order of the ids stays, and the result is the same for every
block and number of workers: that of `numpy.unique(labels, return_inverse=True)`.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numba import njit
from pydantic import PrivateAttr

from nucseg.blockwise.across_blocks import contained
from nucseg.blockwise.collect_ids import CollectIds, OfLabels, original_ids
from nucseg.blockwise.grid import Block, chunk_shape
from nucseg.blockwise.labels import stored_label_digest
from nucseg.instances.centroids import centroids
from nucseg.instances.digest import block_digest, combine
from nucseg.instances.label_table import slot_of, table_of
from nucseg.volume import Volume, create_labels, open_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from nucseg.blockwise.launch import Launcher


class Compact(OfLabels):
    """`OUT/labels/nuclei`, uint32, ids 1 to n in the order of the ids before.

    `OUT/tables/original_ids.npy` has the id before of instance i at place i - 1. The digest is that of the new values,
    another one than that of the labels before: compare like with like.
    """

    name: ClassVar[str] = "compact"
    stored_part: ClassVar[float] = 0.1

    _labels: Volume = PrivateAttr()
    _ids: np.ndarray = PrivateAttr()

    def outputs(self) -> list[Path]:
        """The labels."""
        return [Path(self.out) / "labels" / "nuclei"]

    def create(self) -> None:
        """Create the labels, empty."""
        source, block = self._open(), self.grid().block
        create_labels(
            self.out,
            "nuclei",
            shape=source.shape,
            dtype="uint32",
            scale_um=source.scale_um,
            shards=block,
            chunks=chunk_shape(block),
        )

    def start_worker(self) -> None:
        """Open both arrays and map the sorted ids, of which only pages that are looked at are read."""
        super().start_worker()
        self._labels = open_volume(Path(self.out) / "labels" / "nuclei")
        self._ids = np.load(original_ids(self.out), mmap_mode="r")

    def process(self, block: Block) -> dict[str, Any]:
        """Renumber one block. Returns `digest`, `ids` and `sizes` as the segmentation does, of the new ids."""
        labels = self._read(block)
        found = centroids(labels)
        new = new_ids(found.ids, self._ids)
        renumbered = renumber(labels, found.ids, new)
        if new.any():
            self._labels.write(block.begin, renumbered)
        return {
            "digest": f"{block_digest(renumbered, block.begin, self._source.shape):032x}",
            "ids": new[new > 0].tolist(),
            "sizes": found.sizes[new > 0].tolist(),
        }

    def written(self) -> Path:
        """The labels."""
        return self.outputs()[0]

    def stored_digest(self, block: Block) -> str:
        """See `Task.stored_digest`."""
        return stored_label_digest(self._written(), block)

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`nuclei`, `digest`, of the new labels, and `original_ids`, the file that says which they were."""
        return {
            "nuclei": len(np.load(original_ids(self.out), mmap_mode="r")),
            "digest": combine((int(block["digest"], 16) for block in blocks), self.grid().volume),
            "original_ids": str(original_ids(self.out)),
        }

    def blockwise(
        self,
        launcher: "Launcher | None" = None,
        *,
        overwrite: bool = False,
        log: "Callable[[str], None] | None" = None,
    ) -> dict[str, Any]:
        """As `Task.blockwise`, after `CollectIds`; blocks and seconds are those of both passes."""
        fields = {"out": self.out, "labels": self.labels, "min_size": self.min_size, "block": self.block}
        collected = CollectIds(**fields).blockwise(launcher, overwrite=overwrite, log=log)
        result = super().blockwise(launcher, overwrite=overwrite, log=log)
        seconds = collected["seconds"] + result["seconds"]
        done = (collected["mvox_per_s"] * collected["seconds"] + result["mvox_per_s"] * result["seconds"]) / 2
        return {
            **result,
            "blocks": collected["blocks"] + result["blocks"],
            "skipped": collected["skipped"] + result["skipped"],
            "seconds": seconds,
            "mvox_per_s": done / seconds,
            "peak_memory_bytes": max(collected["peak_memory_bytes"], result["peak_memory_bytes"]),
        }

    def expected_output(self) -> int:
        """4 bytes a voxel."""
        return 4 * prod(self._open().shape)


def new_ids(ids: np.ndarray, every: np.ndarray) -> np.ndarray:
    """The numbers of ids from 1, in the order of all.

    Args:
        ids: uint64 (n,).
        every: All ids, ascending, uint64 (m,); may be mapped from a file.

    Returns:
        uint32 (n,); 0 for those that are not among all.
    """
    return np.where(contained(ids, every), np.searchsorted(every, ids) + 1, 0).astype(np.uint32)


def renumber(labels: np.ndarray, ids: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Labels with other numbers.

    Args:
        labels: Integer array (z, y, x), not negative; 0 stays.
        ids: All of its labels, uint64 (n,).
        new: What each becomes, uint32 (n,).

    Returns:
        uint32 (z, y, x).
    """
    unsigned = labels.astype(f"u{labels.dtype.itemsize}", copy=False)
    return _renumber(np.ascontiguousarray(unsigned), ids, new)


@njit(cache=True, nogil=True)
def _renumber(labels: np.ndarray, ids: np.ndarray, new: np.ndarray) -> np.ndarray:
    depth, height, width = labels.shape
    out = np.zeros((depth, height, width), np.uint32)
    keys, indices = table_of(ids)
    last, number = np.uint64(0), np.uint32(0)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                label = np.uint64(labels[z, y, x])
                if label == np.uint64(0):
                    continue
                if label != last:
                    last = label
                    number = new[indices[slot_of(keys, label)]]
                out[z, y, x] = number
    return out
