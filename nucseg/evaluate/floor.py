"""The classical floor: smooth, threshold, find maxima, flood. What a learned model must beat."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from nucseg.instances.watershed import flood

Float3 = tuple[float, float, float]
Field = Literal["intensity", "distance"]
"""An image whose maxima are seeds, and from whose maxima down is flooded."""


LOCAL_LEAST = 0.35
"""A local threshold asks for this multiple of Otsu's too, lest it find objects in the darkness."""


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


def threshold_watershed(raw: np.ndarray, parameters: FloorParameters) -> np.ndarray:
    """Segment nuclei without learning: Gaussian, threshold, maxima as seeds, watershed in the foreground.

    Args:
        raw: (z, y, x), bright nuclei on dark.
        parameters: From `tune_threshold_watershed`, on this volume or another.

    Returns:
        uint64 (z, y, x), ids 1, 2, ...
    """
    return Fields(raw, parameters.stretch).segment(parameters)


class Fields:
    """The smoothed images of one volume, computed once each."""

    def __init__(self, raw: np.ndarray, stretch: Float3, annotated: np.ndarray | None = None) -> None:
        self.raw = np.ascontiguousarray(raw, dtype=np.float32)
        self.stretch = stretch
        self.annotated = None if annotated is None else np.asarray(annotated) != 0
        self.darkness = float(np.percentile(self.raw[::2, ::2, ::2], 1.0))
        self._kept: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, made at the first call with this key."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def known(self, mask: np.ndarray) -> np.ndarray:
        """The part of a mask that can be compared with the truth."""
        return mask if self.annotated is None else mask & self.annotated

    def smooth(self, sigma: float) -> np.ndarray:
        """The image smoothed by a Gaussian of this standard deviation, in voxels of the finest axis."""
        sigmas = [sigma / s for s in self.stretch]
        return self.once(("smooth", sigma), lambda: ndimage.gaussian_filter(self.raw, sigmas))

    def foreground(self, p: FloorParameters) -> np.ndarray:
        """Above the threshold, bool."""
        return self.once((p.smoothing, p.threshold, p.window), lambda: self._foreground(p))

    def _foreground(self, p: FloorParameters) -> np.ndarray:
        image = self.smooth(p.smoothing)
        otsu = self.once(("otsu", p.smoothing), lambda: otsu_threshold(image)) - self.darkness
        if not p.window:
            return image > self.darkness + p.threshold * otsu
        local = self.darkness + p.threshold * (self.smooth(p.window) - self.darkness)
        return image > np.maximum(local, self.darkness + LOCAL_LEAST * otsu)

    def distance(self, p: FloorParameters, sigma: float = 0.0) -> np.ndarray:
        """Distance to the background, smoothed."""
        key = ("distance", p.smoothing, p.threshold, p.window)
        plain = self.once(
            key,
            lambda: ndimage.distance_transform_edt(self.foreground(p), sampling=self.stretch).astype(
                np.float32
            ),
        )
        if not sigma:
            return plain
        sigmas = [sigma / s for s in self.stretch]
        return self.once((*key, sigma), lambda: ndimage.gaussian_filter(plain, sigmas))

    def field(self, p: FloorParameters) -> np.ndarray:
        """What has its maxima at seeds."""
        return self.smooth(p.seed_smoothing) if p.seeds == "intensity" else self.distance(p, p.seed_smoothing)

    def peaks(self, p: FloorParameters) -> np.ndarray:
        """bool, maxima of the seeds' field (of intensity: before the foreground is known)."""
        sides = [2 * max(1, round(p.separation / s)) + 1 for s in self.stretch]
        field = self.field(p)
        key: tuple = ("peaks", p.seeds, p.seed_smoothing, p.separation)
        if p.seeds == "distance":
            key = (*key, p.smoothing, p.threshold, p.window)
        return self.once(key, lambda: field == ndimage.maximum_filter(field, sides))

    def segment(self, p: FloorParameters) -> np.ndarray:
        """The instances of a setting, uint64."""
        mask = self.foreground(p)
        seeds, _ = ndimage.label(self.peaks(p) & mask)
        surface = self.smooth(p.seed_smoothing if p.seeds == "intensity" else p.smoothing)
        if p.surface == "distance":
            surface = self.distance(p, p.seed_smoothing if p.seeds == "distance" else 0.0)
        return flood(-surface, seeds, mask)


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
