"""Cells that were done elsewhere: a matrix shared by several machines, or continued from its published result."""

import json
from pathlib import Path
from typing import Any

from nucseg.errors import InputError
from nucseg.experiment.cells import RESULT, Cell, cells_of, claim, relative_to, write_json
from nucseg.experiment.config import ExperimentConfig

HEAD = ("dataset", "scenario", "seed", "network", "parameters", "iterations", "trained_s", "threads")
"""What the rows of one cell have in common."""
KEPT = ("versions", "seconds")
"""What a cell says beside its rows and its settings."""


def cell_record(cell: Cell, result: dict[str, Any]) -> dict[str, Any]:
    """What of a cell's result its rows do not say, for `adopt`; paths are relative to the experiment's folder."""
    kept = {key: result[key] for key in (*HEAD[:3], *KEPT) if key in result}
    return kept | {"settings": relative_to(cell.root, cell.settings())}


def read_results(results: str | Path) -> tuple[dict[Any, Any], list[Any]]:
    """Cells and rows of an `experiment.json`, by data set, scenario and seed.

    Raises:
        InputError: Not such a file.
    """
    try:
        told = json.loads(Path(results).read_text(encoding="utf-8"))
        records = {(c["dataset"], c["scenario"], c["seed"]): c for c in told["cells"]}
        rows = [(tuple(row[key] for key in HEAD[:3]), row) for row in told["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            str(results),
            expected="the JSON of an experiment, with cells and rows",
            received=f"{type(error).__name__}: {error}",
            remedy="give what `nucseg experiment --json` wrote",
        ) from error
    return records, rows


def adopt(config: ExperimentConfig, folder: Path, results: str | Path) -> list[str]:
    """Take finished cells from an `experiment.json`, as if they had been done in this folder.

    A cell is taken where the configuration has it, with the same settings, and it is not done here. Trained networks
    and instances are not in the file: the report draws none of an adopted cell.

    Args:
        config: The experiment.
        folder: Its folder; made where it is not there.
        results: What `nucseg experiment --json` printed, or `experiment.json` of another folder.

    Returns:
        Titles of the cells that were taken.

    Raises:
        InputError: Not such a file, or a cell of other settings is in it.
    """
    records, rows = read_results(results)
    claim(config, folder)
    taken = []
    for cell in cells_of(config, folder):
        place = (cell.dataset.name, cell.name, cell.seed)
        if cell.done or place not in records:
            continue
        mine = [row for where, row in rows if where == place]
        if mine:
            _take(cell, records[place], mine, str(results))
            taken.append(cell.title)
    return taken


def _take(cell: Cell, record: dict[str, Any], rows: list[dict[str, Any]], source: str) -> None:
    wanted, found = relative_to(cell.root, cell.settings()), record["settings"]
    if found != wanted:
        key = next(key for key in sorted(wanted.keys() | found.keys()) if wanted.get(key) != found.get(key))
        raise InputError(
            f"{source}, cell {cell.title}",
            expected=f"{key} = {json.dumps(wanted.get(key))}, as the configuration says",
            received=json.dumps(found.get(key)),
            remedy="give the results of the same configuration, or leave them out",
        )
    results = [{key: value for key, value in row.items() if key not in HEAD} for row in rows]
    cell.folder.mkdir(parents=True, exist_ok=True)
    cell.begin()
    head = {key: rows[0][key] for key in HEAD}
    kept = {key: record[key] for key in KEPT if key in record}
    made = {"results": results, "settings": cell.settings(), "elsewhere": True}
    write_json(cell.folder / RESULT, head | made | kept)
