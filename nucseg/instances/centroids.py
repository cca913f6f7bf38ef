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
    """`labels` as the C-ordered uint32 or uint64 array that the kernels take; a copy only where needed.

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
    # two types only, so that each kernel is compiled twice at most
    return np.ascontiguousarray(labels, np.uint64 if labels.dtype.itemsize > 4 else np.uint32)


@njit(cache=True, nogil=True)
def find_runs(row: np.ndarray, ends: np.ndarray) -> int:
    """Write where each run of equal labels of a row ends (exclusive) into `ends`; returns the number of runs."""
    runs = 0
    previous = row[0]
    for x in range(1, row.size):  # without a branch: about twice as fast as a loop over runs
        ends[runs] = x
        label = row[x]
        runs += label != previous
        previous = label
    ends[runs] = row.size
    return runs + 1


@njit(cache=True, nogil=True)
def _sum_row(
    row: np.ndarray,
    z: int,
    y: int,
    ends: np.ndarray,
    table: tuple[np.ndarray, np.ndarray],
    ids: np.ndarray,
    sums: np.ndarray,
    sizes: np.ndarray,
    n: int,
) -> int:
    """Add one row to the sums; there must be room for `row.size` more labels. Returns their new number."""
    keys, indices = table
    start = 0
    for run in range(find_runs(row, ends)):
        end = ends[run]
        label = row[start]
        if label != 0:
            key = np.uint64(label)
            slot = slot_of(keys, key)
            if keys[slot] != key:
                keys[slot] = key
                indices[slot] = n
                ids[n] = key
                n += 1
            index = indices[slot]
            length = end - start
            sizes[index] += length
            sums[index, 0] += length * z
            sums[index, 1] += length * y
            sums[index, 2] += length * (start + end - 1)
        start = end
    return n


@njit(cache=True, nogil=True)
def _sum_runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    depth, height, width = labels.shape
    room = max(512, width)
    table = new_table(2 * room)
    ids = np.zeros(room, np.uint64)
    sums = np.zeros((room, 3), np.int64)
    sizes = np.zeros(room, np.int64)
    ends = np.empty(width + 1, np.int64)
    n = 0
    if width == 0:
        return ids[:0], sums[:0], sizes[:0]
    for z in range(depth):
        for y in range(height):
            if n + width > room:
                table = grown(table[0], table[1])
                ids = np.concatenate((ids, np.zeros(room, np.uint64)))
                sums = np.concatenate((sums, np.zeros((room, 3), np.int64)))
                sizes = np.concatenate((sizes, np.zeros(room, np.int64)))
                room *= 2
            n = _sum_row(labels[z, y], z, y, ends, table, ids, sums, sizes, n)
    return ids[:n], sums[:n], sizes[:n]


@njit(cache=True, nogil=True)
def _write_vectors(
    labels: np.ndarray, ids: np.ndarray, centers: np.ndarray, vectors: np.ndarray, known: np.ndarray
) -> None:
    depth, height, width = labels.shape
    keys, indices = table_of(ids)
    ends = np.empty(width + 1, np.int64)
    if width == 0:
        return
    for z in range(depth):
        for y in range(height):
            row = labels[z, y]
            row_z, row_y, row_x, row_known = vectors[0, z, y], vectors[1, z, y], vectors[2, z, y], known[z, y]
            start = 0
            for run in range(find_runs(row, ends)):
                end = ends[run]
                label = row[start]
                if label != 0:
                    key = np.uint64(label)
                    slot = slot_of(keys, key)
                    if keys[slot] == key:
                        index = indices[slot]
                        dz, dy = np.float32(centers[index, 0] - z), np.float32(centers[index, 1] - y)
                        cx = centers[index, 2]
                        for x in range(start, end):
                            row_z[x] = dz
                            row_y[x] = dy
                            row_x[x] = np.float32(cx - x)
                            row_known[x] = True
                start = end
