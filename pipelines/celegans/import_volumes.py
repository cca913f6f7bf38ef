"""Import the 28 C. elegans volumes: one OME-Zarr a worm, with labels and centres, and the split.

    python pipelines/celegans/import_volumes.py DOWNLOAD OUT

DOWNLOAD is the archive c_elegans_nuclei.zip, the folder it lies in, or the unpacked folder; README.md beside this
script says which layouts are known. OUT receives volumes/NAME.zarr (image, labels/nuclei, tables/centers) and
split.json. The same command again goes on where it stopped.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from archive import unpacked
from centers import Centers, centers_from_labels, read_centers
from layouts import PARTS, Amiss, Worm, assign, find_worms, read_split
from metaimage import lacks_data, read_metaimage

import nucseg as ns
from nucseg.errors import NucsegError

HERE = Path(__file__).resolve().parent
SCALE_UM = (0.122, 0.116, 0.116)  # the paper's; the files are not relied on to say it
USUAL_NUCLEI = (450, 600)  # the archive's volumes have 512 to 566


def import_worms(download: Path, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Import all worms of a download.

    Args:
        download: Archive or folder.
        out: Folder to fill.
        options: `axes`, `scale_um`, `centers`, `split`, `split_file`, `partial`, as `main` describes them.

    Returns:
        What split.json holds: for each part the paths of its volumes, relative to `out`.

    Raises:
        InputError: Files are missing or there twice (all of them are named, before anything is imported), or a
            volume is not as expected; nothing is guessed.
    """
    amiss, folder = Amiss(), unpacked(download, out)
    kind, found = find_worms(folder, amiss)
    split = read_split(Path(options["split_file"]))
    headers = [worm for worm in found if worm.raw.suffix.lower() == ".mhd"]
    amiss.add(str(folder), "headers without their data file", [w.name for w in headers if lacks_data(w.raw)])
    if options["centers"] == "file":
        without = [worm.name for worm in found if worm.centers is None]
        amiss.add(str(folder), "worms without a table of centres (--centers labels needs none)", without)
    parts, left_out = assign(found, split, options["split"], options["partial"], amiss)
    how = {key: options[key] for key in ("axes", "scale_um", "centers")} | {"layout": kind}
    record = out / "split.json"
    if record.is_file() and (before := json.loads(record.read_text(encoding="utf-8"))["how"]) != how:
        raise ns.InputError(
            str(out),
            expected=f"an import with {before}",
            received=f"{how}",
            remedy="give the same options, or another folder",
        )
    volumes = out / "volumes"
    volumes.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {part: [f"volumes/{worm.name}.zarr" for worm in parts[part]] for part in PARTS}
    summary |= {"left_out": left_out, "how": how}
    record.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    for part in PARTS:
        for worm in parts[part]:
            target = volumes / f"{worm.name}.zarr"
            state = "there already" if target.exists() else import_worm(worm, target, options)
            print(f"{part:>10}  {worm.name}: {state}", flush=True)
    if left_out:
        print(f"{'left out':>10}  {', '.join(left_out)}")
    return summary


def import_worm(worm: Worm, target: Path, options: dict[str, Any]) -> str:
    """Check one worm and write it; it appears whole or not at all. Returns a line about it."""
    raw, labels = (_read(path, options["axes"]) for path in (worm.raw, worm.labels))
    _check(worm, raw, labels)
    from_file = worm.centers is not None and options["centers"] != "labels"
    centers = read_centers(worm.centers, labels) if from_file else centers_from_labels(labels)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".import-") as temporary:
        folder = Path(temporary)
        np.save(folder / "raw.npy", raw)
        np.save(folder / "labels.npy", labels)
        ns.write_table(folder, "centers", _columns(centers))
        ns.convert_volume(
            folder / "raw.npy",
            target,
            scale_um=options["scale_um"],
            labels=folder / "labels.npy",
            points=folder / "tables" / "centers.csv",
        )
    line = f"{raw.shape} {raw.dtype}, {len(centers.ids)} nuclei, centres from {'file' if from_file else 'labels'}"
    if from_file:
        line += " (median {:+.2f} {:+.2f} {:+.2f} from the centres of mass)".format(*centers.shift)
    if not USUAL_NUCLEI[0] <= len(centers.ids) <= USUAL_NUCLEI[1]:
        line += f"; NOTE: {USUAL_NUCLEI[0]} to {USUAL_NUCLEI[1]} nuclei are usual"
    return line


def _columns(centers: Centers) -> dict[str, np.ndarray]:
    columns = {"id": centers.ids} | {axis: centers.points[:, k] for k, axis in enumerate("zyx")}
    return columns | ({"name": centers.names} if centers.names.any() else {})


def _read(path: Path, axes: str) -> np.ndarray:
    """A volume (z, y, x). What a TIFF calls its axes is not looked at: `axes` says their order."""
    if path.suffix.lower() == ".mhd":
        return read_metaimage(path)
    try:
        with tifffile.TiffFile(path) as tiff:
            shapes = [series.shape for series in tiff.series]
            data = tiff.series[0].asarray() if len(shapes) == 1 else np.empty(0)
    except (tifffile.TiffFileError, ValueError, OSError) as error:
        raise ns.InputError(
            str(path),
            expected="a readable TIFF stack",
            received=str(error),
            remedy="unpack the archive again",
        ) from error
    data = data.reshape([n for n in data.shape if n != 1] or [1])
    if data.ndim != 3:
        raise ns.InputError(
            str(path),
            expected="one stack of three axes",
            received=f"{len(shapes)} series of shapes {shapes}",
            remedy="save the volume as one stack",
        )
    return np.ascontiguousarray(data.transpose([axes.index(axis) for axis in "zyx"]))


def _check(worm: Worm, raw: np.ndarray, labels: np.ndarray) -> None:
    expected, received = [], []
    if raw.shape != labels.shape:
        expected.append("image and labels of one shape")
        received.append(f"image {raw.shape}, labels {labels.shape}")
    if raw.dtype.kind not in "uif":
        expected.append("an image of integers or floats")
        received.append(f"image {raw.dtype}")
    if labels.dtype.kind not in "ui":
        expected.append("labels of an integer type")
        received.append(f"labels {labels.dtype}")
    elif len(ids := np.unique(labels)) < 3 or ids[0] != 0:
        expected.append("labels of several nuclei, 0 for background")
        received.append(f"the values {', '.join(map(str, ids[:5].tolist()))}{' ...' if len(ids) > 5 else ''}")
    if raw.ndim == 3 and raw.shape[2] <= max(raw.shape[:2]):
        expected.append("the worm's long axis last (x), about 140 x 140 x 1100")
        received.append(f"{raw.shape} as z, y, x")
    if expected:
        raise ns.InputError(
            f"{worm.name} ({worm.raw}, {worm.labels})",
            expected="; ".join(expected),
            received="; ".join(received),
            remedy="check the files; --axes names another order of a TIFF's axes, as in --axes xyz",
        )


def options_parser(description: str) -> argparse.ArgumentParser:
    """The arguments of an import."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "download", type=Path, help="c_elegans_nuclei.zip, its folder, or the unpacked folder"
    )
    parser.add_argument("out", type=Path, help="folder to fill")
    parser.add_argument("--axes", default="zyx", choices=["zyx", "zxy", "yzx", "yxz", "xzy", "xyz"],
                        help="order of a TIFF's axes")  # fmt: skip
    parser.add_argument("--scale-um", type=float, nargs=3, default=SCALE_UM, metavar=("Z", "Y", "X"))
    parser.add_argument("--centers", default="auto", choices=["auto", "file", "labels"],
                        help="from the authors' tables where there are any, always, or never")  # fmt: skip
    parser.add_argument("--split", default="both", choices=["both", "names", "folders"],
                        help="by file name and folder, which must agree, or by one of them")  # fmt: skip
    parser.add_argument("--split-file", type=Path, default=HERE / "split.toml", help="names by part")
    parser.add_argument("--partial", action="store_true", help="worms may be missing")
    return parser


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `import_worms`."""
    return vars(arguments) | {"scale_um": list(arguments.scale_um)}


if __name__ == "__main__":
    given = options_parser(__doc__).parse_args()
    try:
        import_worms(given.download, given.out, options_of(given))
    except NucsegError as error:
        sys.exit(f"import_volumes.py: {error}")
