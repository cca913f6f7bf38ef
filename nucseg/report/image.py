"""`ReportImage`: one image of a report, and what is found in it."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from nucseg.annotation import AnnotationMask
from nucseg.errors import InputError
from nucseg.evaluate.paths import evaluate_volumes
from nucseg.evaluate.scores import Scores
from nucseg.evaluate.streaming import (
    CenterSum,
    InMemory,
    Int3,
    Readable,
    blocks_of,
    in_unknown,
    labels_of_points,
)
from nucseg.instances.centroids import Centroids
from nucseg.volume import Volume

THRESHOLD = 0.5
"""IoU from which on an object counts as found in the figures."""


class Detections(NamedTuple):
    """Centres (n, 3) in voxels by what they are; `found_true` and `found` belong together row by row."""

    found_true: np.ndarray
    found: np.ndarray
    false: np.ndarray
    missed: np.ndarray


@dataclass(frozen=True)
class ReportImage:
    """An image with predicted instances and, if there is one, the truth.

    Attributes:
        name: What the report calls it.
        raw: The image (z, y, x). A `Volume` is read block by block and may be of any size; of several channels
            the first is shown.
        truth: Labels of the same shape, or None.
        predicted: Labels of the same shape.
        scale_um: Voxel size (z, y, x) in um; by default what `raw` says, if it is a `Volume`.
        min_size: Objects of fewer voxels are left out of the comparison, see `nucseg.match`.
        annotated: 0 or False where the truth is not annotated, and where nothing is right or wrong; None: all is.
    """

    name: str
    raw: np.ndarray | Volume
    truth: np.ndarray | Volume | None
    predicted: np.ndarray | Volume
    scale_um: tuple[float, float, float] | None = None
    min_size: int = 0
    annotated: np.ndarray | AnnotationMask | None = None

    def __post_init__(self) -> None:
        shapes = {
            what: tuple(source.shape)[-3:]
            for what, source in (
                ("raw", self.raw),
                ("truth", self.truth),
                ("predicted", self.predicted),
                ("annotated", self.annotated),
            )
            if source is not None
        }
        if len(set(shapes.values())) > 1:
            raise InputError(
                f"image {self.name!r}",
                expected="raw, truth and prediction of one shape",
                received=", ".join(f"{what} {shape}" for what, shape in shapes.items()),
                remedy="give the labels of this very volume, at the same resolution",
            )

    @property
    def shape(self) -> Int3:
        """z, y, x in voxels."""
        return self.predicted_source.shape

    @property
    def voxel_um(self) -> tuple[float, float, float] | None:
        """Voxel size, None if unknown."""
        if self.scale_um is None and isinstance(self.raw, Volume):
            return self.raw.scale_um
        return self.scale_um

    @property
    def raw_source(self) -> Readable:
        """The image, one channel."""
        return _FirstChannel(self.raw) if isinstance(self.raw, Volume) else InMemory(np.asarray(self.raw))

    @property
    def truth_source(self) -> Readable | None:
        """The true labels where they are annotated, background elsewhere."""
        known = self.annotated_source
        if self.truth is None or known is None:
            return None if self.truth is None else _source(self.truth)
        return _Known(_source(self.truth), known)

    @property
    def annotated_source(self) -> Readable | None:
        """0 where the truth is not annotated; None: all of it is."""
        return None if self.annotated is None else _source(self.annotated)

    @property
    def predicted_source(self) -> Readable:
        """The predicted labels."""
        return _source(self.predicted)

    @cached_property
    def scores(self) -> Scores | None:
        """Scores with the single objects; None without truth."""
        truth = self.truth_source
        if truth is None:
            return None
        return evaluate_volumes(self.predicted_source, truth, self.min_size, annotated=self.annotated_source)

    @cached_property
    def true_centers(self) -> Centroids:
        """Centres and sizes of the true objects; none without truth."""
        return _centers(self.truth_source)

    @cached_property
    def predicted_centers(self) -> Centroids:
        """Centres and sizes of the predicted objects."""
        return _centers(self.predicted_source)

    def detections(self) -> Detections:
        """The counted centres by what they are; of several in one object the nearest to its centre is true.

        The centres that `nucseg.match` counts; what the border of the annotation cuts is not missed.
        """
        truth, scores = self.truth_source, self.scores
        if truth is None or scores is None or scores.objects is None:
            none = np.zeros((0, 3))
            return Detections(none, self.predicted_centers.centers, none, none)
        true_ids, true_centers = self.true_centers.ids, self.true_centers.centers
        points = self.predicted_centers.centers[
            np.isin(self.predicted_centers.ids, scores.objects.predicted_ids)
        ]
        hits = labels_of_points(points, truth)
        ignored = (hits != 0) & ~np.isin(hits, scores.objects.true_ids)
        if self.annotated_source is not None:
            ignored |= in_unknown(points, self.annotated_source)
        points, hits = points[~ignored], hits[~ignored]
        inside = np.flatnonzero(hits)
        at = np.searchsorted(true_ids, hits[inside])
        distance = np.linalg.norm(points[inside] - true_centers[at], axis=1)
        order = np.lexsort((distance, at))
        _, first = np.unique(at[order], return_index=True)
        chosen = order[first]
        false = np.ones(len(points), np.bool_)
        false[inside[chosen]] = False
        missed = np.isin(true_ids, scores.objects.true_ids) & ~np.isin(true_ids, scores.objects.cut)
        missed[at[chosen]] = False
        return Detections(
            true_centers[at[chosen]], points[inside[chosen]], points[false], true_centers[missed]
        )


class _Known:
    """True labels where they are annotated, background elsewhere."""

    def __init__(self, truth: Readable, annotated: Readable) -> None:
        self._truth, self._annotated = truth, annotated
        self.shape, self.write_unit = truth.shape, truth.write_unit

    def read(self, begin: Int3 = (0, 0, 0), shape: Int3 | None = None, fill: float = 0) -> np.ndarray:
        labels = self._truth.read(begin, shape, fill)
        return np.where(self._annotated.read(begin, shape, 1) != 0, labels, labels.dtype.type(0))


class _FirstChannel:
    """A volume without its channel axis."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.shape, self.write_unit = volume.shape, volume.write_unit

    def read(self, begin: Int3 = (0, 0, 0), shape: Int3 | None = None, fill: float = 0) -> np.ndarray:
        region = self._volume.read(begin, shape, fill)
        return region[0] if region.ndim == 4 else region


def _source(labels: np.ndarray | Volume | AnnotationMask) -> Readable:
    return labels if isinstance(labels, Volume | AnnotationMask) else InMemory(np.asarray(labels))


def _centers(labels: Readable | None) -> Centroids:
    centers = CenterSum()
    for begin, shape in [] if labels is None else blocks_of(labels):
        centers.add(labels.read(begin, shape), begin)  # type: ignore[union-attr]  # no blocks without labels
    return centers.total()
