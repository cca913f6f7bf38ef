"""One comparison: both sides in one process, interleaved, after a warm-up, with equal results."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A measured comparison.

    Attributes:
        name: What was done.
        ours_s: Median seconds of ours.
        other: The other side's name.
        other_s: Median seconds of the other.
        spread: Largest over smallest of our times: the machine's noise.
    """

    name: str
    ours_s: float
    other: str
    other_s: float
    spread: float

    @property
    def ratio(self) -> float:
        """Above 1: ours is faster."""
        return self.other_s / self.ours_s

    def to_json(self) -> dict[str, Any]:
        """Plain values, keys as `nucseg bench --json` names them."""
        keys = ("name", "ours_s", "other", "other_s", "ratio", "spread")
        return {key: getattr(self, key) for key in keys}


def compare(
    name: str,
    ours: Callable[[], Any],
    other_name: str,
    other: Callable[[], Any],
    same: Callable[[Any, Any], bool],
    repeats: int = 5,
) -> Row:
    """Time two ways to compute the same, in turns.

    Args:
        name: What is computed.
        ours: Our way.
        other_name: The other's name.
        other: The other way.
        same: Whether the two results agree; checked before anything is timed (and warms both up).
        repeats: Turns.

    Raises:
        AssertionError: The results differ.
    """
    assert same(ours(), other()), f"{name}: ours and {other_name} differ"
    mine, theirs = [], []
    for _ in range(repeats):
        for function, times in ((ours, mine), (other, theirs)):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
    return Row(name, statistics.median(mine), other_name, statistics.median(theirs), max(mine) / min(mine))
