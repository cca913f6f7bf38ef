"""What `check_head` looks at in `Head.mirrored`: the target of mirrored labels says what is right."""

from itertools import combinations

import numpy as np

from nucseg.heads.base import Centers, Crop, Head
from nucseg.instances.centroids import centroids
from nucseg.testing.contract import require

VIEWS = tuple(axes for n in range(4) for axes in combinations(range(3), n))
"""The subsets of the three axes."""
SCALE_UM = (0.5, 0.2, 0.2)


def known_centers(labels: np.ndarray) -> Centers:
    """The centres of mass of labels, all of them known."""
    found = centroids(labels)
    return Centers(found.ids, found.centers, np.ones(len(found.ids), np.bool_))


def check_mirrors(head: Head, labels: np.ndarray, crop: Crop) -> None:
    """See that a head's predictions of mirrored images are turned back rightly, for every subset of the axes.

    Args:
        head: Which one.
        labels: (z, y, x); all of it, and without the last voxel of each axis: even and odd lengths.
        crop: The wanted part.
    """
    for volume in (labels, labels[:-1, :-1, :-1]):
        for part in (crop, tuple(slice(0, n) for n in volume.shape)):
            for axes in VIEWS:
                _check_view(head, volume, part, axes)


def _check_view(head: Head, labels: np.ndarray, crop: Crop, axes: tuple[int, ...]) -> None:
    told = f"mirrored along {', '.join('zyx'[axis] for axis in axes) or 'no axis'}"
    shape = tuple(part.stop - part.start for part in crop)
    seen = np.random.default_rng(3).normal(size=(head.channels, *shape)).astype(np.float32)
    valid = _check_arrays(head, seen, axes, told)

    mirrored = tuple(
        slice(n - part.stop, n - part.start) if axis in axes else part
        for axis, (n, part) in enumerate(zip(labels.shape, crop, strict=True))
    )
    flipped = np.ascontiguousarray(np.flip(labels, axes))
    target, weight = head.target(labels, crop, SCALE_UM, known_centers(labels))
    other, other_weight = head.target(flipped, mirrored, SCALE_UM, known_centers(flipped))
    if head.target_channels == head.channels:
        turned = head.mirrored(other, axes)[0]
        counted = (weight > 0) & (np.flip(other_weight, axes) > 0)
        slack = 1e-5 * max(1.0, float(np.abs(target).max()))
        for channel in np.flatnonzero(valid):
            differ = np.abs(turned[channel] - target[channel])[counted] > slack
            require(
                not differ.any(),
                head,
                f"{told}, the target of mirrored labels turns into that of the labels (write `mirrored`)",
                f"{differ.mean():.0%} of channel {channel} that differs",
            )
    elif valid.all():
        # The target has other channels, such as class numbers: the loss knows which outputs it asks for.
        output, back = (np.moveaxis(array, 0, -1)[None] for array in (seen, head.mirrored(seen, axes)[0]))
        losses = (_loss(head, output, other, other_weight), _loss(head, back, target, weight))
        require(
            np.isclose(*losses, rtol=1e-4, atol=1e-6),
            head,
            f"{told}, an output costs with mirrored labels as much as, turned back, with the labels",
            losses,
        )


def _check_arrays(head: Head, seen: np.ndarray, axes: tuple[int, ...], told: str) -> np.ndarray:
    """Shapes, types and places; returns which channels are valid."""
    before = seen.copy()
    turned, valid = head.mirrored(seen, axes)
    require((seen == before).all(), head, "mirrored leaves its input alone", "changes")
    require(turned.shape == seen.shape, head, f"{told}, a prediction keeps its shape", turned.shape)
    require(turned.dtype == np.float32, head, "mirrored returns float32", turned.dtype)
    right = isinstance(valid, np.ndarray) and valid.dtype == np.bool_ and valid.shape == (len(seen),)
    require(right, head, "mirrored says of each channel whether it is valid, as a bool array", valid)
    if not axes:
        same = valid.all() and np.array_equal(turned, seen)
        require(same, head, f"{told}, a prediction is as it was, all of it valid", "another")
    inner = tuple(slice(2, n - 3) for n in seen.shape[1:])
    outer = tuple(
        slice(3, n - 2) if axis in axes else part
        for axis, (n, part) in enumerate(zip(seen.shape[1:], inner, strict=True))
    )
    part = head.mirrored(seen[:, *outer], axes)[0][valid]
    same = np.array_equal(part, turned[:, *inner][valid])
    require(same, head, "mirrored is voxel by voxel, so that blocks agree", "differences")
    return valid


def _loss(head: Head, output: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    from keras import ops

    arrays = (output, np.moveaxis(target, 0, -1)[None], weight[None])
    return float(ops.convert_to_numpy(head.loss(*(ops.convert_to_tensor(array) for array in arrays))))
