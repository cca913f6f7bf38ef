"""Centre of mass of each nucleus, and the field of vectors that point to it."""

from typing import NamedTuple

import numpy as np
from numba import njit

from nucseg.errors import InputError
from nucseg.instances.label_table import grown, new_table, slot_of, table_of


class Centroids(NamedTuple):
    """Centres of mass of all non-zero labels of an array.

    Attributes:
        ids: Labels, ascending, uint64 (n,).
        centers: Centres of mass in index coordinates of the array, z,y,x, float64 (n, 3).
        sizes: Number of voxels, int64 (n,).
    """

    ids: np.ndarray
    centers: np.ndarray
    sizes: np.ndarray


def centroids(labels: np.ndarray) -> Centroids:
    """Centre of mass and size of each label.

    One pass over the runs of equal labels along x; the sums are integers, so the centres are exact to the
    last division and do not depend on the order of the voxels.

    Args:
        labels: Integer array (z, y, x); 0 is background.

    Returns:
        Ids, centres (voxels, index coordinates) and sizes; empty arrays where there is no label.

    Raises:
        InputError: `labels` is not a three-dimensional integer array, or holds a negative label.
    """
    labels = label_array(labels)
    ids, sums, sizes = _sum_runs(labels)
    order = np.argsort(ids)
    ids, sums, sizes = ids[order], sums[order], sizes[order]
    # x sums are kept doubled, because the sum over a run is a half-integer times its length
    centers = sums / (sizes[:, None] * np.array([1.0, 1.0, 2.0]))
    return Centroids(ids, centers, sizes)


def center_vectors(labels: np.ndarray, ids: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """At each voxel of a nucleus the vector to the nucleus's centre.

    Args:
        labels: Integer array (z, y, x); 0 is background.
        ids: Labels whose centre is given, (n,).
        centers: Their centres in index coordinates of `labels`, z,y,x, (n, 3). A centre may lie outside the
            array: a nucleus cut by the border of a patch keeps its true centre.

    Returns:
        float32 (3, z, y, x), components z,y,x in voxels; 0 on background and at labels not in `ids`.

    Raises:
        InputError: `labels` is not a three-dimensional integer array, or ids and centres do not match.
    """
    return center_field(labels, ids, centers)[0]


def center_field(labels: np.ndarray, ids: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `center_vectors`, and where the centre is known.

    Args:
        labels: Integer array (z, y, x); 0 is background.
        ids: Labels whose centre is given, (n,).
        centers: Their centres in index coordinates of `labels`, z,y,x, (n, 3).

    Returns:
        The vectors, float32 (3, z, y, x), and a bool array (z, y, x) that is True at voxels whose label is in
        `ids`.

    Raises:
        InputError: `labels` is not a three-dimensional integer array, or ids and centres do not match.
    """
    labels = label_array(labels)
    ids = np.ascontiguousarray(ids, np.uint64)
    centers = np.ascontiguousarray(centers, np.float64)
    if ids.ndim != 1 or centers.shape != (len(ids), 3) or (len(ids) and not ids.all()):
        raise InputError(
            "centres of nuclei",
            expected="n non-zero ids and n z,y,x centres",
            received=f"ids of shape {ids.shape} and centres of shape {centers.shape}",
            remedy="pass what `centroids` returns, without the background",
        )
    vectors = np.zeros((3, *labels.shape), np.float32)
    known = np.zeros(labels.shape, np.bool_)
    _write_vectors(labels, ids, centers, vectors, known)
    return vectors, known


def label_array(labels: np.ndarray) -> np.ndarray:
    """`labels` as a C-ordered array that the kernels can take.

    Raises:
        InputError: Not three-dimensional, not of an integer type, or with a negative label.
    """
    labels = np.asarray(labels)
    if labels.ndim != 3 or labels.dtype.kind not in "iub":
        raise InputError(
            "labels",
            expected="an integer array (z, y, x), 0 = background",
            received=f"{labels.dtype} {labels.shape}",
            remedy="select one channel and time point, and convert with .astype('uint32')",
        )
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise InputError(
            "labels",
            expected="labels >= 0",
            received=f"a label {labels.min()}",
            remedy="give each nucleus a positive number; put voxels without annotation into a mask",
        )
    if (
        labels.dtype.kind != "u" or not labels.dtype.isnative
    ):  # the kernels are compiled for unsigned types only
        labels = labels.astype(f"u{labels.dtype.itemsize}")
    return np.ascontiguousarray(labels)


@njit(cache=True, nogil=True)
def _sum_runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    depth, height, width = labels.shape
    keys, indices = new_table(1024)
    ids = np.zeros(512, np.uint64)
    sums = np.zeros((512, 3), np.int64)
    sizes = np.zeros(512, np.int64)
    n = 0
    for z in range(depth):
        for y in range(height):
            row = labels[z, y]
            x = 0
            while x < width:
                label = row[x]
                start = x
                x += 1
                while x < width and row[x] == label:
                    x += 1
                if label == 0:
                    continue
                key = np.uint64(label)
                slot = slot_of(keys, key)
                if keys[slot] == 0:
                    if n == ids.size:
                        keys, indices = grown(keys, indices)
                        slot = slot_of(keys, key)
                        ids = np.concatenate((ids, np.zeros(n, np.uint64)))
                        sums = np.concatenate((sums, np.zeros((n, 3), np.int64)))
                        sizes = np.concatenate((sizes, np.zeros(n, np.int64)))
                    keys[slot] = key
                    indices[slot] = n
                    ids[n] = key
                    n += 1
                index = indices[slot]
                length = x - start
                sizes[index] += length
                sums[index, 0] += length * z
                sums[index, 1] += length * y
                sums[index, 2] += length * (start + x - 1)
    return ids[:n], sums[:n], sizes[:n]


@njit(cache=True, nogil=True)
def _write_vectors(
    labels: np.ndarray, ids: np.ndarray, centers: np.ndarray, vectors: np.ndarray, known: np.ndarray
) -> None:
    depth, height, width = labels.shape
    keys, indices = table_of(ids)
    for z in range(depth):
        for y in range(height):
            row = labels[z, y]
            x = 0
            while x < width:
                label = row[x]
                start = x
                x += 1
                while x < width and row[x] == label:
                    x += 1
                if label == 0:
                    continue
                slot = slot_of(keys, np.uint64(label))
                if keys[slot] == 0:
                    continue
                center = centers[indices[slot]]
                dz = np.float32(center[0] - z)
                dy = np.float32(center[1] - y)
                for i in range(start, x):
                    vectors[0, z, y, i] = dz
                    vectors[1, z, y, i] = dy
                    vectors[2, z, y, i] = np.float32(center[2] - i)
                    known[z, y, i] = True
