"""An array as it lies in its file: which axes, in which order, how large a voxel is."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nucseg.errors import InputError
from nucseg.storage.encoding import Encoding
from nucseg.storage.remote import is_network_error

Int3 = tuple[int, int, int]
Float3 = tuple[float, float, float]

_MICROMETERS = {
    "angstrom": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "inch": 25400.0,
}
_ABBREVIATIONS = {
    "å": "angstrom",
    "pm": "picometer",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",  # U+00B5 micro sign
    "μm": "micrometer",  # U+03BC greek mu
    "\\u00b5m": "micrometer",  # as ImageJ escapes it
    "micron": "micrometer",
    "microns": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
}


def unit_um(unit: str | None) -> float | None:
    """Length of a unit in micrometres, or None for a unit that is no known length ("pixel", nothing)."""
    if not unit:
        return None
    name = unit.strip().lower()
    name = _ABBREVIATIONS.get(name, name).replace("metre", "meter")
    return _MICROMETERS.get(name, _MICROMETERS.get(name.removesuffix("s")))


def checked_scale(where: str, scale_um: Sequence[float] | None) -> Float3 | None:
    """The voxel size as three positive finite floats (z, y, x), or None.

    Raises:
        InputError: If it has not three members, or one is zero, negative or not finite.
    """
    if scale_um is None:
        return None
    values = tuple(float(value) for value in scale_um)
    if len(values) != 3 or not all(math.isfinite(value) and value > 0 for value in values):
        raise InputError(
            f"{where}: voxel size",
            expected="three positive lengths (z, y, x) in micrometres",
            received=str(tuple(scale_um)),
            remedy="give the right one, e.g. `nucseg convert IN OUT --scale-um Z Y X`",
        )
    return values


@dataclass(frozen=True)
class Stored:
    """How an array lies in a file, and how to open it.

    The array is opened on first use and again in every forked process, because file handles (TIFF, HDF5)
    share their position with the parent's.

    Attributes:
        where: Path as the user gave it, for messages.
        axes: One letter an axis in the file's order: z, y, x, at most one c, and others (t) of length 1.
        shape: Length of every axis, in the same order.
        dtype: Of what is read, maybe not of native byte order: as stored, or float32 where values are encoded.
        scale_um: Voxel size (z, y, x) in micrometres as the file says it, unchecked; or None.
        open: Opens the array.
        channel_names: Names of the channels where the file gives them.
        encoding: How values are stored; None: as they are.
    """

    where: str
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scale_um: tuple[float, ...] | None
    open: Callable[[], Any] = field(repr=False)
    channel_names: tuple[str, ...] = ()
    encoding: Encoding | None = None
    _opened: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_axes(self.where, self.axes, self.shape)
        if self.dtype.kind not in "buif" or self.dtype.itemsize > 8:
            raise InputError(
                self.where,
                expected="an array of integers, floats or booleans, of at most 64 bits",
                received=f"dtype {self.dtype}",
                remedy="convert it to one of these first",
            )

    @property
    def array(self) -> Any:
        """The array, opened once in each process."""
        process = os.getpid()
        if process not in self._opened:
            self._opened.clear()
            self._opened[process] = self.open()
        return self._opened[process]

    def length(self, axis: str) -> int:
        """Length of an axis; 0 if there is none of that name."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 0

    def read(self, begin: Int3, shape: Int3, channel: int | None) -> np.ndarray:
        """Read a region that lies inside; a fresh array, native byte order, (z, y, x) or (c, z, y, x).

        Raises:
            InputError: The file is damaged there.
        """
        wanted: dict[str, int | slice] = {
            axis: slice(first, first + length)
            for axis, first, length in zip("zyx", begin, shape, strict=True)
        }
        wanted["c"] = slice(None) if channel is None else channel
        try:
            data = np.asarray(self.array[tuple(wanted.get(axis, 0) for axis in self.axes)])
        except (InputError, MemoryError):
            raise
        except Exception as error:  # each library and codec has its own
            if (isinstance(error, OSError) and error.errno is not None) or is_network_error(error):
                raise  # the file system's or the network's: missing, not allowed, not reachable now
            region = ", ".join(f"{b}:{b + n}" for b, n in zip(begin, shape, strict=True))
            raise InputError(
                f"{self.where} [{region}]",
                expected="voxels that can be read",
                received=f"damaged data ({type(error).__name__}: {' '.join(str(error).split())})",
                remedy="restore the file from a copy, or make it again",
            ) from error
        kept = [axis for axis in self.axes if isinstance(wanted.get(axis, 0), slice)]
        order = [axis for axis in "czyx" if axis in kept]
        data = data.transpose([kept.index(axis) for axis in order])
        if self.encoding is not None:
            data = self.encoding.decode(data, channel)
        return np.array(data, dtype=self.dtype.newbyteorder("="), order="C", copy=True)


def _check_axes(where: str, axes: str, shape: tuple[int, ...]) -> None:
    received = f"axes {axes or 'none'} of shape {tuple(shape)}"
    expected = "axes z, y, x, with an optional channel axis"
    if len(axes) != len(shape):
        raise InputError(
            where,
            expected=f"{len(shape)} axis names for {len(shape)} axes",
            received=repr(axes),
            remedy="repair the file's axes metadata",
        )
    if any(axes.count(axis) != 1 for axis in "zyx") or axes.count("c") > 1:
        remedy = "a single plane is no volume; stack the planes first" if len(shape) < 3 else "name the axes"
        raise InputError(where, expected=expected, received=received, remedy=remedy)
    for axis, length in zip(axes, shape, strict=True):
        if length == 0:
            raise InputError(
                where, expected="at least one voxel", received=received, remedy="write the volume again"
            )
        if axis not in "czyx" and length > 1:
            raise InputError(
                where,
                expected=f"{expected}; axis {axis} of length 1",
                received=received,
                remedy="save one time point as its own volume; if this axis is really z, relabel it "
                "(in Fiji: Image > Properties)",
            )


def unlabelled_axes(where: str, shape: tuple[int, ...]) -> str:
    """Axes of an array that names none: 3-D is zyx, 4-D is czyx with at most 32 channels.

    Raises:
        InputError: For another number of axes, or more channels.
    """
    if len(shape) == 3:
        return "zyx"
    if len(shape) == 4 and shape[0] <= 32:
        return "czyx"
    raise InputError(
        where,
        expected="3 axes (z, y, x), or 4 with at most 32 channels first (c, z, y, x)",
        received=f"{len(shape)} unnamed axes of shape {tuple(shape)}",
        remedy="a single plane is no volume; stack the planes first"
        if len(shape) < 3
        else "save one volume a file, or store the axes' names in it",
    )


def fitted(path: str, data: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The data in another dtype, if no value changes but by rounding to a narrower float."""
    if np.can_cast(data.dtype, dtype, "safe") or (dtype.kind == "f" and data.dtype.kind in "biuf"):
        return data.astype(dtype, copy=False)
    if data.dtype.kind in "iu" and dtype.kind in "iu" and data.size:
        limits = np.iinfo(dtype)
        if limits.min <= int(data.min()) and int(data.max()) <= limits.max:
            return data.astype(dtype)
    elif not data.size:
        return data.astype(dtype)
    low, high = (data.min(), data.max()) if data.size else (0, 0)
    raise InputError(
        f"{path}: data to write",
        expected=f"values that fit {dtype}",
        received=f"{data.dtype} from {low} to {high}",
        remedy="create the volume with a wider dtype",
    )
