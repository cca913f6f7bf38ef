"""Whether a prediction and thresholds lie in the range of their head: the values after the activation."""

from itertools import chain
from math import isfinite

import numpy as np

from nucseg.blockwise.encoding import check_reach
from nucseg.blockwise.grid import Grid
from nucseg.errors import InputError
from nucseg.heads.base import Head
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.volume import Volume

SAMPLE, SAMPLES = 32, 3
"""Voxels a side of the boxes of a prediction that are looked at before it is used, and their number an axis."""


def check_values(path: str, data: np.ndarray, scenario: Scenario) -> None:
    """Refuse what is no prediction after the activation; NaN and infinity do not count.

    Args:
        path: The prediction's, for the message.
        data: (c, z, y, x), a part of it.
        scenario: The heads that its channels follow.

    Raises:
        InputError: Values beyond the range of a head.
    """
    for name, channels in scenario.slices().items():
        own = data[channels]
        low, high = float(own.min()), float(own.max())
        if not (isfinite(low) and isfinite(high)):
            known = np.isfinite(own)
            if not known.any():
                continue
            low, high = float(own[known].min()), float(own[known].max())
        head = next(head for head in scenario.heads if head.name == name)
        limits = head.value_range
        if limits and (low < limits[0] - head.tolerance or high > limits[1] + head.tolerance):
            raise InputError(
                f"{path}: {name}",
                expected=f"values after the activation, {limits[0]:g} to {limits[1]:g}",
                received=f"values from {low:g} to {high:g}",
                remedy="store what the network gives after its activation (softmax, sigmoid or tanh) as floats",
            )


def check_finite(volume: Volume, path: str) -> None:
    """Refuse a volume in which no value is a number. Looks in the middle first, and no further than to a number.

    Args:
        volume: An image or a prediction, opened.
        path: Its path.

    Raises:
        InputError: All values are NaN or infinite.
    """
    if volume.dtype.kind != "f":
        return
    unit = tuple(min(u, n) for u, n in zip(volume.write_unit, volume.shape, strict=True))
    z, y, x = (n // 2 // u * u for n, u in zip(volume.shape, unit, strict=True))
    size = tuple(min(u, n - b) for u, n, b in zip(unit, volume.shape, (z, y, x), strict=True))
    middle = ((z, y, x), (size[0], size[1], size[2]))
    if any(np.isfinite(volume.read(*block)).any() for block in chain([middle], volume.blocks())):
        return
    raise InputError(
        path,
        expected="voxels that are numbers",
        received="no finite voxel: all are NaN or infinite",
        remedy="check the file, or how it was made",
    )


def usable(data: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """A part of a prediction in which voxels that are no number are background.

    Args:
        data: float32 (c, z, y, x).

    Returns:
        The data, NaN in all channels of a voxel where one was not finite, so that it is no foreground and casts no
        vote; and where values are finite, bool (z, y, x), None if everywhere.
    """
    finite = np.isfinite(data).all(axis=0)
    if finite.all():
        return data, None
    return np.where(finite, data, np.float32(np.nan)), finite


def check_prediction(
    volume: Volume, path: str, scenario: Scenario, reach: int = 0, *, sampled: bool = True
) -> None:
    """Refuse a prediction of integers, and one with values beyond the range of a head in regularly chosen boxes.

    NaN is left to the blocks, which count it; a prediction without any number is refused.

    Args:
        volume: The prediction, opened.
        path: Its path.
        scenario: The heads that its channels follow.
        reach: Longest vector that is to vote, voxels.
        sampled: Whether to look at values; not where these are not there yet, or not any more.

    Raises:
        InputError: No prediction after the activation, or one without vectors of that length.
    """
    if volume.dtype.kind != "f":
        raise InputError(
            path,
            expected="values after the activation, as floats",
            received=f"dtype {volume.dtype}",
            remedy="store the network's output as float32; maps of 0 to 255 have to be divided by 255",
        )
    check_reach(volume, path, scenario, reach)
    if not sampled:
        return
    cells = tuple(-(-length // min(SAMPLES, length)) for length in volume.shape)
    for cell in Grid(volume.shape, (cells[0], cells[1], cells[2])):
        begin = tuple(b + max(0, n - SAMPLE) // 2 for b, n in zip(cell.begin, cell.shape, strict=True))
        size = tuple(min(n, SAMPLE) for n in cell.shape)
        data = volume.read((begin[0], begin[1], begin[2]), (size[0], size[1], size[2]))
        check_values(path, data if data.ndim == 4 else data[None], scenario)
    check_finite(volume, path)


def check_thresholds(scenario: Scenario, decoding: Decoding) -> None:
    """Refuse thresholds that no value, or every value, of their head exceeds.

    Raises:
        InputError: A threshold beyond the head's range, or a negative number of votes.
    """
    if decoding.seeds != "main":
        if not (isfinite(decoding.seed_threshold) and decoding.seed_threshold >= 0):
            raise InputError(
                "seed threshold",
                expected="votes per voxel, 0 or more",
                received=f"{decoding.seed_threshold:g}",
                remedy="choose another (--seed-threshold)",
            )
    else:
        _check_threshold("seed threshold", decoding.seed_threshold, scenario.main)
    _check_threshold("foreground threshold", decoding.foreground_threshold, scenario.main)


def check_halo(decoding: Decoding, max_halo: int) -> None:
    """Refuse a largest halo that is smaller than what dilation looks at.

    Raises:
        InputError: It is.
    """
    if max_halo < decoding.dilate:
        raise InputError(
            "max_halo",
            expected=f"at least {decoding.dilate} voxels to dilate by {decoding.dilate}",
            received=str(max_halo),
            remedy="allow a larger halo",
        )


def _check_threshold(what: str, value: float, head: Head) -> None:
    low, high = head.value_range or (-np.inf, np.inf)
    if not (isfinite(value) and low <= value <= high):
        raise InputError(
            what,
            expected=f"{low:g} to {high:g}, as values of {head.name} are" if head.value_range else "a number",
            received=f"{value:g}",
            remedy=f"choose another (--{what.replace(' ', '-')})",
        )
