"""Exactness: what a block certifies is what the flood of the whole volume says, voxel for voxel."""

from itertools import product

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nucseg.errors import InputError
from nucseg.instances.expand import expand_labels
from nucseg.instances.seeds import label_seeds
from nucseg.instances.watershed import flood, flood_certified, mahotas_flood


def read_block(surface, mask, foreground, core, halo, rim=0):
    """One block, as a worker computes it: labels of its core and the certificate."""
    shape = surface.shape
    read = tuple(
        slice(max(0, c.start - halo), min(n, c.stop + halo)) for c, n in zip(core, shape, strict=True)
    )
    begin = tuple(part.start for part in read)
    seeds = label_seeds(mask[read], begin, shape)
    inner = tuple(slice(c.start - b, c.stop - b) for c, b in zip(core, begin, strict=True))
    cut = tuple((part.start > 0, part.stop < n) for part, n in zip(read, shape, strict=True))
    labels, certificate = flood_certified(surface[read], seeds, foreground[read], inner, cut, rim)
    return labels, inner, certificate, begin


def cores(shape, block):
    starts = [range(0, n, b) for n, b in zip(shape, block, strict=True)]
    for corner in product(*starts):
        yield tuple(slice(c, min(c + b, n)) for c, b, n in zip(corner, block, shape, strict=True))


def blockwise(surface, mask, foreground, block, halo, growth, dilate=0):
    """All blocks, each with a halo that grows until it is certified; and the halos that were needed."""
    out = np.zeros(surface.shape, np.uint64)
    halos = []
    for core in cores(surface.shape, block):
        size = halo
        while True:
            labels, inner, certificate, _ = read_block(surface, mask, foreground, core, size, rim=dilate)
            if certificate:
                break
            size += growth
        out[core] = expand_labels(labels, dilate)[inner]
        halos.append(size)
    return out, halos


def random_volume(rng):
    """Smooth or rough surfaces, with ties, merged objects, islands without a seed, slabs, any shape."""
    shape = tuple(int(n) for n in rng.integers(1, rng.choice([4, 20]), 3))
    shape = tuple(int(n) for n in rng.permutation((shape[0], shape[1], int(rng.integers(8, 30)))))
    field = ndimage.gaussian_filter(rng.normal(size=shape), rng.choice([0.0, 1.0, 2.0]))
    field = field / (np.abs(field).max() + 1e-9)
    levels = int(rng.choice([1, 2, 4, 8, 1000]))
    surface = np.round(field * levels).astype(np.float32)
    foreground = field < rng.uniform(-0.5, 1.0)
    mask = (
        (field < rng.uniform(-0.9, 0.0)) if rng.random() < 0.5 else (rng.random(shape) < rng.uniform(0, 0.1))
    )
    return surface, mask & foreground, foreground


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_blockwise_equals_the_whole(seed):
    rng = np.random.default_rng(seed)
    surface, mask, foreground = random_volume(rng)
    block = tuple(int(n) for n in rng.integers(2, 12, 3))
    halo, growth = int(rng.integers(0, 4)), int(rng.integers(1, 5))
    whole = flood(surface, label_seeds(mask), foreground)
    labels, _ = blockwise(surface, mask, foreground, block, halo, growth)
    np.testing.assert_array_equal(labels, whole)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_certificate_holds_at_every_halo(seed):
    """Not only where the halo stops growing: each certified block of each halo is right on its core and rim."""
    rng = np.random.default_rng(seed)
    surface, mask, foreground = random_volume(rng)
    whole = flood(surface, label_seeds(mask), foreground)
    rim = int(rng.integers(0, 3))
    for core in cores(surface.shape, tuple(int(n) for n in rng.integers(2, 12, 3))):
        for halo in range(rim, 8):
            labels, inner, certificate, begin = read_block(surface, mask, foreground, core, halo, rim)
            if certificate:
                wanted = tuple(slice(max(0, i.start - rim), i.stop + rim) for i in inner)
                there = tuple(
                    slice(w.start + b, min(w.stop + b, n))
                    for w, b, n in zip(wanted, begin, whole.shape, strict=True)
                )
                np.testing.assert_array_equal(labels[wanted], whole[there])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_known_voxel_stays_known_whatever_lies_outside(seed):
    """Even in a block that is not certified, every labelled voxel of the core is right, in any surrounding."""
    rng = np.random.default_rng(seed)
    inside = tuple(int(n) for n in rng.integers(2, 8, 3))
    margins = rng.integers(0, 4, (3, 2))
    shape = tuple(int(n + m.sum()) for n, m in zip(inside, margins, strict=True))
    core = tuple(slice(int(m[0]), int(m[0]) + n) for n, m in zip(inside, margins, strict=True))
    levels = int(rng.integers(1, 5))
    block_surface = rng.integers(0, levels, inside)
    block_mask = rng.random(inside) < rng.uniform(0, 0.3)
    block_foreground = rng.random(inside) < rng.uniform(0.4, 1.1)
    for _ in range(5):
        surface = rng.integers(-1, levels, shape).astype(np.float32)
        mask = rng.random(shape) < rng.uniform(0, 0.5)
        foreground = rng.random(shape) < rng.uniform(0.4, 1.1)
        surface[core], mask[core], foreground[core] = block_surface, block_mask, block_foreground
        mask &= foreground
        whole = flood(surface, label_seeds(mask), foreground)
        labels, inner, certificate, _ = read_block(surface, mask, foreground, core, 0)
        known = labels[inner] > 0
        np.testing.assert_array_equal(labels[inner][known], whole[core][known])
        undecided = (whole[core] > 0) & ~known
        assert undecided.sum() <= certificate.unknown


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_dilation_inside_the_same_pass(seed):
    rng = np.random.default_rng(seed)
    surface, mask, foreground = random_volume(rng)
    dilate = int(rng.integers(1, 3))
    block = tuple(int(n) for n in rng.integers(2, 12, 3))
    whole = expand_labels(flood(surface, label_seeds(mask), foreground), dilate)
    labels, _ = blockwise(surface, mask, foreground, block, dilate, 3, dilate)
    np.testing.assert_array_equal(labels, whole)


@pytest.mark.parametrize("name", cases.ALL)
@pytest.mark.parametrize("block", [(3, 4, 5), (4, 100, 7)])
def test_every_case(name, block):
    """Nuclei on faces, edges and corners, a spanning one, a slab: seeds are the nuclei's cores."""
    truth = cases.ALL[name]()
    distance = ndimage.distance_transform_cdt(truth > 0) if truth.any() else np.zeros(truth.shape)
    surface = (-distance).astype(np.float32)
    foreground = truth > 0
    mask = foreground & (distance >= min(2, distance.max()))
    whole = mahotas_flood(surface, label_seeds(mask), foreground)
    labels, _ = blockwise(surface, mask, foreground, block, 2, 2)
    np.testing.assert_array_equal(labels, whole)
    if truth.any():
        assert whole.any()


def test_crowded_nuclei_need_small_halos_only():
    """The certificate is not merely careful: nuclei of radius 4 are certified with halos of about a diameter."""
    truth = cases.crowded(0, (32, 48, 48), nuclei=70, radius=3.5)
    distance = ndimage.distance_transform_edt(truth > 0)
    surface = (-ndimage.gaussian_filter(distance, 0.7)).astype(np.float32)
    foreground, mask = truth > 0, distance > 2
    whole = mahotas_flood(surface, label_seeds(mask), foreground)
    labels, halos = blockwise(surface, mask, foreground, (16, 16, 16), 4, 4)
    np.testing.assert_array_equal(labels, whole)
    assert len(np.unique(whole)) > 30
    assert np.median(halos) <= 12


def test_an_object_larger_than_the_halo_is_reported():
    """A rod with one seed at its far end: no halo short of the seed may certify, and the report says where."""
    surface = np.zeros((5, 5, 40), np.float32)
    foreground = np.zeros(surface.shape, bool)
    foreground[2, 2, 1:39] = True
    mask = np.zeros_like(foreground)
    mask[2, 2, 38] = True
    core = (slice(0, 5), slice(0, 5), slice(0, 8))
    for halo in range(0, 31):
        labels, inner, certificate, _ = read_block(surface, mask, foreground, core, halo)
        assert not certificate
        assert not certificate.certified
        assert certificate.unknown == 7
        assert certificate.begin == (2, 2, 1)
        assert certificate.end == (3, 3, 8)
        assert not labels[inner].any()
    labels, inner, certificate, _ = read_block(surface, mask, foreground, core, 32)
    assert certificate
    assert certificate.certified
    assert (labels[inner][2, 2, 1:8] == 2 * 200 + 2 * 40 + 38 + 1).all()


def test_a_seed_component_on_a_cut_face_is_unknown():
    """Its id cannot be known: the first voxel may lie outside."""
    surface = np.zeros((4, 4, 12), np.float32)
    foreground = np.ones(surface.shape, bool)
    mask = np.zeros_like(foreground)
    mask[1, 1, 2:9] = True
    _, _, certificate, _ = read_block(surface, mask, foreground, (slice(0, 4), slice(0, 4), slice(4, 7)), 1)
    assert certificate.unknown == 48
    labels, inner, certificate, _ = read_block(
        surface, mask, foreground, (slice(0, 4), slice(0, 4), slice(4, 7)), 8
    )
    assert certificate
    assert (labels[inner] == 16 * 4 * 0 + 1 * 48 + 1 * 12 + 2 + 1).all()


def test_a_seed_wins_a_voxel_strictly_below_the_face_only():
    """At equal height the adversary goes first, so the tie is undecided; one level lower the seed has won."""
    foreground = np.ones((1, 1, 5), bool)
    seeds = np.zeros(foreground.shape, np.uint64)
    seeds[0, 0, 2] = 3
    cut = ((False, False), (False, False), (True, True))
    core = (slice(0, 1), slice(0, 1), slice(1, 4))
    _, certificate = flood_certified(np.zeros(foreground.shape, np.float32), seeds, foreground, core, cut)
    assert certificate.unknown == 2
    walls = np.float32([[[1, 0, 0, 0, 1]]])
    labels, certificate = flood_certified(walls, seeds, foreground, core, cut)
    assert certificate
    np.testing.assert_array_equal(labels[core], [[[3, 3, 3]]])


def test_without_a_cut_face_everything_is_certified():
    truth = cases.crowded(2)
    surface = np.random.default_rng(0).normal(size=truth.shape).astype(np.float32)
    seeds = label_seeds((surface < -1) & (truth > 0))
    everything = tuple(slice(0, n) for n in truth.shape)
    labels, certificate = flood_certified(surface, seeds, truth > 0, everything, ((False, False),) * 3)
    assert certificate
    np.testing.assert_array_equal(labels, flood(surface, seeds, truth > 0))


def test_a_rim_across_a_cut_face_and_a_core_outside_are_named():
    arrays = np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 4), np.uint64), np.ones((4, 4, 4), bool)
    core = (slice(0, 4), slice(0, 4), slice(1, 3))
    cut = ((False, False), (False, False), (True, False))
    with pytest.raises(InputError, match="halo of at least 2"):
        flood_certified(*arrays, core, cut, rim=2)
    flood_certified(*arrays, core, ((False, False),) * 3, rim=2)
    with pytest.raises(InputError, match="core on axis x"):
        flood_certified(*arrays, (slice(0, 4), slice(0, 4), slice(1, 5)), cut)
