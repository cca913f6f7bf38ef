"""ThreeLabel: classes against scipy's erosion, loss against numpy."""

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, special

from nucseg.heads.base import Centers
from nucseg.heads.three_label import ThreeLabel, three_classes
from nucseg.testing import check_head

NOBODY = Centers(np.zeros(0, np.uint64), np.zeros((0, 3)), np.zeros(0, bool))


def slow_classes(labels):
    """One erosion per label with a 26-connected element; beyond the border the label continues."""
    classes = np.where(labels > 0, 2, 0)
    for label in np.unique(labels[labels > 0]):
        inside = ndimage.binary_erosion(labels == label, np.ones((3, 3, 3)), border_value=1)
        classes[inside] = 1
    return classes


@pytest.mark.parametrize("name", cases.ALL)
def test_classes_of_every_case(name):
    labels = cases.ALL[name]()
    classes = three_classes(labels)
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, slow_classes(labels))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_classes_of_random_crops(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 10, 3))
    labels = rng.integers(0, 3, tuple(rng.integers(1, 4, 3)))
    labels = np.kron(labels, np.ones(rng.integers(1, 5, 3), int))[tuple(slice(0, n) for n in shape)]
    begin = [int(rng.integers(0, n)) for n in labels.shape]
    crop = tuple(slice(b, int(rng.integers(b, n)) + 1) for b, n in zip(begin, labels.shape, strict=True))
    np.testing.assert_array_equal(three_classes(labels, crop), slow_classes(labels)[crop])


def test_a_touching_pair_has_a_boundary_on_both_sides():
    classes = three_classes(cases.touching_pair())
    assert (classes[4, 5, 2:10] == [2, 1, 1, 2, 2, 1, 1, 2]).all()


def test_the_border_of_the_labels_is_no_boundary():
    labels = np.full((5, 5, 5), 4, np.uint32)
    assert (three_classes(labels) == 1).all()
    labels[:, :, 4] = 0
    assert (three_classes(labels, (slice(1, 4),) * 3)[:, :, 2] == 2).all()


def test_balanced_weights():
    labels = cases.crowded(0)
    crop = (slice(2, 20), slice(2, 24), slice(2, 30))
    target, weight = ThreeLabel().target(labels, crop, None, NOBODY)
    for value in range(3):
        fraction = (target == value).mean()
        assert 0.05 < fraction < 0.95
        np.testing.assert_allclose(weight[target[0] == value], 1 / (3 * fraction), rtol=1e-6)
    np.testing.assert_allclose(weight.mean(), 1, rtol=1e-5)


def test_a_rare_class_is_clipped_and_masked_voxels_do_not_count():
    labels = cases.single_voxel()
    everything = tuple(slice(0, n) for n in labels.shape)
    weight = ThreeLabel().target(labels, everything, None, NOBODY)[1]
    assert weight[2, 3, 4] == pytest.approx(1 / (3 * 0.05))
    assert weight[0, 0, 0] == pytest.approx(1 / (3 * 0.95))
    mask = labels > 0
    weight = ThreeLabel().target(labels, everything, None, NOBODY, mask)[1]
    assert weight[2, 3, 4] == pytest.approx(1 / (3 * 0.95))
    assert weight.sum() == weight[2, 3, 4]
    weight = ThreeLabel(balance=False).target(labels, everything, None, NOBODY, mask)[1]
    np.testing.assert_array_equal(weight, mask)
    nothing = ThreeLabel().target(labels, everything, None, NOBODY, np.zeros(labels.shape, bool))[1]
    assert not nothing.any()


def test_loss_is_the_weighted_cross_entropy():
    rng = np.random.default_rng(0)
    output = rng.normal(0, 3, (2, 2, 3, 4, 3)).astype(np.float32)
    target = rng.integers(0, 3, (2, 2, 3, 4, 1)).astype(np.float32)
    weight = rng.random((2, 2, 3, 4)).astype(np.float32)
    log_p = special.log_softmax(output.astype(float), axis=-1)
    picked = np.take_along_axis(log_p, target.astype(int), axis=-1)[..., 0]
    expected = -(weight * picked).sum() / weight.sum()
    assert float(ThreeLabel().loss(output, target, weight)) == pytest.approx(expected, rel=1e-5)


def test_loss_of_saturated_logits_is_finite_and_exact():
    output = np.float32([[[[[1000, 0, -1000]]]]])
    weight = np.ones((1, 1, 1, 1), np.float32)
    assert float(ThreeLabel().loss(output, np.zeros((1, 1, 1, 1, 1), np.float32), weight)) == 0
    assert float(ThreeLabel().loss(output, np.full((1, 1, 1, 1, 1), 2, np.float32), weight)) == 2000


def test_activation_is_a_softmax():
    output = np.random.default_rng(0).normal(0, 100, (3, 2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(ThreeLabel().activation(output), special.softmax(output, axis=0), atol=1e-6)


def test_decoding():
    prediction = np.zeros((3, 1, 1, 3), np.float32)
    prediction[:, 0, 0, 0] = [0.1, 0.85, 0.05]
    prediction[:, 0, 0, 1] = [0.4, 0.1, 0.5]
    prediction[:, 0, 0, 2] = [0.9, 0.05, 0.05]
    head = ThreeLabel()
    np.testing.assert_allclose(head.surface(prediction)[0, 0], [0.15, 0.9, 0.95], rtol=1e-6)
    np.testing.assert_array_equal(head.seeds(prediction, 0.8)[0, 0], [True, False, False])
    np.testing.assert_array_equal(head.foreground(prediction, 0.5)[0, 0], [True, True, False])
    assert max(head.seed_thresholds) == 0.99


@pytest.mark.parametrize("balance", [True, False])
def test_contract(balance):
    check_head(ThreeLabel(balance=balance))
