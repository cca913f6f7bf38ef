"""`GaussianCenters`: a Gaussian blob at the centre of each nucleus, which needs no more than points to train."""

from typing import Any, ClassVar

import numpy as np
from numba import njit
from pydantic import Field

from nucseg.heads.base import Centers, Crop, Head, weighted_mean
from nucseg.instances.centroids import label_array
from nucseg.instances.label_table import slot_of, table_of

NEAR = 0.01
"""Targets from this value on have weight 1, smaller ones are background."""
CUT = 4.0
"""Standard deviations at which blobs are cut off, where their value is 0.0003."""


class GaussianCenters(Head):
    """One channel: 1 at the centre of each nucleus, falling off as a Gaussian; its maxima are the nuclei.

    Centres are taken at sub-voxel positions, so that the largest value at a voxel may be a little below 1. Where
    blobs overlap the larger value counts, never the sum: the height of a peak says nothing about its
    neighbours. Blobs are round in um: `sigma` is in voxels of the same volume as the real ones, but cubic.

    Attributes:
        sigma: Standard deviation of a blob; 2 as published.
        background_weight: Weight of voxels whose target is below 0.01; those above have 1. The mean is normalised
            by the sum of the weights. The published code has 1e-5, which leaves the network free to predict
            anything far from centres: that suits annotations that miss nuclei, and costs false detections where
            all nuclei are annotated. After 300 steps on synthetic worms (three seeds) the detection AP was .93 with
            1e-5, .95 with 0.01, .96 with 0.1 and .97 with 1; with 1 peaks are lower than the published thresholds.
    """

    is_main: ClassVar[bool] = False
    needs_extent: ClassVar[bool] = False
    detects: ClassVar[bool] = True

    sigma: float = Field(2.0, gt=0)
    background_weight: float = Field(0.1, ge=0)

    @property
    def name(self) -> str:
        """The usual short name."""
        return "gauss"

    @property
    def channels(self) -> int:
        """The height of the blobs."""
        return 1

    def target(
        self,
        labels: np.ndarray,
        crop: Crop,
        scale_um: tuple[float, float, float] | None,
        centers: Centers,
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Blobs (1, z, y, x) and weight (z, y, x) of the crop; see `Head.target`.

        Centres outside the crop contribute what reaches into it. A nucleus whose centre is not known has no blob
        and its voxels weight 0.
        """
        known = np.asarray(centers.known, np.bool_)
        ids = np.asarray(centers.ids, np.uint64)[known]
        places = np.asarray(centers.centers, np.float64).reshape(-1, 3)[known]
        begin = np.array([part.start for part in crop], np.float64)
        shape = tuple(part.stop - part.start for part in crop)
        blobs = gaussian_blobs(places - begin, (shape[0], shape[1], shape[2]), self.sigmas(scale_um))
        weight = np.where(blobs >= NEAR, np.float32(1), np.float32(self.background_weight))
        _drop_unknown(weight, label_array(labels[crop]), np.ascontiguousarray(ids))
        if mask is not None:
            weight[~mask[crop]] = 0
        return blobs[None], weight

    def loss(self, output: Any, target: Any, weight: Any) -> Any:
        """Squared difference."""
        from keras import ops

        difference = output[..., 0] - ops.cast(target[..., 0], output.dtype)
        return weighted_mean(ops.square(difference), weight)

    def sigmas(self, scale_um: tuple[float, float, float] | None) -> tuple[float, float, float]:
        """Standard deviation along z, y, x in voxels; the same length along all three, in um."""
        um = np.ones(3) if scale_um is None else np.array(scale_um, np.float64)
        z, y, x = self.sigma * np.prod(um) ** (1 / 3) / um
        return float(z), float(y), float(x)

    @property
    def peak_thresholds(self) -> tuple[float, ...]:
        """The published range is 0.25 to 0.35; the rest is for networks that peak lower or higher."""
        return (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)

    @property
    def default_peak_threshold(self) -> float:
        """The lower end of the published range: networks that were trained briefly peak low."""
        return 0.25

    def peaks(self, prediction: np.ndarray) -> np.ndarray:
        """The prediction itself."""
        return prediction[0].astype(np.float32, copy=False)

    @property
    def foreground_thresholds(self) -> tuple[float, ...]:
        """Heights from which voxels vote, where center vectors stand beside the blobs."""
        return (0.05, 0.1, 0.2, 0.3)

    @property
    def default_foreground_threshold(self) -> float:
        """Two standard deviations from the centre."""
        return 0.1

    def foreground(self, prediction: np.ndarray, threshold: float) -> np.ndarray:
        """Voxels near a centre, which may vote: height > threshold."""
        return self.peaks(prediction) > np.float32(threshold)


def gaussian_blobs(
    centers: np.ndarray, shape: tuple[int, int, int], sigmas: tuple[float, float, float]
) -> np.ndarray:
    """Gaussians of height 1 around points; the largest value where several overlap.

    Args:
        centers: (n, 3) z,y,x in index coordinates of the result; they may lie between voxels and outside.
        shape: Of the result, z, y, x.
        sigmas: Standard deviation along z, y, x, voxels.

    Returns:
        float32 (z, y, x); 0 where no point is within 4 standard deviations along each axis.
    """
    points = np.ascontiguousarray(centers, np.float64).reshape(-1, 3)
    blobs = np.zeros(shape, np.float32)
    _stamp(blobs, points, np.array(sigmas, np.float64))
    return blobs


@njit(cache=True, nogil=True)
def _stamp(blobs: np.ndarray, points: np.ndarray, sigmas: np.ndarray) -> None:
    """A Gaussian is the product of its three profiles."""
    first, last = np.zeros(3, np.int64), np.zeros(3, np.int64)
    size = int(np.ceil(2 * CUT * sigmas.max())) + 2
    profiles = np.zeros((3, size), np.float32)
    for point in points:
        for axis in range(3):
            reach = CUT * sigmas[axis]
            first[axis] = max(0, int(np.ceil(point[axis] - reach)))
            last[axis] = min(blobs.shape[axis] - 1, int(np.floor(point[axis] + reach)))
            for k in range(first[axis], last[axis] + 1):
                away = (k - point[axis]) / sigmas[axis]
                profiles[axis, k - first[axis]] = np.exp(-0.5 * away * away)
        width = last[2] - first[2] + 1
        for z in range(first[0], last[0] + 1):
            for y in range(first[1], last[1] + 1):
                height = profiles[0, z - first[0]] * profiles[1, y - first[1]]
                row = blobs[z, y, first[2] : last[2] + 1]
                for x in range(width):
                    row[x] = max(row[x], height * profiles[2, x])


@njit(cache=True, nogil=True)
def _drop_unknown(weight: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> None:
    """Weight 0 at voxels whose label is none of `ids`."""
    keys, _ = table_of(ids)
    depth, height, width = labels.shape
    nothing = np.uint64(0)  # typed: numba compares uint64 with a plain 0 as floats
    last, known = nothing, True
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                label = np.uint64(labels[z, y, x])
                if label != last:
                    last = label
                    known = label == nothing or keys[slot_of(keys, label)] == label
                if not known:
                    weight[z, y, x] = 0
