"""The whole way, from a volume and a trained network to instances (or points) and their table; single steps."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

from nucseg.blockwise.chain import Chain
from nucseg.blockwise.decoding import (
    choose_decoding,
    choose_points,
    diameter_voxels,
    read_origin,
    settled_scenario,
    warn_of_defaults,
)
from nucseg.blockwise.detect import Detect
from nucseg.blockwise.detect_instances import DetectInstances
from nucseg.blockwise.fused import fused_tasks
from nucseg.blockwise.grid import Shape
from nucseg.blockwise.labels import label_bytes
from nucseg.blockwise.launch import Launcher, Local
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.result import RunResult, result_of
from nucseg.blockwise.segment import HALO, Segment
from nucseg.blockwise.source import check_segmented
from nucseg.blockwise.task import Task
from nucseg.blockwise.values import check_thresholds
from nucseg.errors import InputError
from nucseg.heads.decoding import Voters
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.storage.encoding import Kind
from nucseg.volume import open_volume

Log = Callable[[str], None]


def run(
    volume: str,
    out: str,
    model: str,
    *,
    checkpoint: int | None = None,
    channel: int | None = None,
    intensity: tuple[float, float] | None = None,
    mirrors: str | Sequence[str] | None = None,
    encoding: Kind | None = None,
    block: Shape | None = None,
    launcher: Launcher | None = None,
    nucleus_um: float | None = None,
    max_halo: int = 128,
    fused: bool = False,
    keep: Collection[str] = (),
    overwrite: bool = False,
    log: Log | None = None,
    **decoding: Any,
) -> RunResult:
    """Predict, segment and measure a volume; the same call again goes on where it stopped.

    With a model that has no main head (gauss) the volume is predicted and points are found: `tables/points`.

    Args:
        volume: The raw image.
        out: Output folder: `prediction`, `labels/nuclei`, `tables/nuclei.csv` and `.parquet` in a zarr group.
        model: Folder of a training run.
        checkpoint: Its iteration; None: the selected one, else the newest.
        channel: Of the volume; None: all that the model takes.
        intensity: What becomes 0 and 1 for the network; None: as it was trained, see `Predict.intensity`.
        mirrors: Axes along which mirrored views are predicted, too, and averaged, see `Predict.mirrors`. None: as was
            selected for the checkpoint, else none.
        encoding: How the prediction is stored, see `Predict.encoding`.
        block: Voxels z, y, x of a block in all steps; None has each step choose.
        launcher: Where workers run; None is one worker on this machine.
        nucleus_um: Largest diameter of a nucleus: how far votes reach, and how far blocks look at first. None: what
            was measured in the training data.
        max_halo: Voxels that a block may look around itself.
        fused: Store no prediction: blocks predict what they segment, see `PredictAndSegment`.
        keep: `("predictions",)` keeps OUT/prediction; else each block of it is deleted when all blocks that read it are
            done, see `Chain.blockwise`. A later call that keeps them makes them again.
        overwrite: Start all steps afresh.
        log: Takes lines about what goes on, and first the memory and disk that it will take.
        decoding: Fields of `Decoding` to use instead of the selected ones: `seeds`, `seed_threshold`,
            `foreground_threshold`, `vote_passes`, `votes_from`, `reach`, `distance`, `within` (voxels), `dilate`,
            `min_size`.

    Logs a warning where the model was selected for points only, so that instances take default thresholds.

    Raises:
        InputError: Input that does not fit, such as a field of `Decoding` for a model that finds points; or an OUT
            of something else.
        BlocksFailed: Blocks are not done; the others are, and stay so.
    """
    started = time.perf_counter()
    launcher = launcher or Local(workers=1)
    predict = Predict(
        volume=volume,
        out=out,
        model=model,
        checkpoint=checkpoint,
        channel=channel,
        intensity=intensity,
        mirrors=mirrors,
        encoding=encoding,
        block=block,
    )
    trained = predict.trained()
    scale = open_volume(volume, channel=channel).scale_um
    record = trained.record
    tasks: tuple[Task, ...]
    if trained.scenario.can_segment:
        selected = trained.decoding
        reach = _reach(scale, nucleus_um, record.nucleus_um, selected, decoding.get("seeds"))
        chosen = choose_decoding(trained.scenario, selected, **{"reach": reach, **decoding})
        check_thresholds(trained.scenario, chosen)
        warn_of_defaults(trained.points, selected, chosen, **decoding)
        halo = reach if nucleus_um and reach else HALO
        segment = Segment(out=out, decoding=chosen, block=block, halo=halo, max_halo=max_halo)
        tasks = (segment, Measure(volume=volume, out=out, channel=channel))
        need, longest = segment.memory_for, chosen.reach
    else:
        _refuse_decoding(trained.scenario, decoding)
        points = choose_points(
            trained.scenario, trained.points, **_diameters(scale, nucleus_um, record.nucleus_um)
        )
        detect = Detect(out=out, decoding=points, block=block)
        tasks, need, longest = (detect,), detect.memory_for, points.reach
    predict = predict.model_copy(update={"reach": longest or None})
    if fused:
        tasks = fused_tasks(predict, tasks, overwrite=overwrite, log=log)
    else:
        predict = predict.prepared(overwrite=overwrite)
        if log:
            log(_forecast(predict, need, launcher.workers))
        tasks = (predict, *tasks)

    results = Chain(tasks).blockwise(launcher, overwrite=overwrite, log=log, keep=keep)
    steps = {task.name: result for task, result in zip(tasks, results, strict=True)}
    if log and (lost := steps[tasks[0].name]["nonfinite"]):
        log(f"predict: {lost} raw voxels are no number and were taken as 0")
    if log and (beyond := steps[tasks[0].name]["saturated"]):
        log(
            f"predict: {beyond} values lay beyond what is stored of their head and became the nearest that is"
        )
    return result_of(steps, time.perf_counter() - started)


def segment(
    prediction: str,
    out: str,
    *,
    head: str | None = None,
    block: Shape | None = None,
    launcher: Launcher | None = None,
    nucleus_um: float | None = None,
    max_halo: int = 128,
    engine: Literal["flood", "mahotas"] = "flood",
    whole: bool = False,
    overwrite: bool = False,
    log: Log | None = None,
    **decoding: Any,
) -> RunResult:
    """Segment a prediction, ours or made elsewhere, into OUT/labels/nuclei.

    Args:
        prediction: (c, z, y, x), values after the activation.
        out: Output folder.
        head: Name of the scenario that the channels follow; None: what the prediction says.
        block: Voxels z, y, x of a block.
        launcher: Where workers run; None is one worker on this machine.
        nucleus_um: Largest diameter of a nucleus, as for `run`.
        max_halo: Voxels that a block may look around itself.
        engine: `mahotas` is the reference implementation, of the whole volume in memory.
        whole: The whole volume at once, in memory.
        overwrite: Start afresh.
        log: Takes lines about what goes on.
        decoding: Fields of `Decoding` to use instead of the selected or default ones.

    Raises:
        InputError: Input that does not fit, or an OUT of something else.
        BlocksFailed: Blocks are not done; the others are, and stay so.
    """
    started = time.perf_counter()
    volume, origin = open_volume(prediction), read_origin(prediction)
    scenario = settled_scenario(prediction, Scenario.named(head) if head else None, origin)
    reach = _reach(volume.scale_um, nucleus_um, origin.nucleus_um, origin.decoding, decoding.get("seeds"))
    chosen = choose_decoding(scenario, origin.decoding, **{"reach": reach, **decoding})
    warn_of_defaults(origin.points, origin.decoding, chosen, **decoding)
    task = Segment(
        prediction=prediction,
        out=out,
        scenario=scenario,
        decoding=chosen,
        block=block,
        halo=reach if nucleus_um and reach else HALO,
        max_halo=max_halo,
        engine=engine,
        whole=whole,
    )
    if log and block is not None and (whole or engine == "mahotas"):
        log("segment: the whole volume at once, in memory; the block is only how the labels are stored")
    steps = {task.name: task.blockwise(launcher, overwrite=overwrite, log=log)}
    return result_of(steps, time.perf_counter() - started)


def detect(
    prediction: str,
    out: str,
    *,
    head: str | None = None,
    source: Literal["peaks", "votes", "instances"] | None = None,
    threshold: float | None = None,
    distance: int | None = None,
    foreground_threshold: float | None = None,
    vote_passes: int | None = None,
    votes_from: Voters | None = None,
    nucleus_um: float | None = None,
    block: Shape | None = None,
    launcher: Launcher | None = None,
    overwrite: bool = False,
    log: Log | None = None,
) -> RunResult:
    """Find one point a nucleus in a prediction, ours or made elsewhere: OUT/tables/points.csv and .parquet.

    Args:
        prediction: (c, z, y, x), values after the activation.
        out: Output folder.
        head: Name of the scenario that the channels follow; None: what the prediction says.
        source: `peaks` of a head such as gauss, `votes` of center vectors, or `instances`: the centres of mass of
            OUT/labels/nuclei, which a segmentation of this prediction made. None: as selected for the model, else
            instances where there is a main head, else peaks.
        threshold: Points score more than that: height of the peak, or votes per voxel.
        distance: Half the window of the non-maximum suppression, voxels.
        foreground_threshold: Which voxels vote.
        vote_passes: Smoothing passes of the votes; another number than selected takes its own default threshold.
        votes_from: Whether the `foreground` votes, or `all` voxels.
        nucleus_um: Largest diameter of a nucleus: how far votes reach. None: what was measured in the training data.
        block: Voxels z, y, x of a block.
        launcher: Where workers run; None is one worker on this machine.
        overwrite: Start afresh.
        log: Takes lines about what goes on.

    Raises:
        InputError: Input that does not fit, or an OUT of something else.
        BlocksFailed: Blocks are not done; the others are, and stay so.
    """
    started = time.perf_counter()
    volume, origin = open_volume(prediction), read_origin(prediction)
    scenario = settled_scenario(prediction, Scenario.named(head) if head else None, origin)
    if source is None and origin.points is None and scenario.can_segment:
        source = "instances"
    changes: dict[str, Any] = {
        "threshold": threshold,
        "distance": distance,
        "foreground_threshold": foreground_threshold,
        "vote_passes": vote_passes,
        "votes_from": votes_from,
    }
    task: Detect | DetectInstances
    if source == "instances":
        given = {name: value for name, value in changes.items() if value is not None}
        if given:
            raise InputError(
                ", ".join(given),
                expected="none: these points are centres of instances, which `nucseg segment` made",
                received=", ".join(map(str, given.values())),
                remedy="leave them out, or name another source (--source votes)",
            )
        check_segmented(out, prediction)
        task = DetectInstances(out=out, block=block)
    else:
        diameters = _diameters(volume.scale_um, nucleus_um, origin.nucleus_um)
        decoding = choose_points(scenario, origin.points, source=source, **diameters, **changes)
        task = Detect(prediction=prediction, out=out, scenario=scenario, decoding=decoding, block=block)
    steps = {task.name: task.blockwise(launcher, overwrite=overwrite, log=log)}
    return result_of(steps, time.perf_counter() - started)


def _reach(
    scale_um: tuple[float, float, float] | None,
    nucleus_um: float | None,
    trained_um: float | None,
    selected: Decoding | None,
    seeds: str | None,
) -> int | None:
    """How far votes reach, voxels: what the user says, else what was selected (None), else what was measured."""
    if nucleus_um is not None:
        return diameter_voxels(nucleus_um, scale_um)
    if seeds in ("votes", "vectors") and not (selected and selected.reach) and trained_um and scale_um:
        return diameter_voxels(trained_um, scale_um)
    return None


def _diameters(
    scale_um: tuple[float, float, float] | None, nucleus_um: float | None, trained_um: float | None
) -> dict[str, Any]:
    """Largest diameter in voxels: as the user says, and as measured in the training data, if known."""
    return {
        "reach": None if nucleus_um is None else diameter_voxels(nucleus_um, scale_um),
        "known_reach": diameter_voxels(trained_um, scale_um) if trained_um and scale_um else None,
    }


def _refuse_decoding(scenario: Scenario, decoding: dict[str, Any]) -> None:
    given = [name for name, value in decoding.items() if value is not None]
    if given:
        raise InputError(
            ", ".join(given),
            expected=f"no settings of instances: a model of {scenario.name} finds points",
            received=", ".join(str(decoding[name]) for name in given),
            remedy="leave them out; `nucseg detect` on its prediction takes settings of points",
        )


def _forecast(predict: Predict, need: Callable[[Scenario, Shape], tuple[int, int]], workers: int) -> str:
    """What the run will take, before it begins."""
    scenario, shape = predict.trained().scenario, predict.grid().volume
    memory = [predict.expected_memory()[0] / 2**30, need(scenario, shape)[0] / 2**30]
    labels = label_bytes(shape) if scenario.can_segment else 0
    disk = (predict.expected_output() + labels) / 2**30
    both = f" (that predicts, and {memory[1]:.2g} GiB one behind it; {sum(memory) * max(1, workers):.2g} GiB in all)"
    return (
        f"a volume of {' x '.join(map(str, shape))} voxels: expects {memory[0]:.2g} GiB of memory a worker{both} "
        f"and at most {disk:.2g} GiB on disk, before compression"
    )
