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
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if labels[z, y, x] != 0:
                    continue
                found = labels[z, y, x]
                distance = -1
                for k in range(squares.size):
                    if found != 0 and squares[k] > distance:
                        break
                    nz, ny, nx = z + offsets[k, 0], y + offsets[k, 1], x + offsets[k, 2]
                    if 0 <= nz < depth and 0 <= ny < height and 0 <= nx < width:
                        label = labels[nz, ny, nx]
                        if label != 0 and (found == 0 or label < found):
                            found = label
                            distance = squares[k]
                out[z, y, x] = found
    return out
