"""What `check_head` looks at in targets and losses beyond their shapes: places, unknown centres, the way down."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from nucseg.heads.base import Centers, Crop, Head
from nucseg.testing.contract import ContractBroken, require

SAME = 0.01
"""Targets may differ by this share of their largest value: a distance that is cut off saturates so far."""
STEPS = 4
"""Of the descent."""

Loss = Callable[[np.ndarray], float]


def check_place(head: Head, labels: np.ndarray, centers: Centers, crop: Crop) -> None:
    """See that a crop's target is the part of a larger crop's, up to its border, around which there are labels."""
    scale_um = (0.5, 0.2, 0.2)
    larger = tuple(
        slice(part.start - before, part.stop + 1) for part, before in zip(crop, (1, 2, 1), strict=True)
    )
    inside = tuple(
        slice(part.start - grown.start, part.stop - grown.start)
        for part, grown in zip(crop, larger, strict=True)
    )
    target, weight = head.target(labels, crop, scale_um, centers)
    around, around_weight = head.target(labels, larger, scale_um, centers)
    counted = weight > 0
    same = np.array_equal(counted, around_weight[inside] > 0)
    require(same, head, "where a voxel counts does not depend on the crop", "weights that do")
    differ = _differ(target, around[:, *inside])[counted]
    require(
        not differ.any(),
        head,
        "a voxel's target does not depend on the crop (look at `labels` around it; centres are in their coordinates)",
        f"{differ.mean():.0%} of the targets that do",
    )


def check_unknown_centers(head: Head, labels: np.ndarray, centers: Centers, crop: Crop) -> None:
    """See that a head that teaches where centres are does not do so where they are unknown."""
    scale_um = (0.5, 0.2, 0.2)
    target, weight = head.target(labels, crop, scale_um, centers)
    moved = centers._replace(centers=centers.centers + np.array([1.0, -1.5, 1.25]))
    if not _differ(target, head.target(labels, crop, scale_um, moved)[0])[weight > 0].any():
        return
    inside = labels[crop]
    for unknown in (centers.ids[:1], centers.ids):
        partly = centers._replace(known=~np.isin(centers.ids, unknown))
        taught = head.target(labels, crop, scale_um, partly)[1][np.isin(inside, unknown)]
        require(
            not taught.any(),
            head,
            "the weight is 0 at voxels of a nucleus whose centre is not known (`centers.known`)",
            f"weights at {np.count_nonzero(taught)} of its voxels",
        )


def check_descent(head: Head, loss: Loss, output: np.ndarray) -> None:
    """See that the loss is never negative, and falls down its slope to something better.

    Steepest descent with numerical slopes, which every Keras backend has, in the output's mean of each channel in each
    quarter of the patch. What it leads to is then exaggerated: a loss without a lower bound becomes negative there.

    Args:
        head: Whose loss it is.
        loss: Of an output.
        output: Where to begin, float32 (1, z, y, x, channels).
    """
    for factor in (0, 1, 100, -100):
        require(loss(factor * output) >= 0, head, "the loss is never negative", loss(factor * output))
    directions = _directions(output.shape)
    at, value, step = output, loss(output), 1.0
    for taken in range(STEPS):
        slopes = [(loss(at + 0.01 * d) - loss(at - 0.01 * d)) / 0.02 for d in directions]
        down = -np.tensordot(np.array(slopes), np.array(directions), 1)
        largest = float(np.abs(down).max())
        if largest == 0:
            break
        down = (down / largest).astype(np.float32)
        for _ in range(12):
            lower = loss(at + step * down)
            if lower < value:
                break
            step /= 2
        else:
            require(taken, head, "the loss falls along its negative gradient", f"{lower} after {value}")
            break
        at, value, step = at + step * down, lower, 2 * step
    require(value < loss(output), head, "the loss falls along its negative gradient", value)
    for factor in (1, 10, 1000):
        far = loss(output + factor * (at - output))
        require(far >= 0, head, "the loss is never negative, wherever its gradient leads", far)


def _differ(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where two targets (t, z, y, x) differ, bool (z, y, x)."""
    largest = max(float(np.abs(first).max(initial=0)), float(np.abs(second).max(initial=0)))
    return (np.abs(first - second) > SAME * largest).any(axis=0)


def _directions(shape: tuple[int, ...]) -> list[np.ndarray]:
    """1 in one channel and one quarter of the patch, else 0; for all channels and quarters."""
    above, left = shape[1] // 2, shape[3] // 2
    quarters = product((slice(0, above), slice(above, None)), (slice(0, left), slice(left, None)))
    found = []
    for (z, x), channel in product(quarters, range(shape[-1])):
        direction = np.zeros(shape, np.float32)
        direction[:, z, :, x, channel] = 1
        found.append(direction)
    return found


def check_gradient_in_training(
    head: Head, output: np.ndarray, target: np.ndarray, weight: np.ndarray
) -> None:
    """See that Keras can train with the loss: one step of a layer that passes its input on must move its weights.

    Args:
        head: Whose loss it is.
        output: float32 (1, z, y, x, channels), the layer's input.
        target: float32 (1, z, y, x, target_channels).
        weight: float32 (1, z, y, x).
    """
    import keras

    promise = "the loss is made of keras.ops, so that Keras has its gradient"

    def loss(packed: Any, given: Any) -> Any:
        return head.loss(given, packed[..., :-1], packed[..., -1])

    image = keras.Input(output.shape[1:])
    layer = keras.layers.Dense(head.channels, kernel_initializer="identity")
    model = keras.Model(image, layer(image))
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss)
    before = [np.array(value) for value in model.get_weights()]
    try:
        model.train_on_batch(output, np.concatenate([target, weight[..., None]], -1))
    except Exception as error:
        raise ContractBroken(
            f"{type(head).__name__}: {promise}; found {type(error).__name__}: {error}"
        ) from error
    after = model.get_weights()
    require(all(np.isfinite(value).all() for value in after), head, promise, "a gradient that is not finite")
    moved = any((new != old).any() for new, old in zip(after, before, strict=True))
    require(moved, head, promise, "none: no weight moves")
