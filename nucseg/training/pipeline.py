"""The gunpowder pipeline of a training configuration."""

from collections.abc import Callable, Sequence
from pathlib import Path

import gunpowder as gp

from nucseg.annotation import Voxels
from nucseg.network.train import KerasTrain
from nucseg.nodes.add_targets import AddTargets, target_keys, weight_keys
from nucseg.nodes.blur import Blur
from nucseg.nodes.deform import Deform
from nucseg.nodes.gamma import Gamma
from nucseg.nodes.gaussian_noise import GaussianNoise
from nucseg.nodes.poisson_noise import PoissonNoise
from nucseg.nodes.precache import PreCache
from nucseg.nodes.random_patch import RandomPatch
from nucseg.nodes.scale_shift import ScaleShift
from nucseg.nodes.volume_source import VolumeSource
from nucseg.point_labels import PointLabels
from nucseg.training.config import Augment, TrainConfig
from nucseg.training.data import Prepared

RAW = gp.ArrayKey("RAW")
LABELS = gp.ArrayKey("LABELS")
MASK = gp.ArrayKey("MASK")

CACHE_PER_WORKER = 8
"""Batches that wait to be trained on."""

Extra = Sequence[Callable[[gp.ArrayKey], gp.BatchFilter]]


def training_pipeline(
    config: TrainConfig, prepared: Prepared, folder: str | Path, *, resume: bool = False, extra: Extra = ()
) -> tuple[gp.Pipeline, KerasTrain]:
    """All nodes from the volumes to the training node.

    Args:
        config: The configuration.
        prepared: What `prepare(config)` returned.
        folder: The run folder.
        resume: Go on from the newest checkpoint; the batches go on where they were, too.
        extra: Further augmentations of raw: called with its key, each returns a node.

    Returns:
        The pipeline and its last node, whose `request(config.patch.output)` is what to request.
    """
    checkpoint_every = config.checkpoint_every or min(10_000, -(-config.iterations // 8))
    snapshot_every = config.snapshot_every or checkpoint_every
    train = KerasTrain(
        prepared.scenario,
        prepared.network,
        raw=RAW,
        labels=LABELS,
        folder=folder,
        iterations=config.iterations,
        targets=target_keys(prepared.scenario),
        weights=weight_keys(prepared.scenario),
        optimizer=config.optimizer,
        precision=config.precision,
        checkpoint_every=checkpoint_every,
        snapshot_every=snapshot_every,
        seed=config.seed,
        resume=resume,
        tensorboard=config.tensorboard,
        threads=config.threads,
        scale_um=prepared.scale_um,
        normalize=config.data.normalize,
        nucleus_um=prepared.nucleus_um if prepared.scale_um else None,
        config=config.model_dump(mode="json"),
    )
    pipeline = batches(config, prepared, extra)
    pipeline += PreCache(
        num_workers=config.workers,
        cache_size=CACHE_PER_WORKER * max(1, config.workers),
        seed=config.seed,
        start=train.iteration,
    )
    return pipeline + train, train


def batches(config: TrainConfig, prepared: Prepared, extra: Extra = ()) -> gp.Pipeline:
    """The nodes that make a batch: place, deformation, intensities, targets, stack."""
    patch, augment = config.patch, config.augment
    sources = tuple(_source(config, prepared, index) for index in range(len(prepared.volumes)))
    mask = MASK if prepared.masks else None
    pipeline = sources + gp.RandomProvider() if len(sources) > 1 else sources[0]
    pipeline += Deform(
        RAW,
        LABELS,
        masks=() if mask is None else mask,
        rotation_deg=augment.rotation_deg,
        rotate=augment.rotate,
        spacing=augment.spacing,
        jitter=augment.jitter,
        mirror=augment.mirror,
        transpose=augment.transpose,
        reuse=augment.reuse,
        p=augment.deform,
        scale_um=prepared.scale_um,
    )
    for node in [*_intensity(augment), *(make(RAW) for make in extra)]:
        pipeline += node
    pipeline += AddTargets(
        LABELS, prepared.scenario, mask=mask, margin=prepared.margin, scale_um=prepared.scale_um
    )
    return pipeline + gp.Stack(patch.batch) if patch.batch > 1 else pipeline


def _source(config: TrainConfig, prepared: Prepared, index: int) -> gp.Pipeline:
    """One volume and the places of its patches; if any volume has a mask, all provide one."""
    labels = prepared.datasets[index]
    datasets: dict[gp.ArrayKey, str | Voxels] = {RAW: "image", LABELS: labels}
    partly = False
    if prepared.masks:
        datasets[MASK] = prepared.masks[index]
        partly = prepared.masks[index].stored
    foreground = config.patch.min_foreground
    if isinstance(labels, PointLabels):
        foreground *= labels.filled(prepared.nucleus_um)
    return VolumeSource(
        prepared.volumes[index],
        datasets,
        normalize=config.data.normalize,
        in_memory=config.data.in_memory,
    ) + RandomPatch(
        config.patch.output,
        labels=LABELS,
        min_foreground=foreground,
        mask=MASK if prepared.masks else None,
        follow_mask=partly,
    )


def _intensity(augment: Augment) -> list[gp.BatchFilter]:
    nodes: list[gp.BatchFilter] = []
    if augment.blur is not None:
        nodes.append(Blur(RAW, augment.blur))
    if augment.gamma is not None:
        nodes.append(Gamma(RAW, augment.gamma))
    if augment.scale is not None or augment.shift is not None:
        nodes.append(ScaleShift(RAW, augment.scale or (1.0, 1.0), augment.shift or (0.0, 0.0)))
    if augment.poisson_noise is not None:
        nodes.append(PoissonNoise(RAW, augment.poisson_noise))
    if augment.gaussian_noise is not None:
        nodes.append(GaussianNoise(RAW, augment.gaussian_noise))
    return nodes
