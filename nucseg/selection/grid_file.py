"""A grid of decodings from a TOML."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from nucseg.errors import InputError
from nucseg.evaluate.ways import Way
from nucseg.heads.scenario import Scenario


def read_grid(path: str | Path, scenario: Scenario, reach: int, ways: Sequence[Way]) -> list[BaseModel]:
    """The candidates that a TOML asks for.

    The TOML has a list (or one value) for each field of `Decoding` that is to vary, and means every combination. A
    field that is not named takes the scenario's own thresholds, for votes the reach of the largest true nucleus, or
    its default. Several grids are tables `[[grid]]`:

        [[grid]]
        seeds = "main"
        seed_threshold = [0.8, 0.9, 0.95]

        [[grid]]
        seeds = "votes"
        vote_passes = [1, 2, 3]
        foreground_threshold = [0.5, 0.7]

    Args:
        path: The TOML.
        scenario: The heads of the run.
        reach: The longest side of a true nucleus, voxels.
        ways: The ways that there are; a table names one other than the first with `way`.

    Raises:
        InputError: It cannot be read, or has a key or a value that is not understood.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            str(path), expected="a TOML file", received=str(error), remedy="correct the path or the file"
        ) from error
    tables = values.get("grid", values)
    if "grid" in values and (len(values) > 1 or not _are_tables(tables)):
        raise InputError(
            str(path),
            expected="tables [[grid]] and nothing beside them",
            received=", ".join(values),
            remedy="put each list into a table [[grid]]",
        )
    candidates: list[BaseModel] = []
    for table in tables if isinstance(tables, list) else [tables]:
        way = _way(table.pop("way", ways[0].name), str(path), ways)
        choices = {k: v if isinstance(v, list) else [v] for k, v in table.items()}
        candidates += way.product(choices, scenario, reach, str(path))
    return list(dict.fromkeys(candidates))


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(table, dict) for table in value)


def _way(name: Any, source: str, ways: Sequence[Way]) -> Way:
    for way in ways:
        if way.name == name:
            return way
    raise InputError(
        f"{source}, key way",
        expected=f"one of {', '.join(way.name for way in ways)}",
        received=repr(name),
        remedy="correct it, or leave it out",
    )
