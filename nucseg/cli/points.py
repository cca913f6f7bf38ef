"""Verbs about points: detect."""

from typing import Any

import click

from nucseg.cli.blocks import block_options, vote_options
from nucseg.cli.verb import log, verb


@click.command()
@click.argument("prediction")
@click.argument("out")
@click.option(
    "--head", help="The scenario that PREDICTION's channels follow [default: the one OUT was predicted with]."
)
@click.option(
    "--source",
    type=click.Choice(["peaks", "votes", "instances"]),
    help="Maxima of the head's output (gauss), of votes (cpv), or centres of OUT's instances [default: as selected, "
    "else instances where the scenario has them, else peaks].",
)
@click.option("--threshold", type=float, help="Points score more than that (votes: votes a voxel).")
@click.option(
    "--distance", type=click.IntRange(min=1), metavar="D", help="Maxima of windows of 2 D + 1 voxels a side."
)
@click.option("--foreground-threshold", type=float, help="Foreground threshold of the voxels that vote.")
@vote_options
@click.option(
    "--nucleus-um",
    type=float,
    metavar="D",
    help="Largest nucleus diameter in micrometres: how far votes reach. Votes need it [default: as selected or "
    "measured in the training data; a PREDICTION made elsewhere has none].",
)
@block_options
@verb
def detect(prediction: str, out: str, **options: Any) -> dict[str, Any]:
    """Find one point a nucleus in PREDICTION (channel first) and write OUT/tables/points.csv and .parquet."""
    from nucseg.blockwise.steps import detect as detect_points

    return detect_points(prediction, out, log=log, **options).to_json()
