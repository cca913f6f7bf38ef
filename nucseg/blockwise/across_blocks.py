"""What records of blocks say of instances together, although an instance may lie in several blocks.

Records name the instances of each block, `ids`, and how many voxels of each lie in it, `sizes`. What is held in memory
are ids that lie beyond the block of their first voxel, or pieces that are small; not all ids of the volume.
"""

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np

from nucseg.blockwise.grid import Grid


def count_instances(lines: Iterable[dict[str, Any]], grid: Grid) -> int:
    """How many instances there are.

    An id is a place, the linear index of a voxel + 1; most instances lie in the block of that voxel, and are counted
    there. Of the others each is counted once.

    Args:
        lines: Of all blocks, with `block` and `ids`; gone through once, and again if instances lie in several.
        grid: The blocks.
    """
    count, elsewhere = 0, array("Q")
    for line in lines:
        home, away = _parted(line, grid)
        count += len(home)
        elsewhere.frombytes(away.tobytes())
    ids = np.unique(np.frombuffer(elsewhere, np.uint64))
    if not len(ids):
        return count
    counted = np.zeros(len(ids), bool)
    for line in lines:
        home, _ = _parted(line, grid)
        counted[np.searchsorted(ids, home[contained(home, ids)])] = True
    return count + int(np.count_nonzero(~counted))


def too_small(lines: Iterable[dict[str, Any]], min_size: int) -> np.ndarray:
    """The instances of fewer voxels than asked for, over all blocks.

    Args:
        lines: Of all blocks, with `ids` and `sizes`; gone through twice.
        min_size: Voxels.

    Returns:
        Their ids, ascending, uint64 (n,).
    """
    ids, sizes = array("Q"), array("q")
    for line in lines:
        own, size = _arrays(line)
        ids.frombytes(own[size < min_size].tobytes())
        sizes.frombytes(size[size < min_size].tobytes())
    found, place = np.unique(np.frombuffer(ids, np.uint64), return_inverse=True)
    total = np.zeros(len(found), np.int64)
    np.add.at(total, place, np.frombuffer(sizes, np.int64))
    small = total < min_size
    for line in lines:  # a piece that is large enough by itself
        own, size = _arrays(line)
        large = own[size >= min_size]
        small[np.searchsorted(found, large[contained(large, found)])] = False
    return found[small]


def contained(ids: np.ndarray, every: np.ndarray) -> np.ndarray:
    """Which ids are among others.

    Args:
        ids: uint64 (n,).
        every: Ascending, uint64 (m,); may be mapped from a file, and is not gone through.

    Returns:
        bool (n,).
    """
    if not len(every):
        return np.zeros(len(ids), bool)
    place = np.minimum(np.searchsorted(every, ids), len(every) - 1)
    found: np.ndarray = every[place] == ids
    return found


def _parted(line: dict[str, Any], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a block whose voxel lies in it, and the others, uint64."""
    ids = np.array(line["ids"], np.uint64)
    z, y, x = line["block"]
    block = grid[z, y, x]
    inside = np.ones(len(ids), bool)
    rest = ids - np.uint64(1)
    for axis in (2, 1, 0):
        rest, place = np.divmod(rest, np.uint64(grid.volume[axis]))
        inside &= (place >= block.begin[axis]) & (place < block.end[axis])
    return ids[inside], ids[~inside]


def _arrays(line: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(line["ids"], np.uint64), np.array(line["sizes"], np.int64)
