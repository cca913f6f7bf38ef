"""A real ovule, cross-validated: each half is segmented by networks that have seen the other half only.

    python pipelines/ovule/crossvalidate.py DATA FOLDER [--collect]

DATA holds `ovule_1135` (raw.tif, labels.tif). The volume is cut in two across its longest side (z), with a gap between,
so that no voxel and hardly any nucleus is in both. FOLDER gets the halves, experiment.toml (where one is there already,
with changes of yours, it stays) and the results; the same command again goes on where it stopped. A threshold and
watershed is tuned on each half and scored on the other: the floor.

A half has about 25 nuclei, too few to keep some back for choosing thresholds: these are chosen on the half that was
learned from, a copy of which serves as the validation volume.

Nuclei below 500 voxels are left out of every score: the border cuts 43 of 54, some to slivers of 9 voxels.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import tifffile

import nucseg as ns
from nucseg.errors import NucsegError
from nucseg.evaluate.floor import threshold_watershed, tune_threshold_watershed
from nucseg.experiment import ExperimentConfig, collect, run_experiment

HERE = Path(__file__).resolve().parent
SCALE_UM = (0.28371836501901143, 0.12678642066720086, 0.12678642066720086)
GAP = 8
"""Planes between the halves that belong to neither."""


def cut(data: Path, folder: Path) -> list[Path]:
    """Write the two halves as OME-Zarr with labels, unless they are there, and a copy of each; returns the halves."""
    halves = [folder / "volumes" / f"{name}.zarr" for name in ("front", "back")]
    copies = [half.with_name(f"{half.stem}_copy.zarr") for half in halves]
    if all(path.exists() for path in (*halves, *copies)):
        return halves
    raw, labels = (tifffile.imread(data / "ovule_1135" / f"{name}.tif") for name in ("raw", "labels"))
    middle = len(raw) // 2
    for half, planes in zip(
        halves, (slice(0, middle - GAP // 2), slice(middle + GAP // 2, None)), strict=True
    ):
        image = ns.create_image(
            half, shape=raw[planes].shape, dtype=raw.dtype, scale_um=SCALE_UM, overwrite=True
        )
        image.write((0, 0, 0), raw[planes])
        truth = ns.create_labels(half, shape=raw[planes].shape, dtype="uint32", scale_um=SCALE_UM)
        truth.write((0, 0, 0), labels[planes].astype(np.uint32))
    for half, copy in zip(halves, copies, strict=True):
        shutil.copytree(half, copy, dirs_exist_ok=True)
    return halves


def floor(tuned_on: Path, scored_on: Path, min_size: int) -> ns.Scores:
    """Threshold and watershed, tuned on one half, scored on the other."""
    found = tune_threshold_watershed(
        ns.open_volume(tuned_on).read(), ns.open_labels(tuned_on).read(), scale_um=SCALE_UM
    )
    labels = threshold_watershed(ns.open_volume(scored_on).read(), found.parameters)
    return ns.match(ns.open_labels(scored_on).read(), labels, min_size=min_size)


def main(data: Path, folder: Path, only_collect: bool) -> None:
    """Cut, run the experiment, tune the floor, print."""
    halves = cut(data, folder)
    if not (folder / "experiment.toml").exists():
        shutil.copyfile(HERE / "experiment.toml", folder / "experiment.toml")
    config = ExperimentConfig.from_toml(folder / "experiment.toml")
    results = folder / "results"
    found = collect(config, results) if only_collect else run_experiment(config, results, log=print)
    print(found["text"])
    for tuned_on, scored_on in (halves, halves[::-1]):
        scores = floor(tuned_on, scored_on, config.min_size)
        print(
            f"threshold + watershed, tuned on {tuned_on.stem}, scored on {scored_on.stem}: AP.3 {scores.ap[0.3]:.3f}, "
            f"AP.5 {scores.ap[0.5]:.3f}, avAP {scores.av_ap:.3f}, {scores.n_true} nuclei"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--collect", action="store_true", help="train nothing: tables of what is done already"
    )
    given = parser.parse_args()
    try:
        main(given.data, given.folder, given.collect)
    except NucsegError as error:
        sys.exit(f"crossvalidate.py: {error}")
