"""What an evaluation returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nucseg.errors import InputError


class Detection(NamedTuple):
    """Counts of points against labels; `ap` is tp / (tp + fp + fn)."""

    tp: int
    fp: int
    fn: int
    ap: float


@dataclass(frozen=True)
class Objects:
    """The objects behind a score, one by one: what was matched with what.

    Attributes:
        true_ids: uint64 (n,): the counted objects of the truth.
        best_iou: float64 (n,): the highest IoU that each has with any counted prediction; 0 if it meets none.
        best_predicted: uint64 (n,): that prediction's id; 0 if there is none.
        predicted_ids: uint64 (m,): the predictions that count, matched or not; one that lies mostly where nothing is
            annotated is not among them, and may be in `matched`.
        matched: For each IoU threshold uint64 (n,): the prediction matched with each object; 0 for a miss.
        cut: uint64: of `true_ids` those that the border of the annotation cuts, which detection may miss.
    """

    true_ids: np.ndarray
    best_iou: np.ndarray
    best_predicted: np.ndarray
    predicted_ids: np.ndarray
    matched: dict[float, np.ndarray]
    cut: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    def true_positives(self, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the matched objects and, in the same order, of their predictions."""
        hit = self._matched(threshold) != 0
        return self.true_ids[hit], self._matched(threshold)[hit]

    def false_negatives(self, threshold: float = 0.5) -> np.ndarray:
        """Ids of the objects that no prediction was matched with."""
        return self.true_ids[self._matched(threshold) == 0]

    def false_positives(self, threshold: float = 0.5) -> np.ndarray:
        """Ids of the predictions that were matched with no object."""
        return self.predicted_ids[~np.isin(self.predicted_ids, self._matched(threshold))]

    def _matched(self, threshold: float) -> np.ndarray:
        if threshold not in self.matched:
            raise InputError(
                "threshold",
                expected=f"one of the thresholds that were evaluated, {sorted(self.matched)}",
                received=f"{threshold}",
                remedy="evaluate with thresholds=(..., that one)",
            )
        return self.matched[threshold]


@dataclass(frozen=True)
class Scores:
    """How well a prediction agrees with the truth.

    AP is TP / (TP + FP + FN), the measure of the 2018 Data Science Bowl, from a one-to-one matching at an
    intersection over union (IoU) of at least the threshold. Where truth and prediction are both empty there
    is nothing to count and nothing wrong: AP is 1.0 by definition (`n_true` and `n_predicted` say so).

    Attributes:
        ap: AP per IoU threshold; empty if the prediction was points.
        tp: True positives per threshold. In a `mean` or `pooled` score, the sums over the images; so for fp,
            fn, `n_true` and `n_predicted`.
        fp: False positives per threshold.
        fn: False negatives per threshold.
        n_true: Objects of the truth that were counted; for points tp + fn of the detection.
        n_predicted: Predictions that were counted: tp + fp at the lowest threshold; for points of the detection.
            (Where all is annotated, tp + fp is the same at every threshold.)
        detection: Points (or the centres of mass of predicted instances) against the truth's labels.
        info: The parameters that made the score.
        objects: The single objects; None in a score over several images or read from a file.
    """

    ap: dict[float, float]
    tp: dict[float, int]
    fp: dict[float, int]
    fn: dict[float, int]
    n_true: int
    n_predicted: int
    detection: Detection
    info: dict[str, Any] = field(default_factory=dict)
    objects: Objects | None = field(default=None, repr=False, compare=False)

    @property
    def av_ap(self) -> float | None:
        """Mean AP over the thresholds; None if the prediction was points."""
        return float(np.mean(list(self.ap.values()))) if self.ap else None

    @property
    def detection_ap(self) -> float:
        """AP of the detections."""
        return self.detection.ap

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The IoU thresholds, ascending."""
        return tuple(sorted(self.ap))

    def to_json(self) -> dict[str, Any]:
        """The score as plain values, without the single objects.

        Keys: `ap`, `av_ap`, `detection_ap`, `n_true`, `n_predicted`, `tp`, `fp`, `fn`, `detection` (its
        counts) and `info`. What is per threshold has the keys "0.1", "0.2", ...
        """
        per_threshold = {
            name: {f"{t:g}": getattr(self, name)[t] for t in self.thresholds} for name in ("tp", "fp", "fn")
        }
        return {
            "ap": {f"{t:g}": self.ap[t] for t in self.thresholds},
            "av_ap": self.av_ap,
            "detection_ap": self.detection_ap,
            "n_true": self.n_true,
            "n_predicted": self.n_predicted,
            **per_threshold,
            "detection": {"tp": self.detection.tp, "fp": self.detection.fp, "fn": self.detection.fn},
            "info": self.info,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Scores:
        """The score that `to_json` wrote (without the single objects).

        Raises:
            InputError: If `value` is something else.
        """
        try:
            counts = value["detection"]
            tp, fp, fn = ({float(t): int(n) for t, n in value[k].items()} for k in ("tp", "fp", "fn"))
            return cls(
                ap={float(t): float(a) for t, a in value["ap"].items()},
                tp=tp,
                fp=fp,
                fn=fn,
                n_true=int(value["n_true"]),
                n_predicted=int(value["n_predicted"]),
                detection=Detection(
                    int(counts["tp"]), int(counts["fp"]), int(counts["fn"]), float(value["detection_ap"])
                ),
                info=dict(value.get("info", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                "scores",
                expected="the object that `nucseg evaluate --json` prints",
                received=f"one in which {type(error).__name__} arose at {error}",
                remedy="evaluate again and keep the output as it is",
            ) from None

    @classmethod
    def mean(cls, scores: Sequence[Scores]) -> Scores:
        """One score for several images: the mean of the images' APs, each image counting the same.

        The counts are sums, so that `ap` is not tp / (tp + fp + fn) of this score.
        """
        summed = cls.pooled(scores)
        detection = summed.detection._replace(ap=float(np.mean([s.detection_ap for s in scores])))
        return cls(
            ap={t: float(np.mean([s.ap[t] for s in scores])) for t in summed.thresholds},
            tp=summed.tp,
            fp=summed.fp,
            fn=summed.fn,
            n_true=summed.n_true,
            n_predicted=summed.n_predicted,
            detection=detection,
            info={**summed.info, "average": "mean"},
        )

    @classmethod
    def pooled(cls, scores: Sequence[Scores]) -> Scores:
        """One score for several images: AP of the summed counts, each object counting the same."""
        if not scores:
            raise InputError(
                "scores", expected="at least one", received="none", remedy="evaluate at least one image"
            )
        if len({s.thresholds for s in scores}) > 1:
            raise InputError(
                "scores",
                expected="the same IoU thresholds for all images",
                received=f"{[s.thresholds for s in scores]}",
                remedy="evaluate all images with the same thresholds",
            )
        thresholds = scores[0].thresholds
        tp, fp, fn = (
            {t: sum(getattr(s, k)[t] for s in scores) for t in thresholds} for k in ("tp", "fp", "fn")
        )
        found = sum(s.detection.tp for s in scores)
        false, missed = sum(s.detection.fp for s in scores), sum(s.detection.fn for s in scores)
        shared = {k: v for k, v in scores[0].info.items() if all(s.info.get(k) == v for s in scores)}
        return cls(
            ap={t: average_precision(tp[t], fp[t], fn[t]) for t in thresholds},
            tp=tp,
            fp=fp,
            fn=fn,
            n_true=sum(s.n_true for s in scores),
            n_predicted=sum(s.n_predicted for s in scores),
            detection=Detection(found, false, missed, average_precision(found, false, missed)),
            info={**shared, "images": len(scores), "average": "pooled"},
        )


def average_precision(tp: int, fp: int, fn: int) -> float:
    """TP / (TP + FP + FN); 1.0 where there is nothing to count."""
    total = tp + fp + fn
    return tp / total if total else 1.0
