"""The colours of a report: those of the paper's Figure 5, lightened where pure ones drown in black."""

from typing import NamedTuple

import numpy as np


class Swatch(NamedTuple):
    """A colour and what it means, for a legend."""

    text: str
    rgb: tuple[int, int, int]

    @property
    def css(self) -> str:
        """As CSS writes it."""
        return f"rgb({self.rgb[0]} {self.rgb[1]} {self.rgb[2]})"


TRUTH = Swatch("ground truth", (64, 112, 255))
PREDICTION = Swatch("prediction", (38, 222, 92))
OVERLAP = Swatch("both", (40, 232, 240))
FALSE_POSITIVE = Swatch("false positive", (255, 68, 68))
FALSE_NEGATIVE = Swatch("false negative", (255, 216, 20))
FALSE_BOTH = Swatch("false positive over false negative", (255, 148, 32))

LINES = ("#1d4ed8", "#c2410c", "#047857", "#7e22ce", "#b91c1c", "#0e7490", "#a16207", "#475569")
"""Colours of curves on white, dark enough to be told apart and to be printed."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Markers of curves, so that they can be told apart without colour."""

_INSTANCES = np.array(
    [
        (255, 120, 90), (255, 190, 60), (190, 225, 70), (90, 215, 120), (60, 215, 200), (80, 180, 255),
        (130, 140, 255), (190, 120, 255), (245, 120, 220), (255, 150, 165), (215, 190, 140), (150, 225, 235),
    ],
    np.float32,
)  # fmt: skip


def instance_colors(labels: np.ndarray) -> np.ndarray:
    """A colour per label, float32 (..., 3), 0 to 255; black for 0. The same id has the same colour everywhere.

    Ids are spread over the palette by Knuth's multiplicative hashing, so that neighbours mostly differ.
    """
    mixed = (labels.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    colors = _INSTANCES[(mixed % np.uint64(len(_INSTANCES))).astype(np.int64)]
    colors[labels == 0] = 0
    return colors
