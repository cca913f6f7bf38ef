"""One block flooded with a halo, and whether its labels are known to be those of the whole volume."""

from collections.abc import Callable

import numpy as np

from nucseg.blockwise.grid import Block, Box, Shape
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.instances.expand import expand_labels
from nucseg.instances.seeds import label_seeds
from nucseg.instances.watershed import flood_certified


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
    decoded = scenario.decode(read(seen), decoding)
    surface, mask, foreground = (np.ascontiguousarray(part[region.inside(seen)]) for part in decoded)
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


def _zyx(values: list[int]) -> Shape:
    z, y, x = values
    return z, y, x
