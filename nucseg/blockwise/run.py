"""The whole way, from a volume and a trained network to instances (or points) and their table."""

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from nucseg.blockwise.chain import Chain
from nucseg.blockwise.decoding import choose_decoding, choose_points, warn_of_defaults
from nucseg.blockwise.detect import Detect
from nucseg.blockwise.dropping import PREDICTIONS
from nucseg.blockwise.flooding import first_halo
from nucseg.blockwise.fused import fused_tasks
from nucseg.blockwise.grid import Shape
from nucseg.blockwise.labels import label_bytes
from nucseg.blockwise.launch import Launcher, Local
from nucseg.blockwise.mask import Mask
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.preflight import check_fits, check_task, need_later, need_of, planes_at_once
from nucseg.blockwise.result import RunResult, result_of, tell_nonfinite
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.steps import diameters_for, reach_for
from nucseg.blockwise.task import Task
from nucseg.blockwise.values import check_thresholds
from nucseg.errors import InputError
from nucseg.heads.scenario import Scenario
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
    mask: Mask | None = None,
    compact: bool = False,
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
        mask: Where to look; there are no nuclei outside. None: everywhere.
        compact: Renumber the instances from 1 without gaps, uint32, see `Segment.compact`.
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
    if fused and keep:
        raise InputError(
            "keep",
            expected="nothing to keep where no prediction is stored (fused)",
            received=", ".join(keep),
            remedy="leave one of the two out",
        )
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
        mask=mask,
    )
    trained = predict.trained()
    scale = open_volume(volume, channel=channel).scale_um
    record = trained.record
    tasks: tuple[Task, ...]
    reader: Segment | Detect
    if trained.scenario.can_segment:
        selected = trained.decoding
        reach = reach_for(scale, nucleus_um, record.nucleus_um, selected, decoding.get("seeds"))
        chosen = choose_decoding(trained.scenario, selected, **{"reach": reach, **decoding})
        check_thresholds(trained.scenario, chosen)
        warn_of_defaults(trained.points, selected, chosen, **decoding)
        halo = first_halo(scale, nucleus_um, record.nucleus_um)
        reader = Segment(out=out, decoding=chosen, block=block, halo=halo, max_halo=max_halo, compact=compact)
        tasks = (reader, Measure(volume=volume, out=out, channel=channel))
        longest = chosen.reach
    else:
        _refuse_decoding(trained.scenario, {**decoding, "compact": compact or None})
        points = choose_points(
            trained.scenario, trained.points, **diameters_for(scale, nucleus_um, record.nucleus_um)
        )
        reader = Detect(out=out, decoding=points, block=block)
        tasks, longest = (reader,), points.reach
    predict = predict.model_copy(update={"reach": longest or None})
    if fused:
        check = partial(check_task, launcher=launcher, overwrite=overwrite)
        tasks = fused_tasks(predict, tasks, overwrite=overwrite, check=check, log=log)
    else:
        predict = _checked(predict, reader, launcher, overwrite, keep)
        if log:
            log(_forecast(predict, reader.memory_for, launcher.workers))
        tasks = (predict, *tasks)

    results = Chain(tasks).blockwise(launcher, overwrite=overwrite, log=log, keep=keep)
    steps = {task.name: result for task, result in zip(tasks, results, strict=True)}
    first = steps[tasks[0].name]
    tell_nonfinite({**steps, tasks[0].name: {}, "predict": first}, log)
    if log and (beyond := first["saturated"]):
        log(
            f"predict: {beyond} values lay beyond what is stored of their head and became the nearest that is"
        )
    return result_of(steps, time.perf_counter() - started)


def _checked(
    predict: Predict, reader: Segment | Detect, launcher: Launcher, overwrite: bool, keep: Collection[str]
) -> Predict:
    """The prediction, prepared if it and its reader fit: what both need is known before there is a prediction."""

    def check(task: Task) -> None:
        """Both run at the same time."""
        if not launcher.preflight:
            return
        planes = None if PREDICTIONS in keep else planes_at_once(task, [reader])
        scenario, shape = predict.trained().scenario, task.grid().volume
        needs = [
            need_of(task, launcher, overwrite=overwrite, planes=planes),
            need_later(reader, scenario, shape, launcher, overwrite),
        ]
        check_fits(needs, task.out, task.outputs() if overwrite else [])

    return predict.prepared(overwrite=overwrite, check=check)


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
