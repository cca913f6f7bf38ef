"""Seed components with ids that every block computes alike."""

from math import prod

import cc3d
import numpy as np
from numba import njit

from nucseg.errors import InputError


def label_seeds(
    mask: np.ndarray,
    begin: tuple[int, int, int] = (0, 0, 0),
    volume_shape: tuple[int, int, int] | None = None,
) -> np.ndarray:
    """Label the 6-connected components of a mask with ids that are global in the whole volume.

    The id of a component is the linear index (C order, in the whole volume) of its first voxel in z,y,x
    order, plus 1. Every block that sees the whole component gives it the same id, so that blocks need no
    merging.

    Args:
        mask: bool (z, y, x), a region of the volume.
        begin: Where the region begins in the whole volume, voxels z,y,x.
        volume_shape: Shape of the whole volume, voxels z,y,x. None: the region is the whole volume.

    Returns:
        uint64 (z, y, x); 0 outside the mask.

    Raises:
        InputError: The region does not lie inside the volume.
    """
    mask = np.ascontiguousarray(mask, np.bool_)
    if mask.ndim != 3:
        raise InputError(
            "seed mask", expected="an array (z, y, x)", received=f"{mask.shape}", remedy="pass one channel"
        )
    if volume_shape is None:
        volume_shape = (mask.shape[0] + begin[0], mask.shape[1] + begin[1], mask.shape[2] + begin[2])
    if any(b < 0 or b + n > s for b, n, s in zip(begin, mask.shape, volume_shape, strict=True)):
        raise InputError(
            "seed region",
            expected=f"a region inside the volume of shape {tuple(volume_shape)}",
            received=f"begin {tuple(begin)}, shape {mask.shape}",
            remedy="clip the region to the volume",
        )
    if prod(mask.shape) == 0:
        return np.zeros(mask.shape, np.uint64)
    components, count = cc3d.connected_components(
        mask, connectivity=6, return_N=True, binary_image=True, out_dtype=np.uint32
    )
    b, s = np.array(begin, np.int64), np.array(volume_shape, np.int64)
    return _globalize(np.ascontiguousarray(components), int(count), b, s)


@njit(cache=True, nogil=True)
def _globalize(components: np.ndarray, count: int, begin: np.ndarray, volume_shape: np.ndarray) -> np.ndarray:
    depth, height, width = components.shape
    out = np.zeros((depth, height, width), np.uint64)
    ids = np.zeros(count + 1, np.uint64)
    nothing = np.uint64(0)  # typed: numba compares uint64 with a plain 0 as floats
    for z in range(depth):
        for y in range(height):
            first = ((begin[0] + z) * volume_shape[1] + begin[1] + y) * volume_shape[2] + begin[2] + 1
            components_row, out_row = components[z, y], out[z, y]
            for x in range(width):
                component = components_row[x]
                if component != 0:
                    if ids[component] == nothing:
                        ids[component] = np.uint64(first + x)
                    out_row[x] = ids[component]
    return out
