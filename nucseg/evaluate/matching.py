"""Instance segmentation against ground truth: one-to-one matching at an IoU; detection by points."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from nucseg.errors import InputError
from nucseg.evaluate.border import cut_ids
from nucseg.evaluate.overlap import Contingency, checked_labels, contingency, known_labels
from nucseg.evaluate.scores import Detection, Objects, Scores, average_precision
from nucseg.instances.centroids import centroids

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The IoU thresholds of avAP."""

_DENSE_CELLS = 1_000_000  # rows x columns of the largest group that is assigned as a matrix (8 MB)


def match(
    truth: np.ndarray,
    predicted: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
    min_size: int = 0,
    annotated: np.ndarray | None = None,
) -> Scores:
    """Score a segmentation: AP per IoU threshold, and detection by the instances' centres of mass.

    At each threshold the prediction and the truth are matched one-to-one such that as many pairs as possible
    have an IoU of at least the threshold, and among those such that the sum of their IoUs is largest. Below
    0.5, where an object may meet several candidates, this counts no object twice.

    Objects of fewer than `min_size` voxels are left out: a smaller *prediction* is dropped, as a size filter
    would; a smaller *true* object is neither to be found nor wrong to find: it is no false negative, and a
    prediction of which more than half lies on such objects is not counted at all, nor is a centre in one.

    Voxels that are not annotated are neither right nor wrong. They are taken out of every overlap and union: a true
    object is its annotated voxels (those count for `min_size` too), and a prediction enters the IoU with its voxels
    on annotated ground. A prediction of which more than half lies where nothing is annotated, or there and on too
    small true objects together, is matched like any other, but is no false positive where it matches nothing. A
    prediction's voxels count for `min_size`, for that half and for its centre wherever they lie: neither its size
    nor its place depends on the annotation. What the border of the annotation leaves of a true object is an object
    as any other, and a prediction that is the truth scores 1 at every IoU, whatever is annotated.

    Of detection, a centre in a voxel that is not annotated is left out, and so is that of a prediction which counts
    only where it matches. A true object that the border cuts (it shares a face of a voxel with what is not
    annotated) is found if a centre lies in it, and no false negative if none does: its centre may lie beyond.

    Args:
        truth: Labels, integers of any width, 0 is background.
        predicted: Labels of the same shape.
        thresholds: IoU thresholds in (0, 1].
        min_size: Voxels.
        annotated: bool (or integers) of the same shape, False (0) where the truth is not annotated; what `truth`
            says there does not matter. None: all is annotated.

    Returns:
        The scores, with the single objects in `objects`.

    Raises:
        InputError: If shapes differ, or these are no labels, or a setting is out of range.
    """
    table = contingency(truth, predicted, annotated)
    counted = counted_objects(table, min_size)
    centers = centroids(checked_labels(predicted, "prediction"))
    kept = np.isin(centers.ids, counted.predicted_ids)
    hits = labels_hit(centers.centers[kept], known_labels(truth, annotated), annotated)
    return score(table, hits, thresholds, min_size, cut_ids(truth, annotated))


def detection(
    points: np.ndarray, truth: np.ndarray, min_size: int = 0, annotated: np.ndarray | None = None
) -> Detection:
    """Score points: a true positive lies inside a true object, one per object; every other point is false.

    Args:
        points: (n, 3) z, y, x index coordinates in voxels; rounded to the nearest voxel. A point outside the
            volume is a false positive.
        truth: Labels (z, y, x).
        min_size: True objects of fewer annotated voxels are left out, and so are the points that fall into one.
        annotated: bool (or integers) of the truth's shape, False (0) where nothing is annotated: points in such a
            voxel are left out, and so is a true object without a point that shares a face with such a voxel. None:
            all is annotated.

    Returns:
        tp, fp, fn, ap.
    """
    truth = known_labels(truth, annotated)
    table = contingency(truth, np.zeros_like(truth))
    return score_detection(labels_hit(points, truth, annotated), table, min_size, cut_ids(truth, annotated))


class Counted(NamedTuple):
    """What is left of a contingency table without what is too small (see `match`)."""

    true: np.ndarray  # bool per true object
    predicted: np.ndarray  # bool per prediction: counted, matched or not
    if_matched: (
        np.ndarray
    )  # bool per prediction: counted only where it is matched; none that is in `predicted`
    predicted_ids: np.ndarray  # uint64: the ids of `predicted`


def counted_objects(table: Contingency, min_size: int = 0) -> Counted:
    """Which objects and predictions count at a minimum size (see `match`)."""
    if min_size < 0:
        raise InputError(
            "min_size",
            expected="voxels, 0 or more",
            received=f"{min_size}",
            remedy="use 0 to count every object",
        )
    true = table.true_sizes >= min_size
    on_small = np.zeros_like(table.unknown)
    small = ~true[table.pairs[:, 0]]
    np.add.at(on_small, table.pairs[small, 1], table.overlaps[small])
    taking_part = (table.predicted_sizes >= min_size) & (2 * on_small <= table.predicted_sizes)
    predicted = taking_part & (2 * (on_small + table.unknown) <= table.predicted_sizes)
    return Counted(true, predicted, taking_part & ~predicted, table.predicted_ids[predicted])


def score(
    table: Contingency,
    hits: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
    min_size: int = 0,
    cut: np.ndarray | None = None,
) -> Scores:
    """Scores from a contingency table, as `match` makes them from arrays.

    Args:
        table: Of the whole volume.
        hits: uint64: for the centre of each prediction that is counted, matched or not, the true label it falls
            into, else 0; without the centres that fall where nothing is annotated.
        thresholds: IoU thresholds in (0, 1].
        min_size: Voxels.
        cut: uint64: the true objects that the border of the annotation cuts, see `cut_ids`; None: none.
    """
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise InputError(
                "thresholds",
                expected="IoU thresholds above 0 and up to 1",
                received=f"{threshold}",
                remedy="use for instance 0.5",
            )
    counted = counted_objects(table, min_size)
    part = counted.predicted | counted.if_matched
    both = counted.true[table.pairs[:, 0]] & part[table.pairs[:, 1]]
    new_row, new_column = np.cumsum(counted.true) - 1, np.cumsum(part) - 1
    rows, columns = new_row[table.pairs[both, 0]], new_column[table.pairs[both, 1]]
    iou = table.iou()[both]
    true_ids, predicted_ids, anyway = (
        table.true_ids[counted.true],
        table.predicted_ids[part],
        counted.predicted[part],
    )
    n_true, n_anyway = len(true_ids), int(np.count_nonzero(anyway))

    best_iou, best_predicted = np.zeros(n_true), np.zeros(n_true, np.uint64)
    ascending = np.lexsort((-columns, iou))  # the last one written wins: highest IoU, then the smallest id
    best_iou[rows[ascending]] = iou[ascending]
    best_predicted[rows[ascending]] = predicted_ids[columns[ascending]]

    matched: dict[float, np.ndarray] = {}
    tp: dict[float, int] = {}
    fp: dict[float, int] = {}
    for threshold in sorted(float(t) for t in thresholds):
        enough = iou >= threshold
        partner = _assign(rows[enough], columns[enough], iou[enough], n_true, len(predicted_ids))
        ids, taken = np.zeros(n_true, np.uint64), partner[partner >= 0]
        ids[partner >= 0] = predicted_ids[taken]
        matched[threshold] = ids
        tp[threshold] = len(taken)
        fp[threshold] = n_anyway - int(np.count_nonzero(anyway[taken]))
    fn = {t: n_true - n for t, n in tp.items()}
    return Scores(
        ap={t: average_precision(tp[t], fp[t], fn[t]) for t in tp},
        tp=tp,
        fp=fp,
        fn=fn,
        n_true=n_true,
        n_predicted=next((tp[t] + fp[t] for t in tp), n_anyway),
        detection=score_detection(hits, table, min_size, cut),
        info={"min_size": int(min_size)},
        objects=Objects(
            true_ids, best_iou, best_predicted, counted.predicted_ids, matched, cut_of(true_ids, cut)
        ),
    )


def score_detection(
    hits: np.ndarray, table: Contingency, min_size: int = 0, cut: np.ndarray | None = None
) -> Detection:
    """Detection from the true labels that the points fall into (uint64, 0: none), see `detection`.

    Args:
        hits: A true label for each point.
        table: Its true objects.
        min_size: Voxels.
        cut: uint64: the true objects that are no false negatives, see `cut_ids`; None: none.
    """
    small = table.true_sizes < min_size
    hits = hits[~np.isin(hits, table.true_ids[small])]
    found, true_ids = np.unique(hits[hits != 0]), table.true_ids[~small]
    tp = len(found)
    excused = np.setdiff1d(cut_of(true_ids, cut), found)
    fp, fn = len(hits) - tp, len(true_ids) - tp - len(excused)
    return Detection(tp, fp, fn, average_precision(tp, fp, fn))


def cut_of(true_ids: np.ndarray, cut: np.ndarray | None) -> np.ndarray:
    """Those of some true objects that the border of the annotation cuts, uint64."""
    return np.zeros(0, np.uint64) if cut is None else true_ids[np.isin(true_ids, cut)]


def nearest_voxels(points: np.ndarray) -> np.ndarray:
    """Indices int64 (n, 3) of the voxels whose centres are nearest to the points (halves go up)."""
    points = np.asarray(points, np.float64).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise InputError(
            "points",
            expected="finite z, y, x",
            received="NaN or infinity",
            remedy="drop the rows without a place",
        )
    return np.floor(points + 0.5).astype(np.int64)


def labels_at(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The labels (uint64) at the voxels nearest to the points; 0 outside the volume."""
    index = nearest_voxels(points)
    inside = ((index >= 0) & (index < labels.shape)).all(axis=1)
    found = np.zeros(len(index), np.uint64)
    found[inside] = labels[tuple(index[inside].T)]
    return found


def labels_hit(points: np.ndarray, truth: np.ndarray, annotated: np.ndarray | None) -> np.ndarray:
    """As `labels_at`, without the points that fall where nothing is annotated; those outside the volume stay."""
    index = nearest_voxels(points)
    if annotated is not None:
        outside = ((index < 0) | (index >= truth.shape)).any(axis=1)
        index = index[outside | (labels_at(index, annotated) != 0)]
    return labels_at(index, truth)


def _assign(
    rows: np.ndarray, columns: np.ndarray, iou: np.ndarray, n_rows: int, n_columns: int
) -> np.ndarray:
    """One-to-one assignment with the most pairs, and among those the largest sum of IoU.

    Pairs without a rival are taken as they are, and of pairs whose only rivals share one object the one with
    the highest IoU. The others fall into groups that share no object (the connected components of the graph of
    pairs), and each group is an assignment problem of its own.

    Returns:
        int64 (n_rows,): the column of each row, -1 for none.
    """
    partner = np.full(n_rows, -1, np.int64)
    in_row, in_column = np.bincount(rows, minlength=n_rows), np.bincount(columns, minlength=n_columns)
    rival = (in_row[rows] > 1) | (in_column[columns] > 1)
    partner[rows[~rival]] = columns[~rival]
    in_stars = np.zeros(len(rows), np.bool_)
    for hub, count, others in ((rows, in_row, in_column[columns]), (columns, in_column, in_row[rows])):
        crossed = np.bincount(hub, weights=others > 1, minlength=len(count)) > 0
        star = np.flatnonzero((count[hub] > 1) & ~crossed[hub])
        order = star[np.lexsort((-iou[star], hub[star]))]
        best = order[np.diff(hub[order], prepend=-1) > 0]
        partner[rows[best]] = columns[best]
        in_stars[star] = True
    rest = rival & ~in_stars
    if not rest.any():
        return partner
    rows, columns, iou = rows[rest], columns[rest], iou[rest]
    nodes = n_rows + n_columns
    graph = csr_array((np.ones(len(rows), np.int8), (rows, n_rows + columns)), shape=(nodes, nodes))
    group = connected_components(graph, directed=False)[1][rows]
    order = np.argsort(group, kind="stable")
    for pairs in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        row_ids, row = np.unique(rows[pairs], return_inverse=True)
        column_ids, column = np.unique(columns[pairs], return_inverse=True)
        solve = _assign_dense if len(row_ids) * len(column_ids) <= _DENSE_CELLS else _assign_sparse
        taken_row, taken_column = solve(row, column, iou[pairs], len(row_ids), len(column_ids))
        partner[row_ids[taken_row]] = column_ids[taken_column]
    return partner


def _assign_dense(
    row: np.ndarray, column: np.ndarray, iou: np.ndarray, n: int, m: int
) -> tuple[np.ndarray, np.ndarray]:
    """One group as a matrix: a pair is worth more than all IoUs together, plus its IoU; none is worth 0."""
    worth = np.zeros((n, m))
    worth[row, column] = min(n, m) + 1.0 + iou
    taken_row, taken_column = linear_sum_assignment(worth, maximize=True)
    real = worth[taken_row, taken_column] > 0
    return taken_row[real], taken_column[real]


def _assign_sparse(
    row: np.ndarray, column: np.ndarray, iou: np.ndarray, n: int, m: int
) -> tuple[np.ndarray, np.ndarray]:
    """One group too large for a matrix: scipy's LAPJVsp, in memory that grows with the number of pairs.

    It demands a partner for every row: each has a dummy column of its own, dearer than all IoUs together.
    """
    every = np.arange(n)
    cost = np.concatenate([2.0 - iou, np.full(n, n + 3.0)])
    at = (np.concatenate([row, every]), np.concatenate([column, m + every]))
    taken_row, taken_column = min_weight_full_bipartite_matching(csr_array((cost, at), shape=(n, m + n)))
    real = taken_column < m
    return taken_row[real], taken_column[real]
