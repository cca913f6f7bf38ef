"""Projections of an image and its objects along the three axes, block by block."""

from dataclasses import dataclass

import numpy as np
from numba import njit

from nucseg.evaluate.streaming import Int3, blocks_of
from nucseg.report.image import THRESHOLD, ReportImage

NONE, BOTH, TRUTH, PREDICTION = 0, 1, 2, 3
"""What a voxel is: background, matched truth and prediction, matched truth only, matched prediction only."""

FOUND, FALSE = 1, 2
"""What an object is: matched, or a false positive or negative."""

FALSE_PREDICTION, FALSE_TRUTH = 1, 2
"""Bits of `Projection.false`."""


@dataclass
class Projection:
    """A volume seen along one axis; all arrays but `planes` are of the two other axes' shape.

    Attributes:
        raw: float32, the largest intensity; -inf where no voxel is a number.
        kind: uint8, what the brightest voxel of a matched object is (`NONE`, `BOTH`, `TRUTH`, `PREDICTION`).
        labels: uint64, the label of that voxel: the prediction's, or the truth's where there is none.
        brightest: float32, its intensity.
        false: uint8, which unmatched objects are anywhere along the line: bits `FALSE_PREDICTION`, `FALSE_TRUTH`.
        planes: int64, of every plane along the axis how many voxels are objects.
    """

    raw: np.ndarray
    kind: np.ndarray
    labels: np.ndarray
    brightest: np.ndarray
    false: np.ndarray
    planes: np.ndarray

    @classmethod
    def empty(cls, shape: Int3, axis: int) -> "Projection":
        """Of nothing yet."""
        plane = tuple(n for i, n in enumerate(shape) if i != axis)
        low = np.full(plane, -np.inf, np.float32)
        kind, labels, false = (np.zeros(plane, t) for t in (np.uint8, np.uint64, np.uint8))
        return cls(low, kind, labels, low.copy(), false, np.zeros(shape[axis], np.int64))

    @property
    def false_positive(self) -> np.ndarray:
        """Where any unmatched prediction is, bool."""
        return (self.false & FALSE_PREDICTION) != 0

    @property
    def false_negative(self) -> np.ndarray:
        """Where any unmatched true object is, bool."""
        return (self.false & FALSE_TRUTH) != 0

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All arrays, in the order of the attributes."""
        return self.raw, self.kind, self.labels, self.brightest, self.false, self.planes


class Lookup:
    """What every counted object is, by its label.

    Args:
        found: Ids of matched objects.
        false: Ids of unmatched ones.
    """

    def __init__(self, found: np.ndarray, false: np.ndarray) -> None:
        ids = np.concatenate([found, false]).astype(np.uint64)
        order = np.argsort(ids)
        self.ids = ids[order]
        self.states = np.repeat(np.array([FOUND, FALSE], np.uint8), [len(found), len(false)])[order]

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """uint8 state of every voxel; 0 for background and for objects that are not counted."""
        states = np.zeros(labels.shape, np.uint8)
        if len(self.ids):
            objects = labels != 0
            ids = labels[objects].astype(np.uint64)
            at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
            states[objects] = np.where(self.ids[at] == ids, self.states[at], 0)
        return states


class States:
    """What the objects of an image are: look-ups for the truth and for the prediction.

    Without truth, every prediction counts as found.
    """

    def __init__(self, image: ReportImage) -> None:
        objects = image.scores.objects if image.scores else None
        if objects is None:
            ids = image.predicted_centers.ids
            self.true, self.predicted = Lookup(ids[:0], ids[:0]), Lookup(ids, ids[:0])
        else:
            true, predicted = objects.true_positives(THRESHOLD)
            self.true = Lookup(true, objects.false_negatives(THRESHOLD))
            self.predicted = Lookup(predicted, objects.false_positives(THRESHOLD))


def project(image: ReportImage) -> tuple[Projection, Projection, Projection]:
    """The image seen along z, y and x. Reads every block once; memory: the projections and a block."""
    states = States(image)
    raw_source, truth_source, predicted_source = image.raw_source, image.truth_source, image.predicted_source
    z, y, x = (Projection.empty(image.shape, axis) for axis in range(3))
    for begin, shape in blocks_of(predicted_source):
        raw = np.ascontiguousarray(raw_source.read(begin, shape), np.float32)
        predicted = predicted_source.read(begin, shape)
        truth = np.zeros(shape, np.uint8) if truth_source is None else truth_source.read(begin, shape)
        block = (
            raw,
            np.ascontiguousarray(truth, np.uint64),  # one dtype: one compilation
            np.ascontiguousarray(predicted, np.uint64),
            *(states.true.ids, states.true.states, states.predicted.ids, states.predicted.states),
        )
        for axis, projection in enumerate((z, y, x)):
            _project_block(axis, begin, *block, *projection.arrays)
    return z, y, x


@njit(cache=True, nogil=True)
def _state(label: np.uint64, ids: np.ndarray, states: np.ndarray) -> int:
    """State of an object; 0 if it is not among the ids, which are ascending."""
    at = np.searchsorted(ids, label)
    if at < len(ids) and ids[at] == label:
        return states[at]
    return 0


@njit(cache=True, nogil=True)
def _project_block(
    axis: int,
    begin: Int3,
    raw: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    true_ids: np.ndarray,
    true_states: np.ndarray,
    predicted_ids: np.ndarray,
    predicted_states: np.ndarray,
    largest: np.ndarray,
    kinds: np.ndarray,
    labels: np.ndarray,
    brightest: np.ndarray,
    falses: np.ndarray,
    planes: np.ndarray,
) -> None:
    """Add a block whose first voxel is `begin` to the `Projection.arrays` along an axis."""
    depth, height, width = raw.shape
    z0, y0, x0 = begin
    for z in range(depth):
        for y in range(height):
            last_true, last_predicted = np.uint64(0), np.uint64(0)
            there, here = 0, 0
            for x in range(width):
                if axis == 0:
                    row, column, plane = y0 + y, x0 + x, z0 + z
                elif axis == 1:
                    row, column, plane = z0 + z, x0 + x, y0 + y
                else:
                    row, column, plane = z0 + z, y0 + y, x0 + x
                value = np.float32(raw[z, y, x] if np.isfinite(raw[z, y, x]) else -np.inf)
                if value > largest[row, column]:
                    largest[row, column] = value
                true, found = truth[z, y, x], predicted[z, y, x]
                if true == 0 and found == 0:
                    continue
                planes[plane] += 1
                if true != last_true:
                    there = _state(true, true_ids, true_states) if true else 0
                    last_true = true
                if found != last_predicted:
                    here = _state(found, predicted_ids, predicted_states) if found else 0
                    last_predicted = found
                if here == FALSE:
                    falses[row, column] |= FALSE_PREDICTION
                if there == FALSE:
                    falses[row, column] |= FALSE_TRUTH
                if (here == FOUND or there == FOUND) and value > brightest[row, column]:
                    brightest[row, column] = value
                    if here == FOUND:
                        kinds[row, column] = BOTH if there == FOUND else PREDICTION
                        labels[row, column] = found
                    else:
                        kinds[row, column] = TRUTH
                        labels[row, column] = true
