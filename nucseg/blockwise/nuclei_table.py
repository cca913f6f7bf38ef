"""The table of nuclei from what `Measure` found in each block; and which nuclei lie in several blocks, and where."""

import os
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nucseg.blockwise.grid import Grid

PIECE = np.dtype(
    [("owner", "<i8"), ("id", "<u8"), ("begin", "<i8", (3,)), ("end", "<i8", (3,)), ("voxels", "<i8")]
)
"""The part of a nucleus in one block: number of the block of the second pass that takes its median, id, box z, y, x
(the end is behind the last voxel), voxels."""


class Merged(NamedTuple):
    """What is known when all blocks of the first pass are done.

    Attributes:
        table: Columns by name, ids ascending. Medians that are left open are NaN.
        pieces: Of the nuclei whose median is left open, `PIECE` (n,), by owner, id and place.
    """

    table: dict[str, np.ndarray]
    pieces: np.ndarray


def merged(
    blocks: list[dict[str, Any]],
    shape: tuple[int, int, int],
    scale_um: tuple[float, float, float] | None,
    channels: int,
    second: Grid,
) -> Merged:
    """Add the blocks up.

    Args:
        blocks: What `Measure.process` returned, in the grid's order, which decides the last bit of the mean of float
            intensities. Medians are left open where there are none, as in records of an earlier nucseg.
        shape: Of the volume, z, y, x.
        scale_um: Size of a voxel, or None.
        channels: Of the raw image.
        second: Blocks of the second pass; a nucleus belongs to the one in which its bounding box begins.
    """
    rows = [len(block["id"]) for block in blocks]
    every = np.array([i for block in blocks for i in block["id"]], np.uint64)
    ids, place = np.unique(every, return_inverse=True)

    def column(name: str, width: int) -> np.ndarray:
        values = [row for block in blocks for row in block[name]]
        return np.array(values, np.int64).reshape(len(every), width)

    size, box = column("voxels", 1)[:, 0], column("box", 6)
    voxels = np.zeros(len(ids), np.int64)
    np.add.at(voxels, place, size)
    sums = np.zeros((len(ids), 3), np.int64)
    np.add.at(sums, place, column("zyx", 3))
    begin = np.full((len(ids), 3), np.iinfo(np.int64).max)
    end = np.zeros((len(ids), 3), np.int64)
    np.minimum.at(begin, place, box[:, :3])
    np.maximum.at(end, place, box[:, 3:])
    centers = sums / voxels[:, None]

    table: dict[str, np.ndarray] = {"id": ids}
    table |= {axis: centers[:, k] for k, axis in enumerate("zyx")}
    if scale_um is not None:
        table |= {f"{axis}_um": centers[:, k] * scale_um[k] for k, axis in enumerate("zyx")}
    table["voxels"] = voxels
    if scale_um is not None:
        table["volume_um3"] = voxels * prod(scale_um)
    table |= {f"{axis}_begin": begin[:, k] for k, axis in enumerate("zyx")}
    table |= {f"{axis}_end": end[:, k] for k, axis in enumerate("zyx")}
    means = (_means(blocks, place, voxels, channel) for channel in range(channels))
    table |= {_named("mean_intensity", c, channels): mean for c, mean in enumerate(means)}

    left_open = np.bincount(place, minlength=len(ids)) > 1
    known = np.repeat(["median" in block for block in blocks], rows)
    left_open[place[~known]] = True
    for channel in range(channels):
        parts = [
            value
            for block in blocks
            for value in (block["median"][channel] if "median" in block else [None] * len(block["id"]))
        ]
        middle = np.full(len(ids), np.nan)
        middle[place] = np.array(parts, np.float64)
        middle[left_open] = np.nan
        table[_named("median_intensity", channel, channels)] = middle
    table["touches_border"] = (begin == 0).any(axis=1) | (end == np.array(shape)).any(axis=1)

    index = begin // np.array(second.block)
    owner = np.ravel_multi_index((index[:, 0], index[:, 1], index[:, 2]), second.shape)
    chosen = left_open[place]
    pieces = np.zeros(np.count_nonzero(chosen), PIECE)
    pieces["owner"], pieces["id"], pieces["voxels"] = owner[place][chosen], every[chosen], size[chosen]
    pieces["begin"], pieces["end"] = box[chosen, :3], box[chosen, 3:]
    return Merged(table, pieces[np.lexsort((pieces["id"], pieces["owner"]))])


def fill_medians(table: dict[str, np.ndarray], ids: np.ndarray, found: np.ndarray) -> None:
    """Put medians that were left open into their places.

    Args:
        table: Of `merged`; is changed.
        ids: Some of its ids, in any order, uint64 (n,).
        found: Their medians, (c, n).
    """
    place = np.searchsorted(table["id"], ids)
    for channel, values in enumerate(found):
        table[_named("median_intensity", channel, len(found))][place] = values


def write_pieces(path: Path, pieces: np.ndarray) -> None:
    """Write the pieces to a `.npy`, under a temporary name that is renamed into place."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with temporary.open("wb") as file:
        np.save(file, pieces)
    temporary.replace(path)


def _named(what: str, channel: int, channels: int) -> str:
    return what if channels == 1 else f"{what}_{channel}"


def _means(blocks: list[dict[str, Any]], place: np.ndarray, voxels: np.ndarray, channel: int) -> np.ndarray:
    """Mean intensities of all nuclei in one channel; NaN where no voxel is a number."""
    light = np.zeros(len(voxels))
    parts = [value for block in blocks for value in block["intensity"][channel]]
    np.add.at(light, place, np.array(parts, np.float64))
    lost = [n for block in blocks for n in _lost(block, channel)]
    counted = voxels.copy()
    np.subtract.at(counted, place, np.array(lost, np.int64))
    return np.divide(light, counted, out=np.full(len(voxels), np.nan), where=counted > 0)


def _lost(block: dict[str, Any], channel: int) -> list[int]:
    """Voxels of each nucleus of a block that are no number in a channel."""
    lost: list[int] = block["nonfinite"][channel] if "nonfinite" in block else [0] * len(block["id"])
    return lost
