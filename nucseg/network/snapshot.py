"""Snapshots of training batches, to be looked at: one OME-Zarr image an array."""

import os
import shutil
from pathlib import Path

import numpy as np

from nucseg.volume import create_image

Scale = tuple[float, float, float]


def write_snapshot(
    folder: str | Path, iteration: int, arrays: dict[str, np.ndarray], scale_um: Scale | None
) -> Path:
    """Write `folder/00000100.zarr` with one OME-Zarr image per array.

    All images get the shape of the largest array, the others padded with zeros in equal parts, so that raw,
    labels, targets and predictions lie over each other in any viewer.

    Args:
        folder: Where snapshots go.
        iteration: Names the snapshot; one of the same name is replaced.
        arrays: `(z, y, x)` or `(c, z, y, x)` by name.
        scale_um: Voxel size; None if unknown.

    Returns:
        The snapshot's path.
    """
    path = Path(folder) / f"{iteration:08d}.zarr"
    partial = path.with_name(f".{path.name}")
    if partial.exists():
        shutil.rmtree(partial)
    largest = tuple(max(a.shape[-3 + i] for a in arrays.values()) for i in range(3))
    for name, array in arrays.items():
        rest = tuple(full - size for full, size in zip(largest, array.shape[-3:], strict=True))
        padding = [(0, 0)] * (array.ndim - 3) + [(r // 2, r - r // 2) for r in rest]
        image = create_image(
            partial / name,
            shape=(*array.shape[:-3], *largest),
            dtype=array.dtype,
            scale_um=scale_um,
            axes=("c", "z", "y", "x")[-array.ndim :],
            name=name,
        )
        image.write((0, 0, 0), np.pad(array, padding))
    if path.exists():
        shutil.rmtree(path)
    os.replace(partial, path)
    return path
