"""A real ovule, cross-validated: each half is segmented by networks that have seen the other half only.

    python pipelines/ovule/crossvalidate.py DATA FOLDER [--collect]

DATA holds `ovule_1135` (raw.tif, labels.tif). The volume is cut in two across its longest side (z), with a gap between,
so that no voxel and hardly any nucleus is in both. FOLDER gets the halves, experiment.toml (where one is there already,
with changes of yours, it stays) and the results; the same command again goes on where it stopped. A threshold and
watershed is tuned on each half and scored on the other: the floor.

Voxels are 0.28 x 0.13 x 0.13 um and noisy, nuclei 25 of them wide. Four neighbours in y and x are averaged: voxels are
nearly cubes then, noise is halved, and the network sees twice as far. Labels are scored there, and once more enlarged
to the original voxels. Both halves keep the intensities of the one image that they are: a bright fibre in the front
half would scale it otherwise than the back by its own percentiles, and a network that learns from one then fails on
the other.

A half has about 25 nuclei, too few to keep some back for choosing thresholds: these are chosen on the half that was
learned from, a copy of which serves as the validation volume.

Nuclei below 500 original voxels are left out of every score: the border cuts 43 of 54, some to slivers of 9 voxels.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import tifffile

import nucseg as ns
from nucseg.errors import NucsegError
from nucseg.evaluate.floor import threshold_watershed
from nucseg.evaluate.floor_search import tune_threshold_watershed
from nucseg.experiment import ExperimentConfig, collect, run_experiment

HERE = Path(__file__).resolve().parent
SCALE_UM = (0.28371836501901143, 0.12678642066720086, 0.12678642066720086)
GAP = 8
"""Planes between the halves that belong to neither."""
WIDTH = 2
"""Voxels y and x of which the mean is taken."""


def cut(data: Path, folder: Path) -> list[Path]:
    """Write the two halves as OME-Zarr with labels, unless they are there, and a copy of each; returns the halves."""
    halves = [folder / "volumes" / f"{name}.zarr" for name in ("front", "back")]
    copies = [half.with_name(f"{half.stem}_copy.zarr") for half in halves]
    if all(path.exists() for path in (*halves, *copies)):
        return halves
    scale_um = (SCALE_UM[0], WIDTH * SCALE_UM[1], WIDTH * SCALE_UM[2])
    raw = tifffile.imread(data / "ovule_1135" / "raw.tif")
    deep, high, wide = raw.shape
    raw = raw.reshape(deep, high // WIDTH, WIDTH, wide // WIDTH, WIDTH).mean((2, 4), dtype=np.float32)
    labels = original_labels(data)[:, WIDTH // 2 :: WIDTH, WIDTH // 2 :: WIDTH]
    for half, planes in zip(halves, planes_of_halves(deep), strict=True):
        image = ns.create_image(
            half, shape=raw[planes].shape, dtype=raw.dtype, scale_um=scale_um, overwrite=True
        )
        image.write((0, 0, 0), raw[planes])
        truth = ns.create_labels(half, shape=raw[planes].shape, dtype="uint32", scale_um=scale_um)
        truth.write((0, 0, 0), labels[planes])
    for half, copy in zip(halves, copies, strict=True):
        shutil.copytree(half, copy, dirs_exist_ok=True)
    return halves


def original_labels(data: Path) -> np.ndarray:
    """The labels as they were published, uint32 (z, y, x)."""
    return tifffile.imread(data / "ovule_1135" / "labels.tif").astype(np.uint32)


def planes_of_halves(deep: int) -> tuple[slice, slice]:
    """The planes of the front and of the back half of so many."""
    return slice(0, deep // 2 - GAP // 2), slice(deep // 2 + GAP // 2, None)


def enlarged(labels: np.ndarray) -> np.ndarray:
    """Labels of averaged voxels for the voxels that were averaged."""
    return labels.repeat(WIDTH, axis=1).repeat(WIDTH, axis=2)


def rescored(results: Path, data: Path, min_size: int) -> str:
    """AP at .5 of every segmentation that the experiment kept, against the published labels; a line each."""
    truth = original_labels(data)
    planes = dict(zip(("front", "back"), planes_of_halves(len(truth)), strict=True))
    lines = []
    for kept in sorted(results.glob("*/*/*/instances/0/labels/*")):
        half, scenario, seed, *_, seeds = kept.relative_to(results).parts
        if half in planes and kept.is_dir():
            labels = enlarged(ns.open_labels(kept.parents[1], seeds).read())
            ap = ns.match(truth[planes[half]], labels, min_size=min_size).ap[0.5]
            lines.append(f"{half} {scenario} {seed} {seeds}: AP.5 {ap:.3f} against the published labels")
    return "\n".join(lines)


def floor(tuned_on: Path, scored_on: Path, min_size: int) -> ns.Scores:
    """Threshold and watershed, tuned on one half, scored on the other."""
    found = tune_threshold_watershed(
        ns.open_volume(tuned_on).read(),
        ns.open_labels(tuned_on).read(),
        scale_um=ns.open_volume(tuned_on).scale_um,
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
    print(rescored(results, data, config.min_size * WIDTH**2))
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
