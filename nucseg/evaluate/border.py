"""Which true objects the border of the annotation cuts."""

import numpy as np

from nucseg.evaluate.overlap import known_labels


def cut_ids(truth: np.ndarray, annotated: np.ndarray | None) -> np.ndarray:
    """The true objects of a whole volume that touch a voxel that is not annotated.

    Args:
        truth: Labels; what they say where nothing is annotated does not matter.
        annotated: bool (or integers) of the same shape, False (0) where nothing is annotated; None: all is.

    Returns:
        Their ids, uint64, ascending.
    """
    if annotated is None:
        return np.zeros(0, np.uint64)
    known = np.asarray(annotated) != 0
    return cut_within(known_labels(truth, known), np.pad(known, 1, constant_values=True))


def cut_within(truth: np.ndarray, around: np.ndarray) -> np.ndarray:
    """The objects of a block that share a face of a voxel with what is not annotated, in the block or next to it.

    The ids of a volume are the union of those of its blocks.

    Args:
        truth: Labels, background where nothing is annotated.
        around: The annotation of the block and of one voxel more on every side; not 0 beyond the volume, whose own
            border cuts no object.

    Returns:
        Their ids, uint64, ascending.
    """
    unknown = around == 0
    touched = np.zeros(truth.shape, np.bool_)
    for axis in range(truth.ndim):
        for start in (0, 2):
            at = [slice(1, -1)] * truth.ndim
            at[axis] = slice(start, start + truth.shape[axis])
            touched |= unknown[tuple(at)]
    return np.unique(truth[touched & (truth != 0)]).astype(np.uint64)
