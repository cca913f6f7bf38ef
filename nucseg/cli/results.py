"""Verbs about results: evaluate, report, demo."""

from typing import Any

import click

from nucseg.cli.verb import ignore_label_option, log, verb

_mask_option = click.option(
    "--mask",
    metavar="NAME|FILE",
    help="What of the truth is annotated, 0 elsewhere: a label image inside it, or a file.",
)


@click.command()
@click.argument("predicted")
@click.argument("truth")
@click.option("--min-size", type=click.IntRange(min=0), default=0, help="Leave out objects below N voxels.")
@_mask_option
@ignore_label_option
@verb
def evaluate(
    predicted: str, truth: str, min_size: int, mask: str | None, ignore_label: int | None
) -> dict[str, Any]:
    """Score PREDICTED (labels, or a table of points) against the labels TRUTH.

    What is not annotated (--mask, --ignore-label) is neither right nor wrong.
    """
    from nucseg.blockwise.presence import check_labels
    from nucseg.evaluate import evaluate_paths

    check_labels(predicted)
    options: dict[str, Any] = {"mask": mask, "ignore_label": ignore_label}
    return evaluate_paths(predicted, truth, min_size, **options).to_json()


@click.command()
@click.argument("folder", metavar="DIR")
@click.option("--truth", metavar="LABELS", help="True labels to compare the OUT of a run with.")
@click.option("--min-size", type=click.IntRange(min=0), default=0, help="Leave out objects below N voxels.")
@_mask_option
@ignore_label_option
@verb
def report(
    folder: str, truth: str | None, min_size: int, mask: str | None, ignore_label: int | None
) -> dict[str, Any]:
    """Write one self-contained HTML page about DIR: a demo, a training run, an experiment, or the OUT of a run."""
    from nucseg.report import report_folder

    options: dict[str, Any] = {"mask": mask, "ignore_label": ignore_label}
    return {"path": str(report_folder(folder, truth=truth, min_size=min_size, **options).resolve())}


@click.command()
@click.option(
    "--folder", default="nucseg-demo", show_default=True, metavar="DIR", help="Where everything goes."
)
@click.option("--quick", is_flag=True, help="Seconds of training: shows the way, not the quality.")
@verb
def demo(folder: str, quick: bool) -> dict[str, Any]:
    """Synthetic worms: train 3-label+cpv, select, predict and segment blockwise, evaluate, report."""
    from nucseg.demo import run_demo

    return run_demo(folder, quick=quick, log=log)
