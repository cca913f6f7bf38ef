"""Train a scenario; the pipeline is written out, to be copied and changed.

    python pipelines/train.py pipelines/three_label_cpv.toml runs/first [--iterations N] [--resume]

`nucseg train` runs the same nodes in the same order. Here you add your own, drop one, or exchange the sources.
"""

import argparse

import gunpowder as gp
from tqdm import trange

import nucseg as ns
from nucseg.training import prepare

RAW, LABELS, MASK = gp.ArrayKey("RAW"), gp.ArrayKey("LABELS"), gp.ArrayKey("MASK")


def main(config: ns.TrainConfig, folder: str, iterations: int, resume: bool) -> None:
    """Build the pipeline and pull one batch a training step."""
    known = prepare(config)  # volumes, voxel size, largest nucleus, vector scale: measured where not given
    train = ns.KerasTrain(
        known.scenario,
        known.network,
        raw=RAW,
        folder=folder,
        iterations=iterations,
        optimizer=config.optimizer,
        precision=config.precision,
        checkpoint_every=config.checkpoint_every or -(-iterations // 8),
        seed=config.seed,
        resume=resume,
        scale_um=known.scale_um,
        normalize=config.data.normalize,
        nucleus_um=known.nucleus_um if known.scale_um else None,
    )
    datasets = [
        {RAW: "image", LABELS: labels} for labels in known.datasets
    ]  # or balls around annotated points
    for dataset, annotated in zip(datasets, known.masks, strict=bool(known.masks)):
        dataset[MASK] = annotated  # only where a part of a volume is annotated, else there are no masks
    mask = MASK if known.masks else None
    sources = tuple(
        ns.VolumeSource(volume, dataset, normalize=config.data.normalize)
        + ns.RandomPatch(config.patch.output, mask=mask)
        for volume, dataset in zip(known.volumes, datasets, strict=True)
    )
    pipeline = (
        sources
        + gp.RandomProvider()
        + ns.Deform(
            RAW,
            LABELS,
            masks=MASK if mask else (),
            rotation_deg=45,
            spacing=10,
            jitter=1.0,
            p=0.25,
            scale_um=known.scale_um,
        )
        + ns.ScaleShift(RAW)
        + ns.AddTargets(LABELS, known.scenario, mask=mask, margin=known.margin, scale_um=known.scale_um)
        + gp.Stack(config.patch.batch)
        + ns.PreCache(num_workers=1, seed=config.seed, start=train.iteration)
        + train
    )
    request = train.request(config.patch.output)
    with gp.build(pipeline), trange(train.iteration, iterations, unit="it") as steps:
        for _ in steps:
            steps.set_postfix(loss=f"{pipeline.request_batch(request).loss:.3f}", refresh=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="a training TOML")
    parser.add_argument("folder", help="the run folder")
    parser.add_argument("--iterations", type=int, help="instead of the TOML's")
    parser.add_argument("--resume", action="store_true", help="go on where the run stopped")
    arguments = parser.parse_args()
    settings = ns.TrainConfig.from_toml(arguments.config)
    main(settings, arguments.folder, arguments.iterations or settings.iterations, arguments.resume)
