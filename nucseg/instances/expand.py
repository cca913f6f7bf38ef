"""Grow instances into the background without overwriting."""

import numpy as np
from numba import njit

from nucseg.errors import InputError
from nucseg.instances.centroids import label_array


def expand_labels(labels: np.ndarray, steps: int = 1) -> np.ndarray:
    """Grow each label by up to `steps` voxels into the background.

    A background voxel takes the label of the nearest labelled voxel that is at most `steps` away (Euclidean
    distance of voxel centres, in voxels); of several at the same distance, the smallest label. So the result
    does not depend on any order of visits, and a voxel depends on nothing farther than `steps` voxels away:
    to expand a core, certify a rim of `steps` voxels around it.

    Args:
        labels: Integer array (z, y, x); 0 is background.
        steps: Radius in voxels, 0 or more.

    Returns:
        The same type and shape; labelled voxels are unchanged.

    Raises:
        InputError: `labels` is not a three-dimensional integer array, or `steps` is negative.
    """
    if steps < 0:
        raise InputError("dilation", expected="0 or more voxels", received=f"{steps}", remedy="use dilate=1")
    given = np.asarray(labels)
    labels = label_array(given)
    reach = np.arange(-steps, steps + 1)
    offsets = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), axis=-1).reshape(-1, 3)
    squares = (offsets**2).sum(axis=1)
    near = (squares > 0) & (squares <= steps**2)
    order = np.argsort(squares[near], kind="stable")
    grown = _grow(labels, offsets[near][order], squares[near][order])
    return grown.astype(given.dtype, copy=False)


@njit(cache=True, nogil=True)
def _grow(labels: np.ndarray, offsets: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Give each background voxel the smallest label of the nearest shell of offsets that has any."""
    depth, height, width = labels.shape
    out = labels.copy()
    near = np.empty(width, labels.dtype)
    for z in range(depth):
        for y in range(height):
            # which voxels have any label in reach: the bitwise or of whole rows, which is vectorised
            near[:] = 0
            for k in range(squares.size):
                nz, ny, step = z + offsets[k, 0], y + offsets[k, 1], offsets[k, 2]
                if 0 <= nz < depth and 0 <= ny < height and abs(step) < width:
                    row = labels[nz, ny, max(step, 0) : width + min(step, 0)]
                    part = near[max(-step, 0) : width + min(-step, 0)]
                    for x in range(row.size):
                        part[x] |= row[x]
            row = labels[z, y]
            for x in range(width):
                if row[x] == 0 and near[x] != 0:
                    out[z, y, x] = _nearest(labels, offsets, squares, z, y, x)
    return out


@njit(cache=True, nogil=True)
def _nearest(labels: np.ndarray, offsets: np.ndarray, squares: np.ndarray, z: int, y: int, x: int) -> int:
    depth, height, width = labels.shape
    found = labels[z, y, x]
    distance = squares[0]
    for k in range(squares.size):
        if squares[k] > distance:
            if found != 0:
                break
            distance = squares[k]
        nz, ny, nx = z + offsets[k, 0], y + offsets[k, 1], x + offsets[k, 2]
        if 0 <= nz < depth and 0 <= ny < height and 0 <= nx < width:
            label = labels[nz, ny, nx]
            if label != 0 and (found == 0 or label < found):
                found = label
    return found
