"""Creating OME-Zarr 0.5 images and labels on disk."""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from nucseg.errors import InputError
from nucseg.storage import ome
from nucseg.storage.encoding import Encoding, attributes_of
from nucseg.storage.stored import Float3

_OURS = {".nucseg", "tables"}
"""Entries that a folder may have before it becomes a zarr group: run records and tables of nucseg."""


def write_image(
    path: str,
    *,
    shape: tuple[int, ...],
    dtype: np.dtype,
    scale_um: Float3 | None,
    axes: Sequence[str],
    chunks: Sequence[int] | None,
    shards: Sequence[int] | None,
    name: str | None,
    channel_names: Sequence[str] | None,
    overwrite: bool,
    encoding: Encoding | None = None,
) -> None:
    """Create the image group and its array of zeros; see `nucseg.volume.create_image`."""
    _check(path, shape, dtype, axes, "buif")
    if channel_names is not None and (axes[0] != "c" or len(channel_names) != shape[0]):
        raise InputError(
            f"{path}: channel_names",
            expected="one name a channel",
            received=f"{list(channel_names)} for shape {shape}",
            remedy="correct them",
        )
    layout = _layout(path, shape, chunks, shards)
    content = ome.image_metadata(
        name=name or Path(path).name.removesuffix(".zarr"),
        axes=axes,
        scale_um=scale_um,
        dtype=dtype,
        channel_names=channel_names,
    )
    group = _group_at(path)
    if "0" in group or "multiscales" in ome.metadata(group):
        _refuse_unless(overwrite, path, "an image")
        for key in {"0", *(d["path"] for d in _datasets(group))}:
            shutil.rmtree(Path(path) / key, ignore_errors=True)
    _write_level(group, shape, dtype, axes, layout, content, encoding)


def write_labels(
    path: str,
    name: str,
    *,
    shape: Sequence[int],
    dtype: np.dtype,
    scale_um: Float3 | None,
    chunks: Sequence[int] | None,
    shards: Sequence[int] | None,
    overwrite: bool,
) -> None:
    """Create a label image below a group and list it; see `nucseg.volume.create_labels`."""
    where = os.path.join(path, "labels", name)
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(
            "labels' name",
            expected="a plain name such as 'nuclei'",
            received=repr(name),
            remedy="leave out dots and slashes",
        )
    _check(where, tuple(shape), dtype, ("z", "y", "x"), "iu")
    layout = _layout(where, tuple(shape), chunks, shards)
    parent = _group_at(path)
    content = ome.image_metadata(
        name=name,
        axes=("z", "y", "x"),
        scale_um=scale_um,
        dtype=dtype,
        label=True,
        source="../../" if "multiscales" in ome.metadata(parent) else None,
    )
    folder = _group_at(os.path.join(path, "labels"))
    if (Path(where)).exists():
        group = _group_at(where)
        if group.attrs or len(group):
            kind = "labels" if "image-label" in ome.metadata(group) else "something that is no label image"
            _refuse_unless(overwrite and kind == "labels", where, kind)
            shutil.rmtree(where)
    group = _group_at(where)
    _write_level(group, tuple(shape), dtype, ("z", "y", "x"), layout, content)
    listed = list(ome.metadata(folder).get("labels", []))
    if name not in listed:
        folder.attrs["ome"] = {**ome.metadata(folder), **ome.labels_metadata([*listed, name])}


def _write_level(
    group: zarr.Group,
    shape: tuple[int, ...],
    dtype: np.dtype,
    axes: Sequence[str],
    layout: tuple[tuple[int, ...], tuple[int, ...]],
    content: dict[str, Any],
    encoding: Encoding | None = None,
) -> None:
    chunks, shards = layout
    group.create_array(
        "0",
        shape=shape,
        dtype=dtype.newbyteorder("="),
        chunks=chunks,
        shards=shards,
        compressors=ZstdCodec(level=3, checksum=True),
        fill_value=0,
        dimension_names=list(axes),
        attributes=attributes_of(encoding),
    )
    group.attrs["ome"] = content


def _group_at(path: str) -> zarr.Group:
    """The zarr group of a folder, made if the folder is missing, empty, or holds only nucseg's records.

    Raises:
        InputError: If the folder holds anything else, or cannot be written.
    """
    folder = Path(path)
    try:
        if folder.is_dir() and not ome.is_zarr(folder):
            foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in _OURS)
            if foreign:
                more = " ..." if len(foreign) > 3 else ""
                raise InputError(
                    path,
                    expected="a new or empty folder, or a zarr group",
                    received=f"a folder that holds {', '.join(foreign[:3])}{more}",
                    remedy="choose another folder; nothing was changed",
                )
        if folder.is_dir() and not (folder / "zarr.json").is_file() and ome.is_zarr(folder):
            raise InputError(
                path,
                expected="a group of zarr format 3 (OME-Zarr 0.5)",
                received="zarr format 2 (OME-Zarr 0.4)",
                remedy="write to another folder, or `nucseg convert` it to 0.5 first",
            )
        if ome.is_zarr(folder):
            return ome.open_group(path, "r+")
        folder.mkdir(parents=True, exist_ok=True)
        return zarr.open_group(path, mode="a", zarr_format=3)
    except OSError as error:
        raise InputError(
            path,
            expected="a folder that can be written",
            received=f"{type(error).__name__}: {error.strerror or error}",
            remedy="choose another folder, or ask for the right to write there",
        ) from error


def _datasets(group: zarr.Group) -> list[dict[str, Any]]:
    multiscales = ome.metadata(group).get("multiscales") or [{}]
    return [dataset for dataset in multiscales[0].get("datasets", []) if "/" not in dataset["path"]]


def _refuse_unless(allowed: bool, path: str, there: str) -> None:
    if not allowed:
        raise InputError(
            path,
            expected="no image or labels there yet",
            received=f"{there} from earlier",
            remedy="choose another name, or ask to overwrite it (--overwrite); nothing was changed",
        )


def _check(path: str, shape: tuple[int, ...], dtype: np.dtype, axes: Sequence[str], kinds: str) -> None:
    if (
        tuple(axes) not in (("z", "y", "x"), ("c", "z", "y", "x"))
        or len(shape) != len(axes)
        or min(shape) < 1
    ):
        raise InputError(
            f"{path}: shape",
            expected="positive lengths for axes (z, y, x) or (c, z, y, x)",
            received=f"{shape} for {tuple(axes)}",
            remedy="correct the shape or the axes",
        )
    if dtype.kind not in kinds:
        raise InputError(
            f"{path}: dtype",
            expected="an integer dtype" if kinds == "iu" else "an integer, float or bool dtype",
            received=str(dtype),
            remedy="choose another dtype",
        )


def _layout(
    path: str, shape: tuple[int, ...], chunks: Sequence[int] | None, shards: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunks and shards of all axes; a chunk holds one channel, a shard all."""
    leading = shape[:-3]
    if shards is None:
        longest = 128 if leading and leading[0] > 1 else 256
        whole = tuple(min(longest, length) for length in shape[-3:])
        if chunks is not None:  # whole chunks in a shard
            whole = tuple(max(side // chunk, 1) * chunk for side, chunk in zip(whole, chunks, strict=True))
    else:
        whole = tuple(shards)
    parts = tuple(_divisor(side) for side in whole) if chunks is None else tuple(chunks)
    if (
        len(whole) != 3
        or len(parts) != 3
        or min(*whole, *parts) < 1
        or any(side % part for side, part in zip(whole, parts, strict=True))
    ):
        raise InputError(
            f"{path}: shards and chunks",
            expected="three positive lengths each (z, y, x), chunks that divide the shards",
            received=f"shards {whole}, chunks {parts}",
            remedy="choose others, or leave out the chunks",
        )
    return (*(1 for _ in leading), *parts), (*leading, *whole)


def _divisor(side: int) -> int:
    """The divisor that is nearest to 64 by ratio: a prime side is better whole than in single voxels."""
    divisors = [divisor for divisor in range(1, side + 1) if side % divisor == 0]
    return min(divisors, key=lambda divisor: (abs(math.log(divisor / 64)), divisor), default=0)
