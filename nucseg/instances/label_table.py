"""A small hash table from label to index, for kernels that meet labels in any order and of any size.

Labels are often linear indices of a huge volume (about 1e12), so that neither an array indexed by label nor
numba's own typed dictionary is a good map: the first does not fit into memory, the second is slow.
Label 0 (background) is never stored: 0 marks an empty slot.
"""

import numpy as np
from numba import njit

_EMPTY = np.uint64(0)  # typed: numba compares uint64 with a plain 0 as floats
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: Fibonacci hashing, Knuth TAOCP 6.4


@njit(cache=True, nogil=True)
def new_table(capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """An empty table with at least `capacity` slots: keys (uint64, 0 = empty) and their indices (int64)."""
    slots = 16
    while slots < capacity:
        slots *= 2
    return np.zeros(slots, np.uint64), np.zeros(slots, np.int64)


@njit(cache=True, nogil=True, inline="always")
def slot_of(keys: np.ndarray, label: np.uint64) -> np.int64:
    """The slot that holds `label`, or the empty slot where it belongs (linear probing)."""
    mask = keys.size - 1
    slot = np.int64((label * _MULTIPLIER) >> np.uint64(32)) & mask
    while keys[slot] != label and keys[slot] != _EMPTY:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def grown(keys: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same table with twice the slots."""
    more_keys, more_indices = new_table(2 * keys.size)
    for old in range(keys.size):
        if keys[old] != _EMPTY:
            slot = slot_of(more_keys, keys[old])
            more_keys[slot] = keys[old]
            more_indices[slot] = indices[old]
    return more_keys, more_indices


@njit(cache=True, nogil=True)
def table_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table that maps each of `labels` (uint64, non-zero) to its position in that array."""
    keys, indices = new_table(2 * labels.size + 2)
    for index in range(labels.size):
        slot = slot_of(keys, labels[index])
        keys[slot] = labels[index]
        indices[slot] = index
    return keys, indices
