"""The contingency table of two label volumes: which objects overlap, in how many voxels."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numba import njit

from nucseg.errors import InputError

_FIRST_CAPACITY = 1024  # slots of the pair table to begin with; a power of two


class Contingency(NamedTuple):
    """Sizes and overlaps of the objects of two label volumes; tables of disjoint blocks add up with `merge`.

    Attributes:
        true_ids: uint64 (n,), sorted: the labels of the truth, background (0) excluded.
        true_sizes: int64 (n,): their voxels.
        predicted_ids: uint64 (m,), sorted: the labels of the prediction, background excluded.
        predicted_sizes: int64 (m,): their voxels, on annotated ground or not.
        pairs: int64 (k, 2): indices into `true_ids` and `predicted_ids` of the pairs that share a voxel, in
            lexicographic order.
        overlaps: int64 (k,): the voxels that they share.
        unknown: int64 (m,): how many voxels of each prediction lie where nothing is annotated.
    """

    true_ids: np.ndarray
    true_sizes: np.ndarray
    predicted_ids: np.ndarray
    predicted_sizes: np.ndarray
    pairs: np.ndarray
    overlaps: np.ndarray
    unknown: np.ndarray

    def iou(self) -> np.ndarray:
        """Intersection over union of every pair on annotated ground, float64 (k,)."""
        known = self.predicted_sizes - self.unknown
        union = self.true_sizes[self.pairs[:, 0]] + known[self.pairs[:, 1]] - self.overlaps
        return self.overlaps / union


def contingency(truth: np.ndarray, predicted: np.ndarray, annotated: np.ndarray | None = None) -> Contingency:
    """Count the voxels of every object and of every overlap.

    Args:
        truth: Labels, any integer dtype and number of axes; 0 is background. Ids may be of any size.
        predicted: Labels of the same shape; the dtype may differ.
        annotated: bool or integers of the same shape, False or 0 where the truth is not annotated: what `truth`
            says there does not matter. None: all is annotated.

    Returns:
        The table. Its memory grows with the number of objects, not with the ids or the volume.

    Raises:
        InputError: If shapes differ, a dtype is no integer, or a label is negative.
    """
    truth, predicted = known_labels(truth, annotated), checked_labels(predicted, "prediction")
    if truth.shape != predicted.shape:
        raise InputError(
            "prediction",
            expected=f"the truth's shape {truth.shape}",
            received=f"{predicted.shape}",
            remedy="compare the labels of the same volume, at the same resolution",
        )
    flat = np.ascontiguousarray(predicted).reshape(-1)
    table = _from_pairs(*_count_pairs(np.ascontiguousarray(truth).reshape(-1), flat))
    if annotated is None:
        return table
    where = np.ascontiguousarray(np.asarray(annotated) == 0).reshape(-1)
    unknown, ids, counts = _count_pairs(where.view(np.uint8), flat)
    outside = (unknown == 1) & (ids != 0)
    return _with_unknown(table, ids[outside], counts[outside])


def merge(tables: Iterable[Contingency]) -> Contingency:
    """The table of a whole volume from the tables of its blocks, which may not share voxels."""
    none = np.zeros(0, np.uint64)
    true, predicted, counts = [none], [none], [np.zeros(0, np.int64)]
    ids, unknown = [none], [np.zeros(0, np.int64)]
    for table in tables:
        for t, p, c in _to_pairs(table):
            true.append(t)
            predicted.append(p)
            counts.append(c)
        ids.append(table.predicted_ids)
        unknown.append(table.unknown)
    merged = _from_pairs(np.concatenate(true), np.concatenate(predicted), np.concatenate(counts))
    return _with_unknown(merged, np.concatenate(ids), np.concatenate(unknown))


def known_labels(truth: np.ndarray, annotated: np.ndarray | None = None) -> np.ndarray:
    """True labels where they are annotated, background elsewhere.

    Args:
        truth: Labels; any integers may stand where nothing is annotated, such as -1.
        annotated: bool or integers of the same shape, False or 0 where nothing is annotated; None: all is.

    Raises:
        InputError: If the truth is no label volume, or `annotated` of another shape or no mask.
    """
    if annotated is None:
        return checked_labels(truth, "truth")
    truth, annotated = np.asarray(truth), np.asarray(annotated)
    if annotated.dtype.kind not in "bui" or annotated.shape != truth.shape:
        raise InputError(
            "annotated",
            expected=f"bool of the truth's shape {truth.shape}, False where nothing is annotated",
            received=f"{annotated.dtype} of the shape {annotated.shape}",
            remedy="give the mask that was made for this truth",
        )
    return checked_labels(np.where(annotated != 0, truth, truth.dtype.type(0)), "truth")


def checked_labels(labels: np.ndarray, what: str) -> np.ndarray:
    """`labels` as an array, if it can be a label volume.

    Raises:
        InputError: If the dtype is no integer or a label is negative.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise InputError(
            what,
            expected="labels: integers, one number per object, 0 for background",
            received=f"an array of {labels.dtype}",
            remedy="give the instance labels; number the connected components of a mask first",
        )
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise InputError(
            what,
            expected="labels of 0 and above",
            received=f"the label {labels.min()}",
            remedy="set what is not annotated to 0 or renumber the objects",
        )
    return labels.astype(labels.dtype.newbyteorder("="), copy=False)


def _to_pairs(table: Contingency) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The table as (truth, prediction, voxels) triples, what lies on background as pairs with 0."""
    shared_true = np.zeros(len(table.true_ids), np.int64)
    shared_predicted = np.zeros(len(table.predicted_ids), np.int64)
    np.add.at(shared_true, table.pairs[:, 0], table.overlaps)
    np.add.at(shared_predicted, table.pairs[:, 1], table.overlaps)
    yield table.true_ids[table.pairs[:, 0]], table.predicted_ids[table.pairs[:, 1]], table.overlaps
    yield table.true_ids, np.zeros(len(table.true_ids), np.uint64), table.true_sizes - shared_true
    background = np.zeros(len(table.predicted_ids), np.uint64)
    yield background, table.predicted_ids, table.predicted_sizes - shared_predicted


def _from_pairs(true: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> Contingency:
    """The table of (truth, prediction, voxels) triples, in which a pair may come up more than once."""
    kept = counts > 0
    true, predicted, counts = true[kept], predicted[kept], counts[kept]
    true_ids, true_index = np.unique(true, return_inverse=True)
    predicted_ids, predicted_index = np.unique(predicted, return_inverse=True)
    key, inverse = np.unique(true_index * len(predicted_ids) + predicted_index, return_inverse=True)
    overlaps = np.zeros(len(key), np.int64)
    np.add.at(overlaps, inverse, counts)
    rows, columns = np.divmod(key, max(len(predicted_ids), 1))
    true_sizes = np.zeros(len(true_ids), np.int64)
    predicted_sizes = np.zeros(len(predicted_ids), np.int64)
    np.add.at(true_sizes, rows, overlaps)
    np.add.at(predicted_sizes, columns, overlaps)
    # Background sorts first where it occurs at all: cut it off and shift the indices.
    skip_true = int(len(true_ids) > 0 and true_ids[0] == 0)
    skip_predicted = int(len(predicted_ids) > 0 and predicted_ids[0] == 0)
    both = (rows >= skip_true) & (columns >= skip_predicted)
    pairs = np.stack([rows[both] - skip_true, columns[both] - skip_predicted], axis=1).astype(np.int64)
    return Contingency(
        true_ids[skip_true:],
        true_sizes[skip_true:],
        predicted_ids[skip_predicted:],
        predicted_sizes[skip_predicted:],
        pairs,
        overlaps[both],
        np.zeros(len(predicted_ids) - skip_predicted, np.int64),
    )


def _with_unknown(table: Contingency, ids: np.ndarray, counts: np.ndarray) -> Contingency:
    """The table with voxels of predictions that lie where nothing is annotated; an id may come up more than once."""
    unknown = np.zeros(len(table.predicted_ids), np.int64)
    np.add.at(unknown, np.searchsorted(table.predicted_ids, ids), counts)
    return table._replace(unknown=unknown)


@njit(cache=True, nogil=True)
def _slot(true: np.uint64, predicted: np.uint64, capacity: int) -> int:
    """Where a pair's search begins in a table of `capacity` (a power of two) slots.

    Multiplicative mixing with the two odd constants of the xxHash64 algorithm.
    """
    mixed = true * np.uint64(0x9E3779B185EBCA87) + predicted * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(29)
    return np.int64(mixed & np.uint64(capacity - 1))  # type: ignore[return-value]  # an int to numba


@njit(cache=True, nogil=True)
def _add(keys: np.ndarray, counts: np.ndarray, true: np.uint64, predicted: np.uint64, n: int) -> int:
    """Add `n` to a pair's count (open addressing); returns 1 if the pair is new."""
    capacity = len(counts)
    slot = _slot(true, predicted, capacity)
    while counts[slot] != 0:
        if keys[slot, 0] == true and keys[slot, 1] == predicted:
            counts[slot] += n
            return 0
        slot = (slot + 1) & (capacity - 1)
    keys[slot, 0] = true
    keys[slot, 1] = predicted
    counts[slot] = n
    return 1


@njit(cache=True, nogil=True)
def _count_pairs(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels of every pair of labels but (0, 0), run by run; flat arrays of equal length."""
    capacity = _FIRST_CAPACITY
    keys = np.zeros((capacity, 2), np.uint64)
    counts = np.zeros(capacity, np.int64)
    used = 0
    size = len(truth)
    i = 0
    while i < size:
        t = truth[i]
        p = predicted[i]
        begin = i
        i += 1
        while i < size and truth[i] == t and predicted[i] == p:
            i += 1
        if t == 0 and p == 0:
            continue
        used += _add(keys, counts, np.uint64(t), np.uint64(p), i - begin)
        if 2 * used > capacity:
            capacity *= 2
            more_keys = np.zeros((capacity, 2), np.uint64)
            more_counts = np.zeros(capacity, np.int64)
            for slot in range(len(counts)):
                if counts[slot] != 0:
                    _add(more_keys, more_counts, keys[slot, 0], keys[slot, 1], counts[slot])
            keys, counts = more_keys, more_counts
    filled = counts != 0
    return keys[filled, 0], keys[filled, 1], counts[filled]
