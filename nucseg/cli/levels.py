"""Verbs about image pyramids: downsample."""

from typing import Any

import click

from nucseg.cli.blocks import block_options
from nucseg.cli.verb import log, progress_bar, verb, zyx


@click.command()
@click.argument("volume")
@click.argument("out", required=False)
@click.option(
    "--levels",
    type=click.IntRange(min=1),
    metavar="N",
    help="Coarser levels to add [default: until the largest side is below 256 voxels].",
)
@click.option("--labels", metavar="NAME", help="Add levels to this label image of VOLUME, not to the image.")
@zyx(
    "--factor",
    int,
    "Voxels that become one, from level to level [default: 2 along each axis whose voxels are at most 1.5 times as "
    "long as the shortest].",
)
@block_options
@verb
def downsample(
    volume: str, out: str | None, launcher: Any, overwrite: bool, **options: Any
) -> dict[str, Any]:
    """Add coarser levels to VOLUME, an OME-Zarr image or label image, in place; with OUT to a copy that is made first.

    Voxels of an image are averaged; of labels the most frequent one is taken, so that ids are never mixed. A level is
    listed in the metadata when it is complete; the same command again goes on where it stopped. --overwrite makes all
    levels but the finest anew.
    """
    from nucseg.blockwise.downsample import Downsample

    if out is not None:
        _copy(volume, out, options["labels"])
        volume, options["labels"] = out, options["labels"] and "nuclei"
    return Downsample(volume=volume, **options).blockwise(launcher, overwrite=overwrite, log=log)


def _copy(volume: str, out: str, labels: str | None) -> None:
    """Convert VOLUME (and its labels, to labels/nuclei) to OUT, unless an earlier call did."""
    from nucseg.convert import convert_volume
    from nucseg.errors import InputError
    from nucseg.storage.pyramid import is_image
    from nucseg.volume import open_volume

    if not is_image(out):
        convert_volume(volume, out, labels=labels, progress=progress_bar("copy", "voxel"))
        return
    source, copy = open_volume(volume), open_volume(out)
    if (source.shape, source.channels, source.dtype) != (copy.shape, copy.channels, copy.dtype):
        raise InputError(
            out,
            expected=f"a copy of {volume}: {source.dtype} {source.shape}",
            received=f"another image: {copy.dtype} {copy.shape}",
            remedy="name another OUT, or leave VOLUME out to add levels to it in place",
        )
