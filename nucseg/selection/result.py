"""What a selection over a run's checkpoints returns, and its tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from nucseg.evaluate.scores import Scores
from nucseg.evaluate.select import Goal
from nucseg.heads.scenario import Decoding


class Choice(NamedTuple):
    """One row of the grid.

    Attributes:
        checkpoint: Iteration.
        candidate: The decoding.
        scores: Mean over the volumes.
        way: Name of the way that the candidate belongs to, "instances".
        seeds: Kind of seeds, "main", "votes" or "vectors".
    """

    checkpoint: int
    candidate: BaseModel
    scores: Scores
    way: str = "instances"
    seeds: str = "main"

    def to_json(self, goal: Goal) -> dict[str, Any]:
        """Plain values: `checkpoint`, `way`, `parameters`, `score` and the scores."""
        scores = {k: v for k, v in self.scores.to_json().items() if k in _SCORES}
        return {
            "checkpoint": self.checkpoint,
            "way": self.way,
            "parameters": self.candidate.model_dump(mode="json"),
            "score": goal_score(self.scores, goal),
            **scores,
        }


@dataclass(frozen=True)
class RunSelection:
    """The best checkpoint and decoding, and where the whole grid lies.

    Attributes:
        run: The run folder.
        goal: What was selected for: the first goal that was named.
        checkpoint: Iteration of the best checkpoint.
        decoding: What `nucseg run` will use: the best decoding to instances of that checkpoint. None for a scenario
            without a main head.
        decodings: The best decoding to instances of that checkpoint with each kind of seeds.
        chosen: The best candidate of that checkpoint of each way, by the way's key in `selected.json`.
        candidate: What won: the decoding, or a candidate of another way.
        score: Its score, avAP or detection AP.
        scores: All its scores, mean over the volumes.
        best: For each goal that was named and each kind of seeds the best row of the grid, of any checkpoint.
        rows: The whole grid, a row per checkpoint and candidate.
        mirrors: The mirrored views that were averaged in all predictions, see `nucseg.network.mirrors`.
        table: The same as CSV; beside it as Parquet.
        volumes_table: A row per checkpoint, candidate and volume, as CSV; beside it as Parquet.
        predicted: Predictions that were made; others were there, or their scores.
    """

    run: Path
    goal: Goal
    checkpoint: int
    decoding: Decoding | None
    decodings: dict[str, Decoding]
    chosen: dict[str, BaseModel]
    candidate: BaseModel
    score: float
    scores: Scores
    best: dict[tuple[Goal, str], Choice]
    rows: list[Choice]
    mirrors: str
    table: Path
    volumes_table: Path
    predicted: int

    def to_json(self) -> dict[str, Any]:
        """Plain values.

        `checkpoint`, `parameters`, `score`, `for`, `mirrors`, `best` (by goal and kind of seeds), `table`.
        """
        best: dict[str, dict[str, Any]] = {}
        for (goal, seeds), choice in self.best.items():
            best.setdefault(goal, {})[seeds] = choice.to_json(goal)
        return {
            "checkpoint": self.checkpoint,
            "parameters": self.candidate.model_dump(mode="json"),
            "score": self.score,
            "for": self.goal,
            "mirrors": self.mirrors,
            "best": best,
            "rows": len(self.rows),
            "predicted": self.predicted,
            "table": str(self.table),
            "volumes_table": str(self.volumes_table),
            "selected": str(self.run / "selected.json"),
        }


def goal_score(scores: Scores, goal: Goal) -> float | None:
    """The score that a goal is selected by; None where there is none."""
    return scores.detection_ap if goal == "detection" else scores.av_ap


def columns(
    choices: Sequence[Choice], goal: Goal, volumes: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The columns of a table: checkpoint, way, seeds, the candidates' fields, the scores.

    A field that a candidate does not have is NaN, or empty if it is text.

    Args:
        choices: The rows.
        goal: What `score` is.
        volumes: Each row's volume; None: no such column.
    """
    rows = []
    for choice in choices:
        scores = choice.scores
        rows.append(
            {
                "checkpoint": choice.checkpoint,
                "way": choice.way,
                **choice.candidate.model_dump(mode="json"),
                "seeds": choice.seeds,
                "score": goal_score(scores, goal),
                **{f"ap{t:g}".replace("ap0", "ap"): ap for t, ap in scores.ap.items()},
                "av_ap": scores.av_ap,
                "detection_ap": scores.detection_ap,
                "n_true": scores.n_true,
                "n_predicted": scores.n_predicted,
            }
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = {name: _column([row.get(name) for row in rows]) for name in names}
    return {"volume": np.array(volumes), **table} if volumes is not None else table


def table_rows(choices: Sequence[Choice], goal: Goal) -> list[dict[str, Any]]:
    """Rows as `selected.json` and the report have them: the candidate's fields and the scores by name."""
    return [
        {
            "checkpoint": choice.checkpoint,
            **choice.candidate.model_dump(mode="json"),
            "seeds": choice.seeds,
            "score": goal_score(choice.scores, goal),
            **{k: v for k, v in choice.scores.to_json().items() if k in _SCORES},
        }
        for choice in choices
    ]


_SCORES = ("ap", "av_ap", "detection_ap", "n_true", "n_predicted")


def _column(values: list[Any]) -> np.ndarray:
    known = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in known):
        return np.array(["" if value is None else str(value) for value in values])
    if len(known) == len(values) and all(isinstance(value, int) for value in known):
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], np.float64)
