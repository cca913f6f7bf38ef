"""The work of a selection: predictions and scores, as far as they are not there."""

import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from nucseg.blockwise.launch import Launcher
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.records import Records, hash_of
from nucseg.evaluate.scores import Scores
from nucseg.evaluate.truth import Truth
from nucseg.evaluate.ways import Way
from nucseg.network.mirrors import NONE
from nucseg.network.model import TrainedModel
from nucseg.selection.kept import KeptScores
from nucseg.selection.volumes import ValidationVolume
from nucseg.storage.normalization import zero_and_one
from nucseg.volume import open_volume

FOLDER = "selection"
"""Where a run folder keeps predictions, scores and tables of its selection."""


class Work:
    """Predicts and scores, one checkpoint and volume at a time.

    Args:
        run: The run folder, absolute.
        model: Its network at any checkpoint.
        candidates: The grid, each candidate with its way.
        min_size: Objects of fewer voxels are left out of the scores.
        mirrors: Views that are averaged, by `nucseg.network.mirrors.mirrors_name`.
        launcher: Where predictions are made.
        threads: Floods at a time.
        keep_predictions: Whether predictions stay.
        log: Takes lines about what goes on.
        progress: Called with (decodings scored, `total`).
        total: Decodings over all checkpoints and volumes.

    Attributes:
        predicted: Predictions that were made.
    """

    def __init__(
        self,
        run: Path,
        model: TrainedModel,
        candidates: Sequence[tuple[Way, BaseModel]],
        *,
        min_size: int,
        mirrors: str,
        launcher: Launcher,
        threads: int,
        keep_predictions: bool,
        log: Callable[[str], None] | None,
        progress: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        self.run, self.model, self.candidates = run, model, candidates
        self.min_size, self.launcher, self.threads = min_size, launcher, threads
        self.mirrors = mirrors
        self.keep_predictions, self.log, self.progress = keep_predictions, log, progress
        self.done, self.total, self.predicted = 0, total, 0

    def scores_of(self, volume: ValidationVolume, iterations: Sequence[int]) -> dict[int, list[Scores]]:
        """Scores of all candidates on one volume, for each checkpoint."""
        loaded = _Loaded(volume, self.model)
        return {iteration: self._scores(loaded, iteration) for iteration in iterations}

    def _scores(self, loaded: "_Loaded", iteration: int) -> list[Scores]:
        volume, model = loaded.volume, TrainedModel.load(self.run, iteration)
        place = self.run / FOLDER / f"{iteration:08d}" / volume.key
        made_of = {"model": model.hash, "volume": loaded.identity, "min_size": self.min_size}
        if self.mirrors != NONE:  # beside those of no mirrors: both settings may be compared
            place = place.with_name(f"{volume.key}-mirrors-{self.mirrors}")
            made_of["mirrors"] = self.mirrors
        kept = KeptScores(place.with_name(f"{place.name}.json"), made_of)
        missing = [(way, c) for way, c in self.candidates if kept.get(way, c) is None]
        self._count(len(self.candidates) - len(missing))
        if missing:
            self._predict(loaded, iteration, place)
            self._say(f"scoring {len(missing)} decodings of {volume.raw}, checkpoint {iteration}")
            prediction = open_volume(place / "prediction").read()
            for way in dict.fromkeys(way for way, _ in missing):
                own = [c for w, c in missing if w is way]
                found = way.scores(
                    prediction,
                    loaded.truth,
                    model.scenario,
                    own,
                    min_size=self.min_size,
                    threads=self.threads,
                    progress=self._count,
                )
                kept.add([(way, c, s) for c, s in zip(own, found, strict=True)])
        self._clear(place)
        scores = [kept.get(way, candidate) for way, candidate in self.candidates]
        return [found for found in scores if found is not None]

    def _predict(self, loaded: "_Loaded", iteration: int, place: Path) -> None:
        """The prediction, unless it is complete; one of other weights or of another volume is made anew."""
        task = Predict(
            volume=loaded.volume.raw,
            out=str(place),
            model=str(self.run),
            checkpoint=iteration,
            channel=loaded.volume.channel,
            intensity=loaded.intensity,
            mirrors=self.mirrors,
            encoding="float32",
        ).prepared(overwrite=True)
        head = Records(place, task.name).head()
        other = head is not None and head["hash"] != hash_of(task.description())
        if self.keep_predictions:
            _passing(place).unlink(missing_ok=True)
        elif head is None:
            _passing(place).touch()
        self._say(f"predicting {loaded.volume.raw} with checkpoint {iteration}")
        result = task.blockwise(self.launcher, overwrite=other)
        self.predicted += result["skipped"] < result["blocks"]

    def _clear(self, place: Path) -> None:
        """Delete a prediction that was made for the scores alone; one that was to be kept stays."""
        if _passing(place).exists() and not self.keep_predictions:
            shutil.rmtree(place, ignore_errors=True)
            _passing(place).unlink()

    def _say(self, message: str) -> None:
        if self.log:
            self.log(message)

    def _count(self, number: int) -> None:
        self.done += number
        if self.progress and number:
            self.progress(self.done, self.total)


class _Loaded:
    """What all checkpoints share of one volume, read when it is first needed."""

    def __init__(self, volume: ValidationVolume, model: TrainedModel) -> None:
        self.volume, self.model = volume, model

    @cached_property
    def truth(self) -> Truth:
        return Truth(self.volume.truth(), self.volume.annotated())

    @cached_property
    def identity(self) -> dict[str, Any]:
        return self.volume.identity()

    @cached_property
    def intensity(self) -> tuple[float, float] | None:
        return zero_and_one(open_volume(self.volume.raw, channel=self.volume.channel), self.model.normalize)


def _passing(place: Path) -> Path:
    """The mark of a prediction that is deleted once it is scored."""
    return place.with_name(f"{place.name}.passing")
