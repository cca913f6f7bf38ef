"""Choosing thresholds, and the kind of seeds, on validation volumes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.ndimage import find_objects

from nucseg.errors import InputError
from nucseg.evaluate.matching import match
from nucseg.evaluate.scores import Scores
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.instances.centroids import centroids
from nucseg.instances.expand import expand_labels
from nucseg.instances.seeds import label_seeds
from nucseg.instances.watershed import flood

Goal = Literal["segmentation", "detection"]


@dataclass(frozen=True)
class Selection:
    """The best decoding of a grid, and the whole grid.

    Attributes:
        decoding: The best.
        score: Its score on the validation volumes, see `select`.
        scores: Its `Scores`, mean over the volumes.
        table: A row per decoding in the grid's order: the decoding's fields and `score`, `ap`, `av_ap`,
            `detection_ap`, `n_true`, `n_predicted`.
        best: The best decoding of each kind of seeds, "main" and "votes", as far as the grid has them.
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
        progress: Called with (decodings done, decodings in all).

    Raises:
        InputError: If there is no volume, no decoding, or no true object to select by.
    """
    if for_ not in ("segmentation", "detection"):
        raise InputError(
            "for", expected="segmentation or detection", received=f"{for_}", remedy="name one of the two"
        )
    if not any(truth.any() for _, truth in predictions):
        raise InputError(
            "validation volumes",
            expected="at least one with labelled nuclei",
            received=f"{len(predictions)} volumes, none with a label",
            remedy="give a validation volume with its labels",
        )
    if decodings is None:
        decodings = scenario.decodings(reach=largest_extent([truth for _, truth in predictions]))
    if not decodings:
        raise InputError("decodings", expected="at least one", received="none", remedy="give a grid")
    results: list[Scores] = []
    for done, decoding in enumerate(decodings, start=1):
        scores = [
            match(truth, instances(prediction, scenario, decoding), min_size=min_size)
            for prediction, truth in predictions
        ]
        results.append(Scores.mean(scores))
        if progress:
            progress(done, len(decodings))
    ranks = [_rank(scores, for_) for scores in results]
    order = sorted(range(len(decodings)), key=lambda i: ranks[i], reverse=True)  # stable: earlier ones first
    best: dict[str, Decoding] = {}
    for i in order:
        best.setdefault(decodings[i].seeds, decodings[i])
    first = order[0]
    table = [
        {
            **decoding.model_dump(mode="json"),
            "score": rank[0],
            **{k: v for k, v in scores.to_json().items() if k in _ROW},
        }
        for decoding, scores, rank in zip(decodings, results, ranks, strict=True)
    ]
    return Selection(decodings[first], ranks[first][0], results[first], table, best, for_)


def instances(prediction: np.ndarray, scenario: Scenario, decoding: Decoding) -> np.ndarray:
    """The instances of a whole prediction in memory; what the blockwise segmentation equals.

    Args:
        prediction: (channels, z, y, x), after the activation.
        scenario: Its heads.
        decoding: How to decode.

    Returns:
        uint64 (z, y, x); an id is the linear index of the seed's first voxel, + 1.
    """
    surface, seeds, foreground = scenario.decode(prediction, decoding)
    labels = flood(surface, label_seeds(seeds), foreground)
    if decoding.dilate:
        labels = expand_labels(labels, decoding.dilate)
    if decoding.min_size > 1:
        found = centroids(labels)
        labels[np.isin(labels, found.ids[found.sizes < decoding.min_size])] = 0
    return labels


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


def _rank(scores: Scores, goal: Goal) -> tuple[float, float]:
    mean = scores.av_ap if scores.av_ap is not None else 0.0
    if goal == "detection":
        return scores.detection_ap, mean
    return mean, scores.ap[0.5]
