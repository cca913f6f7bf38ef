"""Tuning the classical floor.

It is tuned against the truth, even on the very volume that it is scored on, and so is an upper bound of what
this family of methods reaches there; a floor that is tuned carelessly would flatter the model beside it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nucseg.errors import InputError
from nucseg.evaluate.floor import Field, Fields, Float3, FloorParameters
from nucseg.evaluate.matching import match
from nucseg.evaluate.overlap import known_labels
from nucseg.instances.centroids import centroids

SMOOTHING = (0.18, 0.3)
"""Smoothing before the threshold that is tried, in mean radii of the nuclei (like all lengths below)."""
GLOBAL = (0.35, 0.5, 0.65, 0.8, 1.0, 1.2)
"""Global thresholds that are tried: multiples of Otsu's, both measured from the darkness."""
WINDOWS = (1.5, 3.0)
"""Windows of local thresholds that are tried."""
LOCAL = (0.85, 1.0, 1.1)
"""Local thresholds that are tried: multiples of the mean in the window, measured from the darkness."""
SEED_SMOOTHING: dict[Field, tuple[float, ...]] = {
    "intensity": (0.2, 0.3, 0.4, 0.5, 0.6, 0.75),
    "distance": (0.1, 0.2, 0.3, 0.45),
}
"""Smoothing of the field whose maxima are seeds that is tried."""
SEPARATION = (0.35, 0.5, 0.65, 0.8, 1.0)
"""Least distances of seeds that are tried."""
MASKS, CANDIDATES, ROUNDS = 6, 8, 3
"""How many foregrounds are tried, how many seedings of each kind are flooded, how often the best is refined."""


@dataclass(frozen=True)
class Floor:
    """What the tuning found.

    Attributes:
        parameters: The best setting.
        ap_50: Its AP at an IoU of 0.5.
        labels: uint64, the segmentation it gives.
        tried: Number of segmentations that were scored.
    """

    parameters: FloorParameters
    ap_50: float
    labels: np.ndarray
    tried: int


def tune_threshold_watershed(
    raw: np.ndarray,
    truth: np.ndarray,
    *,
    scale_um: Sequence[float] | None = None,
    annotated: np.ndarray | None = None,
) -> Floor:
    """Tune `threshold_watershed` for AP at an IoU of 0.5 against the truth.

    The grids (see the module's constants) are taken in units of the nuclei's mean radius. Foregrounds are
    ranked by their IoU with the true foreground, seedings by their detection AP; the best of both are flooded
    and scored, and the best segmentation is refined one parameter at a time until nothing improves.

    Args:
        raw: (z, y, x), bright nuclei on dark.
        truth: Labels of the same shape.
        scale_um: Voxel, um, z, y, x; equal axes if None.
        annotated: bool of the same shape, False where the truth is not annotated, see `nucseg.match`; None: all is.

    Raises:
        InputError: When the shapes differ or the truth has no label where it is annotated.
    """
    if raw.shape != truth.shape or raw.ndim != 3:
        raise InputError(
            "raw and truth",
            expected="two volumes of one shape (z, y, x)",
            received=f"{raw.shape} and {truth.shape}",
            remedy="pass the image and its labels",
        )
    truth = known_labels(truth, annotated)
    sizes = centroids(truth).sizes
    if sizes.size == 0:
        raise InputError(
            "truth", expected="labels", received="background only", remedy="pass annotated labels"
        )
    scale = (1.0, 1.0, 1.0) if scale_um is None else tuple(float(s) for s in scale_um)
    stretch = (scale[0] / min(scale), scale[1] / min(scale), scale[2] / min(scale))
    radius = float(np.mean((3.0 * sizes * math.prod(stretch) / (4.0 * math.pi)) ** (1.0 / 3.0)))
    fields = Fields(raw, stretch, annotated)
    search = _Search(fields, truth)
    masks = _masks(fields, truth, radius)
    for parameters in _seedings(fields, truth, masks, radius):
        search.try_(parameters)
    for _ in range(ROUNDS):
        if not any([search.try_(other) for other in _neighbours(search.best, masks)]):
            break
    return Floor(search.best, search.ap_50, fields.segment(search.best), len(search.scores))


class _Search:
    """Scores settings, each once, and remembers the best."""

    def __init__(self, fields: Fields, truth: np.ndarray) -> None:
        self.fields, self.truth = fields, truth
        self.scores: dict[FloorParameters, float] = {}
        self.ap_50 = -1.0
        self.best: FloorParameters

    def try_(self, parameters: FloorParameters) -> bool:
        """Score a setting; True if it is the best so far."""
        if parameters in self.scores:
            return False
        labels = self.fields.segment(parameters)
        ap_50 = match(self.truth, labels, (0.5,), annotated=self.fields.annotated).ap[0.5]
        self.scores[parameters] = ap_50
        if ap_50 <= self.ap_50:
            return False
        self.ap_50, self.best = ap_50, parameters
        return True


def _foregrounds(radius: float, stretch: Float3) -> Iterator[FloorParameters]:
    for smoothing in SMOOTHING:
        start = FloorParameters(smoothing * radius, 1.0, 0.0, "intensity", radius, 1, "intensity", stretch)
        for threshold in GLOBAL:
            yield replace(start, threshold=threshold)
        for window in WINDOWS:
            for threshold in LOCAL:
                yield replace(start, threshold=threshold, window=window * radius)


def _masks(fields: Fields, truth: np.ndarray, radius: float) -> list[FloorParameters]:
    """The best foregrounds."""
    inside = truth > 0

    def overlap(p: FloorParameters) -> float:
        mask = fields.known(fields.foreground(p))
        return float(np.count_nonzero(mask & inside)) / float(np.count_nonzero(mask | inside))

    return _best(_foregrounds(radius, fields.stretch), overlap, MASKS)


def _seedings(
    fields: Fields, truth: np.ndarray, masks: list[FloorParameters], radius: float
) -> list[FloorParameters]:
    """The best seedings of each kind in these foregrounds."""
    chosen: list[FloorParameters] = []
    for kind, sigmas in SEED_SMOOTHING.items():
        seedings = {
            replace(
                mask,
                seeds=kind,
                surface=kind,
                seed_smoothing=sigma * radius,
                separation=max(1, round(gap * radius)),
            )
            for mask in masks
            for sigma in sigmas
            for gap in SEPARATION
        }
        chosen += _best(seedings, lambda p: _seed_ap(fields, truth, p), CANDIDATES)
    return chosen


def _best(
    parameters: Iterable[FloorParameters], score: Callable[[FloorParameters], float], count: int
) -> list[FloorParameters]:
    return sorted(parameters, key=lambda p: (-score(p), repr(p)))[:count]


def _seed_ap(fields: Fields, truth: np.ndarray, p: FloorParameters) -> float:
    """Detection AP of the seeds themselves: one for a true nucleus that has any, false if more or outside."""
    found = truth[fields.known(fields.peaks(p) & fields.foreground(p))]
    hit = np.unique(found[found > 0]).size
    total = fields.once("n_true", lambda: np.unique(truth[truth > 0]).size)
    return float(hit / (total + found.size - hit))


def _neighbours(p: FloorParameters, masks: list[FloorParameters]) -> Iterator[FloorParameters]:
    """The setting with one parameter changed."""
    for other in masks:
        yield replace(p, smoothing=other.smoothing, threshold=other.threshold, window=other.window)
    for factor in (0.93, 1.07):
        yield replace(p, threshold=p.threshold * factor)
    for factor in (0.8, 0.9, 1.1, 1.25):
        yield replace(p, seed_smoothing=p.seed_smoothing * factor)
    for step in (-1, 1):
        yield replace(p, separation=max(1, p.separation + step))
    yield replace(p, surface="distance" if p.surface == "intensity" else "intensity")
