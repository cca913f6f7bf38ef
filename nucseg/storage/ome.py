"""OME-Zarr: metadata of images and labels, read in versions 0.4 and 0.5, written in 0.5.

Specification: Next-generation file formats, https://ngff.openmicroscopy.org/0.5.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from yaozarrs import v05

from nucseg.errors import InputError
from nucseg.storage import remote
from nucseg.storage.encoding import noted_encoding
from nucseg.storage.stored import Float3, Stored, unit_um, unlabelled_axes

MARKS = ("zarr.json", ".zgroup", ".zarray")
"""Files that make a folder a zarr group or array."""


def is_zarr(path: str | Path) -> bool:
    """Whether the folder, or what is behind the URL, is a zarr group or array of format 2 or 3."""
    return any(remote.has_file(path, mark) for mark in MARKS)


def open_node(path: str, mode: str = "r") -> zarr.Array | zarr.Group:
    """Open a zarr array or group without consolidated (maybe outdated) metadata; one behind a URL only for reading.

    Raises:
        InputError: If the metadata cannot be read.
    """
    where: Any = path
    if remote.is_remote(path):
        where, mode = remote.store(path), "r"
    try:
        if remote.has_file(path, "zarr.json"):
            node = zarr.open(where, mode=mode, zarr_format=3, use_consolidated=False)  # type: ignore[arg-type]
            return cast(zarr.Array | zarr.Group, node)
        if remote.has_file(path, ".zarray"):
            return zarr.open_array(where, mode=mode, zarr_format=2)
        return zarr.open_group(where, mode=mode, zarr_format=2, use_consolidated=False)  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            path,
            expected="readable zarr metadata",
            received=f"{type(error).__name__}: {error}",
            remedy="copy or write the volume again",
        ) from error


def metadata(group: zarr.Group) -> dict[str, Any]:
    """The group's OME metadata: under `ome` in 0.5, the attributes themselves in 0.4; {} if none."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, dict) else {}


def label_names(path: str) -> list[str]:
    """Names of the label images below an image: those listed, and those found; behind a URL those listed."""
    where = remote.joined(path, "labels")
    if not is_zarr(where):
        return []
    listed = metadata(open_group(where)).get("labels", [])
    if remote.is_remote(path):
        return list(listed)
    found = sorted(child.name for child in Path(where).iterdir() if is_zarr(child))
    return [*listed, *(name for name in found if name not in listed)]


def open_group(path: str, mode: str = "r") -> zarr.Group:
    """Open a zarr group.

    Raises:
        InputError: If it is an array.
    """
    node = open_node(path, mode)
    if not isinstance(node, zarr.Group):
        raise InputError(
            path, expected="a zarr group", received="a zarr array", remedy="give the group's folder"
        )
    return node


def open_zarr(path: str, level: int) -> Stored:
    """An OME-Zarr image, a label image, or a bare zarr array; an array of a known image gets its scale.

    Raises:
        InputError: If the group is no image, has no such level, or its metadata does not fit its array.
    """
    node = open_node(path)
    if isinstance(node, zarr.Array):
        parent = remote.parent(path)
        if is_zarr(parent):
            image = open_node(parent)
            multiscale = _multiscale(image) if isinstance(image, zarr.Group) else None
            for dataset in (multiscale or {}).get("datasets", []):
                if dataset.get("path") == remote.last_name(path):
                    return _stored(path, node, path, multiscale or {}, dataset)
        named = [str(name) for name in getattr(node.metadata, "dimension_names", None) or ()]
        axes = "".join(named) if all(len(n) == 1 for n in named) else ""
        return _of_array(path, axes or unlabelled_axes(path, node.shape), node, path, None)
    multiscale = _multiscale(node)
    if multiscale is None:
        inside = [] if remote.is_remote(path) else sorted(key for key, _ in node.members())
        series = [key for key in inside if (Path(path) / key / "0").exists()]
        hint = f"{path}/{series[0]}" if series else f"{path}/{inside[0]}" if inside else ""
        raise InputError(
            path,
            expected="an OME-Zarr image (multiscales metadata) or a zarr array",
            received=f"a zarr group holding {', '.join(inside) or 'nothing'}",
            remedy=f"name what is wanted in it, e.g. {hint}" if hint else "write an image into it first",
        )
    datasets = multiscale.get("datasets", [])
    if not 0 <= level < len(datasets):
        raise InputError(
            f"{path}: level",
            expected=f"0 to {len(datasets) - 1}",
            received=str(level),
            remedy="choose a level that the image has",
        )
    where = remote.joined(path, str(datasets[level].get("path", level)))
    if not is_zarr(where):
        raise InputError(
            path,
            expected=f"the array {where} that its metadata names",
            received="no such array",
            remedy="the image is incomplete; copy or write it again",
        )
    array = open_node(where)
    names = tuple(
        str(channel.get("label", index))
        for index, channel in enumerate(metadata(node).get("omero", {}).get("channels", []))
    )
    return _stored(path, array, where, multiscale, datasets[level], names)


def finest_level(group: zarr.Group) -> str | None:
    """Path of an image's finest array inside its group; None: the group is no image."""
    datasets = (_multiscale(group) or {}).get("datasets") or []
    return str(datasets[0].get("path", "0")) if datasets else None


def finest_level_at(path: str) -> str | None:
    """Path of the finest array of the image at a path or URL, inside it; None: it is no image."""
    node = open_node(path) if is_zarr(path) else None
    return finest_level(node) if isinstance(node, zarr.Group) else None


def _multiscale(group: zarr.Group) -> dict[str, Any] | None:
    found = metadata(group).get("multiscales")
    return found[0] if isinstance(found, list) and found else None


def _stored(
    path: str,
    array: Any,
    where: str,
    multiscale: dict[str, Any],
    dataset: dict[str, Any],
    names: tuple[str, ...] = (),
) -> Stored:
    axes = multiscale.get("axes", [])
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]  # 0.3 has bare names
    letters = "".join(str(axis.get("name", "?"))[:1].lower() for axis in axes)
    letters = letters or unlabelled_axes(path, array.shape)
    scales = [
        step["scale"]
        for step in [
            *(dataset.get("coordinateTransformations") or []),
            *(multiscale.get("coordinateTransformations") or []),
        ]
        if step.get("type") == "scale" and isinstance(step.get("scale"), list)
    ]
    scale = None
    units = {axis["name"][:1].lower(): unit_um(axis.get("unit")) for axis in axes if axis.get("name")}
    if scales and all(units.get(axis) for axis in "zyx") and all(len(s) == len(letters) for s in scales):
        product = np.prod(np.array(scales, dtype=np.float64), axis=0)
        scale = tuple(float(product[letters.index(axis)]) * (units[axis] or 1.0) for axis in "zyx")
    return _of_array(path, letters, array, where, scale, names)


def _of_array(
    path: str,
    axes: str,
    array: Any,
    where: str,
    scale: tuple[float, ...] | None,
    names: tuple[str, ...] = (),
) -> Stored:
    encoding = noted_encoding(where, array)
    dtype = np.dtype(np.float32) if encoding else array.dtype
    return Stored(path, axes, array.shape, dtype, scale, _opener(where), names, encoding)


def _opener(where: str) -> Any:
    def opened() -> Any:
        if remote.is_remote(where):
            array = open_node(where)
            if getattr(array, "shards", None):
                remote.require_parts(where)
            return array
        try:
            return open_node(where, "r+")
        except OSError:  # it may only be read
            return open_node(where, "r")

    return opened


def image_metadata(
    *,
    name: str,
    axes: Sequence[str],
    scale_um: Float3 | None,
    dtype: np.dtype,
    channel_names: Sequence[str] | None = None,
    label: bool = False,
    source: str | None = None,
) -> dict[str, Any]:
    """OME-Zarr 0.5 metadata of a single-level image (array "0"), validated by yaozarrs.

    Without a voxel size the scale is 1 and the axes carry no unit, which reads back as "unknown".
    """
    steps = [
        1.0 if axis == "c" else 1.0 if scale_um is None else scale_um["zyx".index(axis)] for axis in axes
    ]
    unit = {} if scale_um is None else {"unit": "micrometer"}
    multiscale = {
        "name": name,
        "axes": [
            {"name": "c", "type": "channel"} if axis == "c" else {"name": axis, "type": "space", **unit}
            for axis in axes
        ],
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": steps}]}],
    }
    content: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
    if label:
        content["image-label"] = {"version": "0.5", **({"source": {"image": source}} if source else {})}
    if channel_names:
        low, high = (
            (0.0, 1.0) if dtype.kind in "fb" else (float(np.iinfo(dtype).min), float(np.iinfo(dtype).max))
        )
        window = {"min": low, "max": high, "start": low, "end": high}
        content["omero"] = {
            "channels": [{"label": text, "color": "FFFFFF", "window": window} for text in channel_names]
        }
    model = v05.LabelImage if label else v05.Image
    return model.model_validate(content).model_dump(mode="json", by_alias=True, exclude_none=True)


def labels_metadata(names: Sequence[str]) -> dict[str, Any]:
    """OME-Zarr 0.5 metadata of a `labels` group that lists these label images."""
    return v05.LabelsGroup(labels=list(names)).model_dump(mode="json", by_alias=True, exclude_none=True)
