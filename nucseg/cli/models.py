"""Verbs about models: scenarios, train, select."""

from typing import Any

import click

from nucseg.cli.verb import ignore_label_option, launcher_options, log, mirrors_option, progress_bar, verb


@click.command()
@verb
def scenarios() -> dict[str, Any]:
    """List the scenarios by name: what a training configuration's `scenario` may say."""
    from nucseg.heads.scenario import scenario_names

    names = list(scenario_names())
    return {"scenarios": names, "text": "\n".join(names)}


@click.command()
@click.argument("config", metavar="CONFIG.toml")
@click.option("--folder", required=True, metavar="RUN", help="Where checkpoints, losses and snapshots go.")
@click.option("--iterations", type=click.IntRange(min=1), help="Instead of the configuration's number.")
@click.option("--resume", is_flag=True, help="Go on exactly where the run in RUN stopped.")
@verb
def train(config: str, folder: str, iterations: int | None, resume: bool) -> dict[str, Any]:
    """Train a network as CONFIG.toml says."""
    from nucseg.training import TrainConfig
    from nucseg.training import train as run_training

    settings = TrainConfig.from_toml(config)
    result = run_training(settings, folder, iterations=iterations, resume=resume)
    log(f"trained to iteration {result.iteration} in {folder}")
    return {
        "iteration": result.iteration,
        "loss": result.loss,
        "seconds_per_iteration": result.seconds_per_iteration,
    }


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("volumes", metavar="VOLUMES", nargs=-1)
@click.option(
    "--for",
    "for_",
    default="segmentation",
    show_default=True,
    metavar="GOAL",
    help="segmentation, detection, or both with a comma: the first is selected, the best for each is listed.",
)
@click.option(
    "--labels",
    default="nuclei",
    show_default=True,
    metavar="NAME",
    help="The label image in each of VOLUMES.",
)
@click.option("--min-size", type=click.IntRange(min=0), default=0, help="Leave out objects below N voxels.")
@click.option(
    "--mask",
    "masks",
    multiple=True,
    metavar="NAME|FILE",
    help="What is annotated, 0 elsewhere: a label image inside each of VOLUMES, or a file, once for each of VOLUMES.",
)
@ignore_label_option
@click.option(
    "--checkpoint",
    "checkpoints",
    type=int,
    multiple=True,
    help="Iteration of a checkpoint to try; may be repeated [default: all].",
)
@click.option(
    "--grid", metavar="GRID.toml", help="Values to try, a list for each field [default: the scenario's own]."
)
@launcher_options("local:0")
@mirrors_option(default="none")
@click.option("--keep-predictions", is_flag=True, help="Keep RUN/selection/*/*/prediction for another grid.")
@verb
def select(
    run: str,
    volumes: tuple[str, ...],
    for_: str,
    labels: str,
    min_size: int,
    masks: tuple[str, ...],
    ignore_label: int | None,
    checkpoints: tuple[int, ...],
    grid: str | None,
    launcher: Any,
    mirrors: str,
    keep_predictions: bool,
) -> dict[str, Any]:
    """Choose RUN's checkpoint and decoding on VOLUMES, images with labels that it was not trained on.

    Without VOLUMES, on those that the training configuration names (data.validation), with their masks. The same
    command again does only what is missing.
    """
    from nucseg.selection import select_run

    selection = select_run(
        run,
        volumes,
        for_,
        checkpoints=checkpoints or None,
        grid=grid,
        min_size=min_size,
        labels=labels,
        masks=masks or None,
        ignore_label=ignore_label,
        mirrors=mirrors,
        launcher=launcher,
        keep_predictions=keep_predictions,
        log=log,
        progress=progress_bar("selecting", " decodings"),
    )
    return selection.to_json()
