"""Charts of a report, as SVG that stands in the page: losses, AP over IoU, volumes."""

import io
import re
from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MultipleLocator, NullFormatter

from nucseg.evaluate.scores import Scores
from nucseg.report.colors import LINES, MARKERS

_INK, _RULE = "#1c2430", "#d5dae1"
_SMOOTHED_OVER = 1 / 40  # of the iterations: the window of the moving mean

Curve = tuple[np.ndarray, np.ndarray]
"""Iterations and values."""


def loss_chart(losses: Mapping[str, Curve]) -> str:
    """Loss per iteration, one line per head, log scale where all values are positive.

    Each value is a faint dot; the line is a moving mean.
    """
    figure, axes = new_axes()
    positive = True
    for number, (name, (iterations, values)) in enumerate(losses.items()):
        color = LINES[number % len(LINES)]
        x, y = np.asarray(iterations, float), np.asarray(values, float)
        finite = np.isfinite(y)
        x, y = x[finite], y[finite]
        if not len(y):
            continue
        positive = positive and bool((y > 0).all())
        shown = slice(None, None, max(1, len(y) // 1500))
        axes.plot(x[shown], y[shown], ".", color=color, alpha=0.18, markersize=2.2, markeredgewidth=0)
        wide = max(1, int(len(y) * _SMOOTHED_OVER))
        shown = slice(None, None, max(1, len(y) // 800))
        axes.plot(x[shown], moving_mean(y, wide)[shown], color=color, linewidth=1.8, label=name)
    if positive:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    if axes.lines:
        axes.legend(frameon=False, loc="upper right")
    return as_svg(figure, "Training loss over iterations")


def ap_chart(scores: Mapping[str, Scores]) -> str:
    """AP over the IoU threshold, one line per score, as the paper's Figure 3."""
    figure, axes = new_axes()
    for number, (name, score) in enumerate(scores.items()):
        axes.plot(
            score.thresholds,
            [score.ap[t] for t in score.thresholds],
            color=LINES[number % len(LINES)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=1.8,
            label=f"{name} ({score.av_ap:.3f})",
        )
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_locator(MultipleLocator(0.1))
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.set_xlabel("IoU threshold")
    axes.set_ylabel("AP = TP / (TP + FP + FN)")
    axes.legend(frameon=False, loc="lower left", title="method (avAP)", alignment="left")
    return as_svg(figure, "Average precision over the threshold of the intersection over union")


def volume_chart(volumes: np.ndarray, unit: str) -> str:
    """Histogram of the instances' volumes, with the median.

    Args:
        volumes: (n,), in `unit`; at least one.
        unit: "µm³" or "voxels".
    """
    figure, axes = new_axes()
    top = float(np.percentile(volumes, 99.5)) * 1.05
    axes.hist(np.minimum(volumes, top), bins=min(60, max(8, int(len(volumes) ** 0.5) * 2)), color=LINES[0])
    median = float(np.median(volumes))
    axes.axvline(median, color=LINES[1], linewidth=1.6, label=f"median {median:.3g} {unit}")
    axes.set_xlabel(f"volume ({unit})")
    axes.set_ylabel("nuclei")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="upper right")
    return as_svg(figure, "Histogram of the volumes of the nuclei")


def moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over a centred window of about `width`, narrower at the ends."""
    half = width // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def new_axes() -> tuple[Figure, Axes]:
    """An empty chart in the style of the page."""
    figure = Figure(figsize=(5.4, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color=_RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(colors=_INK)
    return figure, axes


def as_svg(figure: Figure, label: str) -> str:
    """The figure as an `<svg>` element that scales with the page and takes its font."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.size": 10}):
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    svg = buffer.getvalue()
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"font: ([^;\"]*?)([\d.]+px) 'DejaVu Sans'[^;\"]*", r"font-size: \2", svg)
    svg = re.sub(r"font-family: 'DejaVu Sans'[^;\"]*", "font-family: inherit", svg)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{label}" stroke-linejoin="round">{rest}'
