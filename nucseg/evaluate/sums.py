"""What scoring needs of a segmentation, in one pass over it: sizes, centres, and overlaps with the truth."""

from typing import NamedTuple

import numpy as np
from numba import njit

from nucseg.instances.centroids import find_runs
from nucseg.instances.label_table import grown, new_table, slot_of


class Sums(NamedTuple):
    """Voxels of each label 1 to n, sums of their z, y and doubled x, and the pairs of true and predicted labels.

    A pair is 1 + true index * n + predicted index, uint64; in no order.
    """

    sizes: np.ndarray
    places: np.ndarray
    pairs: np.ndarray
    overlaps: np.ndarray


def sums_of(labels: np.ndarray, count: int, truth: np.ndarray) -> Sums:
    """Sums of labels 1 to count, against true labels 1, 2, ...

    Args:
        labels: Unsigned integers (z, y, x), 0 background.
        count: The largest label.
        truth: uint32 (z, y, x), 0 background.
    """
    return Sums(*_sum(labels, count, truth))


@njit(cache=True, nogil=True)
def _sum(
    labels: np.ndarray, count: int, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The members of `_Sums` of labels 1 to count against true labels 1, 2, ..."""
    sizes = np.zeros(count, np.int64)
    places = np.zeros((count, 3), np.int64)
    room, used = 1024, 0
    keys, indices = new_table(2 * room)
    recent_true = np.zeros(count, np.uint32)  # most runs of a label lie on the true label of its run before
    recent_index = np.zeros(count, np.int64)
    pairs = np.zeros(room, np.uint64)
    overlaps = np.zeros(room, np.int64)
    ends = np.empty(labels.shape[2] + 1, np.int64)
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            row, true_row = labels[z, y], truth[z, y]
            start = 0
            for run in range(find_runs(row, ends) if row.size else 0):
                end = ends[run]
                if row[start] != 0:
                    label = np.int64(row[start]) - 1
                    length = end - start
                    sizes[label] += length
                    places[label, 0] += length * z
                    places[label, 1] += length * y
                    places[label, 2] += length * (start + end - 1)
                    first = start
                    for x in range(start + 1, end + 1):
                        if x < end and true_row[x] == true_row[first]:
                            continue
                        true = true_row[first]
                        if true != 0 and true != recent_true[label]:
                            key = np.uint64((np.int64(true) - 1) * count + label + 1)
                            slot = slot_of(keys, key)
                            if keys[slot] != key:
                                if used == room:
                                    keys, indices = grown(keys, indices)
                                    pairs = np.concatenate((pairs, np.zeros(room, np.uint64)))
                                    overlaps = np.concatenate((overlaps, np.zeros(room, np.int64)))
                                    room *= 2
                                    slot = slot_of(keys, key)
                                keys[slot] = key
                                indices[slot] = used
                                pairs[used] = key
                                used += 1
                            recent_true[label] = true
                            recent_index[label] = indices[slot]
                        if true != 0:
                            overlaps[recent_index[label]] += x - first
                        first = x
                start = end
    return sizes, places, pairs[:used], overlaps[:used]
