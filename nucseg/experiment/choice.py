"""Selection on validation volumes and scoring of test volumes: the one place that knows how both are done."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from nucseg.blockwise.launch import Local
from nucseg.blockwise.predict import Predict
from nucseg.evaluate.matching import match
from nucseg.evaluate.scores import Scores
from nucseg.evaluate.select import instances, select
from nucseg.heads.decoding import Decoding
from nucseg.heads.scenario import Scenario
from nucseg.network.checkpoint import list_checkpoints
from nucseg.training.config import LabelledVolume
from nucseg.volume import open_labels, open_volume

Goal = Literal["segmentation", "detection"]
GOALS: tuple[Goal, ...] = ("segmentation", "detection")

_ROW = ("ap", "av_ap", "detection_ap", "n_true", "n_predicted", "score")


class Choice(NamedTuple):
    """What was chosen on the validation volumes for one goal and one kind of seeds.

    Attributes:
        goal: "segmentation" or "detection".
        seeds: "main" or "votes".
        checkpoint: Iteration.
        decoding: How to decode.
        validation: Scores on the validation volumes: `ap`, `av_ap`, `detection_ap`.
    """

    goal: str
    seeds: str
    checkpoint: int
    decoding: Decoding
    validation: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them."""
        return {**self._asdict(), "decoding": self.decoding.model_dump(mode="json")}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Choice":
        """What `to_json` wrote."""
        return cls(**{**value, "decoding": Decoding.model_validate(value["decoding"])})


def choose(
    run: Path,
    validation: Sequence[LabelledVolume],
    *,
    labels: str,
    channel: int | None,
    newest: int,
    min_size: int,
    folder: Path,
    log: Callable[[str], None],
) -> list[Choice]:
    """The best checkpoint and decoding for both goals and each kind of seeds.

    Args:
        run: The training's folder.
        validation: Volumes with their labels.
        labels: Name of the label image inside an OME-Zarr.
        channel: Of the volumes; None: all.
        newest: Among how many of the newest checkpoints.
        min_size: Objects of fewer voxels are left out of the scores.
        folder: For predictions.
        log: Takes lines.
    """
    truths = [read_truth(volume, labels) for volume in validation]
    best: dict[tuple[str, str], tuple[tuple[float, float], Choice]] = {}
    for checkpoint in list_checkpoints(run)[-newest:]:
        log(f"selecting at iteration {checkpoint.iteration}")
        predicted = [
            predict(run, checkpoint.iteration, volume, channel, folder / f"{checkpoint.iteration}_{number}")
            for number, volume in enumerate(validation)
        ]
        selection = select(list(zip(predicted, truths, strict=True)), scenario_of(run), min_size=min_size)
        for row, goal in product(selection.table, GOALS):
            decoding = Decoding(**{k: v for k, v in row.items() if k in Decoding.model_fields})
            validated = {k: v for k, v in row.items() if k in _ROW}
            choice = Choice(goal, decoding.seeds, checkpoint.iteration, decoding, validated)
            rank = _rank(row, goal)
            key = (goal, decoding.seeds)
            if key not in best or rank > best[key][0]:
                best[key] = rank, choice
    return [best[key][1] for key in sorted(best, key=lambda key: (GOALS.index(key[0]), key[1]))]


def predict(run: Path, checkpoint: int, volume: LabelledVolume, channel: int | None, out: Path) -> np.ndarray:
    """A prediction float32 (channels, z, y, x) in memory; kept on disk below `out`, and not made twice."""
    Predict(
        volume=volume.raw, out=str(out), model=str(run), checkpoint=checkpoint, channel=channel
    ).blockwise(Local(workers=0))
    return open_volume(out / "prediction").read()


def score(
    prediction: np.ndarray, scenario: Scenario, decoding: Decoding, truth: np.ndarray, min_size: int
) -> tuple[Scores, np.ndarray | None]:
    """Scores of a test volume, and its instances (None from a network that finds points only)."""
    labels = instances(prediction, scenario, decoding)
    return match(truth, labels, min_size=min_size), labels


def scenario_of(run: Path) -> Scenario:
    """The trained heads, with what was measured in the training volumes."""
    from nucseg.network.record import RunRecord

    return RunRecord.read(run).scenario


def read_truth(volume: LabelledVolume, labels: str) -> np.ndarray:
    """True labels (z, y, x)."""
    return open_labels(volume.raw if volume.labels is None else volume.labels, labels).read()


def _rank(row: dict[str, Any], goal: str) -> tuple[float, float]:
    mean = row["av_ap"] or 0.0
    return (row["detection_ap"], mean) if goal == "detection" else (mean, row["ap"]["0.5"])
