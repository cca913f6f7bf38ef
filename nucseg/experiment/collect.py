"""Everything an experiment has found so far, in one object and in files."""

import os
import platform
from pathlib import Path
from typing import Any

from nucseg.errors import InputError
from nucseg.experiment.adopt import HEAD, cell_record
from nucseg.experiment.cells import FAILED, LOG, MATRIX, Cell, cells_of, read_json, write_json
from nucseg.experiment.config import ExperimentConfig
from nucseg.experiment.dataset import volumes_of
from nucseg.experiment.tables import Row, tables, with_selected
from nucseg.experiment.write import text, write_tables

NAME = "experiment.json"


def collect(config: ExperimentConfig, folder: str | Path) -> dict[str, Any]:
    """Collect the cells that are done: write `experiment.json`, `tables/`, `figures/` and `report.html`.

    Args:
        config: The experiment; cells in the folder that it does not name are left out.
        folder: The experiment's folder; the experiment may be unfinished.

    Returns:
        `rows`: for each done cell, goal (`for`: "segmentation" or "detection") and kind of seeds ("main",
        "votes" or "vectors") `scenario`, `seed`, `dataset`, `network`, `seeds`, `trained_s`, `av_ap`, `ap`,
        `detection_ap` (means over the test images), `checkpoint`, `decoding`, `validation`, `pooled`, `images` and
        more; `cells` (settings, versions and seconds of each, see `adopt`); `tables` (see `tables`), `failed` and
        `missing` cells, `config`, `versions`, `machine`, `overlays`
        (what the report draws), `report` (absolute path), `text`.

    Raises:
        InputError: Not the folder of an experiment, or a cell of other settings lies in it.
    """
    from nucseg.report import report_folder

    root = Path(folder)
    if not (root / MATRIX).is_file():
        raise InputError(
            str(folder),
            expected="the folder of an experiment",
            received="a folder without matrix.json" if root.is_dir() else "no such folder",
            remedy="run the experiment first",
        )
    cells = cells_of(config, root)
    for cell in cells:
        cell.check()
    done = [(cell, result) for cell in cells if (result := cell.result()) is not None]
    rows = [row for _, result in done for row in _rows(result)]
    failed = [_failure(cell, root) for cell in cells if not cell.done and (cell.folder / FAILED).is_file()]
    found: dict[str, Any] = {
        "title": config.title,
        "rows": rows,
        "cells": [cell_record(cell, result) for cell, result in done],
        "tables": tables(rows, config),
        "failed": failed,
        "missing": [c.title for c in cells if not c.done and not (c.folder / FAILED).is_file()],
        "scenarios": config.names,
        "baselines": {name: base for name in config.names if (base := config.baseline_of(name))},
        "config": config.model_dump(mode="json", exclude={"parallel", "threads"}),
        "versions": _versions([result["versions"] for _, result in done]),
        "machine": machine(),
        "overlays": _overlays(config, done, root),
    }
    write_json(root / NAME, found)
    write_tables(root, found["tables"], rows)
    page = report_folder(root).resolve()
    return found | {"report": str(page), "text": f"{text(found['tables'])}\nlook at {page}"}


def machine() -> dict[str, Any]:
    """Processor and number of cores, without anything that names the machine."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _rows(result: dict[str, Any]) -> list[Row]:
    head = {key: result.get(key) for key in HEAD}
    rows = []
    for one in result["results"]:
        images = [{k: v for k, v in i.items() if k not in ("raw", "truth")} for i in one["images"]]
        rows.append(head | one | {"images": images})
    return rows


def _failure(cell: Cell, root: Path) -> dict[str, str]:
    error = read_json(cell.folder / FAILED)["error"]
    return {"cell": cell.title, "error": error, "log": str((cell.folder / LOG).relative_to(root))}


def _versions(found: list[dict[str, str]]) -> dict[str, str]:
    """Of all cells; where they differ, all of them."""
    names = sorted({name for versions in found for name in versions})
    return {name: ", ".join(sorted({v[name] for v in found if name in v})) for name in names}


def _overlays(config: ExperimentConfig, done: list[tuple[Cell, dict[str, Any]]], root: Path) -> list[Row]:
    """Best and worst test image of each data set: of one scenario, its first seed, its selected seeds."""
    names = [entry.name for entry in config.scenarios]
    name = config.overlay or ("three_label_cpv" if "three_label_cpv" in names else config.names[0])
    found = []
    for dataset in config.datasets:
        mine = next((c for c in done if c[0].dataset is dataset and c[0].name == name), None)
        if mine is None:
            continue
        cell, result = mine
        shown = [row for row in _rows(result) if row["for"] == "segmentation" and row["ap"]]
        shown = with_selected(shown) or shown
        if not shown:
            continue
        original = next(
            one
            for one in result["results"]
            if one["for"] == "segmentation" and one["decoding"] == shown[0]["decoding"]
        )
        if result.get("elsewhere"):
            continue
        order = sorted(range(len(original["images"])), key=lambda i: original["images"][i]["ap"]["0.5"])
        tests = volumes_of(
            dataset, root
        ).test  # where they lie now, which cells of a moved folder do not know
        for number in dict.fromkeys((order[-1], order[0])):
            image, volume = original["images"][number], tests[number]
            found.append(
                {
                    "dataset": dataset.name,
                    "scenario": name,
                    "seed": cell.seed,
                    "seeds": original["seeds"],
                    "image": image["image"],
                    "which": "best" if number == order[-1] else "worst",
                    "ap_0.5": image["ap"]["0.5"],
                    "raw": _relative(volume.raw, root),
                    "truth": _relative(volume.labels or volume.raw, root),
                    "labels": dataset.labels,
                    "mask": volume.mask and _relative(volume.mask, root),
                    "ignore_label": dataset.ignore_label,
                    "predicted": str((cell.folder / "instances" / str(number)).relative_to(root)),
                }
            )
    return found


def _relative(path: str, root: Path) -> str:
    """Relative to the experiment's folder where it lies below it, so that the folder can be moved."""
    try:
        return str(Path(path).relative_to(root.absolute()))
    except ValueError:
        return path
