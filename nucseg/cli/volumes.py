"""Verbs about volumes: synth, convert, check."""

from typing import Any

import click

from nucseg.cli.verb import Failed, progress_bar, verb, zyx


@click.command()
@click.argument("out")
@zyx("--shape", int, "Size in voxels.", required=True)
@click.option("--nuclei", type=int, required=True, help="How many nuclei.")
@click.option("--seed", type=int, required=True, help="The same seed gives the same voxels.")
@zyx("--scale-um", float, "Voxel size in micrometres [default: 0.122 0.116 0.116].")
@click.option("--difficulty", type=click.Choice(["easy", "worm", "hard"]), default="worm", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace an image and labels that are at OUT.")
@verb
def synth(
    out: str,
    shape: tuple[int, int, int],
    nuclei: int,
    seed: int,
    scale_um: tuple[float, float, float] | None,
    difficulty: str,
    overwrite: bool,
) -> dict[str, Any]:
    """Write a synthetic worm to OUT: the image, labels/nuclei and tables/centers.csv, block by block."""
    from nucseg.synthetic import synthesize

    options: dict[str, Any] = {} if scale_um is None else {"scale_um": scale_um}
    return synthesize(
        out,
        shape=shape,
        nuclei=nuclei,
        seed=seed,
        difficulty=difficulty,
        overwrite=overwrite,
        progress=progress_bar("synth", "block"),
        **options,
    )


@click.command()
@click.argument("source", metavar="IN")
@click.argument("out")
@zyx("--scale-um", float, "Voxel size in micrometres, where the file does not say it or is wrong.")
@click.option(
    "--labels", metavar="L", help="A label volume (file, or name below IN) to put at OUT/labels/nuclei."
)
@click.option("--points", metavar="P", help="A table of points (z,y,x columns) to put at OUT/tables/centers.")
@verb
def convert(
    source: str, out: str, scale_um: tuple[float, float, float] | None, labels: str | None, points: str | None
) -> dict[str, Any]:
    """Convert any readable volume IN to OME-Zarr 0.5 at OUT, or to TIFF when OUT ends in .tif or .tiff."""
    from nucseg.convert import convert_volume

    progress = progress_bar("convert", "voxel")
    return convert_volume(source, out, scale_um=scale_um, labels=labels, points=points, progress=progress)


@click.command()
@click.argument("volume")
@click.option(
    "--labels", metavar="NAME|FILE", help="Labels to check with it: a name below VOLUME, or a file."
)
@verb
def check(volume: str, labels: str | None) -> dict[str, Any]:
    """Look for the mistakes in VOLUME and its labels that cost most; status 1 if any is an error."""
    from nucseg.check import check_volume

    findings = check_volume(volume, labels=labels)
    result: dict[str, Any] = {
        "findings": [
            {"code": f.code, "severity": f.severity, "message": f.message, "where": f.where} for f in findings
        ]
    }
    lines = [f"{f.severity:8}{f.code}: {f.message}" + (f" [{f.where}]" if f.where else "") for f in findings]
    result["text"] = "\n".join(lines) if lines else "no findings"
    errors = sum(f.severity == "error" for f in findings)
    if errors:
        raise Failed(result, f"{volume}: {errors} error(s) found; mend them before training or segmenting")
    return result
