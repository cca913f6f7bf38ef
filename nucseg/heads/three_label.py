"""`ThreeLabel`: background, interior or boundary of a nucleus, as a softmax over three classes."""

from typing import Any, ClassVar

import numpy as np
from numba import njit

from nucseg.heads.base import Centers, Crop, Head, weighted_mean
from nucseg.instances.centroids import label_array


class ThreeLabel(Head):
    """Three classes per voxel: 0 background, 1 interior, 2 boundary.

    The boundary is the nucleus minus its one-step 26-connected erosion: a nucleus voxel with any other label
    (background or another nucleus) among its 26 neighbours. The watershed floods `1 - P(interior)`.

    Attributes:
        balance: Weight each voxel by 1 / (3 * fraction of its class in the patch), the fraction clipped to
            0.05 and 0.95, so that rare boundaries count as much as the background.
    """

    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    balance: bool = True

    @property
    def channels(self) -> int:
        """P(background), P(interior), P(boundary)."""
        return 3

    @property
    def background(self) -> tuple[float, ...]:
        """P(background) is 1."""
        return 1.0, 0.0, 0.0

    @property
    def target_channels(self) -> int:
        """One class number."""
        return 1

    def target(
        self,
        labels: np.ndarray,
        crop: Crop,
        scale_um: tuple[float, float, float] | None,
        centers: Centers,
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Class number (1, z, y, x) and weight (z, y, x) of the crop; see `Head.target`.

        The border of `labels` itself is no boundary: with a margin of one voxel it does not matter.
        """
        classes = three_classes(labels, crop)
        annotated = np.ones(classes.shape, np.bool_) if mask is None else mask[crop]
        weight = annotated.astype(np.float32)
        if self.balance:
            counts = np.bincount(classes[annotated], minlength=3)
            fractions = np.clip(counts / max(1, int(counts.sum())), 0.05, 0.95)
            weight *= (1 / (3 * fractions)).astype(np.float32)[classes]
        return classes[None].astype(np.float32), weight

    def loss(self, output: Any, target: Any, weight: Any) -> Any:
        """Cross-entropy of the softmax over the three classes."""
        from keras import ops

        classes = ops.cast(target[..., 0], "int32")
        picked = ops.one_hot(classes, 3, dtype=output.dtype)
        return weighted_mean(-ops.sum(picked * ops.log_softmax(output, axis=-1), axis=-1), weight)

    def activation(self, output: np.ndarray) -> np.ndarray:
        """Softmax over the channels."""
        output = output.astype(np.float32, copy=False)
        exponential = np.exp(output - output.max(axis=0))
        return exponential / exponential.sum(axis=0)

    @property
    def seed_thresholds(self) -> tuple[float, ...]:
        """Of P(interior); the best is often near the upper end."""
        return (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)

    @property
    def foreground_thresholds(self) -> tuple[float, ...]:
        """Of 1 - P(background)."""
        return (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)

    @property
    def default_seed_threshold(self) -> float:
        """The middle of the published range 0.7 to 0.8, moved up as small networks need it."""
        return 0.8

    @property
    def default_foreground_threshold(self) -> float:
        """Nucleus more likely than not."""
        return 0.5

    def surface(self, prediction: np.ndarray) -> np.ndarray:
        """1 - P(interior)."""
        return np.float32(1) - prediction[1].astype(np.float32, copy=False)

    def seeds(self, prediction: np.ndarray, threshold: float) -> np.ndarray:
        """P(interior) > threshold."""
        return prediction[1] > np.float32(threshold)

    def foreground(self, prediction: np.ndarray, threshold: float) -> np.ndarray:
        """1 - P(background) > threshold."""
        return np.float32(1) - prediction[0].astype(np.float32, copy=False) > np.float32(threshold)


def three_classes(labels: np.ndarray, crop: Crop | None = None) -> np.ndarray:
    """Background 0, interior 1, boundary 2.

    Args:
        labels: Integer array (z, y, x); 0 is background.
        crop: The wanted part, whose neighbours outside it are looked at too. None: all.

    Returns:
        uint8, the crop's shape. Beyond the array's border the label continues: the border is no boundary.

    Raises:
        InputError: `labels` is not a three-dimensional integer array.
    """
    labels = label_array(labels)
    parts = crop or tuple(slice(0, n) for n in labels.shape)
    begin = np.array([part.start for part in parts], np.int64)
    end = np.array([part.stop for part in parts], np.int64)
    return _classify(labels, begin, end)


@njit(cache=True, nogil=True)
def _classify(labels: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Interior is where the label survives an erosion along x, then y, then z: three cheap, vectorised passes."""
    out = np.zeros((end[0] - begin[0], end[1] - begin[1], end[2] - begin[2]), np.uint8)
    if out.size == 0:
        return out
    shape = (out.shape[1], out.shape[2])
    below, here, above = (
        np.empty(shape, labels.dtype),
        np.empty(shape, labels.dtype),
        np.empty(shape, labels.dtype),
    )
    rows = np.empty((3, labels.shape[2]), labels.dtype)
    erode_plane(labels[max(begin[0] - 1, 0)], begin, end, rows, below)
    erode_plane(labels[begin[0]], begin, end, rows, here)
    for z in range(begin[0], end[0]):
        erode_plane(labels[min(z + 1, labels.shape[0] - 1)], begin, end, rows, above)
        for y in range(shape[0]):
            row = labels[z, begin[1] + y, begin[2] : end[2]]
            a, b, c, line = below[y], here[y], above[y], out[z - begin[0], y]
            for x in range(shape[1]):
                kept = (a[x] == b[x]) & (b[x] == c[x]) & (b[x] != 0)
                line[x] = 0 if row[x] == 0 else (1 if kept else 2)
        below, here, above = here, above, below
    return out


@njit(cache=True, nogil=True)
def erode_plane(
    plane: np.ndarray, begin: np.ndarray, end: np.ndarray, rows: np.ndarray, out: np.ndarray
) -> None:
    """Labels of a plane's crop where all of the 3 x 3 neighbourhood has the same label, 0 elsewhere."""
    height = plane.shape[0]
    before, here, after = rows[0], rows[1], rows[2]
    _erode_row(plane[max(begin[1] - 1, 0)], before)
    _erode_row(plane[begin[1]], here)
    for y in range(begin[1], end[1]):
        _erode_row(plane[min(y + 1, height - 1)], after)
        line = out[y - begin[1]]
        a, b, c = before[begin[2] : end[2]], here[begin[2] : end[2]], after[begin[2] : end[2]]
        for x in range(line.size):
            line[x] = b[x] if (a[x] == b[x]) & (b[x] == c[x]) else 0
        before, here, after = here, after, before


@njit(cache=True, nogil=True)
def _erode_row(row: np.ndarray, out: np.ndarray) -> None:
    """Labels of a row where both neighbours along x have the same label, 0 elsewhere."""
    width = row.size
    for x in range(1, width - 1):
        out[x] = row[x] if (row[x - 1] == row[x]) & (row[x] == row[x + 1]) else 0
    last = width - 1
    out[0] = row[0] if row[0] == row[min(1, last)] else 0
    out[last] = row[last] if row[last] == row[max(last - 1, 0)] else 0
