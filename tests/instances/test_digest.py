"""The digest: of values, not of blocks."""

from itertools import product

import cases
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nucseg.instances.digest import array_digest, block_digest, combine


def digest(labels, block=None, rng=None):
    block = block or labels.shape
    corners = list(product(*[range(0, n, b) for n, b in zip(labels.shape, block, strict=True)]))
    if rng is not None:
        corners = [corners[i] for i in rng.permutation(len(corners))]
    parts = [
        block_digest(
            labels[tuple(slice(c, c + b) for c, b in zip(corner, block, strict=True))], corner, labels.shape
        )
        for corner in corners
    ]
    return combine(parts, labels.shape)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_blocks_of_any_shape_in_any_order_give_one_digest(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 12, 3))
    labels = rng.integers(0, 5, shape).astype(np.uint64) * np.uint64(rng.integers(1, 10**12))
    block = tuple(int(n) for n in rng.integers(1, 12, 3))
    assert digest(labels, block, rng) == digest(labels)


def test_form():
    found = digest(cases.crowded(0))
    assert len(found) == 32
    assert int(found, 16) >= 0
    assert 0 < block_digest(cases.crowded(0), (0, 0, 0), (24, 28, 32)) < 2**128
    assert block_digest(cases.empty(), (0, 0, 0), (6, 7, 8)) == 0


def test_the_type_does_not_matter():
    labels = cases.crowded(1)
    assert {digest(labels.astype(t)) for t in ("u1", "u2", "u4", "u8", "i8", ">u4")} == {digest(labels)}


def test_every_single_change_shows():
    labels = cases.touching_pair()
    seen = {digest(labels)}
    for place in np.ndindex(labels.shape):
        for value in {0, 1, 2, 3} - {int(labels[place])}:
            changed = labels.copy()
            changed[place] = value
            seen.add(digest(changed))
    assert len(seen) == 1 + 3 * labels.size


def test_swapped_labels_moved_and_mirrored_volumes_and_shapes_show():
    labels = cases.touching_pair()
    swapped = np.array([0, 2, 1], np.uint32)[labels]
    others = [swapped, np.roll(labels, 1, axis=2), labels[:, :, ::-1], labels.transpose(1, 0, 2)]
    others += [
        np.pad(labels, ((0, 1), (0, 0), (0, 0))),
        np.zeros_like(labels),
        np.zeros((8, 9, 15), np.uint32),
    ]
    digests = {digest(np.ascontiguousarray(array)) for array in [labels, *others]}
    assert len(digests) == 1 + len(others)


def test_the_value_stays_what_it_was():
    """Outputs on disk carry digests: this number may only change with a note in the changelog."""
    labels = np.arange(24, dtype=np.uint32).reshape(2, 3, 4)
    assert digest(labels) == "889bc8b1e690c2873f497ee51f7c6f07"


def test_digest_of_any_array_follows_values_places_and_type_but_not_the_layout_in_memory():
    values = np.random.default_rng(3).standard_normal((2, 3, 4, 5)).astype(np.float32)
    found = array_digest(values)
    assert len(found) == 32
    assert array_digest(np.asfortranarray(values)) == found
    assert array_digest(values.astype(">f4")) == found
    assert array_digest(np.repeat(values, 2, axis=3)[..., ::2]) == found
    others = [
        values[:, ::-1],
        values.swapaxes(0, 1),
        values.reshape(2, 3, 5, 4),
        values.astype("f8"),
        -values,
    ]
    others.append(np.where(np.arange(5) == 2, np.nextafter(values, np.float32(9)), values))
    assert len({found, *map(array_digest, others)}) == 7
    zeros = np.zeros((2, 3), np.float32)
    assert array_digest(-zeros) == array_digest(zeros), "a chunk of zeros comes back without signs"
