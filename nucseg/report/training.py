"""What a training run's folder says: `run.json`, `losses.csv`, `selected.json`."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from nucseg.errors import InputError
from nucseg.report.figures import Curve
from nucseg.report.html import Facts, Section, Table, written

_BEST = 12  # rows of the selection's table that are shown


def read_losses(run: Path) -> dict[str, Curve]:
    """Iterations and values of every column of `losses.csv`; empty if there is none yet.

    A last line that a killed run left torn is no line.
    """
    columns = loss_columns(run)
    iterations = columns.pop("iteration", np.zeros(0))
    columns.pop("seconds", None)
    return {name: (iterations, values) for name, values in columns.items()} if len(iterations) else {}


def training_sections(run: Path) -> tuple[dict[str, Any], list[Section]]:
    """Key facts of a training run, and sections with its settings and what was selected.

    Raises:
        InputError: If `run.json` cannot be read.
    """
    record = _read_json(run / "run.json")
    columns = loss_columns(run)
    heads = [head.get("kind", "?") for head in (record.get("scenario") or {}).get("heads", [])]
    summary: dict[str, Any] = {"scenario": " + ".join(heads) or "?"}
    if len(columns.get("iteration", ())):
        summary["iterations"] = int(columns["iteration"][-1])
        last = max(1, len(columns["loss"]) // 20)
        summary["loss, last 5 %"] = float(np.mean(columns["loss"][-last:]))
        if "seconds" in columns:
            seconds = float(columns["seconds"][-1])
            summary["trained"] = f"{seconds / 60:.1f} min"
            summary["iterations a second"] = float(columns["iteration"][-1] / seconds) if seconds else None
    checkpoints = run / "checkpoints"
    if checkpoints.is_dir():
        summary["checkpoints"] = len([p for p in checkpoints.iterdir() if p.is_dir() and p.name.isdigit()])
    settings = {
        name: value
        for name, value in record.items()
        if name not in ("format", "config", "scenario") and value
    }
    config = record.get("config") or {}
    sections = [*selection_section(run), Section("Run", [Facts({**settings, "heads": heads})])]
    if config:
        sections.append(Section("Configuration", [Facts({k: v for k, v in config.items() if v is not None})]))
    return summary, sections


def selection_section(run: Path) -> list[Section]:
    """What was selected on validation volumes, and the best rows of the grid; none if nothing was."""
    path = run / "selected.json"
    if not path.is_file():
        return []
    selected = _read_json(path)
    facts = {
        name: selected[name] for name in ("checkpoint", "score", "for") if selected.get(name) is not None
    }
    facts["decoding"] = selected.get("decoding") or selected.get("parameters")
    rows = sorted(selected.get("table") or [], key=lambda row: row["score"], reverse=True)
    if not rows:
        return [Section("Selected on validation", [Facts(facts)])]
    settings = [
        name
        for name in (
            "seeds",
            "seed_threshold",
            "foreground_threshold",
            "vote_passes",
            "votes_from",
            "reach",
            "dilate",
            "min_size",
        )
        if name in rows[0]
    ]
    head = [*(name.replace("_", " ") for name in settings), "avAP", "AP .5", "detection AP", "predicted"]
    cells = [
        [
            *(written(row[name]) for name in settings),
            written(row.get("av_ap")),
            written(row.get("ap", {}).get("0.5")),
            written(row.get("detection_ap")),
            written(row.get("n_predicted")),
        ]
        for row in rows[:_BEST]
    ]
    note = f"The best {len(cells)} of {len(rows)} decodings."
    return [Section("Selected on validation", [Facts(facts), Table(head, cells, note=note)])]


def loss_columns(run: Path) -> dict[str, np.ndarray]:
    """The columns of `losses.csv` by name, `iteration` and `seconds` among them; none if there is no file yet."""
    path = run / "losses.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    names = lines[0] if lines else []
    rows = [[float(value) for value in line] for line in lines[1:-1] if len(line) == len(names)]
    if len(lines) > 1 and path.read_bytes().endswith(b"\n") and len(lines[-1]) == len(names):
        rows.append([float(value) for value in lines[-1]])
    table = np.array(rows).reshape(-1, len(names))
    return {name: table[:, i] for i, name in enumerate(names)}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            str(path),
            expected="JSON that nucseg wrote",
            received=str(error),
            remedy="restore the file or run again",
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            str(path),
            expected="a JSON object",
            received=type(value).__name__,
            remedy="restore the file or run again",
        )
    return value
