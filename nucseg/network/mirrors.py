"""Test-time mirroring: predictions of mirrored views of one image, turned back and averaged.

A network is trained on mirrored patches but does not answer quite alike to an image and to its mirror image; the mean
over such views is less noisy (test-time augmentation; Wang et al., Neurocomputing 338, 2019). Every subset of the
chosen axes is one view, so n axes cost 2^n passes of the network: all three cost 8 times the computation.

Tiles agree with mirrors as they do without. Along each axis, an input that the network can take has at each level
down a whole number of pooling windows, of what the convolutions left; convolutions and crops take as much from both
ends. Counted from the far end the windows are then the same windows, so that a mirrored tile is pooled as its part of
the mirrored volume is, with no further condition on where blocks begin or on the size of the volume.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator

from nucseg.errors import InputError
from nucseg.heads.scenario import Scenario

AXES = "zyx"
NONE = "none"


def mirrors_name(mirrors: str | Sequence[str]) -> str:
    """The one name of a choice of axes to mirror.

    >>> mirrors_name("all"), mirrors_name(("x", "y")), mirrors_name("none")
    ('zyx', 'yx', 'none')

    Args:
        mirrors: "none", "all", or axes such as "yx" or ("y", "x"), in any order; no axes at all: "none".

    Returns:
        "none", or letters of z, y, x in this order.

    Raises:
        InputError: Another word, another axis, or one axis twice.
    """
    if mirrors == "all":
        return AXES
    if mirrors == NONE:
        return NONE
    axes = list(mirrors) if isinstance(mirrors, str | tuple | list) else ["?"]
    if mirrors == "" or sorted(axes, key=str) != sorted(set(AXES).intersection(axes)):
        raise InputError(
            "mirrors",
            expected="none, all, or some of the axes z, y and x, each once, such as yx",
            received=repr(mirrors),
            remedy="name the axes to mirror; every one of them doubles the computation",
        )
    return "".join(axis for axis in AXES if axis in axes) or NONE


Mirrors = Annotated[str, BeforeValidator(mirrors_name)]
"""A field of a configuration that takes what `mirrors_name` takes, and holds that name."""


def views(mirrors: str | Sequence[str]) -> list[tuple[int, ...]]:
    """The views of an image, each by the axes along which it is mirrored (0, 1, 2 for z, y, x).

    Always in one order, for sums that do not change: the image itself, then one axis, then two, then all.

    Raises:
        InputError: See `mirrors_name`.
    """
    name = mirrors_name(mirrors)
    axes = [] if name == NONE else [AXES.index(letter) for letter in name]
    return [view for n in range(len(axes) + 1) for view in combinations(axes, n)]


def mean_over_mirrors(
    predict: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    scenario: Scenario,
    mirrors: str | Sequence[str],
) -> np.ndarray:
    """The mean of the predictions of an image's views, each turned back by its heads (`Head.mirrored`).

    A channel that says nothing about the image in some view is the mean over the others; the image as it is says
    something of every channel.

    Args:
        predict: From an image (channels, z, y, x) to a prediction (scenario.channels, z, y, x) after the activation,
            which loses as much at both ends of an axis.
        image: (channels, z, y, x).
        scenario: The heads that the prediction's channels follow.
        mirrors: See `mirrors_name`.

    Returns:
        float32, the shape that `predict` gives. One view is returned as it was predicted.

    Raises:
        InputError: See `mirrors_name`.
    """
    _, *others = views(mirrors)
    mean = predict(image)
    if not others:
        return mean
    mean = np.array(mean, np.float32)
    seen = np.ones(len(mean), np.float32)
    for axes in others:
        flipped = np.flip(image, tuple(axis + 1 for axis in axes))
        turned, valid = scenario.mirrored(predict(flipped), axes)
        for channel in np.flatnonzero(valid):
            mean[channel] += turned[channel]
        seen += valid
    mean /= seen[:, None, None, None]
    return mean
