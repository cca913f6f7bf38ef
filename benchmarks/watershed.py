"""The flood against mahotas with equal instances, on a blurred 128^3 labelling."""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from benchmarks.comparison import Row, compare
from benchmarks.volumes import crowded
from nucseg.instances.seeds import label_seeds
from nucseg.instances.watershed import flood, mahotas_flood


def rows() -> Iterator[Row]:
    """One comparison."""
    labels = crowded(128, 260)
    depth = ndimage.distance_transform_edt(labels > 0).astype(np.float32)
    surface = -ndimage.gaussian_filter(depth, 1)
    foreground = labels > 0
    seeds = label_seeds((surface < -4) & foreground)
    yield compare(
        "seeded watershed in the foreground",
        lambda: flood(surface, seeds, foreground),
        "mahotas.cwatershed",
        lambda: mahotas_flood(surface, seeds, foreground),
        np.array_equal,
    )
