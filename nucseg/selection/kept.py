"""Scores of one checkpoint on one volume, kept on disk: what was scored once is not scored again.

RUN/selection/00001200/worm-1a2b3c.json    scores of every candidate that was tried
RUN/selection/00001200/worm-1a2b3c/        the prediction, while it is needed
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import nucseg
from nucseg.blockwise.records import write_json
from nucseg.errors import InputError
from nucseg.evaluate.scores import Scores
from nucseg.evaluate.ways import Way


class KeptScores:
    """The scores in one file; other weights, other volumes or another version start it afresh.

    Args:
        path: The file.
        made_of: All that the scores depend on besides the candidates, as plain JSON.
    """

    def __init__(self, path: Path, made_of: dict[str, Any]) -> None:
        self.path = path
        self.made_of: dict[str, Any] = json.loads(json.dumps({**made_of, "nucseg": nucseg.__version__}))
        self._scores: dict[str, Scores] = {}
        if not path.is_file():
            return
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["made_of"] == self.made_of:
                self._scores = {key: Scores.from_json(scores) for key, scores in kept["scores"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                str(path),
                expected="scores as nucseg select keeps them",
                received=f"{type(error).__name__}: {error}",
                remedy="delete the file and select again",
            ) from error

    def get(self, way: Way, candidate: BaseModel) -> Scores | None:
        """The candidate's scores; None if it was not tried."""
        return self._scores.get(_key(way, candidate))

    def add(self, scored: list[tuple[Way, BaseModel, Scores]]) -> None:
        """Keep more scores; on disk they are all there or none."""
        self._scores |= {_key(way, candidate): scores for way, candidate, scores in scored}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = {key: scores.to_json() for key, scores in self._scores.items()}
        write_json(self.path, {"made_of": self.made_of, "scores": kept})


def _key(way: Way, candidate: BaseModel) -> str:
    return f"{way.name} {json.dumps(candidate.model_dump(mode='json'), sort_keys=True)}"
