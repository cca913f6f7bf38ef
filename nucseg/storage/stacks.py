"""TIFF stacks, `.npy` files and HDF5 datasets, read lazily."""

import logging
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import tifffile
import zarr

from nucseg.errors import InputError
from nucseg.storage.stored import Stored, unit_um, unlabelled_axes

TIFF_SUFFIXES = (".tif", ".tiff")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")


def open_npy(path: str) -> Stored:
    """A `.npy` file, memory-mapped: 3-D is zyx, 4-D czyx; it knows no voxel size."""
    _demand_file(path)

    def opened() -> np.ndarray:
        return np.load(path, mmap_mode="r", allow_pickle=False)

    try:
        array = opened()
    except (ValueError, OSError, EOFError) as error:
        raise _unreadable(path, "a .npy file of numbers", error) from error
    return Stored(path, unlabelled_axes(path, array.shape), array.shape, array.dtype, None, opened)


def split_hdf5(path: str) -> tuple[str, str] | None:
    """`("file.h5", "dataset")` of `file.h5:dataset` (dataset "" if not given); None if it is no HDF5 path."""
    match = re.match(r"(?P<file>.*\.(?:h5|hdf5|hdf))(?::(?P<dataset>.*))?$", path, re.IGNORECASE)
    return (match["file"], match["dataset"] or "") if match else None


def open_hdf5(path: str) -> Stored:
    """A dataset `file.h5:dataset`; its attributes `axes` ("zyx") and `element_size_um` (z, y, x) are used.

    Raises:
        InputError: If the file or the dataset is not there; the message lists the datasets that are.
    """
    split = split_hdf5(path)
    if split is None:
        raise ValueError(f"not an HDF5 path: {path}")
    file, name = split
    _demand_file(file)
    try:
        handle = h5py.File(file, "r")
    except OSError as error:
        raise _unreadable(file, "an HDF5 file", error) from error
    with handle:
        names: list[str] = []
        handle.visititems(lambda key, item: names.append(key) if isinstance(item, h5py.Dataset) else None)
        if not name and len(names) == 1:
            name = names[0]
        dataset = handle.get(name) if name else None
        if not isinstance(dataset, h5py.Dataset):
            raise InputError(
                path,
                expected=f"one of the datasets of {file}: {', '.join(names) or '(it has none)'}",
                received=repr(name) if name else "no dataset name",
                remedy=f"name it after a colon, e.g. {file}:{names[0] if names else 'raw'}",
            )
        shape, dtype = dataset.shape, dataset.dtype
        axes, size = dataset.attrs.get("axes"), dataset.attrs.get("element_size_um")
    if isinstance(axes, bytes):
        axes = axes.decode()
    named = "".join(axes).lower() if axes is not None else unlabelled_axes(path, shape)
    scale = None if size is None else tuple(float(length) for length in np.ravel(size))
    return Stored(path, named, shape, dtype, scale, lambda: h5py.File(file, "r")[name])


def open_tiff(path: str) -> Stored:
    """A TIFF stack of one series; axes and voxel size come from ImageJ or OME metadata where it has them.

    Uncompressed stacks are memory-mapped, others decoded page by page or tile by tile as they are read.

    Raises:
        InputError: If there is no such file, it is no TIFF, or it has several series.
    """
    _demand_file(path)
    try:
        with _quiet(), tifffile.TiffFile(path) as tiff:
            if len(tiff.series) != 1:
                raise InputError(
                    path,
                    expected="one image series",
                    received=f"{len(tiff.series)} of shapes {[s.shape for s in tiff.series]}",
                    remedy="save the wanted one as its own file",
                )
            series = tiff.series[0]
            axes = _tiff_axes(path, series)
            scale = _tiff_scale(tiff)
            _demand_whole(path, series)
            images = (tiff.imagej_metadata or {}).get("images", 1)
            if len(series.shape) == 2 and images > 1:
                raise _cut_off(path, f"1 of {images} planes")
            if series.keyframe.photometric == tifffile.PHOTOMETRIC.RGB and "z" not in axes:
                raise InputError(
                    path,
                    expected="one value a voxel, in planes of one volume",
                    received=f"colours (RGB) of shape {tuple(series.shape)}",
                    remedy="convert it to one channel first (in Fiji: Image > Type > 8-bit)",
                )
            mapped = series.dataoffset is not None and series.keyframe.is_memmappable
            shape, dtype = series.shape, np.dtype(series.dtype)
    except tifffile.TiffFileError as error:
        raise _unreadable(path, "a TIFF stack", error) from error

    def opened() -> Any:
        if mapped:
            return tifffile.memmap(path, mode="r", series=0)
        with _quiet():
            tiff = tifffile.TiffFile(path)
        array = zarr.open_array(tiff.series[0].aszarr(level=0), mode="r")
        weakref.finalize(array, tiff.close)
        return array

    return Stored(path, axes, tuple(shape), dtype, scale, opened)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that tifffile logs about a damaged file: the error says it."""
    log = logging.getLogger("tifffile")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _demand_whole(path: str, series: tifffile.TiffPageSeries) -> None:
    """Refuse a file that ends before its data do."""
    try:
        first = series.dataoffset  # None where the data are not in one piece
        last = series.pages[-1] if first is None else None
    except IndexError as error:
        raise _cut_off(path, "pages are missing") from error
    if first is not None:
        size, end = Path(path).stat().st_size, first + series.nbytes
    elif last is not None:  # None is a page in a file of its own that is not there
        size = last.parent.filehandle.size
        end = max((o + n for o, n in zip(last.dataoffsets, last.databytecounts, strict=True)), default=0)
    else:
        return
    if end > size:
        raise _cut_off(path, f"{size} bytes of at least {end}")


def _cut_off(path: str, received: str) -> InputError:
    return InputError(
        path,
        expected="a whole TIFF stack",
        received=f"one that is cut off ({received})",
        remedy="copy the file again",
    )


def _tiff_axes(path: str, series: tifffile.TiffPageSeries) -> str:
    """The series' axes; samples (S) are channels; unknown (Q, I) ones are z in 3-D, c and z in 4-D."""
    axes = series.axes.lower().replace("s", "c")
    if set(axes) - set("tczyx"):
        if len(axes) == 3 and axes.endswith("yx"):
            return "zyx"
        if not set("tcz") & set(axes):
            return unlabelled_axes(path, series.shape)
    return axes


def _tiff_scale(tiff: tifffile.TiffFile) -> tuple[float, ...] | None:
    if tiff.ome_metadata:
        return _ome_xml_scale(tiff.ome_metadata)
    if tiff.imagej_metadata:
        unit = unit_um(tiff.imagej_metadata.get("unit"))
        spacing = tiff.imagej_metadata.get("spacing")
        tags = tiff.pages.first.tags
        x, y = (tags[name].value if name in tags else None for name in ("XResolution", "YResolution"))
        if unit is None or spacing is None or not x or not y or 0 in (*x, *y):
            return None
        return spacing * unit, y[1] / y[0] * unit, x[1] / x[0] * unit
    return None


def _ome_xml_scale(xml: str) -> tuple[float, ...] | None:
    pixels = next((e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("}Pixels")), None)
    if pixels is None:
        return None
    sizes = []
    for axis in "ZYX":
        size = pixels.get(f"PhysicalSize{axis}")
        unit = unit_um(pixels.get(f"PhysicalSize{axis}Unit", "µm"))  # the schema's default unit
        if size is None or unit is None:
            return None
        sizes.append(float(size) * unit)
    return tuple(sizes)


def _demand_file(path: str) -> None:
    if not Path(path).is_file():
        raise InputError(
            path, expected="a file", received="no file of that name", remedy="check the path's spelling"
        )


def _unreadable(path: str, expected: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(path, expected=expected, received=f"something else ({reason})", remedy="check the file")
