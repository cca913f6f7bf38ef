"""Labels that are no instances: a mask of many nuclei under a few ids, and a background with an id of its own."""

import edt
import numpy as np
from scipy import ndimage

from nucseg.check.finding import Finding, finding, some
from nucseg.check.sample import Box
from nucseg.storage.stored import Float3
from nucseg.volume import Volume

FEW_IDS = 3
"""Labels of at most so many ids may be classes."""
BODIES = 8
"""So many round bodies under so few ids are no instances: a bent or bumpy nucleus counts as two or three."""


def check_background(labels: Volume, chosen: list[Box], ids: np.ndarray, sizes: np.ndarray) -> list[Finding]:
    """Finding `background`: one id that has most of the voxels and most of the faces of what was looked at.

    Args:
        labels: The labels.
        chosen: The boxes that were looked at.
        ids: Ids in them, each once.
        sizes: Voxels of each.
    """
    voxels = sum(int(np.prod(box.shape)) for box in chosen)
    largest = int(np.argmax(sizes))
    full = int(sizes.sum()) == voxels
    if 2 * sizes[largest] <= voxels or (ids.size == 1 and not full):
        return []
    surface = [_faces(labels.read(box.begin, box.shape)) for box in chosen]
    held = sum(int(np.count_nonzero(part == ids[largest])) for part in surface)
    if 2 * held <= sum(part.size for part in surface):
        return []
    return [
        finding(
            "background",
            "error",
            expected="0 in every voxel of the background",
            received=f"id {int(ids[largest])} in {sizes[largest] / voxels:.0%} of the voxels and on all faces"
            + (", and 0 nowhere" if full else ""),
            remedy=f"set the background to 0, e.g. labels[labels == {int(ids[largest])}] = 0",
            where=f"ids {int(ids[largest])}",
        )
    ]


def check_mask(labels: Volume, box: Box, ids: np.ndarray, scale_um: Float3 | None) -> list[Finding]:
    """Finding `semantic`: at most `FEW_IDS` ids over many round bodies, which may touch.

    Args:
        labels: The labels.
        box: The looked-at box that has the most foreground.
        ids: All ids that were seen.
        scale_um: Voxel size (z, y, x), None if unknown.
    """
    if ids.size > FEW_IDS:
        return []
    bodies = count_bodies(labels.read(box.begin, box.shape) > 0, scale_um)
    if bodies < BODIES:
        return []
    return [
        finding(
            "semantic",
            "error",
            expected="one id for each nucleus",
            received=f"{ids.size} id(s) for about {bodies} round bodies: a mask of classes, it seems",
            remedy="split what touches and give each nucleus its own id, e.g. by a watershed of the distance to "
            "the background",
            where=f"ids {some(ids.tolist())}",
        )
    ]


def count_bodies(mask: np.ndarray, scale_um: Float3 | None) -> int:
    """Maxima of the smoothed distance to the background: nearly the number of nuclei, also where they touch.

    A maximum counts if it is at least 0.4 of the largest distance and the largest in a window of about this half
    width; plateaus count once.

    Args:
        mask: bool (z, y, x).
        scale_um: Voxel size (z, y, x); None: cubic.
    """
    size = np.array(scale_um or (1.0, 1.0, 1.0))
    size = size / size.min()
    padded = np.pad(mask, 1, mode="edge")  # a nucleus that the border cuts is deepest there
    distance = edt.edt(np.ascontiguousarray(padded), anisotropy=tuple(map(float, size)), parallel=1)
    inner = distance[1:-1, 1:-1, 1:-1]
    reach = float(inner[np.isfinite(inner)].max(initial=0.0))
    if reach == 0:
        return 0
    smooth = ndimage.gaussian_filter(inner, 0.2 * reach / size, mode="nearest")
    window = tuple(2 * max(1, int(w)) + 1 for w in reach / size)
    peaks = (smooth == ndimage.maximum_filter(smooth, window, mode="nearest")) & (smooth >= 0.4 * reach)
    peaks &= mask
    return int(ndimage.label(peaks, np.ones((3, 3, 3)))[1])


def _faces(data: np.ndarray) -> np.ndarray:
    """Voxels of the six faces; those of edges twice."""
    return np.concatenate([data.take(index, axis).ravel() for axis in range(3) for index in (0, -1)])
