"""Single steps on a prediction, ours or made elsewhere: instances, or points."""

import time
from collections.abc import Callable
from typing import Any, Literal

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
from nucseg.blockwise.flooding import first_halo
from nucseg.blockwise.grid import Shape
from nucseg.blockwise.launch import Launcher
from nucseg.blockwise.result import RunResult, result_of, tell_nonfinite
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.source import check_segmented
from nucseg.errors import InputError
from nucseg.heads.decoding import Voters
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.volume import open_volume

Log = Callable[[str], None]


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
    compact: bool = False,
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
        compact: Renumber the instances from 1 without gaps, uint32, see `Segment.compact`.
        overwrite: Start afresh.
        log: Takes lines about what goes on.
        decoding: Fields of `Decoding` to use instead of the selected or default ones.

    Raises:
        InputError: Input that does not fit, or an OUT of something else.
        BlocksFailed: Blocks are not done; the others are, and stay so.
    """
    started = time.perf_counter()
    task = segment_task(
        prediction,
        out,
        head=head,
        block=block,
        nucleus_um=nucleus_um,
        max_halo=max_halo,
        engine=engine,
        whole=whole,
        compact=compact,
        **decoding,
    )
    if log and block is not None and (whole or engine == "mahotas"):
        log("segment: the whole volume at once, in memory; the block is only how the labels are stored")
    steps = {task.name: task.blockwise(launcher, overwrite=overwrite, log=log)}
    tell_nonfinite(steps, log)
    return result_of(steps, time.perf_counter() - started)


def segment_task(
    prediction: str,
    out: str,
    *,
    head: str | None = None,
    block: Shape | None = None,
    nucleus_um: float | None = None,
    max_halo: int = 128,
    engine: Literal["flood", "mahotas"] = "flood",
    whole: bool = False,
    compact: bool = False,
    **decoding: Any,
) -> Segment:
    """The task that `segment` runs, for a dry run or a chain; arguments as there.

    Raises:
        InputError: Input that does not fit.
    """
    volume, origin = open_volume(prediction), read_origin(prediction)
    scenario = settled_scenario(prediction, Scenario.named(head) if head else None, origin)
    reach = reach_for(volume.scale_um, nucleus_um, origin.nucleus_um, origin.decoding, decoding.get("seeds"))
    chosen = choose_decoding(scenario, origin.decoding, **{"reach": reach, **decoding})
    warn_of_defaults(origin.points, origin.decoding, chosen, **decoding)
    return Segment(
        prediction=prediction,
        out=out,
        scenario=scenario,
        decoding=chosen,
        block=block,
        halo=first_halo(volume.scale_um, nucleus_um, origin.nucleus_um),
        max_halo=max_halo,
        engine=engine,
        whole=whole,
        compact=compact,
    )


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
        diameters = diameters_for(volume.scale_um, nucleus_um, origin.nucleus_um)
        decoding = choose_points(scenario, origin.points, source=source, **diameters, **changes)
        task = Detect(prediction=prediction, out=out, scenario=scenario, decoding=decoding, block=block)
    steps = {task.name: task.blockwise(launcher, overwrite=overwrite, log=log)}
    tell_nonfinite(steps, log)
    return result_of(steps, time.perf_counter() - started)


def reach_for(
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


def diameters_for(
    scale_um: tuple[float, float, float] | None, nucleus_um: float | None, trained_um: float | None
) -> dict[str, Any]:
    """Largest diameter in voxels: as the user says, and as measured in the training data, if known."""
    return {
        "reach": None if nucleus_um is None else diameter_voxels(nucleus_um, scale_um),
        "known_reach": diameter_voxels(trained_um, scale_um) if trained_um and scale_um else None,
    }
