"""The page about an experiment, from its `experiment.json`: tables, curves, bars and overlays."""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nucseg.annotation import annotation_of, is_name
from nucseg.errors import InputError
from nucseg.evaluate.streaming import Int3
from nucseg.report.drawing import Picture
from nucseg.report.html import Chart, Charts, Facts, Part, Pictures, Section, Table, write_report
from nucseg.report.image import ReportImage
from nucseg.report.panels import panels
from nucseg.report.spread import bar_chart, curve_chart
from nucseg.volume import Volume, open_labels, open_volume

Row = dict[str, Any]
Cells = tuple[list[str], list[list[str]]]
"""A table's head and its rows."""

_THRESHOLDS = tuple(f"0.{i}" for i in range(1, 10))


def report_experiment(base: Path, page: Path) -> Path:
    """Write the page about the experiment in `base`, and its figures as `base/figures/*.png`.

    Raises:
        InputError: `experiment.json` is not what `nucseg experiment` writes.
    """
    path = base / "experiment.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        summary, sections = _page(told, base)
    except (KeyError, TypeError, AttributeError, IndexError, json.JSONDecodeError) as error:
        raise InputError(
            str(path),
            expected="what `nucseg experiment` writes",
            received=f"{type(error).__name__}: {error}",
            remedy="collect the experiment again (--collect)",
        ) from None
    return write_report(page, title=told["title"], summary=summary, sections=sections)


def _page(told: dict[str, Any], base: Path) -> tuple[dict[str, Any], list[Section]]:
    figures = base / "figures"
    figures.mkdir(exist_ok=True)
    tables, rows = told["tables"], told["rows"]
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    summary: dict[str, Any] = {
        "scenarios": len(told["scenarios"]),
        "data sets": len(datasets),
        "seeds": len({row["seed"] for row in rows}),
        "trainings done": len({(row["dataset"], row["scenario"], row["seed"]) for row in rows}),
    }
    for key in ("failed", "missing"):
        if told[key]:
            summary[f"trainings {key}"] = len(told[key])
    sections = [_dataset(name, told, figures) for name in datasets]
    sections += [_overlays(name, told["overlays"], base, figures) for name in datasets]
    if tables["differences"]:
        parts = [
            _table(difference_cells([row for row in tables["differences"] if row["dataset"] == name]), name)
            for name in datasets
        ]
        sections.append(Section("What the auxiliary task adds", parts, DIFFERENCES))
    facts = {**told["machine"], **told["versions"], "failed": [f["cell"] for f in told["failed"]]}
    sections.append(Section("Machine and versions", [Facts({k: v for k, v in facts.items() if v})]))
    sections.append(Section("Configuration", [Facts(_plain(told["config"]))]))
    return summary, [section for section in sections if section.parts]


DIFFERENCES = (
    "Each scenario against its baseline, trained with the same seeds and tested on the same images. p: two-sided "
    "sign-flip test of the mean difference, over the images (each with the mean of its seeds), where n images give no "
    "p below 2 / 2**n, and over all pairs of image and seed. Pairs are not independent, as each image and each seed is "
    "in several of them, and their p is too small: rely on the one over the images."
)


def _dataset(name: str, told: dict[str, Any], figures: Path) -> Section:
    """Tables 1 to 3 and Figures 3 and 4 of one data set."""
    here = {key: [row for row in rows if row["dataset"] == name] for key, rows in told["tables"].items()}
    curves = {(row["scenario"], row["seeds"]): row["ap"] for row in here["segmentation"]}
    charts = []
    paired = {base: other for other, base in told["baselines"].items()}
    alone = [s for s, _ in curves if s not in paired and s not in told["baselines"] and s != "stardist"]
    for base in [*paired, *alone]:
        shown = {base: curves.get((base, "main"))}
        if base in paired:
            shown[paired[base]] = curves.get((paired[base], "main"))
            for seeds in ("votes", "vectors"):
                shown[f"{paired[base]}, {seeds}"] = curves.get((paired[base], seeds))
        shown["stardist"] = curves.get(("stardist", "main"))
        known = {label: curve for label, curve in shown.items() if curve}
        if set(known) - {"stardist"}:
            png = figures / f"figure3_{name}_{base}.png"
            charts.append(
                Chart(curve_chart(known, png), base, "Mean over the seeds, band from worst to best.")
            )
    parts: list[Part] = [Charts(charts)] if charts else []
    if here["segmentation"]:
        parts.append(
            _table(summary_cells(here["segmentation"]), "Table 1: AP at IoU .1 to .9 and their mean.")
        )
    bars = {
        (row["scenario"], row["seeds"]): row["detection_ap"]
        for row in here["detection"]
        if row["seeds"] != "selected"
    }
    if bars:
        svg = bar_chart(bars, figures / f"figure4_{name}.png")
        caption = "Mean over the seeds; the black bars reach from the worst to the best."
        parts.append(Charts([Chart(svg, "Detection AP.", caption)]))
        parts.append(
            _table(summary_cells(here["detection"]), "Table 2: detection, and segmentation at IoU .3.")
        )
    if here["selection"]:
        note = "Table 3: what was selected for on the validation volumes, and where the seeds come from."
        parts.append(_table(selection_cells(here["selection"]), note))
    text = "Means over the test images and the seeds, in brackets the worst and the best seed."
    return Section(f"Data set {name}", parts, text)


def _table(cells: Cells, note: str = "") -> Table:
    return Table(cells[0], cells[1], note=note)


def summary_cells(rows: Sequence[Row]) -> Cells:
    """Table 1 or 2 of one data set."""
    if rows and "detection_ap" in rows[0]:
        head = ["detection AP", "AP.3"]
        found = [(row["detection_ap"], row["ap_0.3"]) for row in rows]
    else:
        head = ["avAP", *(t.lstrip("0") for t in _THRESHOLDS)]
        found = [(row["av_ap"], *(row["ap"][t] for t in _THRESHOLDS)) for row in rows]
    cells = [
        [row["scenario"], row["seeds"], *map(spread_text, statistics)]
        for row, statistics in zip(rows, found, strict=True)
    ]
    return ["scenario", "seeds", *head], cells


def selection_cells(rows: Sequence[Row]) -> Cells:
    """Table 3 of one data set: a column a scenario."""
    names = [n for n in rows[0]["values"] if any(row["values"][n]["runs"] for row in rows)] if rows else []
    cells = [
        [row["metric"], row["selected_for"], row["seeds"], *(spread_text(row["values"][n]) for n in names)]
        for row in rows
    ]
    return ["metric", "selected for", "seeds", *names], cells


def difference_cells(rows: Sequence[Row]) -> Cells:
    """The differences of one data set."""
    head = ["scenario", "seeds", "metric", "baseline", "with", "difference", "seeds better", "images", "p"]
    return [*head, "pairs", "p of pairs"], [
        [
            f"{row['scenario']} − {row['baseline']}",
            row["seeds"],
            row["metric"],
            f"{row['baseline_mean']:.3f}",
            f"{row['mean']:.3f}",
            spread_text(row["difference"], signed=True),
            f"{row['better']} of {row['difference']['runs']}",
            str(row["images"]["n"]),
            f"{row['images']['p']:.2g}",
            str(row["pairs"]["n"]),
            f"{row['pairs']['p']:.2g}",
        ]
        for row in rows
    ]


def spread_text(value: Row, signed: bool = False) -> str:
    """Mean, and in brackets least and largest where there are several."""
    if value["mean"] is None:
        return "–"
    sign = "+" if signed else ""
    mean = f"{value['mean']:{sign}.3f}"
    if value["runs"] < 2:
        return mean
    return f"{mean} ({value['min']:{sign}.3f} to {value['max']:{sign}.3f})"


def _overlays(name: str, overlays: Sequence[Row], base: Path, figures: Path) -> Section:
    """Figures 5 and 6: the best and the worst test image, whole and its most crowded part."""
    parts: list[Part] = []
    for told in overlays:
        if told["dataset"] != name:
            continue
        try:
            whole = _image(told, base)
        except InputError as error:
            parts.append(Facts({told["image"]: f"cannot be drawn: {error}"}))
            continue
        heading = f"{told['which'].capitalize()} test image: {told['image']}, AP.5 {told['ap_0.5']:.3f}"
        pictures = panels(whole)
        if told["which"] == "best":
            close = panels(crowded_part(whole))[:3]
            _save(close, figures, f"figure5_{name}")
            note = "The third of the volume with the most nuclei; those that the cut divides are matched as they are."
            parts.append(Pictures(close, heading=f"Close-up of {told['image']}", note=note))
        _save(pictures[:3], figures, f"figure6_{name}_{told['which']}")
        parts.append(Pictures(pictures, heading=heading))
    shown = next((o for o in overlays if o["dataset"] == name), None)
    text = (
        f"{shown['scenario']}, seed {shown['seed']}, instances from {shown['seeds']} seeds." if shown else ""
    )
    return Section(f"Overlays, data set {name}", parts, text)


def crowded_part(image: ReportImage) -> ReportImage:
    """The third of an image, along its longest axis, in which most true centres lie."""
    axis = int(np.argmax(image.shape))
    length = max(1, image.shape[axis] // 3)
    places = np.sort(image.true_centers.centers[:, axis])
    starts = np.clip(np.floor(places), 0, image.shape[axis] - length).astype(int)
    counts = [np.count_nonzero((places >= s) & (places < s + length)) for s in starts]
    start = int(starts[int(np.argmax(counts))]) if len(starts) else 0
    begin = [start if i == axis else 0 for i in range(3)]
    shape = [length if i == axis else n for i, n in enumerate(image.shape)]
    box: tuple[Int3, Int3] = ((begin[0], begin[1], begin[2]), (shape[0], shape[1], shape[2]))
    truth, annotated = image.truth_source, image.annotated_source
    return replace(
        image,
        raw=image.raw_source.read(*box),
        truth=None if truth is None else truth.read(*box),
        predicted=image.predicted_source.read(*box),
        scale_um=image.voxel_um,
        annotated=None if annotated is None else annotated.read(*box),
    )


def _image(told: Row, base: Path) -> ReportImage:
    raw: Volume = open_volume(base / told["raw"])
    truth = open_labels(base / told["truth"], told["labels"])
    mask = told.get("mask")
    if mask is not None and not is_name(mask):
        mask = base / mask
    return ReportImage(
        told["image"],
        raw,
        truth,
        open_labels(base / told["predicted"], told["seeds"]),
        annotated=annotation_of(truth, mask, told.get("ignore_label"), inside=base / told["raw"]),
    )


def _save(pictures: Sequence[Picture], folder: Path, name: str) -> None:
    """The pictures' PNGs as files `name_a.png`, `name_b.png`, ..."""
    for letter, picture in zip("abcdef", pictures, strict=False):
        (folder / f"{name}_{letter}.png").write_bytes(base64.b64decode(picture.src.partition(",")[2]))


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as facts: scenarios and data sets by name."""
    facts = {k: v for k, v in config.items() if v not in (None, {}, [], "")}
    facts["scenarios"] = [entry["name"] for entry in config["scenarios"]]
    facts["datasets"] = [
        {k: v for k, v in dataset.items() if v not in (None, {}, [], "")} for dataset in config["datasets"]
    ]
    return facts
