"""`Affinities`: whether a voxel and its neighbour before it, along each axis, are of one nucleus."""

from typing import Any, ClassVar, Literal

import numpy as np
from numba import njit
from scipy.special import expit

from nucseg.heads.base import Centers, Crop, Head, weighted_mean
from nucseg.heads.three_label import erode_plane
from nucseg.instances.centroids import label_array


class Affinities(Head):
    """Four probabilities per voxel: affinity to the -z, -y and -x neighbour, and foreground.

    An affinity is 1 where the voxel and that neighbour have the same label after each nucleus was eroded by
    one step (26-connected, as the interior of `ThreeLabel`), so that touching nuclei are two voxels apart. The
    foreground is the nucleus, not eroded. The watershed floods 1 - mean affinity.

    Attributes:
        balance: Weight the two classes of each channel by 1 / (2 * fraction of the class in the patch), the
            fraction clipped to 0.05 and 0.95.
        agree: How many of the three affinities must exceed the seed threshold: 2 as in the paper, or all 3 as
            in its authors' code.
    """

    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    balance: bool = True
    agree: Literal[2, 3] = 2

    @property
    def channels(self) -> int:
        """Affinity to the neighbour at z - 1, y - 1, x - 1; foreground."""
        return 4

    def target(
        self,
        labels: np.ndarray,
        crop: Crop,
        scale_um: tuple[float, float, float] | None,
        centers: Centers,
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Zeros and ones (4, z, y, x) and weight (z, y, x) of the crop; see `Head.target`.

        Neighbours outside the crop are looked at. Beyond the border of `labels` the label continues, as for
        `ThreeLabel`: there the voxels of the first plane have affinity 1 if they are left by the erosion.
        """
        target = affinities(labels, crop)
        shape = target.shape[1:]
        weight = np.ones(shape, np.float32) if mask is None else mask[crop].astype(np.float32)
        return target, weight

    def loss(self, output: Any, target: Any, weight: Any) -> Any:
        """Binary cross-entropy, mean over the four channels of the weighted means.

        The class balance is part of the loss, not of the weight, because it differs from channel to channel.
        """
        from keras import ops

        target = ops.cast(target, output.dtype)
        weight = ops.cast(weight, output.dtype)[..., None]
        losses = ops.binary_crossentropy(target, output, from_logits=True)
        if self.balance:
            patch = (1, 2, 3)  # every patch of the batch by itself
            total = ops.maximum(ops.sum(weight, axis=patch, keepdims=True), 1e-12)
            positive = ops.sum(weight * target, axis=patch, keepdims=True) / total
            ones, zeros = (1 / (2 * ops.clip(f, 0.05, 0.95)) for f in (positive, 1 - positive))
            weights = weight * (zeros + target * (ones - zeros))
        else:
            weights = weight + ops.zeros_like(target)
        return sum(weighted_mean(losses[..., c], weights[..., c]) for c in range(4)) / 4

    def activation(self, output: np.ndarray) -> np.ndarray:
        """Sigmoid."""
        return expit(output.astype(np.float32, copy=False))

    def mirrored(self, prediction: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """See `Head.mirrored`: along a mirrored axis, the neighbour before is the one after, whose affinity is its own.

        So the affinity along an axis is valid where that axis is not mirrored; the foreground always is.
        """
        flipped, valid = super().mirrored(prediction, axes)
        valid[list(axes)] = False
        return flipped, valid

    @property
    def seed_thresholds(self) -> tuple[float, ...]:
        """Of the affinities; the published one is 0.99."""
        return (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)

    @property
    def foreground_thresholds(self) -> tuple[float, ...]:
        """Of the foreground channel; published are 0.8 to 0.99."""
        return (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)

    @property
    def default_seed_threshold(self) -> float:
        """A little lower than the published 0.99: a balanced loss makes affinities high even between nuclei."""
        return 0.98

    @property
    def default_foreground_threshold(self) -> float:
        """From the published range 0.8 to 0.99."""
        return 0.9

    @property
    def default_dilate(self) -> int:
        """As published."""
        return 1

    @property
    def dilations(self) -> tuple[int, ...]:
        """1 as published, for a foreground that is too small; 0 for one that is right."""
        return (0, 1)

    def surface(self, prediction: np.ndarray) -> np.ndarray:
        """1 - mean of the three affinities."""
        z, y, x = (channel.astype(np.float32, copy=False) for channel in prediction[:3])
        return np.float32(1) - (z + y + x) / np.float32(3)

    def seeds(self, prediction: np.ndarray, threshold: float) -> np.ndarray:
        """Where at least `agree` of the three affinities are > threshold."""
        z, y, x = prediction[:3] > np.float32(threshold)
        return z & y & x if self.agree == 3 else (z & y) | (x & (z | y))

    def foreground(self, prediction: np.ndarray, threshold: float) -> np.ndarray:
        """Foreground channel > threshold."""
        return prediction[3] > np.float32(threshold)


def affinities(labels: np.ndarray, crop: Crop | None = None) -> np.ndarray:
    """Affinities of the eroded labels to their -z, -y and -x neighbours, and the foreground.

    Args:
        labels: Integer array (z, y, x); 0 is background.
        crop: The wanted part, whose neighbours outside it are looked at too. None: all.

    Returns:
        Zeros and ones, float32 (4, z, y, x), the crop's shape. Beyond the array's border the label continues.

    Raises:
        InputError: `labels` is not a three-dimensional integer array.
    """
    labels = label_array(labels)
    parts = crop or tuple(slice(0, n) for n in labels.shape)
    begin = np.array([part.start for part in parts], np.int64)
    end = np.array([part.stop for part in parts], np.int64)
    # numpy, unlike numba, asks the system for large pages: twice as fast
    out = np.empty((4, *(end - begin)), np.float32)
    if out.size:
        _affinities(labels, begin, end, out)
    return out


@njit(cache=True, nogil=True)
def _affinities(labels: np.ndarray, begin: np.ndarray, end: np.ndarray, out: np.ndarray) -> None:
    """One pass over the planes; the eroded labels of the last two planes are kept."""
    start = np.maximum(begin - 1, 0)  # the neighbours' planes too, where there are any
    dx = begin[2] - start[2]
    shape = (end[1] - start[1], end[2] - start[2])
    below, here, above = (
        np.empty(shape, labels.dtype),
        np.empty(shape, labels.dtype),
        np.empty(shape, labels.dtype),
    )
    before, eroded = np.empty(shape, labels.dtype), np.empty(shape, labels.dtype)
    rows = np.empty((3, labels.shape[2]), labels.dtype)
    erode_plane(labels[max(start[0] - 1, 0)], start, end, rows, below)
    erode_plane(labels[start[0]], start, end, rows, here)
    for z in range(start[0], end[0]):
        erode_plane(labels[min(z + 1, labels.shape[0] - 1)], start, end, rows, above)
        for y in range(shape[0]):
            a, b, c, line = below[y], here[y], above[y], eroded[y]
            for x in range(shape[1]):
                line[x] = b[x] if (a[x] == b[x]) & (b[x] == c[x]) else 0
        if z >= begin[0]:
            last = before if z > 0 else eroded  # beyond the border the label continues
            for y in range(begin[1], end[1]):
                k, i, j = z - begin[0], y - begin[1], y - start[1]
                line = eroded[j]
                _same(line[dx:], last[j][dx:], out[0, k, i])
                _same(line[dx:], eroded[max(j - 1, 0)][dx:], out[1, k, i])
                _same(line[1:], line, out[2, k, i][1 - dx :])
                if dx == 0:
                    out[2, k, i, 0] = line[0] != 0
                row, inside = labels[z, y][begin[2] : end[2]], out[3, k, i]
                for x in range(row.size):
                    inside[x] = np.float32(1) if row[x] != 0 else np.float32(0)
        before, eroded = eroded, before
        below, here, above = here, above, below


@njit(cache=True, nogil=True)
def _same(row: np.ndarray, other: np.ndarray, out: np.ndarray) -> None:
    """1 where two rows have the same label, not 0, else 0."""
    for x in range(row.size):
        out[x] = np.float32(1) if (row[x] == other[x]) & (row[x] != 0) else np.float32(0)
