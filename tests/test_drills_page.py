"""docs/drills.md names all drills, as they were measured."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "drills.md"


def test_the_page_has_a_measured_row_for_each_drill() -> None:
    rows = [row.strip("| ").split(" | ") for row in re.findall(r"^\| .*\|$", PAGE.read_text(), re.MULTILINE)]
    (head, *drills) = rows
    assert [row[0] for row in drills] == ["none", *map(str, range(1, 17))]
    assert {len(row) for row in drills} == {len(head)}
    outcomes = {row[0]: row[-1] for row in drills}
    assert {number for number, outcome in outcomes.items() if outcome != "digest equal"} == {"10", "14", "15"}
