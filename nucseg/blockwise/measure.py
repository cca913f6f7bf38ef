"""One row a nucleus: where it is, how large, how bright. Blocks add up sums, which the driver merges."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numba import njit
from pydantic import PrivateAttr

from nucseg.blockwise.grid import Block, Grid, clipped
from nucseg.blockwise.labels import labels_records
from nucseg.blockwise.presence import Presence
from nucseg.blockwise.records import identity
from nucseg.blockwise.task import Task
from nucseg.errors import InputError
from nucseg.instances.centroids import centroids
from nucseg.instances.label_table import slot_of, table_of
from nucseg.points import write_table
from nucseg.storage.remote import absolute
from nucseg.volume import Volume, open_labels, open_volume


class Measure(Task):
    """`OUT/tables/nuclei.parquet` and `.csv` from labels and the raw image.

    Columns: `id`; `z, y, x`, the centre of mass in voxels, and `z_um, y_um, x_um`; `voxels`, `volume_um3`; the
    bounding box `z_begin ... x_end` (ends are behind the last voxel); `mean_intensity` of the raw image (one column a
    channel, `mean_intensity_0`, ... where there are several; of the voxels that are numbers, NaN where none is);
    `touches_border`, whether the nucleus reaches the border of the volume, where it is probably cut. Columns in
    micrometres need a known voxel size.
    """

    name: ClassVar[str] = "measure"

    volume: str
    """The raw image, of the labels' shape."""
    labels: str | None = None
    """Labels made elsewhere; None is OUT/labels/nuclei."""
    channel: int | None = None
    """The channel of the raw image; None: all."""

    _volume: Volume = PrivateAttr()
    _labels: Volume = PrivateAttr()
    _presence: Presence | None = PrivateAttr(None)

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

    def grid(self) -> Grid:
        """Blocks of the labels."""
        labels = self._open()[1]
        return Grid(labels.shape, self.block or labels.write_unit)

    def outputs(self) -> list[Path]:
        """Both files of the table."""
        return [Path(self.out) / "tables" / f"nuclei.{suffix}" for suffix in ("parquet", "csv")]

    def create(self) -> None:
        """Nothing: the table is written when all blocks are done."""

    def start_worker(self) -> None:
        """Open both volumes."""
        self._volume, self._labels = self._open()
        self._presence = None if self.labels else Presence(self._labels, labels_records(self.out))

    def process(self, block: Block) -> dict[str, Any]:
        """Sums over one block, a list a column: `id`, `voxels`, `zyx` (sums), `box`, `intensity` (sums).

        Raw voxels that are no number are left out of the sums; `nonfinite` counts those of each nucleus, a list a
        channel, where there are any.
        """
        if self._presence:
            self._presence.check(block)
        labels = self._labels.read(block.begin, block.shape)
        raw = self._volume.read(block.begin, block.shape)
        raw = raw.astype(np.float32) if raw.dtype == np.float16 else raw  # which numba does not know
        raw = raw if raw.ndim == 4 else raw[None]
        ids = centroids(labels).ids
        unsigned = labels.astype(f"u{labels.dtype.itemsize}", copy=False)
        sums, boxes = _geometry(unsigned, ids, np.array(block.begin, np.int64))
        finite = np.isfinite(raw)
        unknown = {}
        if not finite.all():
            counts = [_intensity(unsigned, channel.astype(np.uint8), ids) for channel in ~finite]
            unknown = {"nonfinite": np.array(counts, np.int64).reshape(len(raw), len(ids)).tolist()}
            raw = np.where(finite, raw, raw.dtype.type(0))
        light = [_intensity(unsigned, channel, ids) for channel in raw]
        return {
            **unknown,
            "id": ids.tolist(),
            "voxels": sums[:, 3].tolist(),
            "zyx": sums[:, :3].tolist(),
            "box": boxes.tolist(),
            "intensity": np.array(light).reshape(len(raw), len(ids)).tolist(),
        }

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merge the blocks and write the table.

        Returns `nuclei`, its rows, `table`, its path, and `nonfinite`, the voxels of nuclei whose intensity is no
        number.
        """
        volume, labels = self._open()
        scale = labels.scale_um or volume.scale_um
        table = merged(list(blocks), labels.shape, scale, max(1, volume.channels))
        path = write_table(self.out, "nuclei", table)
        nonfinite = sum(sum(map(sum, block.get("nonfinite", ()))) for block in blocks)
        return {"nuclei": len(table["id"]), "table": str(path), "nonfinite": nonfinite}

    def expected_memory(self) -> tuple[int, int]:
        """A block of labels and of raw voxels, and 0.3 GiB."""
        volume, labels = self._open()
        raw = max(1, volume.channels) * volume.dtype.itemsize
        size = prod(self.grid().block) * (2 * labels.dtype.itemsize + 2 * raw) + 3 * 2**30 // 10
        return size, size

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


def merged(
    blocks: list[dict[str, Any]],
    shape: tuple[int, int, int],
    scale_um: tuple[float, float, float] | None,
    channels: int,
) -> dict[str, np.ndarray]:
    """The table of nuclei, ids ascending, from what `Measure.process` returned for each block.

    Args:
        blocks: In any order; the order decides the last bit of the mean of float intensities.
        shape: Of the volume, z, y, x.
        scale_um: Size of a voxel, or None.
        channels: Of the raw image.
    """
    every = np.array([i for block in blocks for i in block["id"]], np.uint64)
    ids, place = np.unique(every, return_inverse=True)

    def column(name: str, width: int) -> np.ndarray:
        return np.array([row for block in blocks for row in block[name]]).reshape(len(every), width)

    voxels = np.zeros(len(ids), np.int64)
    np.add.at(voxels, place, column("voxels", 1)[:, 0].astype(np.int64))
    sums = np.zeros((len(ids), 3), np.int64)
    np.add.at(sums, place, column("zyx", 3).astype(np.int64))
    box = column("box", 6).astype(np.int64)
    begin = np.full((len(ids), 3), np.iinfo(np.int64).max)
    end = np.zeros((len(ids), 3), np.int64)
    np.minimum.at(begin, place, box[:, :3])
    np.maximum.at(end, place, box[:, 3:])
    centers = sums / voxels[:, None]

    table: dict[str, np.ndarray] = {"id": ids}
    table |= {axis: centers[:, k] for k, axis in enumerate("zyx")}
    if scale_um is not None:
        table |= {f"{axis}_um": centers[:, k] * scale_um[k] for k, axis in enumerate("zyx")}
    table["voxels"] = voxels
    if scale_um is not None:
        table["volume_um3"] = voxels * prod(scale_um)
    table |= {f"{axis}_begin": begin[:, k] for k, axis in enumerate("zyx")}
    table |= {f"{axis}_end": end[:, k] for k, axis in enumerate("zyx")}
    for channel in range(channels):
        light = np.zeros(len(ids))
        parts = [value for block in blocks for value in block["intensity"][channel]]
        np.add.at(light, place, np.array(parts, np.float64))
        name = "mean_intensity" if channels == 1 else f"mean_intensity_{channel}"
        table[name] = light / voxels
        if any("nonfinite" in block for block in blocks):
            counted = voxels.copy()
            every_block = (block.get("nonfinite", [[0] * len(block["id"])] * channels) for block in blocks)
            np.subtract.at(
                counted, place, np.array([n for lost in every_block for n in lost[channel]], np.int64)
            )
            table[name] = np.divide(light, counted, out=np.full(len(ids), np.nan), where=counted > 0)
    table["touches_border"] = (begin == 0).any(axis=1) | (end == np.array(shape)).any(axis=1)
    return table


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


@njit(cache=True, nogil=True)
def _intensity(labels: np.ndarray, raw: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """For each id the sum of the raw values, float64."""
    depth, height, width = labels.shape
    sums = np.zeros(ids.size, np.float64)
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
                sums[index] += np.float64(raw[z, y, x])
    return sums
