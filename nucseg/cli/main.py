"""The `nucseg` command: finds the verb, runs it, and turns what goes wrong into one line and an exit status."""

import importlib
import logging
import os
import sys
from typing import Any

import click

# verb: (module of nucseg.cli, what it does), in the order of the work
VERBS = {
    "demo": ("results", "The whole way on synthetic worms: train, segment, score, report."),
    "synth": ("volumes", "Write a synthetic worm: image, labels, true centres."),
    "convert": ("volumes", "Convert any readable volume to OME-Zarr, or OME-Zarr to TIFF."),
    "check": ("volumes", "Look for the mistakes in raw and labels that cost most."),
    "scenarios": ("models", "List the scenarios by name."),
    "train": ("models", "Train a network from a TOML."),
    "select": ("models", "Choose a run's checkpoint and decoding on validation volumes."),
    "run": ("blocks", "The whole way on one volume: predict, segment, measure."),
    "predict": ("blocks", "Predict a volume block by block."),
    "segment": ("blocks", "Segment a prediction block by block."),
    "detect": ("points", "Find one point a nucleus in a prediction, block by block."),
    "measure": ("blocks", "Write one row a nucleus: place, size, intensity."),
    "compact": ("labels", "Renumber labels from 1 without gaps, block by block."),
    "downsample": ("levels", "Add coarser levels to an image or its labels, block by block."),
    "verify": ("runs", "Read a run's OUT back, name lost or damaged blocks, repair them."),
    "status": ("runs", "Say how far a running or dead run is, and what failed."),
    "worker": ("blocks", "Run a job file; what a cluster node starts."),
    "evaluate": ("results", "Score labels or points against ground truth."),
    "experiment": ("experiments", "Scenarios x seeds: train, select, test, tables and figures."),
    "report": ("results", "Write the HTML page about a run."),
}


class Verbs(click.Group):
    """A group that imports a verb's module only when the verb is used, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, from its module; None for a name that is no verb."""
        if cmd_name not in VERBS:
            return None
        return getattr(importlib.import_module(f"nucseg.cli.{VERBS[cmd_name][0]}"), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nucseg")
def cli() -> None:
    """Find and segment every cell nucleus in large 3D microscopy volumes.

    Every verb takes --json (one JSON object on stdout, everything else on stderr) and ends with status 0 when
    it is done, 1 when the work failed or the input is bad, 2 for wrong usage. `nucseg VERB --help` says more.
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `nucseg` console script."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    cli(args=arguments, prog_name="nucseg")


def one_line(error: BaseException) -> str:
    """The message for a user: one line, without a traceback.

    Args:
        error: Any exception a verb ended with.

    Returns:
        What the user should read.
    """
    from nucseg.errors import NucsegError

    if isinstance(error, NucsegError):
        text = str(error)
    elif type(error).__name__ == "ValidationError" and hasattr(error, "errors"):
        text = "; ".join(_validation_line(e) for e in error.errors())
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        received = error.strerror or str(error)
        text = (
            f"{where}expected a path that can be read or written; received {received}; check its permissions"
        )
    elif isinstance(error, MemoryError):
        text = f"not enough memory ({error}); use smaller blocks (--block) or fewer workers (--launcher)"
    else:
        text = f"{type(error).__name__}: {error} (an error nobody foresaw; --debug shows the traceback)"
    return " ".join(text.split())


def _validation_line(detail: dict[str, Any]) -> str:
    from nucseg.errors import expected_of, short

    field = ".".join(str(part) for part in detail["loc"]) or "setting"
    return (
        f"{field}: expected {expected_of(detail)}; received {short(detail.get('input'))}; correct the setting"
    )
