"""Seed ids: global, the same in every block that sees the whole component."""

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nucseg.errors import InputError
from nucseg.instances.seeds import label_seeds


def slow_seeds(mask, begin, volume_shape):
    components, count = ndimage.label(mask)  # 6-connected
    out = np.zeros(mask.shape, np.uint64)
    for component in range(1, count + 1):
        first = np.argwhere(components == component)[0] + begin
        out[components == component] = np.ravel_multi_index(tuple(first), volume_shape) + 1
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ids_of_random_masks(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 8, 3))
    begin = tuple(int(n) for n in rng.integers(0, 5000, 3))
    volume = tuple(b + n + int(rng.integers(0, 5000)) for b, n in zip(begin, shape, strict=True))
    mask = rng.random(shape) < rng.random()
    seeds = label_seeds(mask, begin, volume)
    assert seeds.dtype == np.uint64
    np.testing.assert_array_equal(seeds, slow_seeds(mask, begin, volume))


def test_a_component_keeps_its_id_in_every_block_that_holds_it():
    mask = cases.crowded(1, nuclei=8, radius=3.0) > 0
    whole = label_seeds(mask)
    block = (slice(2, 22), slice(3, 28), slice(5, 30))
    seeds = label_seeds(mask[block], (2, 3, 5), mask.shape)
    complete = 0
    for seed in np.unique(whole[block]):
        inside = whole[block] == seed
        if seed and inside.sum() == (whole == seed).sum():
            complete += 1
            assert (seeds[inside] == seed).all()
    assert complete >= 1


def test_ids_beyond_32_bits():
    seeds = label_seeds(np.ones((1, 1, 1), bool), (9999, 9999, 9999), (10_000, 10_000, 10_000))
    assert seeds.item() == 10**12


def test_diagonal_neighbours_are_two_components():
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[0, 1, 1] = True
    np.testing.assert_array_equal(np.unique(label_seeds(mask)), [0, 1, 4])


def test_empty_regions():
    assert not label_seeds(np.zeros((3, 4, 5), bool)).any()
    assert label_seeds(np.zeros((0, 4, 5), bool)).shape == (0, 4, 5)


def test_a_region_outside_the_volume_is_named():
    with pytest.raises(InputError, match="inside the volume"):
        label_seeds(np.ones((3, 3, 3), bool), (0, 0, 8), (10, 10, 10))
