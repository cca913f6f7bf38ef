"""Choosing thresholds, and the kind of seeds, on validation volumes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.ndimage import find_objects

from nucseg.errors import InputError
from nucseg.evaluate.grid import instances, score_decodings
from nucseg.evaluate.overlap import known_labels
from nucseg.evaluate.scores import Scores
from nucseg.evaluate.truth import Truth
from nucseg.heads.scenario import Decoding, Scenario

__all__ = ["GOALS", "Goal", "Selection", "instances", "largest_extent", "rank", "select"]

Goal = Literal["segmentation", "detection"]
GOALS: tuple[Goal, ...] = ("segmentation", "detection")


@dataclass(frozen=True)
class Selection:
    """The best decoding of a grid, and the whole grid.

    Attributes:
        decoding: The best.
        score: Its score on the validation volumes, see `select`.
        scores: Its `Scores`, mean over the volumes.
        table: A row per decoding in the grid's order: the decoding's fields and `score`, `ap`, `av_ap`,
            `detection_ap`, `n_true`, `n_predicted`.
        best: The best decoding of each kind of seeds, "main", "votes" and "vectors", as far as the grid has them.
        goal: What was selected for.
    """

    decoding: Decoding
    score: float
    scores: Scores
    table: list[dict[str, Any]]
    best: dict[str, Decoding]
    goal: Goal

    def to_json(self) -> dict[str, Any]:
        """Plain values: `parameters`, `score`, `for`, `best` (parameters per kind of seeds), `table`."""
        return {
            "parameters": self.decoding.model_dump(mode="json"),
            "score": self.score,
            "for": self.goal,
            "best": {seeds: decoding.model_dump(mode="json") for seeds, decoding in self.best.items()},
            "table": self.table,
        }


def select(
    predictions: Sequence[tuple[np.ndarray, np.ndarray]],
    scenario: Scenario,
    decodings: Sequence[Decoding] | None = None,
    for_: Goal = "segmentation",
    *,
    min_size: int = 0,
    annotated: Sequence[np.ndarray | None] | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Segment validation volumes with every decoding of a grid and take the best.

    For segmentation the score is avAP; where two are equal, AP at IoU .5 decides. For detection it is the
    detection AP, then avAP. Where all is equal, the earlier decoding wins. Scores are means over the volumes.

    Args:
        predictions: For each validation volume the prediction (channels, z, y, x) and the true labels
            (z, y, x).
        scenario: The heads that the prediction is of.
        decodings: The grid. By default the scenario's own, with votes, if it has center vectors, that reach
            as far as the largest true nucleus is wide.
        for_: "segmentation" or "detection".
        min_size: Objects of fewer voxels are left out of the scores, see `nucseg.match`.
        annotated: For each volume bool (z, y, x), False where its truth is not annotated, or None; None: all of all
            volumes is annotated. See `nucseg.match`.
        threads: Floods at a time.
        progress: Called with (segmentations done, segmentations in all).

    Raises:
        InputError: If there is no volume, no decoding, or no annotated true object to select by.
    """
    if for_ not in GOALS:
        raise InputError(
            "for", expected="segmentation or detection", received=f"{for_}", remedy="name one of the two"
        )
    masks = [None] * len(predictions) if annotated is None else list(annotated)
    if len(masks) != len(predictions):
        raise InputError(
            "annotated",
            expected=f"a mask or None for each of {len(predictions)} volumes",
            received=f"{len(masks)}",
            remedy="give them in the order of the volumes",
        )
    truths = [known_labels(truth, mask) for (_, truth), mask in zip(predictions, masks, strict=True)]
    if not any(truth.any() for truth in truths):
        raise InputError(
            "validation volumes",
            expected="at least one with labelled nuclei",
            received=f"{len(predictions)} volumes, none with a label",
            remedy="give a validation volume with its labels",
        )
    if decodings is None:
        decodings = scenario.decodings(reach=largest_extent(truths))
    if not decodings:
        raise InputError("decodings", expected="at least one", received="none", remedy="give a grid")
    done, total = 0, len(decodings) * len(predictions)

    def count(number: int) -> None:
        nonlocal done
        done += number
        if progress:
            progress(done, total)

    scored = [
        score_decodings(
            prediction,
            Truth(truth, mask),
            scenario,
            decodings,
            min_size=min_size,
            threads=threads,
            progress=count,
        )
        for (prediction, _), truth, mask in zip(predictions, truths, masks, strict=True)
    ]
    results = [Scores.mean(of_one) for of_one in zip(*scored, strict=True)]
    ranks = [rank(scores, for_) for scores in results]
    order = sorted(range(len(decodings)), key=lambda i: ranks[i], reverse=True)  # stable: earlier ones first
    best: dict[str, Decoding] = {}
    for i in order:
        best.setdefault(decodings[i].seeds, decodings[i])
    first = order[0]
    table = [
        {
            **decoding.model_dump(mode="json"),
            "score": ranked[0],
            **{k: v for k, v in scores.to_json().items() if k in _ROW},
        }
        for decoding, scores, ranked in zip(decodings, results, ranks, strict=True)
    ]
    return Selection(decodings[first], ranks[first][0], results[first], table, best, for_)


def largest_extent(volumes: Sequence[np.ndarray]) -> int:
    """The longest side of any object's bounding box, voxels: how far a vote may have to reach."""
    longest = 0
    for labels in volumes:
        ids, index = np.unique(labels, return_inverse=True)
        boxes = find_objects(index.reshape(labels.shape) + 1)
        for label, box in zip(ids, boxes, strict=True):
            if label:
                longest = max(longest, *(side.stop - side.start for side in box))
    return longest


_ROW = ("ap", "av_ap", "detection_ap", "n_true", "n_predicted")


def rank(scores: Scores, goal: Goal) -> tuple[float, float]:
    """What a goal sorts by: the score, and what decides where it is equal; more is better."""
    mean = scores.av_ap if scores.av_ap is not None else 0.0
    if goal == "detection":
        return scores.detection_ap, mean
    return mean, scores.ap.get(0.5, 0.0)
