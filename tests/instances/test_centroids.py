"""Centres of mass and vectors against a loop over labels."""

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nucseg.errors import InputError
from nucseg.instances.centroids import center_field, center_vectors, centroids


def slow_centroids(labels):
    ids = [i for i in np.unique(labels) if i != 0]
    places = [np.argwhere(labels == i) for i in ids]
    return (
        np.array(ids, np.uint64),
        np.array([p.mean(axis=0) for p in places]).reshape(-1, 3),
        np.array([len(p) for p in places], np.int64),
    )


def slow_vectors(labels, ids, centers):
    vectors = np.zeros((3, *labels.shape), np.float32)
    for i, center in zip(ids, centers, strict=True):
        for place in np.argwhere(labels == i):
            vectors[(slice(None), *place)] = center - place
    return vectors


@pytest.mark.parametrize("name", cases.ALL)
def test_centroids_of_every_case(name):
    labels = cases.ALL[name]()
    found = centroids(labels)
    ids, centers, sizes = slow_centroids(labels)
    assert found.ids.dtype == np.uint64
    assert found.centers.dtype == np.float64
    assert found.sizes.dtype == np.int64
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.centers, centers, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.sizes, sizes)
    vectors = center_vectors(labels, found.ids, found.centers)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, slow_vectors(labels, ids, centers), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", ">u4", "?"])
def test_every_integer_type(dtype):
    labels = (cases.touching_pair() > 0) if dtype == "?" else cases.touching_pair().astype(dtype)
    found, expected = centroids(labels), centroids(labels.astype(np.uint64))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint64, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 4)),
    st.sampled_from([1, 10**12, 2**61]),
)
def test_centroids_of_random_labels(labels, factor):
    labels = labels * np.uint64(factor)
    found = centroids(labels)
    ids, centers, sizes = slow_centroids(labels)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.centers, centers, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.sizes, sizes)


def test_more_labels_than_the_first_table_holds():
    labels = np.random.default_rng(0).permutation(20 * 20 * 20).reshape(20, 20, 20)
    found = centroids(labels)
    np.testing.assert_array_equal(found.ids, np.arange(1, 8000))
    order = np.argsort(labels.ravel())[1:]
    np.testing.assert_array_equal(found.centers, np.stack(np.unravel_index(order, labels.shape), axis=1))


def test_array_in_fortran_order_and_view():
    labels = cases.crowded(3)
    for other in (np.asfortranarray(labels), np.pad(labels, 2)[2:-2, 2:-2, 2:-2]):
        np.testing.assert_array_equal(centroids(other).centers, centroids(labels).centers)


def test_a_centre_may_lie_outside_and_stays_sub_voxel():
    labels = np.array([[[0, 5, 5]]], np.uint32)
    vectors = center_vectors(labels, [5], [[-3.25, 0.5, 7.125]])
    np.testing.assert_array_equal(
        vectors[:, 0, 0], np.float32([[0, -3.25, -3.25], [0, 0.5, 0.5], [0, 6.125, 5.125]])
    )


def test_labels_without_a_centre_are_marked():
    labels = cases.touching_pair()
    vectors, known = center_field(labels, np.array([2]), np.array([[3.0, 4.0, 8.0]]))
    np.testing.assert_array_equal(known, labels == 2)
    assert not vectors[:, labels != 2].any()


@pytest.mark.parametrize(
    "labels",
    [np.zeros((3, 3), int), np.zeros((2, 2, 2)), np.full((2, 2, 2), -1)],
    ids=["2-D", "float", "negative"],
)
def test_bad_labels_are_named(labels):
    with pytest.raises(InputError, match="labels"):
        centroids(labels)


def test_ids_and_centres_must_match():
    with pytest.raises(InputError, match="centres"):
        center_vectors(cases.touching_pair(), [1, 2], [[0, 0, 0]])
