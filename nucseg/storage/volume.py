"""A volume: axes, voxel size, lazy reading, writing by shards, intensity range."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr

from nucseg.errors import InputError
from nucseg.storage import remote
from nucseg.storage.formats import open_stored
from nucseg.storage.intensity import percentiles
from nucseg.storage.stacks import split_hdf5
from nucseg.storage.stored import Float3, Int3, Stored, checked_scale, fitted

SAMPLED_VOXELS = 2**30
"""`Volume.intensity_range` reads all of a volume up to this size, and a regular subset of a larger one."""


@dataclass(frozen=True)
class Volume:
    """An image or a label array of a file; arrays are z, y, x, with channels first where there are any.

    Made by `open_volume`, `open_labels`, `create_image` and `create_labels`. It pickles as its path and is
    opened again where it is unpickled.

    Attributes:
        path: As given: "a.zarr", "a.zarr/labels/nuclei", "a.tif", "a.npy", "a.h5:dataset".
        axes: ("z", "y", "x") or ("c", "z", "y", "x").
        scale_um: Voxel size (z, y, x) in micrometres, or None when the file does not say.
        shape: Spatial shape (z, y, x) in voxels.
        channels: Number of channels; 0 without a channel axis.
        dtype: Of what `read` returns; native byte order. float32 where values are stored encoded.
        channel: The one channel that is read, or None.
        level: Level of the image pyramid, 0 is the finest.
    """

    path: str
    axes: tuple[str, ...]
    scale_um: Float3 | None
    shape: Int3
    channels: int
    dtype: np.dtype
    channel: int | None
    level: int
    stored: Stored = field(repr=False, compare=False)

    @property
    def array(self) -> Any:
        """The underlying array in the file's order of axes, lazily read: a zarr.Array for zarr."""
        return self.stored.array

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels in the file, () where it has none."""
        return self.stored.channel_names

    @property
    def write_unit(self) -> Int3:
        """Shard (chunk where there are no shards) of a zarr array; else planes of at most 16 M voxels.

        The smallest region (z, y, x) that can be written, and the cheapest to read.
        """
        array = self.array
        if isinstance(array, zarr.Array):
            unit = dict(zip(self.stored.axes, array.shards or array.chunks, strict=True))
            return unit["z"], unit["y"], unit["x"]
        planes = max(1, 2**24 // prod(self.shape[1:]))
        return min(planes, self.shape[0]), self.shape[1], self.shape[2]

    def blocks(self, step: int = 1) -> Iterator[tuple[Int3, Int3]]:
        """Begin and shape (z, y, x) of the blocks of whole write units that cover the volume, in C order.

        Args:
            step: Every step-th of them, from the first; the others are not gone through.
        """
        unit = self.write_unit
        counts = tuple(-(-length // side) for length, side in zip(self.shape, unit, strict=True))
        for number in range(0, prod(counts), step):
            index = np.unravel_index(number, counts)
            begin = tuple(int(i) * side for i, side in zip(index, unit, strict=True))
            yield (
                cast(Int3, begin),
                cast(Int3, tuple(min(s, n - b) for s, n, b in zip(unit, self.shape, begin, strict=True))),
            )

    def read(self, begin: Int3 = (0, 0, 0), shape: Int3 | None = None, fill: float = 0) -> np.ndarray:
        """Read a region, which may reach beyond the volume.

        Args:
            begin: First voxel (z, y, x); may be negative.
            shape: Number of voxels (z, y, x); to the volume's end if None.
            fill: Value of voxels outside the volume.

        Returns:
            A fresh C-ordered array of native byte order, (z, y, x) or (c, z, y, x).

        Raises:
            InputError: The file is damaged there.
        """
        first = tuple(int(b) for b in begin)
        size = tuple(n - b for n, b in zip(self.shape, first, strict=True)) if shape is None else tuple(shape)
        low = tuple(min(max(b, 0), n) for b, n in zip(first, self.shape, strict=True))
        high = tuple(min(max(b + s, 0), n) for b, s, n in zip(first, size, self.shape, strict=True))
        inside = tuple(max(h - lo, 0) for lo, h in zip(low, high, strict=True))
        leading = (self.channels,) if self.channels else ()
        if 0 in inside:
            return np.full((*leading, *size), fill, dtype=self.dtype)
        data = self.stored.read(cast(Int3, low), cast(Int3, inside), self.channel)
        if inside == size:
            return data
        padded = np.full((*leading, *size), fill, dtype=self.dtype)
        z, y, x = (slice(lo - b, lo - b + n) for lo, b, n in zip(low, first, inside, strict=True))
        padded[..., z, y, x] = data
        return padded

    def write(self, begin: Int3, data: np.ndarray) -> None:
        """Write a region of whole shards; only zarr.

        Two writers that share a shard would lose each other's voxels without an error, so the region must
        begin and end at multiples of `write_unit`, or end at the volume's border.

        Args:
            begin: First voxel (z, y, x).
            data: (z, y, x), or (c, z, y, x) with all channels. Values must fit the volume's dtype, or the range of
                its encoding, see `storage.encoding`.

        Raises:
            InputError: If the region is not made of whole shards or leaves the volume, the shape of `data`
                does not fit, its values would change in the dtype, or the volume is not writable zarr.
        """
        array = self.array
        if not isinstance(array, zarr.Array) or array.read_only or self.stored.axes != "".join(self.axes):
            raise InputError(
                self.path,
                expected="a writable zarr array with axes (c,) z, y, x, all channels",
                received=f"{type(array).__name__} of axes {self.stored.axes}, channel {self.channel}",
                remedy="convert it first: `nucseg convert IN OUT.zarr`",
            )
        leading = (self.channels,) if self.channels else ()
        if data.ndim != len(self.axes) or data.shape[:-3] != leading:
            raise InputError(
                f"{self.path}: data to write",
                expected=f"axes {self.axes} with {self.channels} channels",
                received=f"shape {data.shape}",
                remedy="pass all channels of the region, channels first",
            )
        end = tuple(b + n for b, n in zip(begin, data.shape[-3:], strict=True))
        for b, e, n, unit in zip(begin, end, self.shape, self.write_unit, strict=True):
            if b < 0 or e > n or b % unit or (e % unit and e != n):
                raise InputError(
                    f"{self.path}: region to write",
                    expected=f"whole shards of {self.write_unit} voxels, or up to the border of {self.shape}",
                    received=f"voxels {tuple(begin)} to {end}",
                    remedy="write whole shards, or create the volume with other `shards`",
                )
        z, y, x = (slice(b, e) for b, e in zip(begin, end, strict=True))
        array[..., z, y, x] = self._encoded(data)

    def _encoded(self, data: np.ndarray) -> np.ndarray:
        """Data as they are stored."""
        if (encoding := self.stored.encoding) is None:
            return fitted(self.path, data, self.dtype)
        codes, beyond = encoding.encode(data)
        if beyond:
            raise InputError(
                f"{self.path}: data to write",
                expected=f"values that its encoding as {encoding.dtype} can hold",
                received=f"{beyond} values beyond it",
                remedy="create the volume with a wider encoding",
            )
        return codes

    def intensity_range(self, low: float = 1.0, high: float = 99.8) -> tuple[float, float]:
        """Two percentiles of the voxels of all channels, exact, in constant memory.

        Volumes of more than 2**30 voxels are represented by every n-th write unit (C order, from the first),
        n the smallest with which at most about 2**30 voxels are read; the same file gives the same numbers.

        Args:
            low: Lower percentage.
            high: Upper percentage.

        Returns:
            The values at both percentages, the first smaller than the second.

        Raises:
            InputError: If no voxel is finite, the volume is constant, or both percentiles are the same value.
        """
        if not 0 <= low < high <= 100:
            raise InputError(
                "percentiles",
                expected="0 <= low < high <= 100",
                received=f"{low} and {high}",
                remedy="correct them",
            )
        step = -(-prod(self.shape) * max(self.channels, 1) // SAMPLED_VOXELS)
        chosen = list(self.blocks(max(1, step)))

        def parts() -> Iterator[np.ndarray]:
            return (self.read(*block) for block in chosen)

        (bottom, top), least, most = percentiles(parts, self.dtype, (low, high))
        if not bottom < top:
            if not least < most:
                received = "no finite voxel" if np.isnan(least) else f"every voxel at {least:g}"
                remedy = "check the file: the volume is empty or constant"
            else:
                received = f"both at {bottom:g} (values reach from {least:g} to {most:g})"
                remedy = "choose percentiles further apart"
            raise InputError(
                f"{self.path}: intensities",
                expected=f"percentiles {low:g} and {high:g} that differ",
                received=received,
                remedy=remedy,
            )
        return bottom, top

    def __reduce__(self) -> tuple:
        file, name = split_hdf5(self.path) or (self.path, "")
        path = os.path.abspath(file) + (f":{name}" if name else "")
        if remote.is_remote(self.path):
            path = self.path
        return _reopen, (path, self.channel, self.level, self.scale_um)


def _reopen(path: str, channel: int | None, level: int, scale_um: Float3 | None) -> Volume:
    return open_volume(path, channel=channel, level=level, scale_um=scale_um)


def open_volume(
    path: str | Path,
    *,
    channel: int | None = None,
    level: int = 0,
    scale_um: Float3 | None = None,
) -> Volume:
    """Open an image: OME-Zarr 0.4 or 0.5, bare zarr array, TIFF stack, `.npy`, or `file.h5:dataset`.

    Time axes of length 1 are dropped. Arrays that name no axes are z, y, x in 3-D and c, z, y, x in 4-D.

    Args:
        path: Where it is.
        channel: Read this channel only; the volume then has no channel axis.
        level: Level of an OME-Zarr pyramid.
        scale_um: Voxel size (z, y, x) to use instead of the file's.

    Raises:
        InputError: If it is missing, of another format, has other axes, no such channel or level, a voxel
            size that is not positive, or no voxels.
    """
    text = os.fspath(path)
    stored = open_stored(text, level)
    shape = (stored.length("z"), stored.length("y"), stored.length("x"))
    channels = stored.length("c")
    if channel is not None and not 0 <= channel < max(channels, 1):
        raise InputError(
            f"{text}: channel",
            expected=f"0 to {max(channels, 1) - 1}",
            received=str(channel),
            remedy="choose a channel that the volume has; they count from 0",
        )
    if channel is not None:
        channels = 0
    return Volume(
        path=text,
        axes=("c", "z", "y", "x") if channels else ("z", "y", "x"),
        scale_um=checked_scale(text, stored.scale_um if scale_um is None else scale_um),
        shape=shape,
        channels=channels,
        dtype=stored.dtype.newbyteorder("="),
        channel=channel,
        level=level,
        stored=stored,
    )
