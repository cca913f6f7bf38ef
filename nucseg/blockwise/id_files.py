"""The ids of a volume's labels, a sorted file a block, and their merge into one sorted file in bounded memory."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nucseg.errors import InputError

BUCKET = 2**22
"""Ids that are merged at a time, if no single value has more: the merge takes about 64 bytes for each."""
BINS = 2**12
"""Ranges of values that ids are counted in, to find such buckets."""
MOST = 2**32 - 1
"""Ids that uint32 can number from 1."""


def write_ids(path: Path, ids: np.ndarray, sizes: np.ndarray) -> None:
    """Write the ids of one block, under a temporary name that is renamed into place.

    Args:
        path: The `.npy` file, uint64 (2, n): ids and sizes.
        ids: Ascending, without 0, uint64 (n,).
        sizes: Voxels of each in the block, (n,).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with temporary.open("wb") as file:
        np.save(file, np.stack([ids.astype(np.uint64), sizes.astype(np.uint64)]))
    temporary.replace(path)


def merge_ids(files: list[Path], target: Path, min_size: int = 0) -> int:
    """Merge the ids of all blocks into one file, each id once, ascending.

    Memory is bounded by `BUCKET` ids, however many there are: ranges of values with about so many are merged one after
    the other. Each range opens every file once.

    Args:
        files: What `write_ids` wrote, in any order; together an id's sizes add up to its size.
        target: The `.npy` file to write, uint64 (n,).
        min_size: Smaller ids are left out.

    Returns:
        n.

    Raises:
        InputError: There are more than uint32 can number.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    raw, count = target.with_name(f"{target.name}.{os.getpid()}.raw.partial"), 0
    with raw.open("wb") as sorted_ids:
        for low, high in _ranges(files):
            kept = _merged(files, low, high, min_size)
            count += len(kept)
            if count > MOST:
                raw.unlink()
                raise InputError(
                    str(target),
                    expected=f"at most {MOST} instances, as uint32 can number",
                    received=f"at least {count}",
                    remedy="keep the ids as they are (leave out --compact), or drop small instances (--min-size)",
                )
            sorted_ids.write(kept.tobytes())
    temporary = target.with_name(f"{target.name}.{os.getpid()}.partial")
    with temporary.open("wb") as file, raw.open("rb") as sorted_ids:
        header = {"descr": "<u8", "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)
        while piece := sorted_ids.read(2**24):
            file.write(piece)
    raw.unlink()
    temporary.replace(target)
    return count


def _merged(files: list[Path], low: int, high: int, min_size: int) -> np.ndarray:
    """Ids from `low` to `high` (inclusive) that are large enough, ascending, little-endian uint64."""
    ids, sizes = [], []
    for file in files:
        both = np.load(file, mmap_mode="r")
        begin = np.searchsorted(both[0], np.uint64(low), "left")
        end = np.searchsorted(both[0], np.uint64(high), "right")
        if begin < end:
            ids.append(np.array(both[0, begin:end]))
            sizes.append(np.array(both[1, begin:end]))
    if not ids:
        return np.zeros(0, "<u8")
    every, place = np.unique(np.concatenate(ids), return_inverse=True)
    if min_size > 1:
        total = np.zeros(len(every), np.uint64)
        np.add.at(total, place, np.concatenate(sizes))
        every = every[total >= np.uint64(min_size)]
    return every.astype("<u8")


def _ranges(files: list[Path], low: int = 1, high: int = 2**64 - 1) -> Iterator[tuple[int, int]]:
    """Ranges of values, ascending, both ends inclusive, that cover all ids, with about `BUCKET` of them in each."""
    counts, low, width = _counts(files, low, high)
    begin, many = 0, 0
    for index, count in enumerate(counts):
        if many and many + count > BUCKET:
            yield low + begin * width, low + index * width - 1
            begin, many = index, 0
        many += int(count)
        if many > BUCKET and width > 1:  # one bin alone
            yield from _ranges(files, low + index * width, min(low + (index + 1) * width - 1, high))
            begin, many = index + 1, 0
    if many:
        yield low + begin * width, min(low + len(counts) * width - 1, high)


def _counts(files: list[Path], low: int, high: int) -> tuple[np.ndarray, int, int]:
    """How many ids lie in each of at most `BINS` ranges; the first value of the first range, and their width."""
    found = (_within(file, low, high) for file in files)
    ends = [(int(ids[0]), int(ids[-1])) for ids in found if len(ids)]
    if not ends:
        return np.zeros(0, np.int64), low, 1
    low, high = min(first for first, _ in ends), max(last for _, last in ends)
    width = -(-(high - low + 1) // BINS)
    counts = np.zeros(BINS, np.int64)
    for file in files:
        ids = _within(file, low, high)
        counts += np.bincount(((ids - np.uint64(low)) // np.uint64(width)).astype(np.int64), minlength=BINS)
    return counts, low, width


def _within(file: Path, low: int, high: int) -> np.ndarray:
    """Ids of a file from `low` to `high`, both inclusive."""
    ids = np.load(file, mmap_mode="r")[0]
    begin, end = np.searchsorted(ids, np.uint64(low), "left"), np.searchsorted(ids, np.uint64(high), "right")
    return np.array(ids[begin:end])
