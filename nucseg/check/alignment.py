"""Whether labels lie on the nuclei that the image shows."""

from itertools import product

import numpy as np
from numba import njit

from nucseg.check.finding import Finding, finding
from nucseg.check.sample import Box
from nucseg.storage.stored import Int3
from nucseg.volume import Volume

REACH = 10
"""Longest shift that is looked for, in voxels along each axis."""
SIDE = 200
"""Side of the part that is compared, in voxels."""
FEWEST = 6
"""Fewer nuclei than this say nothing about a shift."""
GAIN = 1.03
"""A shift is reported if the fit rises by this factor (shifts by 2 voxels of real labels: 1.04)."""
CLEAR = 1.15
"""... as an error from this factor on, as a warning below."""

Range = tuple[slice, slice, slice]


def check_alignment(channels: list[Volume], labels: Volume, box: Box) -> list[Finding]:
    """Findings `shifted` and `mirrored`, from at most 200 voxels a side around the centre of a box' foreground.

    The fit (see `fit`) is followed uphill over shifts by single voxels; labels that lie right are at its top or
    one voxel from it. A shift counts only if both halves of the part, each with half of the foreground, find it
    too, to a voxel. The channel that fits best counts; nuclei may be darker than their surroundings.

    Args:
        channels: The image's channels, of the labels' shape.
        labels: The labels.
        box: Part of the volume with foreground.
    """
    ids = labels.read(box.begin, box.shape)
    part = _part(ids != 0)
    begin = tuple(b + s.start for b, s in zip(box.begin, part, strict=True))
    ids = np.ascontiguousarray(ids[part])
    mask = ids != 0
    shape, corner = (ids.shape[0], ids.shape[1], ids.shape[2]), (begin[0], begin[1], begin[2])
    reach = _int3([min(REACH, max((length - 1) // 4, 0)) for length in shape])
    core = _range([(r, n - r) for r, n in zip(reach, shape, strict=True)])
    if np.unique(ids[core][mask[core]]).size < FEWEST or mask[core].all():
        return []
    images = [_normalized(channel.read(corner, shape)) for channel in channels]
    here = [fit(image, mask, core, (0, 0, 0)) for image in images]
    best = int(np.argmax(np.abs(here)))
    image, start = images[best], here[best]
    if start < -0.1:  # dark nuclei
        image, start = -image, -start
    at = f"channel {best}" if len(channels) > 1 else ""
    mirrored = _mirrored(image, mask, core, start) if shape == labels.shape else None
    if mirrored is not None:
        axes, value = mirrored
        return [
            finding(
                "mirrored",
                "error",
                expected="labels in the image's orientation",
                received=f"a correlation of {start:.2f} with the image, {value:.2f} when mirrored along {axes}",
                remedy=f"mirror the labels along {axes}",
                where=at,
            )
        ]
    shift, value = climb(image, mask, core, reach)
    if max(map(abs, shift)) < 2 or value < GAIN * max(start, 0.0) or value - start < 0.015:
        return []
    for half in _halves(mask, core):
        found, _ = climb(image, mask, half, reach)
        if any(abs(a - b) > 1 for a, b in zip(found, shift, strict=True)):
            return []
    return [
        finding(
            "shifted",
            "error" if value >= CLEAR * max(start, 0.0) else "warning",
            expected="labels on the nuclei that the image shows",
            received=f"a correlation of {start:.2f}, {value:.2f} when the labels move by {shift} voxels (z, y, x)",
            remedy="move them so, or export image and labels again from the same crop",
            where=at,
        )
    ]


def climb(image: np.ndarray, mask: np.ndarray, core: Range, reach: Int3) -> tuple[Int3, float]:
    """The shift of the mask (z, y, x) at which the fit has its nearest top, and the fit there."""
    place: Int3 = (0, 0, 0)
    known: dict[Int3, float] = {place: fit(image, mask, core, place)}
    while True:
        for step in product((-1, 0, 1), repeat=3):
            near = _int3([p + s for p, s in zip(place, step, strict=True)])
            if near not in known and all(abs(n) <= r for n, r in zip(near, reach, strict=True)):
                known[near] = fit(image, mask, core, near)
        top = max(known, key=lambda shift: (known[shift], shift))
        if not known[top] > known[place]:
            return place, known[place]
        place = top


def fit(image: np.ndarray, mask: np.ndarray, core: Range, shift: Int3) -> float:
    """Covariance of the mask with the image, over the mask's standard deviation, the mask moved by a shift.

    With an image of mean 0 and standard deviation 1 this is Pearson's correlation but for one thing: the image
    under the moving window is not normalised again. Otherwise the top would follow windows of little contrast
    rather than nuclei, where labels are smaller than the nuclei.

    Args:
        image: (z, y, x) float32.
        mask: (z, y, x) bool.
        core: Part of the mask that is compared; moved by the shift it must lie inside the image.
        shift: Of the mask, in voxels (z, y, x).

    Returns:
        About -1 to 1; 0 where the mask is constant.
    """
    begin = np.array([side.start for side in core])
    end = np.array([side.stop for side in core])
    n, image_sum, product_sum, mask_sum = _sums(image, mask, begin, end, np.array(shift))
    share = mask_sum / n
    if not 0 < share < 1:
        return 0.0
    return float((product_sum / n - image_sum / n * share) / np.sqrt(share * (1 - share)))


def _part(mask: np.ndarray) -> Range:
    """Part of at most `SIDE` a side whose middle is the foreground's centre, or near it."""
    sides = []
    for axis, length in enumerate(mask.shape):
        profile = mask.sum(axis=tuple(other for other in range(3) if other != axis))
        side = min(SIDE, length)
        center = int(np.average(np.arange(length), weights=profile)) if profile.any() else 0
        first = min(max(center - side // 2, 0), length - side)
        sides.append((first, first + side))
    return _range(sides)


def _halves(mask: np.ndarray, core: Range) -> list[Range]:
    """The core cut across its longest axis, with half of the foreground on each side."""
    axis = int(np.argmax([side.stop - side.start for side in core]))
    profile = mask[core].sum(axis=tuple(other for other in range(3) if other != axis)).cumsum()
    middle = core[axis].start + int(np.searchsorted(profile, profile[-1] / 2))
    low, high = ([(side.start, side.stop) for side in core] for _ in range(2))
    low[axis], high[axis] = (core[axis].start, middle), (middle, core[axis].stop)
    return [_range(low), _range(high)]


def _mirrored(image: np.ndarray, mask: np.ndarray, core: Range, start: float) -> tuple[str, float] | None:
    """Axes along which a mirrored mask fits far better than it does as it is, and how well."""
    found = []
    for flips in product((False, True), repeat=3):
        axes = tuple(axis for axis, flip in enumerate(flips) if flip)
        if axes:
            turned = np.ascontiguousarray(np.flip(mask, axes))
            found.append((fit(image, turned, core, (0, 0, 0)), " and ".join("zyx"[a] for a in axes)))
    value, name = max(found)
    return (name, value) if value > 1.5 * max(start, 0.0) + 0.15 else None


def _normalized(image: np.ndarray) -> np.ndarray:
    """float32 of mean 0 and standard deviation 1, clipped at the percentiles 1 and 99.8; not finite is 0."""
    image = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    image = np.clip(image, *np.percentile(image, [1.0, 99.8]))
    deviation = float(image.std(dtype=np.float64))
    return ((image - image.mean(dtype=np.float64)) / (deviation or 1.0)).astype(np.float32)


def _int3(values: list[int]) -> Int3:
    return values[0], values[1], values[2]


def _range(sides: list[tuple[int, int]]) -> Range:
    return slice(*sides[0]), slice(*sides[1]), slice(*sides[2])


@njit(cache=True, nogil=True)
def _sums(
    image: np.ndarray, mask: np.ndarray, begin: np.ndarray, end: np.ndarray, shift: np.ndarray
) -> tuple[float, float, float, float]:
    """Number of voxels in the core, and sums of image, image * mask, and mask there."""
    image_sum, product_sum, count = 0.0, 0.0, 0
    for z in range(begin[0], end[0]):
        for y in range(begin[1], end[1]):
            for x in range(begin[2], end[2]):
                value = np.float64(image[z + shift[0], y + shift[1], x + shift[2]])
                image_sum += value
                if mask[z, y, x]:
                    product_sum += value
                    count += 1
    n = (end[0] - begin[0]) * (end[1] - begin[1]) * (end[2] - begin[2])
    return float(n), image_sum, product_sum, float(count)
