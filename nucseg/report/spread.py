"""Charts of means with their spread over seeds: the paper's Figures 3 and 4."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from nucseg.report.colors import LINES, MARKERS
from nucseg.report.figures import as_svg, new_axes

_KIND = {"main": "seeds of the main output", "votes": "seeds from votes", "vectors": "grouped by vectors"}

Statistic = Mapping[str, Any]
"""`mean`, `min`, `max` and `runs`."""


def curve_chart(curves: Mapping[str, Mapping[str, Statistic]], png: Path | None = None) -> str:
    """AP over the IoU threshold: lines are means, bands reach from the worst to the best seed.

    Args:
        curves: For each label the statistic of each threshold, "0.1" and so on; "stardist" is dashed.
        png: Also written there.

    Returns:
        The SVG.
    """
    figure, axes = new_axes()
    for number, (label, curve) in enumerate(curves.items()):
        known = {float(t): s for t, s in curve.items() if s["mean"] is not None}
        x = np.array(sorted(known))
        mean, low, high = (np.array([known[t][key] for t in x]) for key in ("mean", "min", "max"))
        plain = label != "stardist"
        color = LINES[number % len(LINES)] if plain else "#475569"
        style, marker = ("-", MARKERS[number % len(MARKERS)]) if plain else ("--", "")
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        name = f"{label} ({mean.mean():.3f})"
        axes.plot(x, mean, style, color=color, marker=marker, markersize=4.5, linewidth=1.6, label=name)
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_locator(MultipleLocator(0.1))
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.set_xlabel("IoU threshold")
    axes.set_ylabel("AP = TP / (TP + FP + FN)")
    legend = axes.legend(loc="lower left", title="scenario (avAP)", alignment="left", edgecolor="none")
    legend.set_zorder(5)
    return _drawn(figure, "Average precision over the IoU threshold, with its spread over the seeds", png)


def bar_chart(bars: Mapping[tuple[str, str], Statistic], png: Path | None = None) -> str:
    """Detection AP: a bar a scenario and kind of seeds, black lines from the worst to the best seed.

    Args:
        bars: For each scenario and kind of seeds, "main", "votes" or "vectors", the statistic.
        png: Also written there.

    Returns:
        The SVG.
    """
    figure, axes = new_axes()
    names = list(dict.fromkeys(name for name, _ in bars))
    kinds = [kind for kind in _KIND if any(k == kind for _, k in bars)]
    for number, kind in enumerate(kinds):
        for place, name in enumerate(names):
            value = bars.get((name, kind))
            if value is None or value["mean"] is None:
                continue
            here = [k for k in kinds if (name, k) in bars]
            width = 0.76 / len(here)
            x = place + width * (here.index(kind) - (len(here) - 1) / 2)
            axes.bar(x, value["mean"], width * 0.95 if len(here) > 1 else 0.6, color=LINES[number])
            axes.plot([x, x], [value["min"], value["max"]], color="black", linewidth=1.4)
    known = [value["min"] for value in bars.values() if value["min"] is not None]
    axes.set_ylim(max(0.0, np.floor(10 * min(known, default=0.0) - 1) / 10), 1.0)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_ylabel("detection AP")
    axes.grid(visible=False, axis="x")
    if len(kinds) > 1:
        patches = [Patch(color=LINES[i], label=f"{_KIND[kind]}") for i, kind in enumerate(kinds)]
        axes.legend(handles=patches, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return _drawn(figure, "Detection AP of the scenarios, with its spread over the seeds", png)


def _drawn(figure: Figure, label: str, png: Path | None) -> str:
    if png is not None:
        FigureCanvasAgg(figure)
        figure.savefig(png, dpi=200)
    return as_svg(figure, label)
