"""Which reader a path needs."""

import os
from pathlib import Path

from nucseg.errors import InputError
from nucseg.storage import ome, remote
from nucseg.storage.stacks import HDF5_SUFFIXES, TIFF_SUFFIXES, open_hdf5, open_npy, open_tiff, split_hdf5
from nucseg.storage.stored import Stored

FILE_SUFFIXES = (
    *(*TIFF_SUFFIXES, *HDF5_SUFFIXES, ".npy", ".npz", ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".nrrd"),
    *(".nii", ".gz", ".zip", ".czi", ".lif", ".nd2", ".ims", ".n5", ".mrc", ".klb", ".csv", ".parquet"),
)
"""Endings of names that a user means for another kind of file than an OME-Zarr folder."""


def demand_folder_name(path: str, tiff: bool = False) -> None:
    """Refuse a name for a new OME-Zarr that ends as another kind of file does.

    Args:
        path: The name.
        tiff: Whether a TIFF can be written instead.

    Raises:
        InputError: It ends so.
    """
    suffix = Path(path).suffix.lower()
    if suffix in FILE_SUFFIXES:
        raise InputError(
            path,
            expected="the name of an OME-Zarr folder, such as out.zarr" + (", or of a .tif" if tiff else ""),
            received=f"the ending {suffix}",
            remedy="choose such a name"
            + ("" if tiff else "; `nucseg convert` makes a TIFF of it afterwards"),
        )


def real_path(path: str) -> str:
    """An absolute path without links, `.` and `..`, so that two ways to name one volume can be compared.

    Of `FILE.h5:DATASET` the file's, with the data set behind it. There need be nothing at the path.
    """
    if remote.is_remote(path):
        return remote.absolute(path)
    split = split_hdf5(path)
    if split is None:
        return os.path.realpath(path)
    return f"{os.path.realpath(split[0])}:{split[1].strip('/')}"


def open_stored(path: str, level: int = 0) -> Stored:
    """Open any format that nucseg reads.

    Raises:
        InputError: If there is nothing at the path or it is of another kind; the message says what is there.
    """
    lower = path.rstrip("/").lower()
    if ome.is_zarr(path):
        return ome.open_zarr(path, level)
    if remote.is_remote(path):
        raise InputError(
            path,
            expected="a zarr array or OME-Zarr image behind the URL",
            received="no zarr metadata there",
            remedy="check the address; other formats are read from files: download the volume first",
        )
    if level != 0:
        raise InputError(
            f"{path}: level",
            expected="0 (only OME-Zarr has levels)",
            received=str(level),
            remedy="leave it out",
        )
    if lower.endswith(TIFF_SUFFIXES):
        return open_tiff(path)
    if lower.endswith(".npy"):
        return open_npy(path)
    if split_hdf5(path):
        return open_hdf5(path)
    received = "another kind of file" if Path(path).is_file() else "a folder that is no zarr"
    remedy = "convert it to one of these"
    if not Path(path).exists():
        received, remedy = "nothing of that name", "check the path's spelling"
        parents = [parent for parent in Path(path).absolute().parents if parent.is_dir()]
        if parents and ome.is_zarr(parents[0]):
            inside = sorted(child.name for child in parents[0].iterdir() if ome.is_zarr(child))
            received = f"nothing of that name; {parents[0].name} holds {', '.join(inside) or 'nothing'}"
    raise InputError(
        path,
        expected=f"OME-Zarr, {', '.join(TIFF_SUFFIXES)}, .npy or FILE{HDF5_SUFFIXES[0]}:DATASET",
        received=received,
        remedy=remedy,
    )
