"""Selection on validation volumes and scoring of test volumes: the one place that knows how both are done."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from nucseg.annotation import AnnotationMask, annotation_of
from nucseg.blockwise.launch import Local
from nucseg.blockwise.predict import Predict
from nucseg.errors import InputError
from nucseg.evaluate.detect import points
from nucseg.evaluate.matching import detection, match
from nucseg.evaluate.scores import Scores
from nucseg.evaluate.select import instances
from nucseg.heads.scenario import Decoding, PointDecoding, Scenario
from nucseg.network.checkpoint import list_checkpoints
from nucseg.network.record import RunRecord
from nucseg.selection import select_run
from nucseg.training.config import Data, LabelledVolume
from nucseg.volume import Volume, check_labels_inside, open_labels, open_volume

Goal = Literal["segmentation", "detection"]
GOALS: tuple[Goal, ...] = ("segmentation", "detection")


class Choice(NamedTuple):
    """What was chosen on the validation volumes for one goal and one kind of seeds.

    Attributes:
        goal: "segmentation" or "detection".
        seeds: "main", "votes" or "vectors".
        checkpoint: Iteration.
        decoding: How to decode, to instances or to points.
        validation: Scores on the validation volumes: `ap`, `av_ap`, `detection_ap`.
    """

    goal: str
    seeds: str
    checkpoint: int
    decoding: Decoding | PointDecoding
    validation: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them."""
        return {**self._asdict(), "decoding": self.decoding.model_dump(mode="json")}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Choice":
        """What `to_json` wrote."""
        kind = Decoding if "seeds" in value["decoding"] else PointDecoding
        return cls(**{**value, "decoding": kind.model_validate(value["decoding"])})


class ScoredTruth(NamedTuple):
    """What a volume is scored against.

    Attributes:
        labels: Integers (z, y, x); anything where nothing is annotated.
        annotated: bool (z, y, x), as `nucseg.match` takes it; None: all is annotated.
    """

    labels: np.ndarray
    annotated: np.ndarray | None


def choose(
    run: Path,
    validation: Sequence[LabelledVolume],
    *,
    labels: str,
    channel: int | None,
    ignore_label: int | None,
    newest: int,
    min_size: int,
    mirrors: str,
    threads: int | None,
    log: Callable[[str], None],
) -> list[Choice]:
    """The best checkpoint and decoding for both goals, as far as the scenario has them, and each kind of seeds.

    Args:
        run: The training's folder.
        validation: Volumes with their labels and masks.
        labels: Name of the label image inside an OME-Zarr.
        channel: Of the volumes; None: all.
        ignore_label: The label that means "not annotated here", or None.
        newest: Among how many of the newest checkpoints.
        min_size: Objects of fewer voxels are left out of the scores.
        mirrors: Mirrored views that are averaged, see `nucseg.network.mirrors`.
        threads: For the watershed; None: all cores.
        log: Takes lines.
    """
    goals = GOALS if scenario_of(run).can_segment else ("detection",)
    selection = select_run(
        run,
        [(volume.raw, volume.labels) if volume.labels else volume.raw for volume in validation],
        goals,
        checkpoints=[checkpoint.iteration for checkpoint in list_checkpoints(run)[-newest:]],
        min_size=min_size,
        labels=labels,
        channel=channel,
        masks=[volume.mask for volume in validation],
        ignore_label=ignore_label,
        mirrors=mirrors,
        threads=threads,
        log=log,
    )
    choices = []
    for (goal, seeds), best in sorted(
        selection.best.items(), key=lambda item: (GOALS.index(item[0][0]), item[0][1])
    ):
        if not isinstance(best.candidate, Decoding | PointDecoding):
            raise TypeError(
                f"an experiment decodes to instances or points, not by {type(best.candidate).__name__}"
            )
        validated = {
            k: v for k, v in best.to_json(goal).items() if k not in ("checkpoint", "way", "parameters")
        }
        choices.append(Choice(goal, seeds, best.checkpoint, best.candidate, validated))
    return choices


def predict(
    run: Path, checkpoint: int, volume: LabelledVolume, channel: int | None, out: Path, mirrors: str
) -> np.ndarray:
    """A prediction float32 (channels, z, y, x) in memory; kept on disk below `out`, and not made twice."""
    Predict(
        volume=volume.raw,
        out=str(out),
        model=str(run),
        checkpoint=checkpoint,
        channel=channel,
        mirrors=mirrors,
        encoding="float32",
    ).blockwise(Local(workers=0))
    return open_volume(out / "prediction").read()


def score(
    prediction: np.ndarray,
    scenario: Scenario,
    decoding: Decoding | PointDecoding,
    truth: ScoredTruth,
    min_size: int,
) -> tuple[Scores, np.ndarray | None]:
    """Scores of a test volume, and its instances (None from a network that finds points only)."""
    known = truth.annotated
    if isinstance(decoding, PointDecoding):
        counts = detection(points(prediction, scenario, decoding), truth.labels, min_size, known)
        n_true, n_predicted = counts.tp + counts.fn, counts.tp + counts.fp
        return Scores({}, {}, {}, {}, n_true, n_predicted, counts, {"min_size": min_size}), None
    labels = instances(prediction, scenario, decoding)
    return match(truth.labels, labels, min_size=min_size, annotated=known), labels


def scenario_of(run: Path) -> Scenario:
    """The trained heads, with what was measured in the training volumes."""
    return RunRecord.read(run).scenario


def read_truth(volume: LabelledVolume, data: Data) -> ScoredTruth:
    """The truth of a volume that is scored, in memory.

    Raises:
        InputError: See `check_truth`.
    """
    labels, mask = check_truth(volume, data)
    return ScoredTruth(labels.read(), None if mask is None else mask.read().astype(np.bool_))


def check_truth(
    volume: LabelledVolume, data: Data, *, whole: bool = False
) -> tuple[Volume, AnnotationMask | None]:
    """The labels of a volume that is scored, and what of them is annotated (None: all).

    Args:
        volume: Which one.
        data: Says the name of label images, and the label that means "not annotated here".
        whole: Whether StarDist learns from it or optimises its thresholds on it, neither of which knows masks.

    Raises:
        InputError: It has points instead of labels, no labels, or no voxel that is annotated; `whole`, and a voxel
            is not annotated.
    """
    if volume.points is not None:
        raise InputError(
            volume.raw,
            expected="labels: a volume with points cannot be scored",
            received=f"the points {volume.points}",
            remedy="give a volume with labels for validation and test",
        )
    if volume.labels is None:
        check_labels_inside(volume.raw, data.labels)
    found = open_labels(volume.raw if volume.labels is None else volume.labels, data.labels)
    mask = annotation_of(found, volume.mask, data.ignore_label, inside=volume.raw)
    if whole and mask is not None:
        total = int(np.prod(found.shape, dtype=np.int64))
        raise InputError(
            volume.raw,
            expected="labels of the whole volume: StarDist trains and optimises its thresholds without masks",
            received=f"{total - mask.annotated()} of {total} voxels not annotated, by {mask.path}",
            remedy="crop the volume to the part that is annotated, use another one, or leave out stardist",
        )
    return found, mask
