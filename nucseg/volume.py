"""Volumes: images and labels with axes and a voxel size, opened, created, read and written."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import DTypeLike

from nucseg.errors import InputError
from nucseg.storage import ome, remote
from nucseg.storage.encoding import Encoding
from nucseg.storage.stored import Float3, Int3, checked_scale
from nucseg.storage.volume import Volume, open_volume
from nucseg.storage.writer import write_image, write_labels

__all__ = [
    "Volume",
    "check_labels_inside",
    "create_image",
    "create_labels",
    "find_labels",
    "open_labels",
    "open_volume",
]


def open_labels(path: str | Path, name: str = "nuclei", *, level: int = 0) -> Volume:
    """Open labels: the label image `name` below an OME-Zarr, or a label image, array or file itself.

    Args:
        path: The OME-Zarr with `labels/NAME`, or the labels themselves.
        name: Name of the label image.
        level: Level of an OME-Zarr pyramid.

    Raises:
        InputError: As `open_volume`; if there are no such labels (names those there are); if the labels are
            not of an integer dtype, or have several channels.
    """
    text = os.fspath(path)
    if ome.is_zarr(text):
        names = ome.label_names(text)
        node = ome.open_node(text)
        inner = remote.joined(text, f"labels/{name}")
        if ome.is_zarr(inner):
            text = inner
        elif names or (isinstance(node, zarr.Group) and "image-label" not in ome.metadata(node)):
            raise InputError(
                text,
                expected=f"labels named {name!r} below it",
                received=f"labels {', '.join(names)}" if names else "no labels",
                remedy="name one of these" if names else "give the label file or `PATH/labels/NAME` itself",
            )
    volume = open_volume(text, level=level)
    if volume.channels == 1:
        volume = open_volume(text, channel=0, level=level)
    if volume.channels or volume.dtype.kind not in "iu":
        channels = f", {volume.channels} channels" if volume.channels else ""
        remedy = "give instance labels; a mask becomes instances by labelling its connected components"
        if volume.channels == 3:
            remedy = "a picture in colour (RGB) has no ids; save the labels themselves, with one channel"
        elif volume.dtype.kind == "f":
            remedy = "save the ids as integers, e.g. labels.astype('uint32') (in Fiji: Image > Type > 16-bit, with "
            remedy += "Edit > Options > Conversions > Scale when converting off)"
        raise InputError(
            f"{text}: labels",
            expected="one integer id a voxel (0 is background)",
            received=f"dtype {volume.dtype}{channels}",
            remedy=remedy,
        )
    return volume


def check_labels_inside(raw: str, name: str, what: str = "volume") -> None:
    """Refuse a volume that has no labels inside: as labels of its own it would be taken for them itself.

    Args:
        raw: The image.
        name: Name of the label image.
        what: It is used as, for the message.

    Raises:
        InputError: There are no labels below it.
    """
    zarr_ = ome.is_zarr(raw)
    if ome.is_zarr(os.path.join(raw, "labels", name)) or (zarr_ and ome.label_names(raw)):
        return
    raise InputError(
        f"{what} {raw}",
        expected=f"an OME-Zarr with labels/{name} inside, or labels of its own",
        received="a Zarr without labels" if zarr_ else "a file of raw alone",
        remedy="give {raw = ..., labels = ...} instead of the bare path",
    )


def find_labels(source: str | Path, labels: str | Path) -> Volume:
    """Labels given as the name of a label image below `source`, or else as a path of their own.

    Raises:
        InputError: As `open_labels`; for what is neither, with the names that there are.
    """
    text = os.fspath(labels)
    names = ome.label_names(os.fspath(source)) if ome.is_zarr(source) else []
    if text in names:
        return open_labels(source, text)
    if names and not remote.is_remote(text) and not os.path.exists(text.partition(":")[0]):
        raise InputError(
            "labels",
            expected=f"a label file, or one of the source's labels: {', '.join(names)}",
            received=text,
            remedy="correct the name or the path",
        )
    return open_labels(text)


def create_image(
    path: str | Path,
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    scale_um: Float3 | None,
    axes: tuple[str, ...] = ("z", "y", "x"),
    chunks: Int3 | None = None,
    shards: Int3 | None = None,
    name: str | None = None,
    channel_names: Sequence[str] | None = None,
    overwrite: bool = False,
    encoding: Encoding | None = None,
) -> Volume:
    """Create an OME-Zarr 0.5 image; its array is `path/0`, zeros, zstd-compressed, in shards.

    Args:
        path: The image's group; made with its parents. An existing zarr group without an image is used.
        shape: (z, y, x) in voxels, or (c, z, y, x) if that is what `axes` says.
        dtype: Integer, float or bool.
        scale_um: Voxel size (z, y, x) in micrometres; None if unknown.
        axes: ("z", "y", "x") or ("c", "z", "y", "x").
        chunks: Unit of compression (z, y, x), must divide the shards; about 64 an axis if None.
        shards: Unit of writing (z, y, x); at most 256 an axis (128 with channels) if None. A shard holds all
            channels.
        name: Name in the metadata; the group's own if None.
        channel_names: One a channel.
        overwrite: Replace an image that is there; its labels and tables stay.
        encoding: How values are stored, which says the dtype; None: as they are.

    Raises:
        InputError: If the folder holds an image already (without `overwrite`) or something that is no zarr
            group, is not writable, or a shape or the voxel size cannot be used. Nothing is changed then.
    """
    write_image(
        os.fspath(path),
        shape=tuple(int(length) for length in shape),
        dtype=np.dtype(dtype if encoding is None else encoding.dtype),
        scale_um=checked_scale(os.fspath(path), scale_um),
        axes=axes,
        chunks=chunks,
        shards=shards,
        name=name,
        channel_names=channel_names,
        overwrite=overwrite,
        encoding=encoding,
    )
    return open_volume(path)


def create_labels(
    path: str | Path,
    name: str = "nuclei",
    *,
    shape: Int3,
    dtype: DTypeLike = "uint32",
    scale_um: Float3 | None,
    chunks: Int3 | None = None,
    shards: Int3 | None = None,
    overwrite: bool = False,
) -> Volume:
    """Create the label image `path/labels/name` (array `path/labels/name/0`, zeros), listed in `path/labels`.

    Args:
        path: An OME-Zarr image, another zarr group, or a new folder, which becomes a zarr group.
        name: Name of the label image.
        shape: (z, y, x) in voxels.
        dtype: An integer dtype; ids of nuclei are uint32 or uint64.
        scale_um: Voxel size (z, y, x) in micrometres; None if unknown.
        chunks: As in `create_image`.
        shards: As in `create_image`.
        overwrite: Replace labels of this name.

    Raises:
        InputError: As `create_image`; also for a dtype that is not integer.
    """
    write_labels(
        os.fspath(path),
        name,
        shape=shape,
        dtype=np.dtype(dtype),
        scale_um=checked_scale(os.fspath(path), scale_um),
        chunks=chunks,
        shards=shards,
        overwrite=overwrite,
    )
    return open_volume(os.path.join(os.fspath(path), "labels", name))
