"""Targets, votes and matching against scipy and numpy, 256^3 labels with 1500 nuclei."""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from benchmarks.comparison import Row, compare
from benchmarks.volumes import crowded
from nucseg.evaluate.overlap import contingency
from nucseg.heads.affinities import affinities
from nucseg.heads.base import Centers
from nucseg.heads.signed_distance import SignedDistance
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

    def scipy_interior() -> np.ndarray:
        return foreground & (ndimage.minimum_filter(labels, 3) == ndimage.maximum_filter(labels, 3))

    def numpy_affinities() -> np.ndarray:
        eroded = np.where(scipy_interior(), labels, np.uint32(0))
        out = np.empty((4, *labels.shape), np.float32)
        for axis in range(3):
            here, to = np.moveaxis(eroded, axis, 0), np.moveaxis(out[axis], axis, 0)
            to[1:] = (here[1:] == here[:-1]) & (here[1:] != 0)
            to[0] = here[0] != 0
        out[3] = foreground
        return out

    def signed_distance() -> np.ndarray:
        crop = tuple(slice(0, n) for n in labels.shape)
        return SignedDistance().target(labels, crop, None, Centers(*found[:2], found.sizes > 0))[0][0]

    def scipy_distance() -> np.ndarray:
        interior = scipy_interior()
        away = ndimage.distance_transform_edt(interior | ~foreground)
        return np.tanh(np.where(interior, -away, away) / 9)

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
        "affinities target",
        lambda: affinities(labels),
        "scipy filters, numpy",
        numpy_affinities,
        np.array_equal,
        3,
    )
    yield compare(
        "signed distance target",
        signed_distance,
        "scipy distance_transform",
        scipy_distance,
        lambda a, b: np.allclose(a, b, atol=1e-5),
        1,
    )
    yield compare(
        "overlaps of two labellings",
        lambda: len(contingency(labels, shifted).overlaps),
        "np.unique of pairs",
        numpy_pairs,
        lambda a, b: a == b,
        3,
    )
