"""Levels of an OME-Zarr image (0.4 or 0.5): their arrays, and the metadata that lists them.

A level's array is made and filled first and listed last, so that no reader meets a level that is half written. The
metadata file is replaced as a whole.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from nucseg.errors import InputError
from nucseg.storage import ome
from nucseg.storage.encoding import Encoding, attributes_of
from nucseg.storage.stored import Int3

_NOTE = Path(".nucseg") / "metadata-with-levels"
"""Size and time that the metadata file had before levels were listed in it, and those it has had since."""


def is_image(path: str | Path) -> bool:
    """Whether there is an OME-Zarr image or label image."""
    if not ome.is_zarr(path):
        return False
    node = ome.open_node(str(path))
    return isinstance(node, zarr.Group) and ome.finest_level(node) is not None


def is_label_image(path: str | Path) -> bool:
    """Whether there is an OME-Zarr label image, whose voxels are ids."""
    return is_image(path) and "image-label" in ome.metadata(ome.open_group(str(path)))


def level_paths(path: str | Path) -> list[str]:
    """Paths of an image's levels inside its group, the finest first, as its metadata lists them; [] for no image."""
    return [str(dataset["path"]) for dataset in _multiscale(path)["datasets"]] if is_image(path) else []


def new_level_path(path: str | Path, level: int) -> str:
    """Where a level belongs inside an image's group: "0" is followed by "1", "s0" by "s1"."""
    finest = next(iter(level_paths(path)), "0")
    prefix = re.fullmatch(r"([^/]*?)0", finest)
    return f"{prefix.group(1) if prefix else ''}{level}"


def create_level(
    group: str | Path,
    name: str,
    *,
    like: zarr.Array | None,
    axes: str,
    shape: Sequence[int],
    dtype: np.dtype,
    chunks: Int3,
    shards: Int3 | None,
    encoding: Encoding | None = None,
) -> None:
    """Create the array of a level, zeros; it is not listed yet.

    Args:
        group: The image's group.
        name: Path in it.
        like: The image's finest array: the level has its zarr format and, in format 2, its compression. None: format 3.
        axes: One letter an axis, in the order of `shape`.
        shape: Length of every axis.
        dtype: As it is stored.
        chunks: Unit of compression z, y, x; one voxel along other axes.
        shards: Unit of writing z, y, x, all of the other axes; None: the chunk.
        encoding: How values are stored; None: as they are.
    """
    parts = tuple(chunks["zyx".index(axis)] if axis in "zyx" else 1 for axis in axes)
    node = ome.open_group(str(group), "r+")
    if like is not None and like.metadata.zarr_format == 2:
        separator = like.metadata.dimension_separator
        node.create_array(
            name,
            shape=tuple(shape),
            dtype=dtype,
            chunks=parts,
            compressors=like.compressors,
            filters=like.filters,
            fill_value=0,
            chunk_key_encoding={"name": "v2", "separator": separator},
            attributes=attributes_of(encoding),
        )
        return
    whole = shards and tuple(
        shards["zyx".index(axis)] if axis in "zyx" else length
        for axis, length in zip(axes, shape, strict=True)
    )
    node.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype.newbyteorder("="),
        chunks=parts,
        shards=whole,
        compressors=ZstdCodec(level=3, checksum=True),
        fill_value=0,
        dimension_names=list(axes),
        attributes=attributes_of(encoding),
    )


def list_level(path: str | Path, name: str, factor: Int3, method: str) -> None:
    """List a finished level behind the last one; nothing changes where it is listed already.

    The voxel of a level is `factor` voxels of the level before, so its centre lies (factor - 1) / 2 of those further
    from the corner: the scale is multiplied, and the translation (in the unit of the axes, as NGFF has it) says where
    the centre of the first voxel is.

    Args:
        path: The image's group.
        name: Path of the level in it.
        factor: Voxels z, y, x of the last level that became one.
        method: How, for the metadata.

    Raises:
        InputError: The last level has no scale.
    """
    if name in level_paths(path):
        return
    multiscale = _multiscale(path)
    scale, translation = _transformation(path, multiscale)
    names = [str(axis["name"])[:1].lower() for axis in multiscale["axes"]]
    factors = [factor["zyx".index(axis)] if axis in "zyx" else 1 for axis in names]
    steps = {
        "scale": [s * f for s, f in zip(scale, factors, strict=True)],
        "translation": [t + (f - 1) / 2 * s for t, f, s in zip(translation, factors, scale, strict=True)],
    }
    listed = {
        "path": name,
        "coordinateTransformations": [{"type": kind, kind: v} for kind, v in steps.items()],
    }
    _write(
        path,
        {
            **multiscale,
            "datasets": [*multiscale["datasets"], listed],
            "type": method,
            "metadata": {
                "method": "nucseg downsample",
                "description": f"each level from the one before: {method}",
            },
        },
    )


def check_scales(path: str | Path) -> None:
    """See that levels can be listed behind the last one.

    Raises:
        InputError: The last level has no scale, or axes have no names.
    """
    _transformation(path, _multiscale(path))


def keep_levels(path: str | Path, number: int) -> None:
    """List only the finest levels; the arrays stay."""
    multiscale = _multiscale(path)
    if len(multiscale["datasets"]) > number:
        kept = {key: value for key, value in multiscale.items() if key not in ("type", "metadata")}
        _write(path, {**kept, "datasets": multiscale["datasets"][:number]})


def size_and_time(file: Path) -> tuple[int, int]:
    """Bytes of a metadata file and its time (ns), as they were before nucseg listed levels in it.

    An image is no other input because coarser levels were added: a run on it can still be resumed.
    """
    stat = file.stat()
    now = [stat.st_size, stat.st_mtime_ns]
    size, changed = _known(file, now)["before"]
    return size, changed


def _known(file: Path, now: list[int]) -> dict[str, Any]:
    """What the note says about a metadata file that is as nucseg wrote it; else that nothing came before it."""
    note = file.parent / _NOTE
    known: dict[str, Any] = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {"after": []}
    return known if now in known["after"] else {"before": now, "after": []}


def _multiscale(path: str | Path) -> dict[str, Any]:
    multiscale: dict[str, Any] = ome.metadata(ome.open_group(str(path)))["multiscales"][0]
    return multiscale


def _transformation(path: str | Path, multiscale: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Scale and translation of the last level, a value an axis."""
    axes = multiscale.get("axes") or []
    steps = multiscale["datasets"][-1].get("coordinateTransformations") or []
    found = {step.get("type"): step.get(step.get("type")) for step in steps}
    scale, translation = found.get("scale"), found.get("translation", [0.0] * len(axes))
    fits = all(isinstance(values, list) and len(values) == len(axes) for values in (scale, translation))
    if not (
        axes
        and all(isinstance(axis, dict) for axis in axes)
        and fits
        and set(found) <= {"scale", "translation"}
    ):
        raise InputError(
            f"{path}: coordinateTransformations",
            expected="OME-Zarr 0.4 or 0.5: a scale for every axis, and at most a translation",
            received=json.dumps(steps),
            remedy="write the image anew: `nucseg convert IN OUT.zarr`",
        )
    return [float(s) for s in scale or []], [float(t) for t in translation]


def _write(path: str | Path, multiscale: dict[str, Any]) -> None:
    """Replace the first multiscale in an image's metadata, and drop consolidated copies of it, which are outdated."""
    folder = Path(path)
    content = ome.metadata(ome.open_group(str(folder)))
    others = content["multiscales"][1:]
    new = {**content, "multiscales": [multiscale, *others]}
    for above in (folder.parent.parent, folder.parent, folder):
        (above / ".zmetadata").unlink(missing_ok=True)
        if (file := above / "zarr.json").is_file():
            document = json.loads(file.read_text(encoding="utf-8"))
            outdated = document.pop("consolidated_metadata", None)
            if above == folder:
                attributes = document.setdefault("attributes", {})
                document["attributes"] = {**attributes, "ome": new} if "ome" in attributes else new
            if above == folder or outdated is not None:
                _replace(file, document)
    if (file := folder / ".zattrs").is_file():
        _replace(file, new)


def _replace(file: Path, document: dict[str, Any]) -> None:
    stat = file.stat()
    known = _known(file, [stat.st_size, stat.st_mtime_ns])
    temporary = file.with_name(f"{file.name}.{os.getpid()}.new")
    temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    stat = temporary.stat()
    note = file.parent / _NOTE
    note.parent.mkdir(exist_ok=True)
    staged = note.with_name(f"{note.name}.{os.getpid()}.new")
    known = {
        **known,
        "after": [*known["after"], [stat.st_size, stat.st_mtime_ns]],
    }  # a kill may leave either file
    staged.write_text(json.dumps(known), encoding="utf-8")
    staged.replace(note)
    temporary.replace(file)
