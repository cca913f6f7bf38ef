"""One row a nucleus: where it is, how large, how bright.

Blocks add up sums, which the driver merges. Medians cannot be merged: those of nuclei that lie in several blocks are
taken in a second pass, see `nucseg.blockwise.medians`; the table is written when it is done.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numba import njit
from pydantic import PrivateAttr

from nucseg.blockwise.grid import Block, clipped
from nucseg.blockwise.labels import labels_records
from nucseg.blockwise.medians import Medians, OfImage, group_of, measured_dtype, or_none, pieces_file
from nucseg.blockwise.nuclei_table import fill_medians, merged, write_pieces
from nucseg.blockwise.records import Records, identity
from nucseg.blockwise.result import cost_of_both
from nucseg.errors import InputError
from nucseg.instances.centroids import centroids
from nucseg.instances.label_table import slot_of, table_of
from nucseg.instances.medians import gather, medians
from nucseg.points import write_table
from nucseg.storage.remote import absolute

if TYPE_CHECKING:
    from collections.abc import Callable

    from nucseg.blockwise.launch import Launcher


class Measure(OfImage):
    """`OUT/tables/nuclei.parquet` and `.csv` from labels and the raw image.

    Columns: `id`; `z, y, x`, the centre of mass in voxels, and `z_um, y_um, x_um`; `voxels`, `volume_um3`; the
    bounding box `z_begin ... x_end` (ends are behind the last voxel); `mean_intensity` and `median_intensity` of the
    raw image (one column a channel, `mean_intensity_0`, ... where there are several; of the voxels that are numbers,
    NaN where none is); `touches_border`, whether the nucleus reaches the border of the volume, where it is probably
    cut. Columns in micrometres need a known voxel size.

    The median is exact, that of `numpy.median` in float64, for every block shape.
    """

    name: ClassVar[str] = "measure"

    _unfinished: dict[str, np.ndarray] | None = PrivateAttr(None)

    def resolved(self) -> Self:
        """See `Task.resolved`; blocks are those that the labels are stored in.

        Raises:
            InputError: No labels, labels with blocks missing, or a raw image of another shape.
        """
        made = None if self.labels else labels_records(self.out)
        if made is not None and not made.complete():
            raise InputError(
                f"{self.out}: labels",
                expected="all blocks of a segmentation",
                received="a segmentation with blocks missing" if made.head() else "no segmentation",
                remedy="run `nucseg segment` first, or again: it goes on where it stopped",
            )
        volume, labels = self._open()
        if volume.shape != labels.shape:
            raise InputError(
                self.volume,
                expected=f"an image of the labels' shape {labels.shape}",
                received=f"shape {volume.shape}",
                remedy="give the image that was segmented",
            )
        return self.model_copy(
            update={
                "volume": absolute(self.volume),
                "labels": self.labels and absolute(self.labels),
                "block": clipped(self.block or labels.write_unit, labels.shape),
            }
        )

    def inputs(self) -> dict[str, Any]:
        """The raw image's file, and the run that made the labels or their file."""
        made = None if self.labels else labels_records(self.out).head()
        return {
            "volume": identity(self.volume),
            "labels": made["hash"] if made else identity(self.labels or ""),
        }

    def outputs(self) -> list[Path]:
        """Both files of the table."""
        return [Path(self.out) / "tables" / f"nuclei.{suffix}" for suffix in ("parquet", "csv")]

    def create(self) -> None:
        """Nothing but to forget an earlier second pass: the table is written when all blocks are done."""
        Records(self.out, Medians.name).clear()

    def process(self, block: Block) -> dict[str, Any]:
        """Sums over one block, a list a column: `id`, `voxels`, `zyx` (sums), `box`, `intensity` (sums), `median`.

        The median is that of the voxels in this block, of use for nuclei that lie in no other; None where there is
        none. Raw voxels that are no number are left out; `nonfinite` counts those of each nucleus, a list a channel,
        where there are any.
        """
        labels, raw = self._read(block)
        ids = centroids(labels).ids
        sums, boxes = _geometry(labels, ids, np.array(block.begin, np.int64))
        voxels = sums[:, 3]
        limits = np.cumsum(voxels)
        begins, values = limits - voxels, np.empty(int(voxels.sum()), raw.dtype)
        light, middle = np.zeros((len(raw), len(ids))), np.full((len(raw), len(ids)), np.nan)
        lost = np.zeros((len(raw), len(ids)), np.int64)
        for channel, image in enumerate(raw):
            ends = begins.copy()
            gather(labels, image, table_of(ids), values, ends, limits, light[channel])
            middle[channel] = medians(values, begins, ends)
            lost[channel] = limits - ends
        return {
            **({"nonfinite": lost.tolist()} if lost.any() else {}),
            "id": ids.tolist(),
            "voxels": voxels.tolist(),
            "zyx": sums[:, :3].tolist(),
            "box": boxes.tolist(),
            "intensity": light.tolist(),
            "median": or_none(middle),
        }

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merge the blocks, and write the table unless medians of nuclei in several blocks are left open.

        Returns `nuclei`, its rows, `table`, its path, and `nonfinite`, the voxels of nuclei whose intensity is no
        number.
        """
        volume, labels = self._open()
        scale = labels.scale_um or volume.scale_um
        blocks, second = list(blocks), self._second().grid()
        table, pieces = merged(blocks, labels.shape, scale, max(1, volume.channels), second)
        self._unfinished = table if len(pieces) else None
        if len(pieces):
            write_pieces(pieces_file(self.out), pieces)
        else:
            write_table(self.out, "nuclei", table)
        nonfinite = sum(sum(map(sum, block.get("nonfinite", ()))) for block in blocks)
        return {"nuclei": len(table["id"]), "table": str(self.outputs()[0]), "nonfinite": nonfinite}

    def afterwards(
        self, result: dict[str, Any], launcher: "Launcher", log: "Callable[[str], None] | None"
    ) -> dict[str, Any]:
        """Take the medians that are left open in a second pass, and write the table."""
        table = self._unfinished
        if table is None:
            return result
        second = self._second().blockwise(launcher, log=log)
        fill_medians(table, second["id"], second["median"])
        write_table(self.out, "nuclei", table)
        self._unfinished = None
        return result | cost_of_both(result, second)

    def _second(self) -> Medians:
        fields = {name: getattr(self, name) for name in ("out", "volume", "labels", "channel")}
        grid = self.grid()
        return Medians(**fields, unit=grid.block, block=group_of(grid.block, grid.volume))

    def expected_memory(self) -> tuple[int, int]:
        """A block of labels and of raw voxels, and 0.3 GiB."""
        volume, labels = self._open()
        raw = max(1, volume.channels) * measured_dtype(volume.dtype).itemsize
        size = prod(self.grid().block) * (2 * labels.dtype.itemsize + 2 * raw) + 3 * 2**30 // 10
        return size, size


@njit(cache=True, nogil=True)
def _geometry(labels: np.ndarray, ids: np.ndarray, begin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each id: sums of z, y, x (in the volume) and voxels; begin and end of its box."""
    depth, height, width = labels.shape
    sums = np.zeros((ids.size, 4), np.int64)
    boxes = np.zeros((ids.size, 6), np.int64)
    boxes[:, :3] = np.iinfo(np.int64).max
    keys, indices = table_of(ids)
    last, index = np.uint64(0), 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                label = np.uint64(labels[z, y, x])
                if label == 0:
                    continue
                if label != last:
                    last = label
                    index = indices[slot_of(keys, label)]
                gz, gy, gx = begin[0] + z, begin[1] + y, begin[2] + x
                sums[index, 0] += gz
                sums[index, 1] += gy
                sums[index, 2] += gx
                sums[index, 3] += 1
                box = boxes[index]
                box[0], box[1], box[2] = min(box[0], gz), min(box[1], gy), min(box[2], gx)
                box[3], box[4], box[5] = max(box[3], gz + 1), max(box[4], gy + 1), max(box[5], gx + 1)
    return sums, boxes
