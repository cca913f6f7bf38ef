"""`Truth`: the true labels of a volume that many predictions are scored against."""

import numpy as np
from numba import njit

from nucseg.evaluate.border import cut_ids
from nucseg.evaluate.overlap import known_labels
from nucseg.instances.centroids import centroids, find_runs, label_array


class Truth:
    """The true labels of a validation volume, counted once.

    Args:
        labels: Integers (z, y, x), 0 is background.
        annotated: bool (or integers) (z, y, x), False (0) where nothing is annotated, whatever the labels say there;
            None: all is annotated.

    Attributes:
        labels: The same as uint32 or uint64, background where nothing is annotated.
        annotated: bool (z, y, x), or None. Scores must know it, see `nucseg.match`.
        ids: The labels that there are, ascending, without the background.
        sizes: Their voxels, int64.
        index: uint32 (z, y, x): positions in `ids`, + 1; 0 for background, and `len(ids) + 1` for what is not
            annotated.
        cut: uint64: the labels that the border of the annotation cuts, see `nucseg.evaluate.border.cut_ids`.

    Raises:
        InputError: These are no labels, or `annotated` is of another shape.
    """

    def __init__(self, labels: np.ndarray, annotated: np.ndarray | None = None) -> None:
        self.labels = label_array(known_labels(labels, annotated))
        self.annotated = None if annotated is None else np.asarray(annotated) != 0
        found = centroids(self.labels)
        self.ids, self.sizes = found.ids, found.sizes
        self.cut = cut_ids(self.labels, self.annotated)
        self.index = _indexed(self.labels, found.ids.astype(self.labels.dtype))
        if self.annotated is not None:
            self.index[~self.annotated] = len(found.ids) + 1

    def __len__(self) -> int:
        return len(self.ids)


@njit(cache=True, nogil=True)
def _indexed(labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Positions in the sorted `ids`, + 1, of all labels; 0 for background. uint32."""
    out = np.zeros(labels.shape, np.uint32)
    ends = np.empty(labels.shape[2] + 1, np.int64)
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            row, target = labels[z, y], out[z, y]
            start = 0
            for run in range(find_runs(row, ends) if row.size else 0):
                end = ends[run]
                if row[start] != 0:
                    target[start:end] = np.searchsorted(ids, row[start]) + 1
                start = end
    return out
