"""The classical floor: smooth, threshold, find maxima, flood. What a learned model must beat.

It is tuned against the truth, even on the very volume that it is scored on, and so is an upper bound of what
this family of methods reaches there; a floor that is tuned carelessly would flatter the model beside it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from nucseg.errors import InputError
from nucseg.evaluate.matching import match
from nucseg.evaluate.overlap import known_labels
from nucseg.instances.centroids import centroids
from nucseg.instances.watershed import flood

Float3 = tuple[float, float, float]
Field = Literal["intensity", "distance"]
"""An image whose maxima are seeds, and from whose maxima down is flooded."""

SMOOTHING = (0.18, 0.3)
"""Smoothing before the threshold that is tried, in mean radii of the nuclei (like all lengths below)."""
GLOBAL = (0.35, 0.5, 0.65, 0.8, 1.0, 1.2)
"""Global thresholds that are tried: multiples of Otsu's, both measured from the darkness."""
WINDOWS = (1.5, 3.0)
"""Windows of local thresholds that are tried."""
LOCAL = (0.85, 1.0, 1.1)
"""Local thresholds that are tried: multiples of the mean in the window, measured from the darkness."""
LOCAL_LEAST = 0.35
"""A local threshold asks for this multiple of Otsu's too, lest it find objects in the darkness."""
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
class FloorParameters:
    """One setting of `threshold_watershed`; lengths are voxels of the finest axis.

    Attributes:
        smoothing: Standard deviation of the Gaussian before the threshold.
        threshold: Multiple of Otsu's threshold, or of the local mean, both measured from the darkness.
        window: Standard deviation of the local mean's Gaussian; 0 for a global threshold.
        seeds: What has its maxima at seeds: the smoothed `intensity`, or the `distance` to the background.
        seed_smoothing: Standard deviation of the Gaussian that smooths it.
        separation: Of several maxima within this distance (along each axis) the highest is the seed.
        surface: What is flooded from its maxima down: `intensity` or `distance`.
        stretch: Voxel size of each axis over the finest, z, y, x.
    """

    smoothing: float
    threshold: float
    window: float
    seeds: Field
    seed_smoothing: float
    separation: int
    surface: Field
    stretch: Float3 = (1.0, 1.0, 1.0)


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


def threshold_watershed(raw: np.ndarray, parameters: FloorParameters) -> np.ndarray:
    """Segment nuclei without learning: Gaussian, threshold, maxima as seeds, watershed in the foreground.

    Args:
        raw: (z, y, x), bright nuclei on dark.
        parameters: From `tune_threshold_watershed`, on this volume or another.

    Returns:
        uint64 (z, y, x), ids 1, 2, ...
    """
    return _Fields(raw, parameters.stretch).segment(parameters)


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
    fields = _Fields(raw, stretch, annotated)
    search = _Search(fields, truth)
    masks = _masks(fields, truth, radius)
    for parameters in _seedings(fields, truth, masks, radius):
        search.try_(parameters)
    for _ in range(ROUNDS):
        if not any([search.try_(other) for other in _neighbours(search.best, masks)]):
            break
    return Floor(search.best, search.ap_50, fields.segment(search.best), len(search.scores))


class _Fields:
    """The smoothed images of one volume, computed once each."""

    def __init__(self, raw: np.ndarray, stretch: Float3, annotated: np.ndarray | None = None) -> None:
        self.raw = np.ascontiguousarray(raw, dtype=np.float32)
        self.stretch = stretch
        self.annotated = None if annotated is None else np.asarray(annotated) != 0
        self.darkness = float(np.percentile(self.raw[::2, ::2, ::2], 1.0))
        self._kept: dict[Any, Any] = {}

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def known(self, mask: np.ndarray) -> np.ndarray:
        """The part of a mask that can be compared with the truth."""
        return mask if self.annotated is None else mask & self.annotated

    def smooth(self, sigma: float) -> np.ndarray:
        sigmas = [sigma / s for s in self.stretch]
        return self._once(("smooth", sigma), lambda: ndimage.gaussian_filter(self.raw, sigmas))

    def foreground(self, p: FloorParameters) -> np.ndarray:
        return self._once((p.smoothing, p.threshold, p.window), lambda: self._foreground(p))

    def _foreground(self, p: FloorParameters) -> np.ndarray:
        image = self.smooth(p.smoothing)
        otsu = self._once(("otsu", p.smoothing), lambda: otsu_threshold(image)) - self.darkness
        if not p.window:
            return image > self.darkness + p.threshold * otsu
        local = self.darkness + p.threshold * (self.smooth(p.window) - self.darkness)
        return image > np.maximum(local, self.darkness + LOCAL_LEAST * otsu)

    def distance(self, p: FloorParameters, sigma: float = 0.0) -> np.ndarray:
        key = ("distance", p.smoothing, p.threshold, p.window)
        plain = self._once(
            key,
            lambda: ndimage.distance_transform_edt(self.foreground(p), sampling=self.stretch).astype(
                np.float32
            ),
        )
        if not sigma:
            return plain
        sigmas = [sigma / s for s in self.stretch]
        return self._once((*key, sigma), lambda: ndimage.gaussian_filter(plain, sigmas))

    def field(self, p: FloorParameters) -> np.ndarray:
        return self.smooth(p.seed_smoothing) if p.seeds == "intensity" else self.distance(p, p.seed_smoothing)

    def peaks(self, p: FloorParameters) -> np.ndarray:
        """bool, maxima of the seeds' field (of intensity: before the foreground is known)."""
        sides = [2 * max(1, round(p.separation / s)) + 1 for s in self.stretch]
        field = self.field(p)
        key: tuple = ("peaks", p.seeds, p.seed_smoothing, p.separation)
        if p.seeds == "distance":
            key = (*key, p.smoothing, p.threshold, p.window)
        return self._once(key, lambda: field == ndimage.maximum_filter(field, sides))

    def segment(self, p: FloorParameters) -> np.ndarray:
        mask = self.foreground(p)
        seeds, _ = ndimage.label(self.peaks(p) & mask)
        surface = self.smooth(p.seed_smoothing if p.seeds == "intensity" else p.smoothing)
        if p.surface == "distance":
            surface = self.distance(p, p.seed_smoothing if p.seeds == "distance" else 0.0)
        return flood(-surface, seeds, mask)


class _Search:
    """Scores settings, each once, and remembers the best."""

    def __init__(self, fields: _Fields, truth: np.ndarray) -> None:
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


def _masks(fields: _Fields, truth: np.ndarray, radius: float) -> list[FloorParameters]:
    """The best foregrounds."""
    inside = truth > 0

    def overlap(p: FloorParameters) -> float:
        mask = fields.known(fields.foreground(p))
        return float(np.count_nonzero(mask & inside)) / float(np.count_nonzero(mask | inside))

    return _best(_foregrounds(radius, fields.stretch), overlap, MASKS)


def _seedings(
    fields: _Fields, truth: np.ndarray, masks: list[FloorParameters], radius: float
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


def _seed_ap(fields: _Fields, truth: np.ndarray, p: FloorParameters) -> float:
    """Detection AP of the seeds themselves: one for a true nucleus that has any, false if more or outside."""
    found = truth[fields.known(fields.peaks(p) & fields.foreground(p))]
    hit = np.unique(found[found > 0]).size
    total = fields._once("n_true", lambda: np.unique(truth[truth > 0]).size)
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


def otsu_threshold(image: np.ndarray) -> float:
    """The threshold that separates an image's values best into two classes (Otsu 1979, 256 bins)."""
    low, high = float(image.min()), float(image.max())
    if low == high:
        return low
    counts, edges = np.histogram(image, 256, (low, high))
    middle = 0.5 * (edges[1:] + edges[:-1])
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    mean_below = np.cumsum(counts * middle) / np.maximum(below, 1)
    mean_above = (np.cumsum((counts * middle)[::-1]) / np.maximum(above[::-1], 1))[::-1]
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(middle[int(np.argmax(between))])
