"""Verbs that work block by block: run, predict, segment, measure, worker."""

import functools
from collections.abc import Callable
from typing import Any

import click

from nucseg.cli.verb import launcher_options, log, mirrors_option, verb, zyx


def checkpoint_option(function: Callable) -> Callable:
    """`--checkpoint`, of `run` and `predict`."""
    return click.option(
        "--checkpoint", type=int, help="Iteration of the checkpoint [default: the selected, else the last]."
    )(function)


def encoding_option(function: Callable) -> Callable:
    """`--encoding`, of `run` and `predict`."""
    return click.option(
        "--encoding",
        type=click.Choice(["float32", "float16", "uint16", "uint8"]),
        help="How the prediction is stored; uint8 and uint16 with a scale for each channel "
        "[default: uint16, float32 where a head says no range].",
    )(function)


def block_options(function: Callable) -> Callable:
    """`--block`, `--launcher`, `--cluster`, `--overwrite` and `--no-preflight`, the same for every blockwise verb."""
    function = click.option(
        "--no-preflight",
        is_flag=True,
        help="Start even if memory or disk do not suffice by what is expected.",
    )(function)
    function = click.option(
        "--overwrite", is_flag=True, help="Start afresh where OUT holds a run with other settings."
    )(function)
    function = launcher_options("local:1")(function)
    return zyx("--block", int, "Block (and shard) size in voxels.")(function)


def mask_options(function: Callable) -> Callable:
    """`--mask` and what belongs to it, of `run` and `predict`; the function takes `mask`, a `Mask` or None."""

    @functools.wraps(function)
    def masked(
        *args: Any, mask: str | None, mask_level: int, mask_above: float, mask_grow: int, **options: Any
    ) -> Any:
        from nucseg.blockwise.mask import Mask

        if mask is None and (mask_level or mask_above or mask_grow):
            raise click.UsageError("--mask-level, --mask-above and --mask-grow need --mask")
        chosen = mask and Mask(path=mask, level=mask_level, above=mask_above, grow=mask_grow)
        return function(*args, mask=chosen, **options)

    for option in (
        click.option(
            "--mask-grow", type=click.IntRange(min=0), default=0, help="Grow it by N of its voxels."
        ),
        click.option(
            "--mask-above", type=float, default=0.0, help="Its voxels above this are inside [default: 0]."
        ),
        click.option("--mask-level", type=click.IntRange(min=0), default=0, help="Level of its pyramid."),
        click.option(
            "--mask",
            metavar="IMAGE",
            help="Look only inside this mask, which may be a coarse level of VOLUME; outside there are no nuclei, "
            "and blocks wholly outside are skipped.",
        ),
    ):
        masked = option(masked)
    return masked


def dry_run_option(function: Callable) -> Callable:
    """`--dry-run`, of `run`, `predict`, `segment` and `measure`."""
    return click.option(
        "--dry-run",
        is_flag=True,
        help="Do one block in memory and a temporary folder, say what all would take, and write nothing to OUT "
        "(of run: the prediction, its longest step).",
    )(function)


def vote_options(function: Callable) -> Callable:
    """`--vote-passes` and `--votes-from`, the same for seeds and points from votes."""
    function = click.option(
        "--votes-from", type=click.Choice(["foreground", "all"]), help="Voxels that vote."
    )(function)
    return click.option(
        "--vote-passes",
        type=click.IntRange(0, 6),
        help="Smoothing passes of the votes, each of variance 1/2.",
    )(function)


def segment_options(function: Callable) -> Callable:
    """The decoding options of `segment` and `run`."""
    for option in (
        click.option(
            "--compact", is_flag=True, help="Renumber instances 1, 2, ... n as uint32 (two more passes)."
        ),
        click.option("--min-size", type=click.IntRange(min=0), help="Drop instances below N voxels."),
        click.option(
            "--dilate", type=click.IntRange(min=0), help="Grow instances by N voxels, into background only."
        ),
        click.option(
            "--max-halo", type=click.IntRange(min=1), default=128, show_default=True, help="Largest halo."
        ),
        vote_options,
        click.option("--foreground-threshold", type=float, help="Foreground threshold of the main head."),
        click.option("--seed-threshold", type=float, help="Seed threshold (votes: votes a voxel)."),
        click.option(
            "--distance", type=click.IntRange(min=1), help="Vectors: half the window of a peak, voxels."
        ),
        click.option(
            "--within", type=click.IntRange(min=0), help="Vectors: how far from a peak one may end, voxels."
        ),
        click.option(
            "--seeds",
            type=click.Choice(["main", "votes", "vectors"]),
            help="Where seeds come from; vectors: no watershed, voxels join the peak that they point to.",
        ),
        click.option(
            "--nucleus-um",
            type=float,
            metavar="D",
            help="Largest nucleus diameter in micrometres: how far votes and vectors reach, which need it [default: as "
            "selected or measured in the training data; a prediction made elsewhere has none].",
        ),
    ):
        function = option(function)
    return function


@click.command()
@click.argument("volume")
@click.argument("out")
@click.option("--model", required=True, metavar="RUN", help="A training run's folder.")
@checkpoint_option
@mirrors_option(default=None)
@encoding_option
@click.option(
    "--fused",
    is_flag=True,
    help="Store no prediction: each block predicts what it segments, its surroundings too, which takes 2 to 4 times "
    "the computation; the factor is printed.",
)
@click.option(
    "--keep",
    multiple=True,
    type=click.Choice(["predictions"]),
    help="predictions: leave OUT/prediction on disk, to segment it again; else each of its blocks is deleted when all "
    "that reads it is done.",
)
@block_options
@segment_options
@dry_run_option
@verb
@mask_options
def run(volume: str, out: str, model: str, launcher: Any, dry_run: bool, **options: Any) -> dict[str, Any]:
    """Predict, segment and measure VOLUME into OUT; the same command again goes on where it stopped.

    Segmentation begins while prediction goes on. Predictions are by far the largest thing that is written, and are
    deleted block by block when they are not needed any more, unless --keep predictions is given; the same command
    with it makes them again.
    """
    from nucseg.blockwise.estimate import probe
    from nucseg.blockwise.predict import Predict
    from nucseg.blockwise.run import run as run_volume

    if dry_run:
        names = ("checkpoint", "mirrors", "encoding", "block", "mask")
        fields = {name: options[name] for name in names}
        return probe(Predict(volume=volume, out=out, model=model, **fields), launcher)
    result = run_volume(volume, out, model=model, launcher=launcher, log=log, **options)
    return result.to_json()


@click.command()
@click.argument("volume")
@click.argument("out")
@click.option("--model", required=True, metavar="RUN", help="A training run's folder.")
@checkpoint_option
@mirrors_option(default=None)
@encoding_option
@click.option(
    "--nucleus-um",
    type=float,
    metavar="D",
    help="Largest nucleus diameter in micrometres that will be decoded with, if larger than in the training data.",
)
@block_options
@dry_run_option
@verb
@mask_options
def predict(
    volume: str,
    out: str,
    model: str,
    checkpoint: int | None,
    mirrors: str | None,
    encoding: Any,
    nucleus_um: float | None,
    block: Any,
    launcher: Any,
    overwrite: bool,
    dry_run: bool,
    mask: Any,
) -> dict[str, Any]:
    """Predict VOLUME block by block into OUT/prediction."""
    from nucseg.blockwise.decoding import diameter_voxels
    from nucseg.blockwise.estimate import probe
    from nucseg.blockwise.predict import Predict
    from nucseg.volume import open_volume

    reach = None if nucleus_um is None else diameter_voxels(nucleus_um, open_volume(volume).scale_um)
    task = Predict(
        volume=volume,
        out=out,
        model=model,
        checkpoint=checkpoint,
        mirrors=mirrors,
        encoding=encoding,
        reach=reach,
        block=block,
        mask=mask,
    )
    if dry_run:
        return probe(task, launcher)
    return task.blockwise(launcher, overwrite=overwrite, log=log)


@click.command()
@click.argument("prediction")
@click.argument("out")
@click.option(
    "--head", help="The scenario that PREDICTION's channels follow [default: the one OUT was predicted with]."
)
@click.option("--whole", is_flag=True, help="The whole volume at once, in memory.")
@click.option(
    "--engine",
    type=click.Choice(["flood", "mahotas"]),
    default="flood",
    show_default=True,
    help="mahotas: the reference implementation; implies --whole, --block is then only the shard.",
)
@block_options
@segment_options
@dry_run_option
@verb
def segment(prediction: str, out: str, dry_run: bool, **options: Any) -> dict[str, Any]:
    """Segment PREDICTION (channel first, after the activation) into OUT/labels/nuclei."""
    from nucseg.blockwise.estimate import probe
    from nucseg.blockwise.steps import segment as segment_prediction
    from nucseg.blockwise.steps import segment_task

    if dry_run:
        launcher, _ = options.pop("launcher"), options.pop("overwrite")
        return probe(segment_task(prediction, out, **options), launcher)
    return segment_prediction(prediction, out, log=log, **options).to_json()


@click.command()
@click.argument("volume")
@click.argument("out")
@block_options
@dry_run_option
@verb
def measure(
    volume: str, out: str, block: Any, launcher: Any, overwrite: bool, dry_run: bool
) -> dict[str, Any]:
    """Measure each nucleus of OUT/labels/nuclei on VOLUME into OUT/tables/nuclei.csv and .parquet."""
    from nucseg.blockwise.estimate import probe
    from nucseg.blockwise.measure import Measure

    task = Measure(volume=volume, out=out, block=block)
    if dry_run:
        return probe(task, launcher)
    return task.blockwise(launcher, overwrite=overwrite, log=log)


@click.command()
@click.argument("job", metavar="JOB.json")
@verb
def worker(job: str) -> dict[str, Any]:
    """Run the job file JOB.json; what a launcher starts on a cluster node."""
    from nucseg.blockwise.worker import run_job

    return run_job(job)
