"""`check_head`: the whole contract of a `Head` in one call."""

import traceback
from collections.abc import Callable

import numpy as np

from nucseg.errors import NucsegError
from nucseg.heads.base import Head
from nucseg.heads.scenario import Scenario
from nucseg.testing.contract import ContractBroken, require
from nucseg.testing.head_mirrors import check_mirrors, known_centers
from nucseg.testing.head_training import (
    check_descent,
    check_gradient_in_training,
    check_place,
    check_unknown_centers,
)

_SHAPE = (14, 15, 16)
_CROP = (slice(2, 12), slice(3, 12), slice(2, 14))
_PATCH = (10, 9, 12)
_FIELDS = (
    "name",
    "channels",
    "target_channels",
    *(f"{kind}_thresholds" for kind in ("seed", "foreground", "peak")),
    *(f"default_{kind}_threshold" for kind in ("seed", "foreground", "peak")),
    "dilations",
    "default_dilate",
)


def check_head(head: Head) -> None:
    """Check that a head keeps the contract of `nucseg.heads.base.Head`.

    Checked on a tiny volume with two touching nuclei and one cut by the border: name, kind and channels; the way
    through JSON; shapes, types and finiteness of target, weight, loss, activation and decoding; that `background` is
    none of the foreground; that masked voxels and voxels of weight 0 do not matter; that a target does not depend on
    where the crop lies, and that nothing is taught about centres that are not known; that what `mirrored` makes of a
    target is the target of mirrored labels, along all axes; that the loss has a gradient, falls along it and is never
    negative; that a batch of two equal patches costs as much as one; that nothing is written into the inputs.

    Args:
        head: An instance of the class to check.

    Raises:
        ContractBroken: With what was promised, and what was found.
    """
    try:
        _check(head)
    except NucsegError:
        raise
    except Exception as error:
        name = traceback.extract_tb(error.__traceback__)[-1].name
        found = f"{type(error).__name__}: {error}".removesuffix(": ")
        promise = (
            "a subclass writes it" if isinstance(error, NotImplementedError) else "it works on any patch"
        )
        raise ContractBroken(f"{type(head).__name__}.{name}: {promise}; found {found}") from error


def _check(head: Head) -> None:
    _check_fields(head)
    _check_json(head)
    target, weight = _check_target(head)
    if not weight.any():
        raise ContractBroken(
            f"{head.name}: no voxel of a fully annotated patch with known centres has a weight"
        )
    _check_loss(head, target, weight)
    _check_background(head)
    prediction = _check_activation(head)
    check_mirrors(head, _labels(), _CROP)
    if head.is_main:
        _check_decoding(head, prediction)
    if head.detects:
        _check_detection(head, prediction)


def _check_fields(head: Head) -> None:
    for field in _FIELDS:
        given = getattr(type(head), field, None)
        require(not callable(given), head, f"{field} is a @property", "a method")
    require(head.name.isidentifier(), head, "name is an identifier, it begins array names", repr(head.name))
    for field in ("channels", "target_channels"):
        value = getattr(head, field)
        require(isinstance(value, int) and value >= 1, head, f"{field} is at least 1", value)
    require(head.weight_beside(6.0) > 0, head, "weight_beside is positive", head.weight_beside(6.0))
    kinds = {"foreground"} if head.is_main or head.detects else set()
    kinds |= {"seed"} if head.is_main else set()
    kinds |= {"peak"} if head.detects else set()
    for kind in sorted(kinds):
        grid = getattr(head, f"{kind}_thresholds")
        require(len(grid) > 0 and list(grid) == sorted(grid), head, f"{kind}_thresholds ascend", grid)
        default = getattr(head, f"default_{kind}_threshold")
        inside = grid[0] <= default <= grid[-1]
        require(inside, head, f"default_{kind}_threshold lies within the grid", default)
        low, high = head.value_range or (-np.inf, np.inf)
        require(low <= grid[0] and grid[-1] <= high, head, f"{kind}_thresholds lie in value_range", grid)
    if head.is_main:
        dilations = head.dilations
        require(min(dilations) >= 0, head, "dilations are 0 or more voxels", dilations)
        require(head.default_dilate in dilations, head, "default_dilate is one of dilations", dilations)


def _check_json(head: Head) -> None:
    scenario = Scenario([head])
    again = Scenario.from_json(scenario.to_json())
    require(again == scenario, head, "a scenario with the head survives JSON", again)
    require(type(again.heads[0]) is type(head), head, "its kind finds its class again", again.heads[0])


def _labels() -> np.ndarray:
    labels = np.zeros(_SHAPE, np.uint64)
    labels[3:8, 3:9, 3:8] = 7
    labels[3:8, 3:9, 8:12] = 10**12  # touches the first
    labels[10:14, 9:15, 4:9] = 3  # cut by the border
    return labels


def _check_target(head: Head) -> tuple[np.ndarray, np.ndarray]:
    labels = _labels()
    centers = known_centers(labels)
    before = labels.copy()
    mask = np.ones(_SHAPE, np.bool_)
    scale_um = (0.5, 0.2, 0.2)
    made = head.target(labels, _CROP, scale_um, centers, mask)
    require(isinstance(made, tuple) and len(made) == 2, head, "target returns target and weight", type(made))
    target, weight = made
    require((labels == before).all() and mask.all(), head, "target leaves its inputs alone", "changes")
    for name, array, shape in (
        ("target", target, (head.target_channels, *_PATCH)),
        ("weight", weight, _PATCH),
    ):
        require(array.shape == shape, head, f"{name} has the crop's shape {shape}", array.shape)
        require(array.dtype == np.float32, head, f"{name} is float32", array.dtype)
        require(np.isfinite(array).all(), head, f"{name} is finite", "other values")
    require((weight >= 0).all(), head, "no weight is negative", weight.min())
    for given, found in zip(head.target(labels, _CROP, scale_um, centers), (target, weight), strict=True):
        require(
            np.array_equal(given, found),
            head,
            "no mask is the same as a mask that is True everywhere",
            "other",
        )
    narrow = np.minimum(labels, 200).astype(np.uint8)
    head.target(narrow, _CROP, None, known_centers(narrow))  # any integer type, and no scale
    mask[:, 6:] = False
    masked = head.target(labels, _CROP, scale_um, centers, mask)[1]
    require(not masked[:, 3:].any(), head, "the weight is 0 where the mask is False", "weights")
    empty = np.zeros(_SHAPE, np.uint32)
    for array in head.target(empty, _CROP, scale_um, known_centers(empty)):
        require(
            np.isfinite(array).all(),
            head,
            "a patch without any nucleus has a target and weight",
            "not finite",
        )
    check_place(head, labels, centers, _CROP)
    check_unknown_centers(head, labels, centers, _CROP)
    return target, weight


def _check_loss(head: Head, target: np.ndarray, weight: np.ndarray) -> None:
    from keras import ops

    rng = np.random.default_rng(0)
    output = rng.normal(size=(1, *_PATCH, head.channels)).astype(np.float32)
    y = np.moveaxis(target, 0, -1)[None]
    w = weight[None]

    def loss(output: np.ndarray, y: np.ndarray = y, w: np.ndarray = w) -> float:
        tensors = [ops.convert_to_tensor(array) for array in (output, y, w)]
        value = ops.convert_to_numpy(head.loss(*tensors))
        require(value.shape == (), head, "the loss is a scalar", value.shape)
        return float(value)

    start = loss(output)
    require(np.isfinite(start), head, "the loss is finite", start)
    require(np.isfinite(loss(100 * output)), head, "the loss of large outputs is finite", "other")
    require(
        loss(output, w=0 * w) == 0, head, "the loss is 0 where nothing has a weight", loss(output, w=0 * w)
    )
    twice = loss(*(np.concatenate([array, array]) for array in (output, y, w)))
    require(
        np.isclose(twice, start, rtol=1e-4), head, "two equal patches cost as much as one", (twice, start)
    )
    doubled = loss(output, w=2 * w)
    require(
        np.isclose(doubled, start, rtol=1e-4),
        head,
        "the loss is a weighted mean: twice the weights, the same",
        doubled,
    )
    uncounted = w == 0
    changed = np.where(uncounted[..., None], output + 5, output)
    unchanged = np.isclose(loss(changed), start, rtol=1e-4)
    require(unchanged, head, "what is predicted where the weight is 0 does not matter", loss(changed))
    half = w * (rng.random(w.shape) < 0.5)
    changed = np.where((half == 0)[..., None], output - 3, output)
    unchanged = np.isclose(loss(changed, w=half), loss(output, w=half), rtol=1e-4)
    require(unchanged, head, "each voxel counts by its own weight", loss(changed, w=half))
    _check_gradient(head, loss, output)
    check_gradient_in_training(head, output, y, w)


def _check_gradient(head: Head, loss: Callable[[np.ndarray], float], output: np.ndarray) -> None:
    """Central differences along random directions: works with every Keras backend."""
    rng = np.random.default_rng(1)
    slopes = []
    for _ in range(4):
        direction = rng.normal(size=output.shape).astype(np.float32)
        slopes.append((loss(output + 0.05 * direction) - loss(output - 0.05 * direction)) / 0.1)
    require(np.isfinite(slopes).all(), head, "the loss has finite slopes", slopes)
    require(np.any(np.abs(slopes) > 1e-7), head, "the loss depends on the output", slopes)
    for channel in range(output.shape[-1]):
        step = np.zeros(output.shape[-1], np.float32)
        step[channel] = 0.5
        moves = abs(loss(output + step) - loss(output))
        require(moves > 1e-9, head, f"the loss depends on output channel {channel}", moves)
    check_descent(head, loss, output)


def _check_activation(head: Head) -> np.ndarray:
    rng = np.random.default_rng(2)
    output = (50 * rng.normal(size=(head.channels, *_PATCH))).astype(np.float32)
    before = output.copy()
    prediction = head.activation(output)
    require((output == before).all(), head, "activation leaves its input alone", "changes")
    require(isinstance(prediction, np.ndarray), head, "activation returns a numpy array", type(prediction))
    require(prediction.shape == output.shape, head, "activation keeps the shape", prediction.shape)
    require(prediction.dtype == np.float32, head, "activation returns float32", prediction.dtype)
    require(np.isfinite(prediction).all(), head, "activation of large outputs is finite", "other values")
    part = head.activation(output[:, 2:5, 3:7, 1:9])
    same = np.array_equal(part, prediction[:, 2:5, 3:7, 1:9])
    require(same, head, "activation is voxel by voxel, so that blocks agree", "differences")
    return prediction


def _check_background(head: Head) -> None:
    values = np.array(head.background, np.float32)
    require(values.shape == (head.channels,), head, "background has one value a channel", values)
    if head.is_main or head.detects:
        maps = np.broadcast_to(values[:, None, None, None], (head.channels, 1, 1, 1))
        found = head.foreground(maps, head.default_foreground_threshold)
        require(not found.any(), head, "background is no foreground", values)


def _check_decoding(head: Head, prediction: np.ndarray) -> None:
    seed, foreground = head.default_seed_threshold, head.default_foreground_threshold
    whole = (head.surface(prediction), head.seeds(prediction, seed), head.foreground(prediction, foreground))
    part = prediction[:, 2:5, 3:7, 1:9]
    parts = (head.surface(part), head.seeds(part, seed), head.foreground(part, foreground))
    for name, dtype, array, cropped in zip(
        ("surface", "seeds", "foreground"), (np.float32, np.bool_, np.bool_), whole, parts, strict=True
    ):
        require(array.shape == _PATCH, head, f"{name} has shape (z, y, x)", array.shape)
        require(array.dtype == dtype, head, f"{name} is {np.dtype(dtype)}", array.dtype)
        same = np.array_equal(array[2:5, 3:7, 1:9], cropped)
        require(same, head, f"{name} is voxel by voxel, so that blocks agree", "differences")
    require(np.isfinite(whole[0]).all(), head, "surface is finite", "other values")


def _check_detection(head: Head, prediction: np.ndarray) -> None:
    threshold = head.default_foreground_threshold
    whole = (head.peaks(prediction), head.foreground(prediction, threshold))
    part = prediction[:, 2:5, 3:7, 1:9]
    parts = (head.peaks(part), head.foreground(part, threshold))
    for name, dtype, array, cropped in zip(
        ("peaks", "foreground"), (np.float32, np.bool_), whole, parts, strict=True
    ):
        require(array.shape == _PATCH, head, f"{name} has shape (z, y, x)", array.shape)
        require(array.dtype == dtype, head, f"{name} is {np.dtype(dtype)}", array.dtype)
        same = np.array_equal(array[2:5, 3:7, 1:9], cropped)
        require(same, head, f"{name} is voxel by voxel, so that blocks agree", "differences")
