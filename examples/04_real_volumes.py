"""Real volumes: train on one half of an ovule, score the other half, and run two volumes the network never saw.

    python examples/04_real_volumes.py DATA [FOLDER] [--iterations 3000]

DATA holds `ovule_1135` and `qcanet_8cell` (raw.tif, labels.tif, meta.json) and `blastocyst_dapi_raw` (raw.tif). The
configuration is pipelines/ovule.toml. Scores leave out objects below a stated size: the ovule's border cuts 43 of
its 54 nuclei, some to slivers of 9 voxels.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

import nucseg as ns

HERE = Path(__file__).resolve().parent
SCALE_UM = {
    "ovule_1135": (0.28371836501901143, 0.12678642066720086, 0.12678642066720086),
    "qcanet_8cell": (1.75, 0.8, 0.8),
    "blastocyst_dapi_raw": (0.5, 0.36, 0.36),
}
SEGMENTED = ("ovule_test", "qcanet_8cell", "blastocyst_dapi_raw")
MIN_SIZE = 500
BLOCK = (64, 64, 64)
GAP = slice(56, 64)  # x: what lies before trains, what lies behind is scored, nothing is in both


def convert(data: Path, volumes: Path) -> None:
    """All volumes to OME-Zarr, the ovule in two parts."""
    for name, scale_um in SCALE_UM.items():
        labels = data / name / "labels.tif"
        ns.convert_volume(
            data / name / "raw.tif",
            volumes / f"{name}.zarr",
            scale_um=scale_um,
            labels=str(labels) if labels.exists() else None,
        )
    raw = ns.open_volume(volumes / "ovule_1135.zarr").read()
    labels = ns.open_labels(volumes / "ovule_1135.zarr").read()
    for part, x in (("train", slice(0, GAP.start)), ("test", slice(GAP.stop, None))):
        scale_um, out = SCALE_UM["ovule_1135"], volumes / f"ovule_{part}.zarr"
        image = ns.create_image(out, shape=raw[..., x].shape, dtype=raw.dtype, scale_um=scale_um)
        image.write((0, 0, 0), raw[..., x])
        truth = ns.create_labels(out, shape=raw[..., x].shape, dtype="uint32", scale_um=scale_um)
        truth.write((0, 0, 0), labels[..., x].astype(np.uint32))


def main(data: Path, folder: Path, iterations: int | None, names: list[str]) -> None:
    """Convert, check, train, select, run, score."""
    volumes, run = folder / "volumes", folder / "run"
    shutil.copytree(HERE.parent / "pipelines", folder / "pipelines", dirs_exist_ok=True)
    if not (volumes / "ovule_test.zarr").exists():
        convert(data, volumes)
    for finding in ns.check_volume(volumes / "ovule_1135.zarr", labels="nuclei"):
        print(f"check ovule_1135: {finding.severity} {finding.code}: {finding.message}")

    config = ns.TrainConfig.from_toml(folder / "pipelines" / "ovule.toml")
    trained = ns.train(config, run, iterations=iterations, resume=True)
    # Thresholds and seeds are chosen where the network was trained, the other half stays unseen.
    learned = [volumes / "ovule_train.zarr"]
    chosen = ns.select_run(run, learned, checkpoints=[trained.iteration], min_size=MIN_SIZE)
    print("selected:", ", ".join(f"{name} {value}" for name, value in dict(chosen.candidate).items()))

    for name in names:
        volume, out = volumes / f"{name}.zarr", folder / f"{name}_out.zarr"
        # The ovule's percentiles leave out a fibre; in other volumes nuclei may be less than 3 % of the voxels.
        limits = None if name.startswith("ovule") else ns.open_volume(volume).intensity_range(1.0, 99.8)
        # Where nuclei lie close the foreground is one object, longer than the usual largest halo.
        result = ns.run(
            str(volume),
            str(out),
            str(run),
            block=BLOCK,
            intensity=limits,
            launcher=ns.Local(workers=2),
            max_halo=256,
            min_size=100,
        )
        line = f"{name}: {result.nuclei} nuclei in {result.blocks} blocks, {result.mvox_per_s:.2f} Mvox/s"
        if (volume / "labels").exists():
            scores = ns.evaluate_paths(out, volume, min_size=MIN_SIZE)
            line += f"; {scores.n_true} true ones of at least {MIN_SIZE} voxels, AP.3 {scores.ap[0.3]:.2f}, "
            line += f"AP.5 {scores.ap[0.5]:.2f}, detection AP {scores.detection_ap:.2f}"
        print(line)
        print(f"  {ns.report_folder(out)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.mkdtemp(prefix="nucseg-")))
    parser.add_argument("--iterations", type=int, help="instead of the configuration's")
    parser.add_argument("--volumes", nargs="+", choices=SEGMENTED, default=SEGMENTED, help="which to segment")
    arguments = parser.parse_args()
    main(arguments.data, arguments.folder, arguments.iterations, arguments.volumes)
