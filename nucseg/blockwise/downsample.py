"""Coarser levels of an OME-Zarr image or label image, block by block."""

from collections.abc import Callable, Sequence
from itertools import count
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import zarr
from pydantic import Field, PrivateAttr, field_validator

from nucseg.blockwise.grid import Block, Grid, Shape
from nucseg.blockwise.labels import labels_records
from nucseg.blockwise.level import (
    SIDE,
    Layout,
    default_factor,
    layout_of,
    piece_shape,
    shortened,
    slices_of,
    sum_of_levels,
    values_digest,
    zyx_of,
)
from nucseg.blockwise.level_group import (
    check_group,
    claim_level,
    claimed,
    forget_levels,
    level_array,
    write_box,
)
from nucseg.blockwise.records import Records, identity
from nucseg.blockwise.task import Task
from nucseg.errors import InputError
from nucseg.instances.digest import combine
from nucseg.instances.downsample import cell_means, coarse_shape, frequent_labels
from nucseg.storage import pyramid
from nucseg.volume import Volume, open_labels, open_volume

if TYPE_CHECKING:
    from nucseg.blockwise.launch import Launcher


class Downsample(Task):
    """Levels 1, 2, ... of an OME-Zarr image, each from the one before, listed in its metadata when they are complete.

    A voxel of a level is the mean of a cell of voxels of the level before (`instances.cell_means`), or for labels the
    most frequent of them (`instances.frequent_labels`), so that no id is invented. A level is as long as the one before
    divided by the factor, rounded up; it is the same for every block and number of workers. Chunks and shards are those
    of level 0, as far as the level is as large.

    Records lie in the image's own group, one task a level: `downsample-1`, ...
    """

    out: str = ""
    """Nothing: in place, in the group of the image. Internal otherwise: that group."""
    volume: str
    """The OME-Zarr image, or a label image."""
    labels: str | None = None
    """A label image below it, by name: its levels are made instead of the image's."""
    levels: int | None = Field(None, ge=1)
    """Number of coarser levels; None: until the largest side is below 256 voxels."""
    factor: tuple[int, int, int] | None = None
    """Voxels z, y, x that become one, from each level to the next. None: 2 along each axis whose voxels are at most
    1.5 times as long as the shortest, so that anisotropic voxels become isotropic first."""
    level: int = Field(1, ge=1)
    """The level that one pass makes; `blockwise` makes one after the other."""
    method: Literal["mean", "most frequent"] | None = None
    """None: the most frequent voxel of label images, the mean of others."""

    _source: Volume = PrivateAttr()
    _target: zarr.Array = PrivateAttr()

    @field_validator("factor")
    @classmethod
    def _positive(cls, factor: Shape | None) -> Shape | None:
        if factor is not None and (min(factor) < 1 or max(factor) == 1):
            raise InputError(
                "factor",
                expected="three whole numbers z, y, x, one of them above 1",
                received=str(factor),
                remedy="correct it, or leave it out: it follows from the voxel size",
            )
        return factor

    @property
    def name(self) -> str:  # type: ignore[override]
        """One task a level."""
        return f"downsample-{self.level}"

    def resolved(self) -> Self:
        """See `Task.resolved`: the image's group, the rule, the factor and the block of this pass are settled.

        Raises:
            InputError: No OME-Zarr image that can be written, no such labels, or an incomplete one.
        """
        task = self._placed()
        source = task._open_source()
        factor = task.factor or default_factor(source.shape, source.scale_um)
        shape = coarse_shape(source.shape, shortened(factor, source.shape))
        return task.model_copy(
            update={
                "levels": None,
                "factor": shortened(factor, source.shape),
                "block": task._layout(shape).block,
            }
        )

    def inputs(self) -> dict[str, Any]:
        """The level before: the run that made it, or its file's identity."""
        made: dict[str, Any] | None
        if self.level > 1:
            made = Records(self.out, f"downsample-{self.level - 1}").head()
        else:
            group = Path(self.out)
            made = (
                labels_records(group.parent.parent).head()
                if group.parts[-2:] == ("labels", "nuclei")
                else None
            )
        return {"source": made["hash"] if made else identity(level_array(self.out, self.level - 1))}

    def grid(self) -> Grid:
        """Blocks of the level that is made."""
        return Grid(self._shape(), self.block or self._layout(self._shape()).block)

    def outputs(self) -> list[Path]:
        """The level's array."""
        return [level_array(self.out, self.level)]

    def create(self) -> None:
        """Create the level's array, empty and not listed yet."""
        source, shape = self._open_source(), self._shape()
        stored, finest = source.stored, open_volume(self.out).array
        layout = self._layout(shape)
        pyramid.create_level(
            self.out,
            level_array(self.out, self.level).name,
            like=finest,
            axes=stored.axes,
            shape=[
                shape["zyx".index(axis)] if axis in "zyx" else stored.length(axis) for axis in stored.axes
            ],
            dtype=finest.dtype,
            chunks=layout.chunk,
            shards=layout.shard,
            encoding=stored.encoding,
        )

    def start_worker(self) -> None:
        """Open the level before and the one that is made."""
        self._source = self._open_source()
        self._target = zarr.open_array(level_array(self.out, self.level), mode="r+")

    def process(self, block: Block) -> dict[str, Any]:
        """Make one block, in pieces, and write it. Returns its `digest`."""
        factor, source = self._settled(), self._source
        values = np.empty((max(1, source.channels), *block.shape), source.dtype)
        reduce = frequent_labels if self.method == "most frequent" else cell_means
        for piece in Grid(block.shape, piece_shape(factor)):
            begin = tuple(f * (b + p) for f, b, p in zip(factor, block.begin, piece.begin, strict=True))
            size = tuple(
                min(f * s, n - b) for f, s, n, b in zip(factor, piece.shape, source.shape, begin, strict=True)
            )
            data = source.read((begin[0], begin[1], begin[2]), (size[0], size[1], size[2]))
            for channel, voxels in enumerate(data if data.ndim == 4 else data[None]):
                values[(channel, *slices_of(piece))] = reduce(voxels, factor)
        if encoding := source.stored.encoding:
            codes, _ = encoding.encode(values)  # means lie within the range of what they are means of
            write_box(self._target, source.stored.axes, block, codes)
            values = encoding.decode(codes)
        else:
            write_box(self._target, source.stored.axes, block, values)
        return {"digest": values_digest(values, block.begin, self.grid().volume)}

    def written(self) -> Path:
        """The level's array."""
        return level_array(self.out, self.level)

    def stored_digest(self, block: Block) -> str:
        """The digest of a block as it lies on disk, which equals what `process` returned.

        Raises:
            InputError: It cannot be read.
        """
        values = open_volume(self.written()).read(block.begin, block.shape)
        return values_digest(values if values.ndim == 4 else values[None], block.begin, self.grid().volume)

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """List the level. Returns its `digest`, `path`, `shape` and `scale_um`."""
        method = "mode" if self.method == "most frequent" else "mean"
        pyramid.list_level(self.out, level_array(self.out, self.level).name, self._settled(), method)
        made = open_volume(self.out, level=self.level)
        depth = max(1, made.channels) * made.shape[0]
        return {
            "digest": combine((int(block["digest"], 16) for block in blocks), (depth, *made.shape[1:])),
            "path": str(self.written()),
            "shape": list(made.shape),
            "scale_um": None if made.scale_um is None else list(made.scale_um),
        }

    def prepared(self, *, overwrite: bool = False, check: Callable[[Task], object] | None = None) -> Self:
        """See `Task.prepared`. A level that nucseg did not make, or makes otherwise, is refused unless overwritten."""
        task = self.resolved()
        records = Records(task.out, task.name)
        if not overwrite:
            if not claimed(records) and task.written().exists():
                raise InputError(
                    str(task.written()),
                    expected="no such level yet, or one that nucseg made",
                    received="a level of other origin",
                    remedy="keep it, or have all levels but the finest made anew with overwrite (--overwrite)",
                )
            records.check_same(task.description())
        if check:
            check(task)
        claim_level(records)
        return task

    def blockwise(
        self,
        launcher: "Launcher | None" = None,
        *,
        overwrite: bool = False,
        log: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Make one level after the other; the same call again goes on where it stopped.

        Args:
            launcher: Where workers run; None is one worker on this machine.
            overwrite: Delete all levels but the finest first, also those of other origin.
            log: Takes lines about what goes on.

        Returns:
            `levels`, for each that was asked for `path`, `shape`, `scale_um`, `digest`; and over all of them `digest`
            and the keys of `Task.blockwise`.

        Raises:
            InputError: The image cannot be used, or has such levels from elsewhere.
            BlocksFailed: Blocks are not done; the others are, and stay so.
        """
        task = self._placed()
        if overwrite:
            forget_levels(Path(task.out))
        steps = []
        for level in count(1):
            made = open_volume(task.out, level=level - 1)
            factor = shortened(task.factor or default_factor(made.shape, made.scale_um), made.shape)
            enough = max(made.shape) < SIDE if self.levels is None else level > self.levels
            if enough or max(factor) == 1:
                break
            one = task.model_copy(update={"level": level})
            steps.append(Task.blockwise(one, launcher, log=log))
        if log and not steps:
            log(f"{task.out}: no level to add, the largest side is below {SIDE} voxels")
        return sum_of_levels(steps)

    def expected_memory(self) -> tuple[int, int]:
        """A block and the piece that is read for it, each twice, and 0.3 GiB."""
        source, factor = self._open_source(), self._settled()
        read = prod(f * p for f, p in zip(factor, piece_shape(factor), strict=True))
        voxels = prod(self.grid().block) + read
        size = 2 * voxels * max(1, source.channels) * source.dtype.itemsize + 3 * 2**30 // 10
        return size, size

    def expected_output(self) -> int:
        """The level's voxels."""
        source = self._open_source()
        return prod(self._shape()) * max(1, source.channels) * source.array.dtype.itemsize

    def _placed(self) -> Self:
        """The task with its group, which is written, and its rule; a task that has them already stays as it is."""
        path = open_labels(self.volume, self.labels).path if self.labels else self.volume
        group = Path(self.out or path).resolve()
        check_group(group, path)
        voted = self.labels is not None or group.parent.name == "labels" or pyramid.is_label_image(group)
        method = self.method or ("most frequent" if voted else "mean")
        finest = open_volume(group)
        if method == "most frequent" and finest.dtype.kind not in "iu":
            raise InputError(
                str(group),
                expected="integer ids, to take the most frequent",
                received=f"dtype {finest.dtype}",
                remedy="give labels, or take the mean",
            )
        return self.model_copy(
            update={
                "volume": str(group),
                "out": str(group),
                "labels": None,
                "method": method,
            }
        )

    def _open_source(self) -> Volume:
        return open_volume(self.out, level=self.level - 1)

    def _shape(self) -> Shape:
        return coarse_shape(self._open_source().shape, self._settled())

    def _settled(self) -> Shape:
        if self.factor is None or self.method is None:
            raise ValueError("call resolved() first")
        return self.factor

    def _layout(self, shape: Shape) -> Layout:
        finest = open_volume(self.out)
        axes, array = finest.stored.axes, finest.array
        shard = array.shards and zyx_of(axes, array.shards)
        return layout_of(shape, zyx_of(axes, array.chunks), shard, self.block)
