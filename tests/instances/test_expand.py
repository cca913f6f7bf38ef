"""Dilation without overwriting, against its definition."""

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucseg.errors import InputError
from nucseg.instances.expand import expand_labels


def slow_expand(labels, steps):
    """Nearest label within `steps`, then smallest, by looking at every labelled voxel from every other."""
    out = labels.copy()
    labelled = np.argwhere(labels)
    values = labels[tuple(labelled.T)]
    for place in np.argwhere(labels == 0):
        squares = ((labelled - place) ** 2).sum(axis=1)
        if len(squares) and squares.min() <= steps**2:
            out[tuple(place)] = values[squares == squares.min()].min()
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_the_definition(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 6, tuple(rng.integers(1, 9, 3))).astype(np.uint64) * np.uint64(10**12)
    labels[rng.random(labels.shape) < 0.8] = 0
    for steps in range(4):
        np.testing.assert_array_equal(expand_labels(labels, steps), slow_expand(labels, steps))


@pytest.mark.parametrize("name", cases.ALL)
def test_nothing_is_overwritten_and_the_type_stays(name):
    labels = cases.ALL[name]()
    grown = expand_labels(labels, 1)
    assert grown.dtype == labels.dtype
    assert grown is not labels
    np.testing.assert_array_equal(grown[labels > 0], labels[labels > 0])
    np.testing.assert_array_equal(grown, slow_expand(labels, 1))


def test_signed_labels_keep_their_type():
    assert expand_labels(cases.single_voxel().astype(np.int32)).dtype == np.int32


def test_one_step_takes_face_neighbours_only():
    grown = expand_labels(cases.single_voxel())
    assert (grown > 0).sum() == 7


def test_a_voxel_depends_on_nothing_farther_than_the_steps():
    labels = cases.crowded(4)
    for steps in (1, 2, 3):
        core = (slice(8, 14), slice(9, 17), slice(10, 20))
        read = tuple(slice(c.start - steps, c.stop + steps) for c in core)
        inner = (slice(steps, -steps),) * 3
        np.testing.assert_array_equal(
            expand_labels(labels[read], steps)[inner], expand_labels(labels, steps)[core]
        )


def test_negative_steps_are_named():
    with pytest.raises(InputError, match="dilation"):
        expand_labels(cases.single_voxel(), -1)
