"""Seeded watershed inside the foreground: of a whole volume, and of a block with a certificate.

A block sees only a part of the volume. `flood_certified` treats all that it cannot see as an adversary: a
seed component that touches a cut face of the read region, and every foreground voxel on a cut face, gets the
label UNKNOWN and is inserted before all known seeds. Whatever the rest of the volume does must enter through
a voxel of a cut face, at that voxel's surface value or later and behind the adversary. Known voxels are
pushed by known voxels only, in an order that the adversary does not change, so a voxel that is won against
the adversary carries the same label in the flood of the whole volume, ties included. A voxel lost to the
adversary is undecided: the caller enlarges the read region and tries again.
"""

from typing import NamedTuple

import cc3d
import mahotas
import numpy as np

from nucseg.errors import InputError
from nucseg.instances.flood_kernel import (
    UNKNOWN,
    flood_components,
    open_links,
    replace_seeds,
    take_unknown,
)

Box = tuple[slice, ...]
"""Three slices z,y,x with whole, non-negative start and stop."""


class Certificate(NamedTuple):
    """Whether the labels of a core (and its rim) are those of the whole volume.

    Attributes:
        unknown: Number of foreground voxels of the core and rim that what lies outside may still change.
        begin: First voxel of their bounding box in index coordinates of the read region; zeros if there is
            none.
        end: Behind the last voxel of that box.
    """

    unknown: int
    begin: tuple[int, int, int] = (0, 0, 0)
    end: tuple[int, int, int] = (0, 0, 0)

    @property
    def certified(self) -> bool:
        """True when no voxel is undecided."""
        return self.unknown == 0

    def __bool__(self) -> bool:
        return self.certified


def flood(surface: np.ndarray, seeds: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Seeded watershed, inside the foreground only.

    Labels are those of `mahotas.cwatershed` (6 neighbours) with the background on a plateau above the
    surface, masked with the foreground; components of the foreground without a seed stay background.

    Args:
        surface: Heights, float32 or a type that float32 holds exactly (z, y, x). No NaN in the foreground.
        seeds: Integer ids (z, y, x), 0 = none. Seeds outside the foreground are ignored.
        foreground: bool (z, y, x).

    Returns:
        uint64 (z, y, x).

    Raises:
        InputError: Shapes or types do not fit, or the surface is NaN in the foreground.
    """
    surface, labels, foreground = _checked(surface, seeds, foreground)
    replace_seeds(labels, foreground, np.zeros(0, np.uint64), UNKNOWN)
    _run(surface, labels, foreground, tuple(slice(0, n) for n in labels.shape))
    return labels


def mahotas_flood(surface: np.ndarray, seeds: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """The same labels as `flood`, computed by `mahotas.cwatershed`: the reference, several times slower.

    Args:
        surface: As for `flood`.
        seeds: As for `flood`; ids below 2 ** 63.
        foreground: As for `flood`.

    Returns:
        uint64 (z, y, x).

    Raises:
        InputError: As `flood`.
    """
    surface, labels, foreground = _checked(surface, seeds, foreground)
    labels[~foreground] = 0
    if not labels.any():
        return labels
    heights = surface.astype(np.float64)
    if np.isnan(heights[foreground]).any():
        raise _nan_error()
    heights[np.isposinf(heights)] = 1e300  # above every float32, below the plateau
    heights[~foreground] = np.inf
    flooded = mahotas.cwatershed(heights, labels.astype(np.int64)).astype(np.uint64)
    components = cc3d.connected_components(foreground, connectivity=6, binary_image=True)
    seeded = np.zeros(int(components.max()) + 1, np.bool_)
    seeded[np.unique(components[labels != 0])] = True
    seeded[0] = False
    flooded[~seeded[components]] = 0
    return flooded


def flood_certified(
    surface: np.ndarray,
    seeds: np.ndarray,
    foreground: np.ndarray,
    core: Box,
    cut: tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]],
    rim: int = 0,
) -> tuple[np.ndarray, Certificate]:
    """Flood a read region, and certify its core: that it equals the flood of the whole volume.

    Args:
        surface: Heights of the read region, as for `flood`.
        seeds: Ids of its seed components from `label_seeds` with the region's place in the volume.
        foreground: bool (z, y, x).
        core: The part whose labels are wanted, three slices into the read region.
        cut: For each axis whether the low and the high face of the region lie inside the volume (True) or
            are the volume's border (False).
        rim: Voxels around the core that must be certified too, because a later step (dilation) looks at them;
            clipped at faces that are not cut.

    Returns:
        Labels of the read region, uint64, and a certificate that is true if and only if no voxel of the core
        and rim is undecided. Undecided voxels are 0. Outside the core and rim the labels may be incomplete.

    Raises:
        InputError: As `flood`; a core that is not inside the region; a rim that crosses a cut face.
    """
    surface, labels, foreground = _checked(surface, seeds, foreground)
    wanted = _with_rim(core, labels.shape, cut, rim)
    faces = _cut_faces(cut)
    touching = [np.unique(labels[face]) for face in faces]
    incomplete = np.unique(np.concatenate(touching)) if faces else np.zeros(0, np.uint64)
    replace_seeds(labels, foreground, incomplete[incomplete > 0], UNKNOWN)
    for face in faces:
        labels[face][foreground[face]] = UNKNOWN
    _run(surface, labels, foreground, wanted)
    counted = take_unknown(labels, *_corners(wanted))
    count, begin, end = int(counted[0]), counted[1:4].tolist(), counted[4:7].tolist()
    if not count:
        return labels, Certificate(0)
    return labels, Certificate(count, (begin[0], begin[1], begin[2]), (end[0], end[1], end[2]))


def _run(surface: np.ndarray, labels: np.ndarray, foreground: np.ndarray, box: Box) -> None:
    """Flood `labels` in place, all components of the foreground that reach the box."""
    if surface.size == 0:
        return
    components, count = cc3d.connected_components(
        foreground, connectivity=6, return_N=True, binary_image=True, out_dtype=np.uint32
    )
    links = open_links(foreground, labels)
    if not flood_components(surface.view(np.uint32), labels, links, components, int(count), *_corners(box)):
        raise _nan_error()


def _corners(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """First voxel of a box, and behind its last, int64 (3,)."""
    return np.array([part.start for part in box], np.int64), np.array([part.stop for part in box], np.int64)


def _cut_faces(cut: tuple[tuple[bool, bool], ...]) -> list[Box]:
    """Index of each face of a region that is cut, one voxel thick."""
    faces = []
    for axis, (low, high) in enumerate(cut):
        for is_cut, part in ((low, slice(0, 1)), (high, slice(-1, None))):
            if is_cut:
                faces.append(tuple(part if a == axis else slice(None) for a in range(3)))
    return faces


def _with_rim(core: Box, shape: tuple[int, ...], cut: tuple[tuple[bool, bool], ...], rim: int) -> Box:
    box = []
    for axis, (part, size, (low, high)) in enumerate(zip(core, shape, cut, strict=True)):
        if not 0 <= part.start <= part.stop <= size:
            raise InputError(
                f"core on axis {'zyx'[axis]}",
                expected=f"a part of the read region, 0 to {size}",
                received=f"{part.start} to {part.stop}",
                remedy="give the core in index coordinates of the read region",
            )
        start, stop = part.start - rim, part.stop + rim
        if (low and start < 0) or (high and stop > size):
            raise InputError(
                f"rim on axis {'zyx'[axis]}",
                expected="core and rim inside the read region",
                received=f"core {part.start} to {part.stop} with rim {rim} in a region of {size}",
                remedy=f"use a halo of at least {rim} voxels",
            )
        box.append(slice(max(start, 0), min(stop, size)))
    return tuple(box)


def _checked(
    surface: np.ndarray, seeds: np.ndarray, foreground: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surface as float32, a copy of the seeds as uint64 and the foreground as bool, all C-ordered."""
    surface, seeds, foreground = np.asarray(surface), np.asarray(seeds), np.asarray(foreground)
    if surface.ndim != 3 or not surface.shape == seeds.shape == foreground.shape:
        raise InputError(
            "surface, seeds and foreground",
            expected="three arrays (z, y, x) of one shape",
            received=f"{surface.shape}, {seeds.shape} and {foreground.shape}",
            remedy="crop them to the same region",
        )
    if not np.can_cast(surface.dtype, np.float32, "safe") or surface.dtype.kind == "c":
        raise InputError(
            "surface",
            expected="float32, or a type that float32 holds exactly",
            received=str(surface.dtype),
            remedy="convert it with .astype('float32') and accept that close values become equal",
        )
    if foreground.dtype != np.bool_ or seeds.dtype.kind not in "iub":
        raise InputError(
            "seeds and foreground",
            expected="integer seed ids and a boolean foreground",
            received=f"{seeds.dtype} and {foreground.dtype}",
            remedy="compare the prediction with its thresholds and label the seeds with label_seeds",
        )
    if surface.size >= 2**32 // 3:
        raise InputError(
            "flood",
            expected=f"fewer than {2**32 // 3} voxels at once",
            received=f"{surface.size}",
            remedy="segment the volume blockwise",
        )
    surface = np.ascontiguousarray(surface, np.float32)
    return surface, np.array(seeds, np.uint64, order="C"), np.ascontiguousarray(foreground)


def _nan_error() -> InputError:
    return InputError(
        "surface",
        expected="numbers in the foreground",
        received="NaN",
        remedy="check the prediction, or take the NaN voxels out of the foreground",
    )
