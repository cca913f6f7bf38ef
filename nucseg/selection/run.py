"""`select_run`: every checkpoint of a run with every decoding of a grid, on validation volumes."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from nucseg.blockwise.launch import Launcher, Local, cores
from nucseg.blockwise.records import write_json
from nucseg.errors import InputError
from nucseg.evaluate.scores import Scores
from nucseg.evaluate.select import GOALS, Goal, rank
from nucseg.evaluate.ways import WAYS, Way, way_of
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.network.checkpoint import list_checkpoints
from nucseg.network.mirrors import NONE, mirrors_name
from nucseg.network.model import TrainedModel
from nucseg.points import write_columns
from nucseg.selection.grid_file import read_grid
from nucseg.selection.result import Choice, RunSelection, columns, table_rows
from nucseg.selection.volumes import Given, Masks, open_validation, reach_of, trained_on
from nucseg.selection.work import FOLDER, Work

logger = logging.getLogger(__name__)


def select_run(
    run: str | Path,
    volumes: Sequence[Given] = (),
    for_: str | Sequence[str] = "segmentation",
    *,
    checkpoints: Sequence[int] | None = None,
    grid: str | Path | Sequence[BaseModel] | None = None,
    min_size: int = 0,
    labels: str = "nuclei",
    channel: int | None = None,
    masks: Masks = None,
    ignore_label: int | None = None,
    mirrors: str | Sequence[str] = NONE,
    launcher: Launcher | None = None,
    threads: int | None = None,
    keep_predictions: bool = False,
    log: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    ways: Sequence[Way] = WAYS,
) -> RunSelection:
    """Choose the checkpoint and the decoding of a training run on volumes that it was not trained on.

    Every checkpoint predicts every volume once, block by block, and each prediction is segmented and scored with
    every decoding of the grid. For segmentation the score is avAP, and AP at IoU .5 where two are equal; for
    detection it is the detection AP, then avAP; scores are means over the volumes. Where all is equal, the earlier
    checkpoint wins, then the earlier decoding.

    Writes RUN/selected.json, which prediction and segmentation with the run then use, and the whole grid as
    RUN/selection/table.csv and volumes.csv (each also as .parquet). Scores are kept beside them: the same call again,
    after an interruption or with a larger grid, does only what is missing. One prediction and the truth of one volume
    are in memory at a time, see `nucseg.evaluate.grid.score_decodings`.

    Args:
        run: The run folder.
        volumes: OME-Zarr images with labels inside, or pairs (image, labels). None: those that the training
            configuration names (`data.validation`). One that the run was trained on is named in a warning.
        for_: "segmentation", "detection", or both ("segmentation,detection"): the best for each is found, the first is
            selected.
        checkpoints: Iterations. None: all of the run.
        grid: A TOML (see `nucseg.selection.grid_file.read_grid`) or decodings. None: the scenario's own grid, with
            votes that reach as far as the largest true nucleus is wide.
        min_size: Objects of fewer voxels are left out of the scores, see `nucseg.match`.
        labels: Name of the label image inside an OME-Zarr.
        channel: Of the images. None: as in training, where an image has several.
        masks: What of the volumes is annotated, 0 or False elsewhere: the name of a label image inside each of them,
            or a list of names or paths (None: all is annotated), one a volume. Voxels that are not annotated are
            neither right nor wrong, see `nucseg.match`. Volumes of the training configuration bring their own.
        ignore_label: A label that means "not annotated here". None: as in training.
        mirrors: Axes along which mirrored views are predicted, too, and averaged: "none", "all", or some such as "yx";
            n axes take 2^n times as long. What is selected is then used with the same mirrors.
        launcher: Where predictions are made. None: in this process, which loads the library only once.
        threads: Floods at a time. None: as many as there are cores.
        keep_predictions: Keep the predictions, so that another grid needs none; else each is deleted once it is
            scored.
        log: Takes lines about what goes on.
        progress: Called with (decodings scored, decodings in all), over checkpoints and volumes.
        ways: What may be made of a prediction, see `nucseg.evaluate.ways`.

    Raises:
        InputError: No run, checkpoint, volume or labels; a mask that does not fit; a goal that the scenario cannot
            be selected for.
        BlocksFailed: A prediction failed in part; the same call goes on from there.
    """
    goals, mirrors = checked_goals(for_), mirrors_name(mirrors)
    model = TrainedModel.load(run)
    iterations = _iterations(run, checkpoints)
    opened = open_validation(volumes, model, labels, channel, masks, ignore_label)
    for raw in trained_on(opened, model.record.config):
        told = f"warning: {raw} is a volume that this run was trained on: its scores do not tell how good the run is"
        log(told) if log else logger.warning(told.removeprefix("warning: "))
    candidates = _candidates(model.scenario, grid, reach_of(opened), ways)
    _check_goals(goals, {way for way, _ in candidates}, model.scenario)

    folder = Path(run) / FOLDER
    work = Work(
        Path(run).resolve(),
        model,
        candidates,
        min_size=min_size,
        mirrors=mirrors,
        launcher=launcher or Local(workers=0),
        threads=threads or cores(),
        keep_predictions=keep_predictions,
        log=log,
        progress=progress,
        total=len(iterations) * len(opened) * len(candidates),
    )
    scores: dict[tuple[int, str], list[Scores]] = {}
    for volume in opened:
        rows = work.scores_of(volume, iterations)
        scores |= {(iteration, volume.key): of_one for iteration, of_one in rows.items()}

    names = [volume.key for volume in opened]
    choices: list[Choice] = []
    single: list[Choice] = []
    for iteration in iterations:
        for index, (way, candidate) in enumerate(candidates):
            of_volumes = [scores[iteration, name][index] for name in names]
            kind = way.seeds(candidate)
            single += [Choice(iteration, candidate, s, way.name, kind) for s in of_volumes]
            choices.append(Choice(iteration, candidate, Scores.mean(of_volumes), way.name, kind))
    table = write_columns(folder / "table", columns(choices, goals[0])).with_suffix(".csv")
    by_volume = columns(single, goals[0], volumes=names * len(choices))
    volumes_table = write_columns(folder / "volumes", by_volume).with_suffix(".csv")
    selection = _selection(
        Path(run).resolve(),
        goals,
        choices,
        ways,
        mirrors,
        table.resolve(),
        volumes_table.resolve(),
        work.predicted,
    )
    _write_selected(selection, names, min_size)
    return selection


def checked_goals(for_: str | Sequence[str]) -> list[Goal]:
    """The goals that a list, or a text with commas, names.

    Raises:
        InputError: There is none, or one that there is not.
    """
    names = [name.strip() for name in for_.split(",")] if isinstance(for_, str) else list(for_)
    found = [goal for name in names for goal in GOALS if goal == name]
    if not names or len(found) < len(names):
        raise InputError(
            "for",
            expected="segmentation, detection or both with a comma",
            received=repr(for_),
            remedy="name one of them",
        )
    return list(dict.fromkeys(found))


def _iterations(run: str | Path, wanted: Sequence[int] | None) -> list[int]:
    there = [checkpoint.iteration for checkpoint in list_checkpoints(run)]
    iterations = there if wanted is None else list(dict.fromkeys(wanted))
    missing = [iteration for iteration in iterations if iteration not in there]
    if missing or not iterations:
        raise InputError(
            f"checkpoints of run folder {run}",
            expected="one or more of " + ", ".join(map(str, there)),
            received=", ".join(map(str, missing)) or "none",
            remedy="choose among these iterations",
        )
    return iterations


def _candidates(
    scenario: Scenario, grid: str | Path | Sequence[BaseModel] | None, reach: int, ways: Sequence[Way]
) -> list[tuple[Way, BaseModel]]:
    candidates: list[BaseModel] = []
    if grid is None:
        candidates = [c for way in ways for c in way.candidates(scenario, reach)]
    elif isinstance(grid, str | Path):
        candidates = read_grid(grid, scenario, reach, ways)
    else:
        candidates = list(dict.fromkeys(grid))
    if not candidates:
        raise InputError(
            f"grid of {scenario.name}",
            expected="at least one decoding",
            received="none",
            remedy="give a grid, or train a scenario with a main head such as three_label",
        )
    return [(way_of(candidate, ways), candidate) for candidate in candidates]


def _check_goals(goals: Sequence[Goal], ways: set[Way], scenario: Scenario) -> None:
    for goal in goals:
        if not any(goal in way.goals for way in ways):
            raise InputError(
                "for",
                expected="detection: no way of the grid makes instances"
                if goal == "segmentation"
                else f"a goal that {scenario.name} can be selected for",
                received=goal,
                remedy="select for the other (--for), or train a scenario with a main head such as three_label",
            )


def _selection(
    run: Path,
    goals: Sequence[Goal],
    choices: list[Choice],
    ways: Sequence[Way],
    mirrors: str,
    table: Path,
    volumes_table: Path,
    predicted: int,
) -> RunSelection:
    able = {way.name: way.goals for way in ways}
    best: dict[tuple[Goal, str], Choice] = {}
    ordered: dict[Goal, list[Choice]] = {}
    for goal in goals:
        fit = [(rank(choice.scores, goal), choice) for choice in choices if goal in able[choice.way]]
        ordered[goal] = [choice for _, choice in sorted(fit, key=lambda pair: pair[0], reverse=True)]
        for choice in ordered[goal]:
            best.setdefault((goal, choice.seeds), choice)
    first = ordered[goals[0]][0]
    own = [choice for choice in choices if choice.checkpoint == first.checkpoint]
    chosen: dict[str, BaseModel] = {}
    decodings: dict[str, Decoding] = {}
    for way in ways:
        goal = goals[0] if goals[0] in way.goals else next(iter(way.goals))
        of_way = [(rank(choice.scores, goal), choice) for choice in own if choice.way == way.name]
        for _, choice in sorted(of_way, key=lambda pair: pair[0], reverse=True):
            chosen.setdefault(way.key, choice.candidate)
            if isinstance(choice.candidate, Decoding):
                decodings.setdefault(choice.seeds, choice.candidate)
    return RunSelection(
        run=run,
        goal=goals[0],
        checkpoint=first.checkpoint,
        decoding=next(iter(decodings.values()), None),
        decodings=decodings,
        chosen=chosen,
        candidate=first.candidate,
        score=rank(first.scores, goals[0])[0],
        scores=first.scores,
        best=best,
        rows=choices,
        mirrors=mirrors,
        table=table,
        volumes_table=volumes_table,
        predicted=predicted,
    )


def _write_selected(selection: RunSelection, volumes: Sequence[str], min_size: int) -> None:
    """RUN/selected.json: what `TrainedModel` reads, what the report shows, and the rest."""
    own = [choice for choice in selection.rows if choice.checkpoint == selection.checkpoint]
    selected: dict[str, Any] = {
        "checkpoint": selection.checkpoint,
        "decoding": None,
        **{key: candidate.model_dump(mode="json") for key, candidate in selection.chosen.items()},
        **selection.to_json(),
        "volumes": list(volumes),
        "min_size": min_size,
        "table": table_rows(own, selection.goal),
        "all": str(selection.table.relative_to(selection.run)),
    }
    for name in ("selected", "volumes_table", "predicted"):
        del selected[name]
    write_json(selection.run / "selected.json", selected)
