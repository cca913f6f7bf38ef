"""The flood against mahotas, and against a queue of tuples that anybody can read."""

import heapq

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucseg.errors import InputError
from nucseg.instances.seeds import label_seeds
from nucseg.instances.watershed import flood, mahotas_flood


def slow_flood(surface, seeds, foreground):
    labels = np.where(foreground, seeds, 0).astype(np.uint64)
    queue = []
    for place in np.argwhere(labels):
        heapq.heappush(queue, (float(surface[tuple(place)]), len(queue), tuple(place)))
    inserted = len(queue)
    while queue:
        _, _, place = heapq.heappop(queue)
        for step in ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
            other = tuple(a + b for a, b in zip(place, step, strict=True))
            if any(not 0 <= a < n for a, n in zip(other, labels.shape, strict=True)):
                continue
            if foreground[other] and labels[other] == 0:
                labels[other] = labels[place]
                heapq.heappush(queue, (float(surface[other]), inserted, other))
                inserted += 1
    return labels


def random_flood(seed, largest=12):
    """Surfaces with few levels (ties everywhere) or none, any density of seeds and foreground."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, largest, 3))
    if rng.random() < 0.7:
        surface = rng.integers(0, rng.integers(1, 8), shape) - int(rng.integers(0, 4))
    else:
        surface = rng.normal(size=shape)
    foreground = rng.random(shape) < rng.uniform(0.2, 1.1)
    mask = (rng.random(shape) < rng.uniform(0, 0.3)) & foreground
    return surface.astype(np.float32), label_seeds(mask), foreground


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_mahotas(seed):
    surface, seeds, foreground = random_flood(seed)
    labels = flood(surface, seeds, foreground)
    assert labels.dtype == np.uint64
    np.testing.assert_array_equal(labels, mahotas_flood(surface, seeds, foreground))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_the_readable_queue(seed):
    surface, seeds, foreground = random_flood(seed, largest=8)
    np.testing.assert_array_equal(flood(surface, seeds, foreground), slow_flood(surface, seeds, foreground))


@pytest.mark.parametrize("name", cases.ALL)
def test_equals_mahotas_on_every_case(name):
    labels = cases.ALL[name]()
    rng = np.random.default_rng(0)
    surface = rng.integers(0, 3, labels.shape).astype(np.float32)
    foreground = labels > 0
    seeds = label_seeds(foreground & (rng.random(labels.shape) < 0.1))
    np.testing.assert_array_equal(
        flood(surface, seeds, foreground), mahotas_flood(surface, seeds, foreground)
    )


def test_special_values():
    """-0.0 ties with 0.0, infinities order as they should, denormals are not flushed."""
    rng = np.random.default_rng(2)
    values = np.float32([-np.inf, -1e-45, -0.0, 0.0, 1e-45, 1.0, 3e38, np.inf])
    for _ in range(20):
        surface = rng.choice(values, (5, 6, 7))
        foreground = rng.random(surface.shape) < 0.9
        seeds = label_seeds(foreground & (rng.random(surface.shape) < 0.05))
        expected = slow_flood(surface, seeds, foreground)
        np.testing.assert_array_equal(flood(surface, seeds, foreground), expected)
        np.testing.assert_array_equal(mahotas_flood(surface, seeds, foreground), expected)


def test_islands_without_a_seed_and_seeds_outside_are_background():
    foreground = np.zeros((1, 1, 9), bool)
    foreground[0, 0, [0, 1, 2, 5, 6]] = True
    seeds = np.zeros(foreground.shape, np.uint64)
    seeds[0, 0, 1] = 7
    seeds[0, 0, 8] = 9
    labels = flood(np.zeros(foreground.shape, np.float32), seeds, foreground)
    np.testing.assert_array_equal(labels, [[[7, 7, 7, 0, 0, 0, 0, 0, 0]]])


def test_inputs_are_left_alone():
    surface, seeds, foreground = random_flood(4)
    copies = surface.copy(), seeds.copy(), foreground.copy()
    flood(surface, seeds, foreground)
    for array, copy in zip((surface, seeds, foreground), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_one_component_larger_than_the_first_queue():
    """More than 4096 open voxels at once, so that stack and queue grow."""
    rng = np.random.default_rng(5)
    surface = rng.integers(0, 4, (24, 24, 24)).astype(np.float32)
    foreground = np.ones(surface.shape, bool)
    seeds = label_seeds(rng.random(surface.shape) < 0.3)
    np.testing.assert_array_equal(
        flood(surface, seeds, foreground), mahotas_flood(surface, seeds, foreground)
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"surface": np.zeros((3, 3, 3))}, "surface"),
        ({"surface": np.full((3, 3, 3), np.nan, np.float32)}, "NaN"),
        ({"seeds": np.zeros((3, 3, 4), np.uint64)}, "one shape"),
        ({"seeds": np.zeros((3, 3, 3), np.float32)}, "integer seed ids"),
        ({"foreground": np.ones((3, 3, 3), np.uint8)}, "boolean foreground"),
    ],
    ids=["float64", "nan", "shape", "float seeds", "integer foreground"],
)
@pytest.mark.parametrize("engine", [flood, mahotas_flood])
def test_bad_input_is_named(engine, change, named):
    inputs = {
        "surface": np.zeros((3, 3, 3), np.float32),
        "seeds": np.ones((3, 3, 3), np.uint64),
        "foreground": np.ones((3, 3, 3), bool),
    }
    with pytest.raises(InputError, match=named):
        engine(**(inputs | change))


def test_nan_in_the_background_is_allowed():
    surface = np.float32([[[0, np.nan, 0]]])
    foreground = np.array([[[True, False, True]]])
    seeds = np.array([[[3, 0, 4]]], np.uint64)
    np.testing.assert_array_equal(flood(surface, seeds, foreground), [[[3, 0, 4]]])
    np.testing.assert_array_equal(mahotas_flood(surface, seeds, foreground), [[[3, 0, 4]]])
