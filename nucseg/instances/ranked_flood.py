"""The flood of one surface from many sets of seeds: the surface is sorted once, and no flood compares heights.

`flood` keeps a heap of (height, insertion number). Where the same surface is flooded again and again, as when
thresholds are chosen on validation volumes, each height is replaced by its rank among all heights once, and the
heap by a queue for each rank: first in, first out is the order of insertion, so that the labels are the same, ties
included. Which queues hold anything is kept in three levels of bits, 64 to a word, with one bit for each word of the
level below: the lowest queue is found in three steps, and a place in the highest level, a word of which stands for
262,144 heights, that goes back when a lower queue is filled.
"""

import numpy as np
from numba import njit

from nucseg.errors import InputError

_ONE = np.uint64(1)
_OPEN = np.uint32(0)
_CLOSED = np.uint32(0xFFFFFFFF)
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)  # all 64 runs of six bits differ: maps a single bit to its place
_PLACES = np.zeros(64, np.int64)
for _place in range(64):
    _PLACES[((int(_DE_BRUIJN) << _place) & (2**64 - 1)) >> 58] = _place

_INSIDE = (slice(1, -1),) * 3


class RankedSurface:
    """A surface whose heights are ranked; equal heights (also -0.0 and 0.0) have the same rank.

    Args:
        surface: Heights, float32 (z, y, x).
        region: bool (z, y, x), at least every foreground that will be flooded.

    Raises:
        InputError: The surface is NaN somewhere in the region.
    """

    def __init__(self, surface: np.ndarray, region: np.ndarray) -> None:
        heights = surface[region]
        if np.isnan(heights).any():
            raise InputError(
                "surface",
                expected="numbers in the foreground",
                received="NaN",
                remedy="check the prediction, or take the NaN voxels out of the foreground",
            )
        different, inverse = np.unique(heights, return_inverse=True)
        self._ranks = np.full(
            [n + 2 for n in surface.shape], -1, np.int32
        )  # a closed shell around the volume
        self._ranks[_INSIDE][region] = inverse
        self._count = len(different)

    def flood(self, seeds: np.ndarray, foreground: np.ndarray) -> np.ndarray:
        """The labels that `nucseg.instances.watershed.flood` gives for the surface.

        Args:
            seeds: uint32 (z, y, x), 0 = none, none outside the foreground.
            foreground: bool (z, y, x), in the region that was ranked.

        Returns:
            uint32 (z, y, x).
        """
        labels = np.empty(self._ranks.shape, np.uint32)
        _enclose(np.ascontiguousarray(seeds), np.ascontiguousarray(foreground), labels)
        row, plane = labels.shape[2], labels.shape[1] * labels.shape[2]
        offsets = np.array([-plane, -row, -1, 1, row, plane])
        _flood(self._ranks.ravel(), self._count, labels.ravel(), offsets)
        flooded = np.empty(seeds.shape, np.uint32)
        _take_out(labels, flooded)
        return flooded


@njit(cache=True, nogil=True)
def _enclose(seeds: np.ndarray, foreground: np.ndarray, labels: np.ndarray) -> None:
    """Write the seeds into a volume that is larger by a voxel all around; what is not foreground is closed."""
    labels[:] = _CLOSED
    for z in range(seeds.shape[0]):
        for y in range(seeds.shape[1]):
            row, inside, target = seeds[z, y], foreground[z, y], labels[z + 1, y + 1]
            for x in range(seeds.shape[2]):
                target[x + 1] = row[x] if inside[x] else _CLOSED


@njit(cache=True, nogil=True)
def _take_out(labels: np.ndarray, flooded: np.ndarray) -> None:
    """Undo `_enclose`; closed voxels become 0."""
    for z in range(flooded.shape[0]):
        for y in range(flooded.shape[1]):
            row, target = labels[z + 1, y + 1], flooded[z, y]
            for x in range(flooded.shape[2]):
                target[x] = _OPEN if row[x + 1] == _CLOSED else row[x + 1]


@njit(cache=True, nogil=True, inline="always")
def _lowest_bit(word: np.uint64) -> int:
    """Place of the lowest bit that is set."""
    lowest = word & (~word + _ONE)
    return _PLACES[np.int64((lowest * _DE_BRUIJN) >> np.uint64(58))]


@njit(cache=True, nogil=True, inline="always")
def _append(
    place: int,
    rank: int,
    firsts: np.ndarray,
    lasts: np.ndarray,
    following: np.ndarray,
    low: np.ndarray,
    middle: np.ndarray,
    high: np.ndarray,
) -> None:
    """Put a voxel at the end of its rank's queue."""
    bit, word = _ONE << np.uint64(rank & 63), rank >> 6
    if low[word] & bit:
        following[lasts[rank]] = place
    else:
        firsts[rank] = place
        low[word] |= bit
        middle[word >> 6] |= _ONE << np.uint64(word & 63)
        high[word >> 12] |= _ONE << np.uint64((word >> 6) & 63)
    lasts[rank] = place


@njit(cache=True, nogil=True)
def _flood(ranks: np.ndarray, count: int, labels: np.ndarray, offsets: np.ndarray) -> None:
    """Flood flat `labels` in place: seeds into what is open; closed voxels are all around."""
    firsts, lasts = np.empty(count, np.int32), np.empty(count, np.int32)
    following = np.empty(labels.size, np.int32)
    low = np.zeros((count + 63) >> 6, np.uint64)
    middle = np.zeros((low.size + 63) >> 6, np.uint64)
    high = np.zeros((middle.size + 63) >> 6, np.uint64)
    nothing = np.uint64(0)  # typed: numba compares uint64 with a plain 0 as floats
    for place in range(labels.size):
        label = labels[place]
        if label in (_OPEN, _CLOSED):
            continue
        for k in range(6):
            if labels[place + offsets[k]] == _OPEN:
                _append(place, int(ranks[place]), firsts, lasts, following, low, middle, high)
                break
    top = 0
    while True:
        while top < high.size and high[top] == nothing:
            top += 1
        if top == high.size:
            break
        word = (top << 6) | _lowest_bit(high[top])
        word = (word << 6) | _lowest_bit(middle[word])
        rank = (word << 6) | _lowest_bit(low[word])
        place = int(firsts[rank])
        if place != lasts[rank]:
            firsts[rank] = following[place]
        else:
            low[word] &= ~(_ONE << np.uint64(rank & 63))
            if low[word] == nothing:
                middle[word >> 6] &= ~(_ONE << np.uint64(word & 63))
                if middle[word >> 6] == nothing:
                    high[word >> 12] &= ~(_ONE << np.uint64((word >> 6) & 63))
        label = labels[place]
        for k in range(6):
            other = place + offsets[k]
            if labels[other] == _OPEN:
                labels[other] = label
                other_rank = int(ranks[other])
                _append(other, other_rank, firsts, lasts, following, low, middle, high)
                top = min(top, other_rank >> 18)
