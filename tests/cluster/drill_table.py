"""The table in docs/drills.md, from what the drills measured."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEAD = [
    "| drill | what happens | blocks done before | begun again | workers replaced | seconds | outcome |",
    "|---|---|---|---|---|---|---|",
]


def line(row: dict[str, Any]) -> str:
    """One drill."""
    number = str(row["drill"]) if row["drill"] else "none"
    values = (row["what"], row["before"], row["again"], row["workers"], row["seconds"], row["outcome"])
    return "| " + " | ".join(map(str, (number, *values))) + " |"


def replace(page: Path, rows: list[dict[str, Any]]) -> None:
    """Put the rows between the page's two marks, with the day, the cores and the load that they were measured at.

    Raises:
        ValueError: The page has no such marks.
    """
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{page}: expected the lines {BEGIN} and {END}")
    load = os.getloadavg()[1]
    when = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, which other work shared "
        f"(load {load:.0f} in the last five minutes)."
    )
    table = "\n".join([BEGIN, "", when, "", *HEAD, *map(line, rows), "", END])
    page.write_text(before + table + after, encoding="utf-8")
