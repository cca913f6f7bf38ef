"""The ranked flood gives the labels of the flood that compares heights, ties included."""

import cc3d
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nucseg.errors import InputError
from nucseg.instances.ranked_flood import RankedSurface
from nucseg.instances.seeds import label_seeds
from nucseg.instances.watershed import flood, mahotas_flood


def scene(seed, shape, levels):
    """A surface, rounded to `levels` heights if any, a foreground, and seeds within it."""
    rng = np.random.default_rng(seed)
    surface = gaussian_filter(rng.standard_normal(shape), 1.0).astype(np.float32)
    if levels:
        surface = np.round(surface * levels).astype(np.float32)  # has -0.0 and 0.0, which are equal
    foreground = gaussian_filter(rng.standard_normal(shape), 1.5) > -0.05
    return surface, foreground, (rng.random(shape) < 0.02) & foreground


def components(mask):
    return cc3d.connected_components(mask, connectivity=6, binary_image=True, out_dtype=np.uint32)


@pytest.mark.parametrize(
    ("seed", "shape", "levels"),
    [(0, (9, 12, 17), 0), (1, (17, 9, 12), 6), (2, (12, 17, 9), 2), (3, (1, 30, 7), 3), (4, (20, 70, 70), 0)],
)
def test_labels_are_those_of_the_flood(seed, shape, levels):
    surface, foreground, seeds = scene(seed, shape, levels)
    ids = np.unique(label_seeds(seeds))  # a component's number is its id's place among them
    ranked = RankedSurface(surface, foreground | seeds)
    found = ranked.flood(components(seeds), foreground)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(ids[found], flood(surface, label_seeds(seeds), foreground))
    np.testing.assert_array_equal(ids[found], mahotas_flood(surface, label_seeds(seeds), foreground))


def test_one_ranking_serves_every_foreground_and_set_of_seeds():
    surface, foreground, seeds = scene(7, (10, 14, 18), 5)
    ranked = RankedSurface(surface, foreground)
    for inside, some in (
        (foreground, seeds),
        (foreground & (surface < 1), seeds),
        (foreground, seeds & False),
    ):
        mask = inside & some
        expected = flood(surface, label_seeds(mask), inside)
        np.testing.assert_array_equal(
            np.unique(label_seeds(mask))[ranked.flood(components(mask), inside)], expected
        )


def test_more_heights_than_three_levels_of_64_hold():
    shape = (65, 65, 65)  # 274,625 different heights
    heights = np.random.default_rng(3).permutation(np.prod(shape)).reshape(shape).astype(np.float32)
    everywhere, seeds = np.ones(shape, np.bool_), np.zeros(shape, np.bool_)
    seeds[::16, ::16, ::16] = True
    found = RankedSurface(heights, everywhere).flood(components(seeds), everywhere)
    ids = label_seeds(seeds)
    np.testing.assert_array_equal(np.unique(ids)[found], flood(heights, ids, everywhere))


def test_nan_in_the_region_is_refused_and_elsewhere_it_is_not_looked_at():
    surface, foreground, seeds = scene(5, (6, 7, 8), 0)
    surface[~foreground] = np.nan
    RankedSurface(surface, foreground).flood(components(seeds), foreground)
    with pytest.raises(InputError, match="NaN"):
        RankedSurface(surface, np.ones_like(foreground))
