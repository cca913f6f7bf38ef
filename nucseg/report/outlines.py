"""A slice in gray with the outlines of its objects, in the colours of what they are."""

from typing import NamedTuple

import numpy as np

from nucseg.report.colors import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    OVERLAP,
    PREDICTION,
    TRUTH,
    Swatch,
    instance_colors,
)
from nucseg.report.drawing import contours, gray
from nucseg.report.projections import FALSE, FOUND, States

LEGEND = (TRUTH, PREDICTION, OVERLAP, FALSE_POSITIVE, FALSE_NEGATIVE)


class Slice(NamedTuple):
    """Pixels of one slice, all (rows, columns), enlarged already."""

    raw: np.ndarray
    truth: np.ndarray | None
    predicted: np.ndarray


def outlined(
    shown: Slice,
    states: States,
    window: tuple[float, float],
    thickness: int,
    focus: tuple[int, int] | None = None,
) -> np.ndarray:
    """RGB 0 to 255, float32 (rows, columns, 3).

    Args:
        shown: The slice.
        states: What the objects are.
        window: Intensities that are black and white.
        thickness: Pixels of an outline.
        focus: The true and the predicted label (0: none) that matter; the outlines of others are thin and faint.
    """
    view = np.repeat(255 * gray(shown.raw, window), 3, axis=2)
    if shown.truth is None:
        outline = contours(shown.predicted, thickness)
        view[outline] = instance_colors(shown.predicted)[outline]
        return view
    if focus is not None:
        _draw(view, shown.truth, shown.predicted, states, 1, 0.6)
        true, predicted = (
            np.where(x == i, x, 0) for x, i in zip((shown.truth, shown.predicted), focus, strict=True)
        )
        _draw(view, true, predicted, states, thickness, 1.0)
    else:
        _draw(view, shown.truth, shown.predicted, states, thickness, 1.0)
    return view


def _draw(
    view: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    states: States,
    thickness: int,
    strength: float,
) -> None:
    there, here = states.true(truth), states.predicted(predicted)
    edge_true, edge_predicted = contours(truth, thickness), contours(predicted, thickness)
    matched_true, matched = edge_true & (there == FOUND), edge_predicted & (here == FOUND)

    def paint(where: np.ndarray, swatch: Swatch) -> None:
        view[where] = (1 - strength) * view[where] + strength * np.array(swatch.rgb, np.float32)

    both = matched_true & matched
    missed, false = edge_true & (there == FALSE), edge_predicted & (here == FALSE)
    paint(matched_true & ~both & ~missed & ~false, TRUTH)
    paint(matched & ~both & ~missed & ~false, PREDICTION)
    paint(both, OVERLAP)
    paint(missed & ~false, FALSE_NEGATIVE)
    paint(false, FALSE_POSITIVE)
