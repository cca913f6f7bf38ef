"""The whole way, from a volume and a trained network to instances and their table; and segmentation alone."""

import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from nucseg.blockwise.decoding import choose_decoding, diameter_voxels, read_origin, settled_scenario
from nucseg.blockwise.grid import Shape
from nucseg.blockwise.labels import label_bytes
from nucseg.blockwise.launch import Launcher, Local
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.segment import HALO, Segment
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.volume import open_volume

Log = Callable[[str], None]


class RunResult(BaseModel):
    """What a run made. Counts of blocks are over all of its steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nuclei: int
    """Instances in the volume."""
    blocks: int
    skipped: int
    """Blocks that an earlier run had done."""
    failed: int
    """Always 0: a run with failed blocks raises `BlocksFailed`."""
    digest: str
    """Of the values of all labels; the same for every block shape and number of workers."""
    mvox_per_s: float
    """Million voxels of the volume a second, over all steps, not counting what was skipped."""
    peak_memory_bytes: int
    """Of the largest worker."""
    seconds: float
    steps: dict[str, dict[str, Any]]
    """What each step returned."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return self.model_dump(mode="json")


def run(
    volume: str,
    out: str,
    model: str,
    *,
    checkpoint: int | None = None,
    channel: int | None = None,
    block: Shape | None = None,
    launcher: Launcher | None = None,
    nucleus_um: float | None = None,
    max_halo: int = 128,
    overwrite: bool = False,
    log: Log | None = None,
    **decoding: Any,
) -> RunResult:
    """Predict, segment and measure a volume; the same call again goes on where it stopped.

    Args:
        volume: The raw image.
        out: Output folder: `prediction`, `labels/nuclei`, `tables/nuclei.csv` and `.parquet` in a zarr group.
        model: Folder of a training run.
        checkpoint: Its iteration; None: the selected one, else the newest.
        channel: Of the volume; None: all that the model takes.
        block: Voxels z, y, x of a block in all steps; None has each step choose.
        launcher: Where workers run; None is one worker on this machine.
        nucleus_um: Largest diameter of a nucleus: how far votes reach, and how far blocks look at first. None: what
            was measured in the training data.
        max_halo: Voxels that a block may look around itself.
        overwrite: Start all steps afresh.
        log: Takes lines about what goes on, and first the memory and disk that it will take.
        decoding: Fields of `Decoding` to use instead of the selected ones: `seeds`, `seed_threshold`,
            `foreground_threshold`, `reach` (voxels), `dilate`, `min_size`.

    Raises:
        InputError: Input that does not fit, or an OUT of something else.
        BlocksFailed: Blocks are not done; the others are, and stay so.
    """
    started = time.perf_counter()
    launcher = launcher or Local(workers=1)
    options: dict[str, Any] = {"overwrite": overwrite, "log": log}
    predict = Predict(
        volume=volume, out=out, model=model, checkpoint=checkpoint, channel=channel, block=block
    )
    trained = predict.trained()
    scale = open_volume(volume, channel=channel).scale_um
    selected = trained.decoding
    reach = _reach(scale, nucleus_um, trained.record.nucleus_um, selected, decoding.get("seeds"))
    chosen = choose_decoding(trained.scenario, selected, **{"reach": reach, **decoding})
    halo = reach if nucleus_um and reach else HALO
    segment = Segment(out=out, decoding=chosen, block=block, halo=halo, max_halo=max_halo)
    measure = Measure(volume=volume, out=out, channel=channel)
    predict = predict.prepared(overwrite=overwrite)
    if log:
        log(_forecast(predict, segment, launcher.workers))

    steps = {task.name: task.blockwise(launcher, **options) for task in (predict, segment, measure)}
    if log and (lost := steps["predict"]["nonfinite"]):
        log(f"predict: {lost} raw voxels are no number and were taken as 0")
    return _result(steps, time.perf_counter() - started)


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
    steps = {task.name: task.blockwise(launcher, overwrite=overwrite, log=log)}
    return _result(steps, time.perf_counter() - started)


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
    if seeds == "votes" and not (selected and selected.reach) and trained_um and scale_um:
        return diameter_voxels(trained_um, scale_um)
    return None


def _forecast(predict: Predict, segment: Segment, workers: int) -> str:
    """What the run will take, before it begins."""
    scenario, shape = predict.trained().scenario, predict.grid().volume
    memory = max(predict.expected_memory()[0], segment.memory_for(scenario, shape)[0]) / 2**30
    disk = (predict.expected_output() + label_bytes(shape)) / 2**30
    total = f" ({memory * workers:.2g} GiB for {workers} workers)" if workers > 1 else ""
    return (
        f"a volume of {' x '.join(map(str, shape))} voxels: expects {memory:.2g} GiB of memory a worker{total} "
        f"and at most {disk:.2g} GiB on disk, before compression"
    )


def _result(steps: dict[str, dict[str, Any]], seconds: float) -> RunResult:
    last = list(steps.values())[-1]
    megavoxels = [step["mvox_per_s"] * step["seconds"] for step in steps.values()]
    return RunResult(
        nuclei=last["nuclei"],
        blocks=sum(step["blocks"] for step in steps.values()),
        skipped=sum(step["skipped"] for step in steps.values()),
        failed=0,
        digest=steps["segment"]["digest"],
        mvox_per_s=sum(megavoxels) / len(megavoxels) / seconds,
        peak_memory_bytes=max(step["peak_memory_bytes"] for step in steps.values()),
        seconds=seconds,
        steps=steps,
    )
