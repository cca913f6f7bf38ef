"""Targets, votes, points and matching against scipy and numpy, 256^3 labels with 1500 nuclei."""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from benchmarks.comparison import Row, compare
from benchmarks.volumes import crowded
from nucseg.evaluate.overlap import contingency
from nucseg.heads.affinities import affinities
from nucseg.heads.base import Centers
from nucseg.heads.gaussian_centers import gaussian_blobs
from nucseg.heads.signed_distance import SignedDistance
from nucseg.instances.centroids import center_vectors, centroids
from nucseg.instances.detection import local_maxima
from nucseg.instances.grouping import group_by_vectors
from nucseg.instances.votes import vote_map


def rows() -> Iterator[Row]:
    """The comparisons, one after the other."""
    labels = crowded()
    found = centroids(labels)
    foreground = labels > 0
    vectors = center_vectors(labels, found.ids, found.centers)
    shifted = np.roll(labels, 2, axis=1)
    grid = np.indices(labels.shape, dtype=np.float32)
    whole = np.rint(found.centers)  # scipy puts its blobs on voxels
    noisy = gaussian_blobs(found.centers, labels.shape, (2.0, 2.0, 2.0))
    noisy = noisy + np.random.default_rng(0).normal(0, 0.05, labels.shape).astype(np.float32)

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

    def tree_groups() -> np.ndarray:
        voxels = np.nonzero(foreground)
        target = np.stack(voxels) + np.rint(vectors[:, *voxels]).astype(int)
        distance, nearest = KDTree(peaks.points).query(target.T, distance_upper_bound=4.001)
        groups = np.zeros(labels.shape, np.uint32)
        groups[voxels] = np.where(np.isfinite(distance), nearest + 1, 0)
        return groups

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

    def scipy_blobs() -> np.ndarray:
        spikes = np.zeros(labels.shape, np.float32)
        spikes[tuple(whole.astype(int).T)] = (2 * np.pi * 2.0**2) ** 1.5
        return ndimage.gaussian_filter(spikes, 2.0, mode="constant")

    def blobs_agree(ours: np.ndarray, sums: np.ndarray) -> bool:
        """Scipy adds where we take the largest: the same but where blobs overlap."""
        at = tuple(whole.astype(int).T)
        alone = np.abs(sums[at] - 1) < 1e-3
        return bool((ours <= sums + 2e-3).all() and alone.sum() > 50 and np.allclose(ours[at], 1))

    def scipy_maxima() -> np.ndarray:
        largest = ndimage.maximum_filter(noisy, 9, mode="constant", cval=-np.inf)
        return np.argwhere((noisy == largest) & (noisy > np.float32(0.3)))

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
    peaks = local_maxima(vote_map(vectors, foreground), 20, 3)
    yield compare(
        "grouping by vectors",
        lambda: group_by_vectors(vectors, foreground, peaks, 4, np.inf),
        "scipy KDTree",
        tree_groups,
        lambda a, b: float(np.mean(a == b)) > 0.99999,  # of peaks at one distance scipy takes any
        3,
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
        "gaussian centres",
        lambda: gaussian_blobs(whole, labels.shape, (2.0, 2.0, 2.0)),
        "scipy gaussian_filter",
        scipy_blobs,
        blobs_agree,
        3,
    )
    yield compare(
        "non-maximum suppression",
        lambda: local_maxima(noisy, 0.3, 4).points,
        "scipy maximum_filter",
        scipy_maxima,
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
