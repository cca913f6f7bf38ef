"""Projections of an image and its objects along the three axes, block by block."""

from dataclasses import dataclass

import numpy as np

from nucseg.evaluate.streaming import Int3, blocks_of
from nucseg.report.image import THRESHOLD, ReportImage

NONE, BOTH, TRUTH, PREDICTION = 0, 1, 2, 3
"""What a voxel is: background, matched truth and prediction, matched truth only, matched prediction only."""

FOUND, FALSE = 1, 2
"""What an object is: matched, or a false positive or negative."""


@dataclass
class Projection:
    """A volume seen along one axis; all arrays are of the two other axes' shape.

    Attributes:
        raw: float32, the largest intensity.
        kind: uint8, what the brightest voxel of a matched object is (`NONE`, `BOTH`, `TRUTH`, `PREDICTION`).
        labels: uint64, the label of that voxel: the prediction's, or the truth's where there is none.
        false_positive: bool, where any unmatched prediction is.
        false_negative: bool, where any unmatched true object is.
        planes: int64, of every plane along the axis how many voxels are objects.
    """

    raw: np.ndarray
    kind: np.ndarray
    labels: np.ndarray
    false_positive: np.ndarray
    false_negative: np.ndarray
    planes: np.ndarray
    _brightest: np.ndarray

    @classmethod
    def empty(cls, shape: Int3, axis: int) -> "Projection":
        """Of nothing yet."""
        plane = tuple(n for i, n in enumerate(shape) if i != axis)
        low = np.full(plane, -np.inf, np.float32)
        false = np.zeros(plane, np.bool_)
        kind, labels = np.zeros(plane, np.uint8), np.zeros(plane, np.uint64)
        return cls(low, kind, labels, false, false.copy(), np.zeros(shape[axis], np.int64), low.copy())


class States:
    """What every object of an image is, and a look-up of labels.

    Without truth, every prediction counts as found.
    """

    def __init__(self, image: ReportImage) -> None:
        objects = image.scores.objects if image.scores else None
        if objects is None:
            ids = image.predicted_centers.ids
            self.true, self.predicted = _Lookup(ids[:0], ids[:0]), _Lookup(ids, ids[:0])
        else:
            true, predicted = objects.true_positives(THRESHOLD)
            self.true = _Lookup(true, objects.false_negatives(THRESHOLD))
            self.predicted = _Lookup(predicted, objects.false_positives(THRESHOLD))


class _Lookup:
    def __init__(self, found: np.ndarray, false: np.ndarray) -> None:
        ids = np.concatenate([found, false])
        order = np.argsort(ids)
        self._ids = ids[order]
        self._states = np.repeat(np.array([FOUND, FALSE], np.uint8), [len(found), len(false)])[order]

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """uint8 state of every voxel; 0 for background and for objects that are not counted."""
        states = np.zeros(labels.shape, np.uint8)
        if len(self._ids):
            objects = labels != 0
            ids = labels[objects].astype(np.uint64)
            at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
            states[objects] = np.where(self._ids[at] == ids, self._states[at], 0)
        return states


def project(image: ReportImage) -> tuple[Projection, Projection, Projection]:
    """The image seen along z, y and x. Reads every block once; memory: the projections and a block."""
    states = States(image)
    raw_source, truth_source, predicted_source = image.raw_source, image.truth_source, image.predicted_source
    z, y, x = (Projection.empty(image.shape, axis) for axis in range(3))
    for begin, shape in blocks_of(predicted_source):
        raw = np.asarray(raw_source.read(begin, shape), np.float32)
        raw = np.where(np.isfinite(raw), raw, -np.inf)
        predicted = predicted_source.read(begin, shape)
        truth = np.zeros_like(predicted) if truth_source is None else truth_source.read(begin, shape)
        here, there = states.predicted(predicted), states.true(truth)
        kind = np.zeros(raw.shape, np.uint8)
        kind[there == FOUND] = TRUTH
        kind[here == FOUND] = PREDICTION
        kind[(there == FOUND) & (here == FOUND)] = BOTH
        labels = np.where(here == FOUND, predicted.astype(np.uint64), truth.astype(np.uint64))
        for axis, projection in enumerate((z, y, x)):
            at = tuple(
                slice(b, b + n) for i, (b, n) in enumerate(zip(begin, shape, strict=True)) if i != axis
            )
            np.maximum(projection.raw[at], raw.max(axis), out=projection.raw[at])
            projection.false_positive[at] |= (here == FALSE).any(axis)
            projection.false_negative[at] |= (there == FALSE).any(axis)
            others = tuple(i for i in range(3) if i != axis)
            projection.planes[begin[axis] : begin[axis] + shape[axis]] += np.count_nonzero(
                (truth != 0) | (predicted != 0), axis=others
            )
            _keep_brightest(projection, at, np.where(kind == NONE, -np.inf, raw), kind, labels, axis)
    return z, y, x


def _keep_brightest(
    projection: Projection,
    at: tuple[slice, ...],
    value: np.ndarray,
    kind: np.ndarray,
    labels: np.ndarray,
    axis: int,
) -> None:
    """Take over the brightest object voxel along the axis where it is brighter than that of earlier blocks."""
    best = np.expand_dims(value.argmax(axis), axis)
    brightest = np.take_along_axis(value, best, axis).squeeze(axis)
    better = brightest > projection._brightest[at]
    projection._brightest[at][better] = brightest[better]
    projection.kind[at][better] = np.take_along_axis(kind, best, axis).squeeze(axis)[better]
    projection.labels[at][better] = np.take_along_axis(labels, best, axis).squeeze(axis)[better]
