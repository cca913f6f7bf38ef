"""The label volume that the comparisons share."""

import functools

import numpy as np


@functools.cache
def crowded(side: int = 256, nuclei: int = 1500, seed: int = 0) -> np.ndarray:
    """Labels uint32 (side, side, side): `nuclei` random ellipsoids of about 6 to 9 voxels radius; later ones win."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side,) * 3, np.uint32)
    scale = side / 256
    for label in range(1, nuclei + 1):
        center, radii = rng.uniform(0, side, 3), rng.uniform(6, 9, 3) * max(scale, 0.7)
        low = np.maximum(np.floor(center - radii).astype(int), 0)
        high = np.minimum(np.ceil(center + radii).astype(int) + 1, side)
        grid = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, center, radii, strict=True)) <= 1
        labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))][inside] = label
    return labels
