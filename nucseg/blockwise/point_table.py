"""OUT/tables/points: one row a nucleus that was detected, and a digest of them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from nucseg.blockwise.grid import Shape
from nucseg.points import add_micrometers, write_table
from nucseg.volume import Volume

NAME = "points"


def table_files(out: str) -> list[Path]:
    """Both files of the table."""
    return [Path(out) / "tables" / f"{NAME}.{suffix}" for suffix in ("parquet", "csv")]


def write_points(
    out: str, volume: Volume, ids: np.ndarray, points: np.ndarray, scores: np.ndarray | None = None
) -> dict[str, Any]:
    """Write the table.

    Args:
        out: Output folder.
        volume: Whose voxels the points are in.
        ids: (n,), ascending.
        points: float64 (n, 3), z, y, x, voxels.
        scores: (n,), where there are any.

    Returns:
        `nuclei`, the number of rows; `digest`, of places and scores; `table`, the path of the Parquet file.
    """
    places = {axis: points[:, k] for k, axis in enumerate("zyx")}
    table = {"id": ids, **add_micrometers(places, volume.scale_um)}
    if scores is not None:
        table["score"] = scores
    path = write_table(out, NAME, table)
    return {"nuclei": len(ids), "digest": points_digest(points, volume.shape, scores), "table": str(path)}


def points_digest(points: np.ndarray, volume_shape: Shape, scores: np.ndarray | None = None) -> str:
    """A digest of points in a volume, as exact as the numbers: 32 hexadecimal digits.

    Args:
        points: (n, 3) z, y, x, in the order of the table.
        volume_shape: Of the volume, z, y, x.
        scores: (n,), where there are any.
    """
    digest = hashlib.sha256("x".join(str(int(n)) for n in volume_shape).encode())
    for values in (points, scores):
        if values is not None:
            digest.update(np.ascontiguousarray(values, "<f8").tobytes())
    return digest.hexdigest()[:32]
