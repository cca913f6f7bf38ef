"""The tables of an experiment as CSV and Markdown files."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nucseg.experiment.tables import THRESHOLDS, Row
from nucseg.report.experiment import (
    DIFFERENCES,
    difference_cells,
    selection_cells,
    spread_text,
    summary_cells,
)


def write_tables(folder: Path, tables: dict[str, list[Row]], rows: list[Row]) -> None:
    """Write `folder/tables`: table1 to table3 and differences (.csv, .md), and images.csv, all images' scores.

    A CSV has one number a cell, and of each statistic mean, min and max; the Markdown is laid out as the
    paper's tables.
    """
    place = folder / "tables"
    place.mkdir(exist_ok=True)
    for name, key in (
        ("table1_segmentation", "segmentation"),
        ("table2_detection", "detection"),
        ("table3_selection", "selection"),
        ("differences", "differences"),
    ):
        _replace(place / f"{name}.csv", _csv([flat(row) for row in tables[key]]))
        _replace(place / f"{name}.md", "\n".join(_markdown(key, tables[key])))
    _replace(place / "images.csv", _csv([line for row in rows for line in _image_rows(row)]))


def flat(row: Row) -> Row:
    """A table's row with one plain value a key: of `{"av_ap": {"mean": .6}}` the key `av_ap_mean`."""
    result: Row = {}
    for key, value in row.items():
        if isinstance(value, dict):
            result |= {f"{key}_{inner}": v for inner, v in flat(value).items()}
        else:
            result[key] = value
    return result


def text(tables: dict[str, list[Row]]) -> str:
    """AvAP, AP.5 and detection AP of every scenario, for a terminal."""
    detection = {
        (row["dataset"], row["scenario"], row["seeds"]): row["detection_ap"] for row in tables["detection"]
    }
    segmentation = {(row["dataset"], row["scenario"], row["seeds"]): row for row in tables["segmentation"]}
    lines = [("data set", "scenario", "seeds", "runs", "avAP", "AP.5", "detection AP")]
    for key, found in detection.items():
        row = segmentation.get(key)
        av_ap, half = (spread_text(row["av_ap"]), spread_text(row["ap"]["0.5"])) if row else ("–", "–")
        lines.append((*key, str(found["runs"]), av_ap, half, spread_text(found)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _image_rows(row: Row) -> list[Row]:
    head = {key: row[key] for key in ("dataset", "scenario", "seed", "for", "seeds")}
    return [
        head
        | {"image": image["image"], "av_ap": image["av_ap"]}
        | {f"ap_{t}": image["ap"].get(t) for t in THRESHOLDS}
        | {key: image[key] for key in ("detection_ap", "n_true", "n_predicted")}
        for image in row["images"]
    ]


def _markdown(key: str, rows: list[Row]) -> list[str]:
    layout = {"segmentation": summary_cells, "detection": summary_cells, "differences": difference_cells}
    lines: list[str] = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == dataset]
        head, cells = layout.get(key, selection_cells)(here)
        lines += [f"### {dataset}", "", _line(head), _line(["---"] * len(head)), *map(_line, cells), ""]
    if lines and key == "differences":
        lines += [DIFFERENCES, ""]
    return lines or ["No cell is done yet.", ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _csv(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _replace(path: Path, content: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(content, encoding="utf-8")
    os.replace(partial, path)
