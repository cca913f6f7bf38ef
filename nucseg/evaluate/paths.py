"""Evaluation of volumes of any size: block by block, in memory that grows with the number of objects only."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nucseg.annotation import AnnotatedLabels, annotation_of
from nucseg.errors import InputError
from nucseg.evaluate.border import cut_within
from nucseg.evaluate.matching import THRESHOLDS, counted_objects, cut_of, score, score_detection
from nucseg.evaluate.overlap import Contingency, contingency, known_labels
from nucseg.evaluate.scores import Objects, Scores
from nucseg.evaluate.streaming import CenterSum, IdSum, Int3, Readable, TableSum, blocks_of, labels_hit
from nucseg.points import read_points
from nucseg.volume import Volume, open_labels

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (blocks done, blocks in all)."""

_TABLES = (".csv", ".parquet")


def evaluate_paths(
    predicted_path: str | Path,
    truth_path: str | Path,
    min_size: int = 0,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    name: str = "nuclei",
    mask: str | Path | None = None,
    ignore_label: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score files: predicted labels, or a table of predicted points, against labels.

    The same scores as `nucseg.match` and `nucseg.evaluate.matching.detection` give for whole arrays.

    Args:
        predicted_path: Labels (the output of `nucseg run`, a label image, a TIFF, ...), or a `.csv` or
            `.parquet` table with columns z, y, x in voxels, or a folder without such labels that has
            `tables/points` (the output of `nucseg detect`). A table gives `detection_ap` only.
        truth_path: Labels.
        min_size: Objects of fewer voxels are left out, see `nucseg.match`.
        thresholds: IoU thresholds.
        name: Name of the label image, where a path holds several.
        mask: What of the truth is annotated: path of an array of its shape, or the name of a label image inside the
            OME-Zarr `truth_path`; 0 or False where nothing is annotated. None: all is, but for `ignore_label`.
        ignore_label: A label of the truth that means "not annotated here", such as -1 or 65535.
        progress: Called after every block.

    Logs a warning where no true object is as large as `min_size`, and for labels that look like an image.

    Raises:
        InputError: If a file is missing or holds no labels, the shapes differ, or the truth has no annotated object.
    """
    truth = open_labels(truth_path, name)
    _warn_of_image(truth)
    annotated = annotation_of(truth, mask, ignore_label, inside=truth_path)
    table = _table_of(Path(predicted_path), name)
    if table is not None:
        scores = evaluate_points(read_points(table), truth, min_size, progress, annotated=annotated)
    else:
        predicted = open_labels(predicted_path, name)
        _warn_of_image(predicted)
        scores = evaluate_volumes(predicted, truth, min_size, thresholds, progress, annotated=annotated)
    if scores.objects is not None and not len(scores.objects.true_ids):
        _demand_objects(truth if annotated is None else AnnotatedLabels(truth, annotated), min_size)
    return scores


def evaluate_volumes(
    predicted: Readable,
    truth: Readable,
    min_size: int = 0,
    thresholds: Sequence[float] = THRESHOLDS,
    progress: Progress | None = None,
    *,
    annotated: Readable | None = None,
) -> Scores:
    """As `nucseg.match`, reading the volumes block by block.

    Args:
        predicted: Labels.
        truth: Labels.
        min_size: Voxels.
        thresholds: IoU thresholds.
        progress: Called after every block.
        annotated: 0 or False where the truth is not annotated, such as an `AnnotationMask`; None: all is annotated.

    Raises:
        InputError: If the shapes differ.
    """
    _require_mask_shape(annotated, truth)
    if predicted.shape != truth.shape:
        raise InputError(
            getattr(predicted, "path", "prediction"),
            expected=f"labels of the truth's shape {truth.shape}",
            received=f"{predicted.shape}",
            remedy="compare the labels of the same volume, at the same resolution",
        )
    tables, centers, cut = TableSum(), CenterSum(), IdSum()
    blocks = list(blocks_of(predicted))
    for done, (begin, shape) in enumerate(blocks, start=1):
        labels = predicted.read(begin, shape)
        tables.add(_table_of_block(truth.read(begin, shape), labels, annotated, begin, cut))
        centers.add(labels, begin)
        if progress:
            progress(done, len(blocks))
    table, found = tables.total(), centers.total()
    counted = np.isin(found.ids, counted_objects(table, min_size).predicted_ids)
    hits = labels_hit(found.centers[counted], truth, annotated)
    return score(table, hits, thresholds, min_size, cut.total())


def evaluate_points(
    points: np.ndarray,
    truth: Readable,
    min_size: int = 0,
    progress: Progress | None = None,
    *,
    annotated: Readable | None = None,
) -> Scores:
    """As `nucseg.evaluate.matching.detection`, reading the truth block by block.

    Args:
        points: (n, 3) z, y, x index coordinates in voxels.
        truth: Labels.
        min_size: True objects of fewer annotated voxels, and the points in them, are left out.
        progress: Called after every block.
        annotated: 0 or False where the truth is not annotated; None: all is annotated.

    Returns:
        Scores without AP per threshold.
    """
    _require_mask_shape(annotated, truth)
    tables, cut = TableSum(), IdSum()
    blocks = list(blocks_of(truth))
    for done, (begin, shape) in enumerate(blocks, start=1):
        labels = truth.read(begin, shape)
        tables.add(_table_of_block(labels, np.zeros_like(labels), annotated, begin, cut))
        if progress:
            progress(done, len(blocks))
    table = tables.total()
    found = score_detection(labels_hit(points, truth, annotated), table, min_size, cut.total())
    true_ids, none = table.true_ids[counted_objects(table, min_size).true], np.zeros(0, np.uint64)
    best, ids = np.zeros(len(true_ids)), np.zeros(len(true_ids), np.uint64)
    return Scores(
        ap={},
        tp={},
        fp={},
        fn={},
        n_true=found.tp + found.fn,
        n_predicted=found.tp + found.fp,
        detection=found,
        info={"min_size": int(min_size)},
        objects=Objects(true_ids, best, ids, none, {}, cut_of(true_ids, cut.total())),
    )


def _table_of_block(
    truth: np.ndarray, predicted: np.ndarray, annotated: Readable | None, begin: Int3, cut: IdSum
) -> Contingency:
    """The contingency table of a block; adds to `cut` the true objects that the border of the annotation cuts here."""
    if annotated is None:
        return contingency(truth, predicted)
    z, y, x = (n + 2 for n in truth.shape)
    around = annotated.read((begin[0] - 1, begin[1] - 1, begin[2] - 1), (z, y, x), 1)
    known = around[1:-1, 1:-1, 1:-1]
    cut.add(cut_within(known_labels(truth, known), around))
    return contingency(truth, predicted, known)


def _require_mask_shape(annotated: Readable | None, truth: Readable) -> None:
    if annotated is not None and annotated.shape != truth.shape:
        raise InputError(
            getattr(annotated, "path", "annotated"),
            expected=f"the truth's shape {truth.shape}",
            received=f"{annotated.shape}",
            remedy="give the mask that was made for this truth",
        )


def _demand_objects(truth: Volume | AnnotatedLabels, min_size: int) -> None:
    """Warn that the truth's objects are all left out; refuse a truth without any."""
    if any(truth.read(begin, shape).any() for begin, shape in blocks_of(truth)):
        logger.warning(
            "%s: no true object has %d voxels; the scores say nothing, choose a smaller --min-size",
            truth.path,
            min_size,
        )
        return
    raise InputError(
        f"{truth.path}: truth",
        expected="labelled objects to score against",
        received="0 in every voxel" if isinstance(truth, Volume) else "0 in every voxel that is annotated",
        remedy="check that this is the right label file",
    )


def _warn_of_image(labels: Volume) -> None:
    """Warn if most voxels in the middle differ from both their neighbours along x, as in an image with noise."""
    size = tuple(min(n, 64) for n in labels.shape)
    begin = tuple((n - s) // 2 for n, s in zip(labels.shape, size, strict=True))
    data = labels.read((begin[0], begin[1], begin[2]), (size[0], size[1], size[2]))
    same = np.zeros(data.shape, np.bool_)
    equal = data[..., 1:] == data[..., :-1]
    same[..., 1:] |= equal
    same[..., :-1] |= equal
    filled = data != 0
    count, alone = int(filled.sum()), int((filled & ~same).sum())
    if data.shape[2] > 1 and 10 * count > data.size and 2 * alone > count:
        logger.warning(
            "%s: %.0f%% of the labelled voxels in the middle are single voxels: an image instead of labels, it seems",
            labels.path,
            100 * alone / count,
        )


def _table_of(predicted: Path, name: str) -> Path | None:
    """The table of points that a path stands for; None where it stands for labels."""
    if predicted.suffix.lower() in _TABLES:
        return predicted
    if (predicted / "labels" / name).exists():
        return None
    tables = (predicted / "tables" / f"points{suffix}" for suffix in (".parquet", ".csv"))
    return next((table for table in tables if table.is_file()), None)
