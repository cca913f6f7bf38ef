"""Converting volumes: any format that nucseg reads to OME-Zarr 0.5 or to TIFF, in bounded memory."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from nucseg.errors import InputError
from nucseg.points import add_micrometers, read_points, read_table, write_table
from nucseg.storage.formats import demand_folder_name
from nucseg.storage.stacks import TIFF_SUFFIXES
from nucseg.storage.stored import Float3
from nucseg.volume import Volume, create_image, create_labels, find_labels, open_volume

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the number of voxels done and to do."""

_SLAB_BYTES = 2**29  # most that is read at once, unless one shard is larger
_CLASSIC_TIFF_BYTES = 2**32 - 2**25  # larger files need BigTIFF
_IMAGEJ = ("uint8", "uint16", "float32")
_OME_TIFF = (*_IMAGEJ, "int8", "int16", "int32", "uint32", "float64")


def convert_volume(
    source: str | Path,
    out: str | Path,
    *,
    scale_um: Float3 | None = None,
    labels: str | Path | None = None,
    points: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Convert a volume to OME-Zarr 0.5, or to TIFF if `out` ends in .tif or .tiff.

    Read and written in slabs of at most 512 MiB (or one shard, if that is larger). The result appears under its name
    when it is complete; until then it has a hidden name beside it. The dtype is kept, in native byte order. TIFF
    has no half floats, booleans and 64-bit integers: these become float32, uint8 and uint32 with a logged
    warning, or an error where a value would change. TIFFs of uint8, uint16 and float32 below 4 GB are written for
    ImageJ, others as OME-TIFF.

    Args:
        source: Any volume that `nucseg.open_volume` reads.
        out: A new path, or an empty folder.
        scale_um: Voxel size (z, y, x) in micrometres, instead of the source's.
        labels: Name of a label image of the source, or a label file; becomes `out/labels/nuclei`, of dtype
            uint32 or uint64. None copies no labels.
        points: Table with columns z, y, x in voxels; becomes `out/tables/centers.csv` and `.parquet`.
        progress: Called now and then with the number of voxels done and to do.

    Returns:
        `shape` (channels first where there are any), `dtype` and `scale_um` of what was written.

    Raises:
        InputError: If the source, labels or points cannot be used or do not fit together, or `out` is there
            already or cannot be written. Nothing is left under the name `out` then.
    """
    volume = open_volume(source, scale_um=scale_um)
    instances = None if labels is None else find_labels(source, labels)
    table = None if points is None else _checked_points(points, volume)
    if instances is not None and instances.shape != volume.shape:
        raise InputError(
            f"{instances.path}: labels",
            expected=f"the image's shape {volume.shape}",
            received=str(instances.shape),
            remedy="give the labels of this image",
        )
    target = Path(out)
    as_tiff = target.name.lower().endswith(TIFF_SUFFIXES)
    if not as_tiff:
        demand_folder_name(str(out), tiff=True)
    if as_tiff and (labels is not None or points is not None):
        raise InputError(
            str(out),
            expected="an OME-Zarr (a name without .tif) to put labels or points below",
            received="a TIFF",
            remedy="convert the labels on their own: `nucseg convert VOLUME.zarr/labels/nuclei LABELS.tif`",
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(
            str(out),
            expected="a new path or an empty folder",
            received="something that is there already",
            remedy="choose another name, or remove it first",
        )
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if as_tiff:
            written = _write_tiff(volume, partial, progress)
            os.replace(partial, target)
        else:
            written = _write_zarr(volume, partial, target.name, instances, progress)
            if table is not None:
                write_table(partial, "centers", add_micrometers(table, volume.scale_um))
            os.rename(partial, target)  # over an empty folder at most
    except OSError as error:
        raise InputError(
            str(out),
            expected="a place that can be written, with room for the volume",
            received=f"{type(error).__name__}: {error.strerror or error}",
            remedy="choose another place",
        ) from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        elif partial.is_file():
            partial.unlink()
    return {
        "shape": [*((volume.channels,) if volume.channels else ()), *volume.shape],
        "dtype": str(written),
        "scale_um": None if volume.scale_um is None else list(volume.scale_um),
    }


def _write_zarr(
    volume: Volume, path: Path, name: str, instances: Volume | None, progress: Progress | None
) -> np.dtype:
    image = create_image(
        path,
        shape=(*((volume.channels,) if volume.channels else ()), *volume.shape),
        dtype=volume.dtype,
        scale_um=volume.scale_um,
        axes=volume.axes,
        name=name.removesuffix(".zarr"),
        channel_names=volume.channel_names or None,
    )
    total = prod(volume.shape) * (1 if instances is None else 2)
    _copy(volume, image, 0, total, progress)
    if instances is not None:
        dtype = "uint64" if instances.dtype.itemsize == 8 else "uint32"
        below = create_labels(path, shape=instances.shape, dtype=dtype, scale_um=volume.scale_um)
        _copy(instances, below, prod(volume.shape), total, progress, ids=True)
    return image.dtype


def _copy(
    source: Volume, target: Volume, done: int, total: int, progress: Progress | None, ids: bool = False
) -> None:
    """Copy shard by shard, reading whole layers of shards at once where they are small enough; refuse negative ids."""
    planes = target.write_unit[0]
    voxel = source.dtype.itemsize * max(source.channels, 1)
    by_layer = planes * prod(source.shape[1:]) * voxel <= _SLAB_BYTES
    layer, first = np.empty(0), -1
    for begin, shape in target.blocks():
        if by_layer:
            if begin[0] != first:
                layer, first = source.read((begin[0], 0, 0), (shape[0], *source.shape[1:])), begin[0]
            y, x = (slice(b, b + n) for b, n in zip(begin[1:], shape[1:], strict=True))
            data = layer[..., y, x]
        else:
            data = source.read(begin, shape)
        if ids and (lowest := int(data.min())) < 0:
            raise InputError(
                f"{source.path}: labels",
                expected="ids from 0 (background) up",
                received=f"ids down to {lowest}",
                remedy="set unannotated or ignored voxels to 0, and keep a mask of them beside the labels",
            )
        target.write(begin, data)
        done += prod(shape)
        if progress is not None:
            progress(done, total)


def _write_tiff(volume: Volume, path: Path, progress: Progress | None) -> np.dtype:
    dtype = _tiff_dtype(volume)
    large = prod(volume.shape) * max(volume.channels, 1) * dtype.itemsize > _CLASSIC_TIFF_BYTES
    imagej = dtype.name in _IMAGEJ and not large
    planes = (volume.shape[0], *((volume.channels,) if volume.channels else ()))
    metadata: dict[str, Any] = {"axes": "ZCYX" if volume.channels else "ZYX"}
    resolution = None
    if volume.scale_um is not None:
        z, y, x = volume.scale_um
        if imagej:
            metadata |= {"spacing": z, "unit": "um"}
            resolution = (1 / x, 1 / y)
        else:
            metadata |= {f"PhysicalSize{a}": s for a, s in zip("ZYX", volume.scale_um, strict=True)}
            metadata |= {f"PhysicalSize{a}Unit": "µm" for a in "ZYX"}
    if volume.channel_names and not imagej:
        metadata["Channel"] = {"Name": list(volume.channel_names)}
    with tifffile.TiffWriter(path, bigtiff=large, imagej=imagej, ome=not imagej) as tiff:
        tiff.write(
            _planes(volume, dtype, progress),
            shape=(*planes, *volume.shape[1:]),
            dtype=dtype,
            photometric="minisblack",
            metadata=metadata,
            resolution=resolution,
        )
    return dtype


def _planes(volume: Volume, dtype: np.dtype, progress: Progress | None) -> Iterator[np.ndarray]:
    """Planes (y, x) in the order z, channel."""
    plane = prod(volume.shape[1:]) * volume.dtype.itemsize * max(volume.channels, 1)
    step = max(1, min(volume.write_unit[0], _SLAB_BYTES // plane))
    for z in range(0, volume.shape[0], step):
        count = min(step, volume.shape[0] - z)
        slab = volume.read((z, 0, 0), (count, *volume.shape[1:])).astype(dtype, copy=False)
        for index in range(count):
            yield from slab[:, index] if volume.channels else [slab[index]]
        if progress is not None:
            progress((z + count) * prod(volume.shape[1:]), prod(volume.shape))


def _tiff_dtype(volume: Volume) -> np.dtype:
    """The dtype that a TIFF can hold without changing a value."""
    dtype = volume.dtype
    if dtype.name in _OME_TIFF:
        return dtype
    replaced = np.dtype({"float16": "float32", "bool": "uint8"}.get(dtype.name, "uint32"))
    if dtype.kind in "iu":
        parts = [(int(part.min()), int(part.max())) for part in (volume.read(*b) for b in volume.blocks())]
        low, high = min(part[0] for part in parts), max(part[1] for part in parts)
        if low < 0 or high > np.iinfo(np.uint32).max:
            raise InputError(
                volume.path,
                expected=f"values that fit {replaced}, the widest integer of a TIFF",
                received=f"{dtype} from {low} to {high}",
                remedy="write OME-Zarr instead, or renumber the labels",
            )
    logger.warning("%s: TIFF knows no %s; written as %s, no value changes", volume.path, dtype, replaced)
    return replaced


def _checked_points(points: str | Path, volume: Volume) -> dict[str, np.ndarray]:
    """Columns of a point table whose points lie in the volume; ids are numbered from 1 if it has none."""
    centers = read_points(points)
    outside = ((centers < -0.5) | (centers > np.array(volume.shape) - 0.5)).any(axis=1)
    if outside.any():
        raise InputError(
            str(points),
            expected=f"points (z, y, x in voxels) inside the shape {volume.shape}",
            received=f"{int(outside.sum())} of {len(centers)} outside, e.g. {centers[outside][0].tolist()}",
            remedy="check the order of the axes, and that the unit is voxels, not micrometres",
        )
    others = {
        key: values
        for key, values in read_table(points).items()
        if key.lower() not in {"id", "z", "y", "x", "z_um", "y_um", "x_um", "axis-0", "axis-1", "axis-2"}
    }
    ids = read_table(points).get("id", np.arange(1, len(centers) + 1, dtype=np.uint64))
    return {"id": ids, **{axis: centers[:, k] for k, axis in enumerate("zyx")}, **others}
