"""Targets, votes and matching against scipy and numpy, 256^3 labels with 1500 nuclei."""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from benchmarks.comparison import Row, compare
from benchmarks.volumes import crowded
from nucseg.evaluate.overlap import contingency
from nucseg.instances.centroids import center_vectors, centroids
from nucseg.instances.votes import vote_map


def rows() -> Iterator[Row]:
    """The comparisons, one after the other."""
    labels = crowded()
    found = centroids(labels)
    foreground = labels > 0
    vectors = center_vectors(labels, found.ids, found.centers)
    shifted = np.roll(labels, 2, axis=1)
    grid = np.indices(labels.shape, dtype=np.float32)

    def scipy_centers() -> np.ndarray:
        return np.array(ndimage.center_of_mass(foreground, labels, found.ids))

    def numpy_vectors() -> np.ndarray:
        table = np.zeros((int(labels.max()) + 1, 3), np.float32)
        table[found.ids] = found.centers
        return np.where(foreground, np.moveaxis(table[labels], -1, 0) - grid, np.float32(0))

    def numpy_votes() -> np.ndarray:
        voxels = np.nonzero(foreground)
        target = np.stack(voxels) + np.rint(vectors[:, *voxels]).astype(int)
        inside = np.all((target >= 0) & (target < 256), axis=0)
        votes = np.zeros(labels.shape, np.int32)
        np.add.at(votes, tuple(target[:, inside]), 1)
        return votes

    def numpy_pairs() -> int:
        pairs = labels.astype(np.uint64) << np.uint64(32) | shifted
        return int(np.unique(pairs[(labels > 0) & (shifted > 0)]).size)

    yield compare(
        "centres of mass",
        lambda: centroids(labels).centers,
        "scipy center_of_mass",
        scipy_centers,
        np.allclose,
        3,
    )
    yield compare(
        "cpv field, centres known",
        lambda: center_vectors(labels, found.ids, found.centers),
        "numpy gather",
        numpy_vectors,
        lambda a, b: np.allclose(a, b, atol=1e-4),
        3,
    )
    yield compare(
        "cpv votes", lambda: vote_map(vectors, foreground), "np.add.at", numpy_votes, np.array_equal, 3
    )
    yield compare(
        "overlaps of two labellings",
        lambda: len(contingency(labels, shifted).overlaps),
        "np.unique of pairs",
        numpy_pairs,
        lambda a, b: a == b,
        3,
    )
