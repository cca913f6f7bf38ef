"""Verbs about labels: compact."""

from typing import Any

import click

from nucseg.cli.blocks import block_options
from nucseg.cli.verb import log, verb


@click.command()
@click.argument("labels")
@click.argument("out")
@click.option("--min-size", type=click.IntRange(min=0), default=0, help="Drop instances below N voxels.")
@block_options
@verb
def compact(
    labels: str, out: str, min_size: int, block: Any, launcher: Any, overwrite: bool
) -> dict[str, Any]:
    """Renumber LABELS, of another OUT or made elsewhere, 1 to n in the order of their ids: uint32 OUT/labels/nuclei.

    OUT/tables/original_ids.npy has the id before of instance i at place i - 1. `run --compact` and `segment --compact`
    do the same in one go.
    """
    from nucseg.blockwise.compact import Compact

    task = Compact(labels=labels, out=out, min_size=min_size, block=block)
    return task.blockwise(launcher, overwrite=overwrite, log=log)
