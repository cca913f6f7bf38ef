"""The paper's tables from an experiment's rows, and the differences that the auxiliary task makes."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from nucseg.experiment.config import ExperimentConfig
from nucseg.experiment.paired import paired_test

Row = dict[str, Any]

THRESHOLDS = tuple(f"0.{i}" for i in range(1, 10))
SELECTED = "selected"
"""Seeds of the kind, main, votes or vectors, that scored highest on the validation volumes, seed by seed."""
_KINDS = ("main", "votes", "vectors")
_SEEDS = (*_KINDS, SELECTED)

_METRICS: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "AP.5": ("segmentation", lambda row: row["ap"].get("0.5")),
    "avAP": ("segmentation", lambda row: row["av_ap"]),
    "detection AP": ("detection", lambda row: row["detection_ap"]),
}
"""What is compared: the goal that was selected for, and the value."""


def tables(rows: list[Row], config: ExperimentConfig) -> dict[str, list[Row]]:
    """All tables as lists of plain rows; statistics are `{"mean", "min", "max", "runs"}` over the seeds.

    Args:
        rows: As `collect` makes them; any cells may be missing.
        config: The experiment, for the order of scenarios and what is the baseline of what.

    Returns:
        `segmentation` (Table 1: `av_ap`, `ap` by threshold), `detection` (Table 2: `detection_ap`, and
        `ap_0.3` of the segmentation), `selection` (Table 3: `metric`, `selected_for`, `seeds`, `values` by
        scenario), `differences` (see `differences`).
    """
    rows = [*rows, *with_selected(rows)]
    found: dict[str, list[Row]] = {"segmentation": [], "detection": [], "selection": [], "differences": []}
    for dataset in [dataset.name for dataset in config.datasets]:
        here = [row for row in rows if row["dataset"] == dataset]
        for name, seeds in ((name, seeds) for name in config.names for seeds in _SEEDS):
            segmented = _of(here, name, seeds, "segmentation")
            detected = _of(here, name, seeds, "detection")
            head = {"dataset": dataset, "scenario": name, "seeds": seeds}
            if segmented:
                ap = {t: spread(row["ap"].get(t) for row in segmented) for t in THRESHOLDS}
                av_ap = spread(row["av_ap"] for row in segmented)
                found["segmentation"].append({**head, "av_ap": av_ap, "ap": ap})
            if detected:
                detection_ap = spread(row["detection_ap"] for row in detected)
                at = spread(row["ap"].get("0.3") for row in segmented)
                found["detection"].append({**head, "detection_ap": detection_ap, "ap_0.3": at})
        found["selection"] += _selection(here, dataset, config)
        found["differences"] += differences(here, dataset, config)
    return found


def with_selected(rows: list[Row]) -> list[Row]:
    """A copy of the best row where a cell has several kinds of seeds for one goal; its seeds are "selected"."""
    cells: dict[tuple, list[Row]] = {}
    for row in rows:
        cells.setdefault((row["dataset"], row["scenario"], row["seed"], row["for"]), []).append(row)
    chosen = []
    for (*_, goal), pair in cells.items():
        if len(pair) > 1:
            value = "detection_ap" if goal == "detection" else "av_ap"
            pair = sorted(pair, key=lambda row: _KINDS.index(row["seeds"]))  # of equal ones main
            chosen.append(max(pair, key=lambda row: row["validation"][value] or 0.0) | {"seeds": SELECTED})
    return chosen


def spread(values: Iterable[float | None]) -> Row:
    """Mean, least and largest of the known values, and how many they are; None where there are none."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return {"mean": None, "min": None, "max": None, "runs": 0}
    return {"mean": float(np.mean(known)), "min": min(known), "max": max(known), "runs": len(known)}


def differences(rows: list[Row], dataset: str, config: ExperimentConfig) -> list[Row]:
    """What each scenario adds to its baseline, trained with the same seeds and tested on the same images.

    Args:
        rows: Of one data set, with the "selected" ones.
        dataset: Its name.
        config: Says what is the baseline of what.

    Returns:
        For each pair, kind of seeds and metric: `baseline`, `scenario`, `seeds` (of the scenario; the
        baseline's are main), `metric`, `baseline_mean`, `mean`, the difference `difference` (`mean`, `min`,
        `max`, `runs` over the seeds) and its standard deviation `sd`; `better`, how many seeds gain;
        `separate`, whether the scenario's worst seed is above its baseline's best; `images` and `pairs`: a
        paired test (see `paired_test`) over the images, each with the mean of its seeds, and over all pairs
        of image and seed. The latter are not independent, and their p is too small.
    """
    found = []
    for name in config.names:
        baseline = config.baseline_of(name)
        if baseline is None:
            continue
        for seeds, (metric, (goal, value)) in ((s, m) for s in _SEEDS for m in _METRICS.items()):
            plain = {row["seed"]: row for row in _of(rows, baseline, "main", goal)}
            other = {row["seed"]: row for row in _of(rows, name, seeds, goal)}
            both = sorted(plain.keys() & other.keys())
            pairs = [(value(plain[seed]), value(other[seed])) for seed in both]
            if not pairs or any(a is None or b is None for a, b in pairs):
                continue
            a, b = np.array(pairs, np.float64).T
            images = _per_image([plain[s] for s in both], [other[s] for s in both], value)
            found.append(
                {
                    "dataset": dataset,
                    "baseline": baseline,
                    "scenario": name,
                    "seeds": seeds,
                    "metric": metric,
                    "baseline_mean": float(a.mean()),
                    "mean": float(b.mean()),
                    "difference": spread(b - a),
                    "sd": float(np.std(b - a, ddof=1)) if len(both) > 1 else None,
                    "better": int(np.count_nonzero(b > a)),
                    "separate": bool(b.min() > a.max()),
                    "images": paired_test(images.mean(axis=0)),
                    "pairs": paired_test(images.ravel()),
                }
            )
    return found


def _per_image(plain: list[Row], other: list[Row], value: Callable[[Row], float | None]) -> np.ndarray:
    """Differences (seeds, images); all cells of a data set have the same images in the same order."""
    return np.array(
        [
            [
                float(value(after) or 0) - float(value(before) or 0)
                for before, after in zip(a["images"], b["images"], strict=True)
            ]
            for a, b in zip(plain, other, strict=True)
        ]
    )


def _selection(rows: list[Row], dataset: str, config: ExperimentConfig) -> list[Row]:
    found: list[Row] = []
    for seeds in _KINDS:
        values = {
            name: spread(row["ap"].get("0.5") for row in _of(rows, name, seeds, "segmentation"))
            for name in config.names
        }
        found.append({"metric": "AP.5", "selected_for": "segmentation", "seeds": seeds, "values": values})
    for seeds in _KINDS:
        for goal in ("detection", "segmentation"):
            values = {
                name: spread(row["detection_ap"] for row in _of(rows, name, seeds, goal))
                for name in config.names
            }
            found.append({"metric": "detection AP", "selected_for": goal, "seeds": seeds, "values": values})
    return [
        {"dataset": dataset, **row} for row in found if any(value["runs"] for value in row["values"].values())
    ]


def _of(rows: list[Row], name: str, seeds: str, goal: str) -> list[Row]:
    return [row for row in rows if row["scenario"] == name and row["seeds"] == seeds and row["for"] == goal]
