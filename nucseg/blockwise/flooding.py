"""One block flooded with a halo that grows until its labels are known to be those of the whole volume."""

from collections.abc import Callable
from math import ceil

import numpy as np

from nucseg.blockwise.decoding import diameter_voxels
from nucseg.blockwise.grid import Block, Box, Shape
from nucseg.blockwise.task import BlockRefused
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.instances.expand import expand_labels
from nucseg.instances.seeds import label_seeds
from nucseg.instances.watershed import flood_certified

HALO = 32
"""Voxels that most blocks need to see around them; a block that needs more takes more."""


def first_halo(
    scale_um: tuple[float, float, float] | None, nucleus_um: float | None, trained_um: float | None
) -> int:
    """Voxels that are read around a block at first: too few cost another try, too many cost every block.

    Args:
        scale_um: Size of a voxel; None: unknown.
        nucleus_um: Largest diameter of a nucleus as the user says it: so much is read.
        trained_um: The same from the training data: three quarters of it, `HALO` at least. Most nuclei are smaller, and
            seldom need to be seen whole.
    """
    if nucleus_um is not None:
        return diameter_voxels(nucleus_um, scale_um)
    if trained_um and scale_um:
        return max(HALO, ceil(0.75 * diameter_voxels(trained_um, scale_um)))
    return HALO


def certified(
    read: Callable[[Box], np.ndarray],
    scenario: Scenario,
    decoding: Decoding,
    block: Block,
    volume: Shape,
    halo: int,
    max_halo: int,
) -> tuple[np.ndarray, int]:
    """Labels of a block that are those of the whole volume, and the halo that it took to know that.

    Args:
        read: See `flooded`, and so on.
        scenario: The heads.
        decoding: How to decode.
        block: What is wanted.
        volume: Voxels z, y, x.
        halo: Voxels around the block at first; twice as many each time that they do not suffice.
        max_halo: And at most.

    Raises:
        BlockRefused: An object reaches beyond the largest halo.
    """
    while True:
        labels, missing = flooded(read, scenario, decoding, block, volume, halo)
        if labels is not None:
            return labels, halo
        if halo >= max_halo:
            raise BlockRefused(
                f"{missing} belong to an object that reaches beyond the largest halo of {max_halo} "
                "voxels: raise the foreground threshold, or allow a larger halo (--max-halo)"
            )
        halo = min(2 * halo, max_halo)


def flooded(
    read: Callable[[Box], np.ndarray],
    scenario: Scenario,
    decoding: Decoding,
    block: Block,
    volume: Shape,
    halo: int,
) -> tuple[np.ndarray | None, str]:
    """Flood a block and its halo against all that lies beyond.

    Args:
        read: Gives the prediction within a box, (c, z, y, x) float32.
        scenario: The heads that its channels follow.
        decoding: How to decode; not seeds = "vectors".
        block: What is wanted.
        volume: Shape of the whole volume, voxels z, y, x.
        halo: Voxels around the block, at least `decoding.dilate`; `decoding.context` more are read.

    Returns:
        Labels of the block, uint64, and an empty text; or None and which voxels the halo leaves undecided.
    """
    region = block.grown(halo, volume)
    seen = region.grown(decoding.context, volume)
    maps = decoded(read(seen), scenario, decoding)
    surface, mask, foreground = (np.ascontiguousarray(part[region.inside(seen)]) for part in maps)
    cut = tuple((b > 0, e < n) for b, e, n in zip(region.begin, region.end, volume, strict=True))
    labels, certificate = flood_certified(
        surface,
        label_seeds(mask, region.begin, volume),
        foreground,
        block.inside(region),
        (cut[0], cut[1], cut[2]),
        rim=decoding.dilate,  # dilation looks at them
    )
    if not certificate.certified:
        begin = [a + b for a, b in zip(region.begin, certificate.begin, strict=True)]
        end = [a + b for a, b in zip(region.begin, certificate.end, strict=True)]
        return None, f"{certificate.unknown} voxels within {Box(_zyx(begin), _zyx(end))}"
    if decoding.dilate:
        labels = expand_labels(labels, decoding.dilate)
    return labels[block.inside(region)], ""


def decoded(
    data: np.ndarray, scenario: Scenario, decoding: Decoding
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surface, seeds and foreground of a prediction in which voxels may be no number.

    Args:
        data: (c, z, y, x) float32, NaN in all channels of a voxel or in none (`values.usable`).
        scenario: The heads that its channels follow.
        decoding: How to decode; not seeds = "vectors".

    Returns:
        As `Scenario.decode`; voxels that are no number are neither seed nor foreground, and their surface is 0.
    """
    surface, seeds, foreground = scenario.decode(data, decoding)
    finite = np.isfinite(data[0])
    if finite.all():
        return surface, seeds, foreground
    return np.where(finite, surface, np.float32(0)), seeds & finite, foreground & finite


def _zyx(values: list[int]) -> Shape:
    z, y, x = values
    return z, y, x
