"""Mistakes in instance labels: masks, fragments, slivers, ids that do not fit, sizes that cannot be true."""

from dataclasses import dataclass

import cc3d
import numpy as np
from numba import njit

from nucseg.check.finding import Finding, finding, some
from nucseg.check.mask import check_background, check_mask
from nucseg.check.sample import Box, boxes
from nucseg.storage.stored import Float3
from nucseg.volume import Volume

SLIVER = 0.02
"""Nuclei smaller than this share of the median one are slivers."""
SMALLEST_UM, LARGEST_UM = 0.5, 100.0
"""Diameters of nuclei that can be true."""


@dataclass
class Parts:
    """Connected components (26 neighbours) of every id; arrays of one length.

    Attributes:
        label: Id of the component, as stored.
        size: Voxels.
        place: First voxel (z, y, x) in the volume.
        cut: Whether it touches a face of its box that lies inside the volume.
        border: Whether it touches the volume's border.
    """

    label: np.ndarray
    size: np.ndarray
    place: np.ndarray
    cut: np.ndarray
    border: np.ndarray


def check_instances(labels: Volume, scale_um: Float3 | None) -> tuple[list[Finding], Box | None]:
    """Findings about labels, and the looked-at box that has the most foreground (None without any)."""
    chosen = boxes(labels.shape)
    tables, lowest = [], 0
    for box in chosen:
        data = labels.read(box.begin, box.shape)
        lowest = min(lowest, int(data.min()))
        tables.append(parts(data, box))
    foreground = [int(table.size.sum()) for table in tables]
    if lowest < 0:
        negative = finding(
            "negative_ids",
            "error",
            expected="ids from 0 (background) up",
            received=f"ids down to {lowest}",
            remedy="set unannotated or ignored voxels to 0, and keep a mask of them beside the labels",
        )
        return [negative], None
    if not any(foreground):
        seen = "" if len(chosen) == 1 else " that was looked at"
        empty = finding(
            "empty_labels",
            "error" if len(chosen) == 1 else "warning",
            expected="labelled nuclei",
            received=f"0 in every voxel{seen}",
            remedy="check that this is the right label file",
        )
        return [empty], None
    every = Parts(*(np.concatenate([getattr(t, name) for t in tables]) for name in Parts.__annotations__))
    ids, inverse = np.unique(every.label, return_inverse=True)
    found = check_background(labels, chosen, ids, np.bincount(inverse, weights=every.size).astype(np.int64))
    if found:
        return found, None
    of_ids, fullest = _of_ids(every, labels.dtype), chosen[int(np.argmax(foreground))]
    if all(f.code != "semantic" for f in of_ids) and (found := check_mask(labels, fullest, ids, scale_um)):
        return found, fullest
    return [*of_ids, *_of_sizes(every, scale_um), *_of_border(every)], fullest


def _of_ids(every: Parts, dtype: np.dtype) -> list[Finding]:
    """Findings `semantic`, `fragments` and `narrow_dtype`."""
    ids, number = np.unique(every.label, return_counts=True)
    findings = []
    largest = int(np.iinfo(dtype).max)
    if int(ids[-1]) == largest and ids.size >= 0.9 * largest:
        findings.append(
            finding(
                "narrow_dtype",
                "error" if every.label.size > largest else "warning",
                expected=f"more possible ids than nuclei ({dtype} has {largest})",
                received=f"{every.label.size} separate objects, {ids.size} ids up to {int(ids[-1])}",
                remedy="number the labels again in uint32 from the tool that made them; reused ids cannot be undone",
            )
        )
    if every.label.size >= 10 and every.label.size >= 5 * ids.size:
        findings.append(
            finding(
                "semantic",
                "error",
                expected="one id for each nucleus",
                received=f"{ids.size} id(s) for {every.label.size} separate objects: a mask of classes, it seems",
                remedy="label the connected components, e.g. skimage.measure.label(mask), and split what touches",
                where=f"ids {some(ids.tolist())}",
            )
        )
        return findings
    broken = np.setdiff1d(ids[number > 1], every.label[every.cut]).tolist()
    if broken:
        parts_of = np.flatnonzero(every.label == broken[0])
        place = tuple(int(p) for p in every.place[parts_of[np.argmin(every.size[parts_of])]])
        findings.append(
            finding(
                "fragments",
                "warning",
                expected="each id in one piece",
                received=f"{len(broken)} of {ids.size} ids in several separate pieces",
                remedy="give each piece its own id if they are nuclei, or erase the specks; the smallest piece "
                f"of id {broken[0]} is at voxel {place}",
                where=f"ids {some(broken)}",
            )
        )
    return findings


def _of_sizes(every: Parts, scale_um: Float3 | None) -> list[Finding]:
    """Findings `slivers` and `nucleus_size`, of the nuclei that no box cuts."""
    ids, inverse = np.unique(every.label, return_inverse=True)
    sizes = np.bincount(inverse, weights=every.size)
    cut, border = (np.bincount(inverse, weights=flag) > 0 for flag in (every.cut, every.border))
    ids, sizes, border = ids[~cut], sizes[~cut], border[~cut]
    if not ids.size:
        return []
    findings = []
    median = float(np.median(sizes))
    small = sizes < SLIVER * median
    if small.any():
        findings.append(
            finding(
                "slivers",
                "warning",
                expected=f"nuclei of at least {SLIVER:.0%} of the median one ({median:.0f} voxels)",
                received=f"{int(small.sum())} smaller ones, down to {int(sizes.min())} voxels, "
                f"{int((small & border).sum())} of them at the volume's border",
                remedy="erase them, or state a minimum size with every score (`--min-size`)",
                where=f"ids {some(ids[small].tolist())}",
            )
        )
    inner = sizes[~border] if (~border).any() else sizes
    if scale_um is not None:
        diameter = (6 / np.pi * float(np.median(inner)) * float(np.prod(scale_um))) ** (1 / 3)
        if not SMALLEST_UM <= diameter <= LARGEST_UM:
            findings.append(
                finding(
                    "nucleus_size",
                    "error",
                    expected=f"nuclei of {SMALLEST_UM:g} to {LARGEST_UM:g} um across",
                    received=f"a median of {diameter:.3g} um with voxels of {scale_um} um",
                    remedy="the voxel size is likely in another unit; correct it with `nucseg convert --scale-um`",
                )
            )
    return findings


def _of_border(every: Parts) -> list[Finding]:
    ids, cut = np.unique(every.label), np.unique(every.label[every.border])
    if not cut.size:
        return []
    return [
        finding(
            "border",
            "info",
            expected="nuclei that lie wholly in the volume, for exact sizes and centres",
            received=f"{cut.size} of {ids.size} nuclei at the volume's border",
            remedy="nothing to do; they count with their visible part",
        )
    ]


def parts(data: np.ndarray, box: Box) -> Parts:
    """Connected components of each id in a box.

    Args:
        data: (z, y, x) integer labels of the box, 0 is background.
        box: Where it lies.
    """
    components, count = cc3d.connected_components(data, connectivity=26, return_N=True)
    size, first, touches = _table(components, int(count))
    place = np.stack(np.unravel_index(first, data.shape), axis=1) if count else np.empty((0, 3), np.int64)
    faces = np.array([[not cut for cut in axis] for axis in box.cut]).ravel()
    return Parts(
        label=np.ascontiguousarray(data).ravel()[first],
        size=size,
        place=place + np.array(box.begin),
        cut=(touches & ~faces).any(axis=1),
        border=(touches & faces).any(axis=1),
    )


@njit(cache=True, nogil=True)
def _table(components: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Size, flat index of the first voxel, and touched faces (low z, high z, low y, ...) of components 1 ..."""
    size = np.zeros(count, np.int64)
    first = np.zeros(count, np.int64)
    touches = np.zeros((count, 6), np.bool_)
    nz, ny, nx = components.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                index = np.int64(components[z, y, x]) - 1
                if index < 0:
                    continue
                if size[index] == 0:
                    first[index] = (z * ny + y) * nx + x
                size[index] += 1
                if z == 0 or z == nz - 1 or y == 0 or y == ny - 1 or x == 0 or x == nx - 1:
                    touches[index, 0] |= z == 0
                    touches[index, 1] |= z == nz - 1
                    touches[index, 2] |= y == 0
                    touches[index, 3] |= y == ny - 1
                    touches[index, 4] |= x == 0
                    touches[index, 5] |= x == nx - 1
    return size, first, touches
