"""Affinities: the target against shifted erosions, the balanced loss and its slope against numpy."""

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage, special

from nucseg.evaluate.matching import match
from nucseg.evaluate.select import instances
from nucseg.heads.affinities import Affinities, affinities
from nucseg.heads.base import Centers
from nucseg.heads.decoding import Decoding
from nucseg.heads.scenario import Scenario
from nucseg.testing import check_head

NOBODY = Centers(np.zeros(0, np.uint64), np.zeros((0, 3)), np.zeros(0, bool))


def slow_affinities(labels):
    """One erosion per label, then each voxel beside the one before it; beyond the border the label continues."""
    eroded = np.zeros_like(labels)
    for label in np.unique(labels[labels > 0]):
        eroded[ndimage.binary_erosion(labels == label, np.ones((3, 3, 3)), border_value=1)] = label
    channels = []
    for axis, n in enumerate(labels.shape):
        before = np.take(eroded, np.maximum(np.arange(n) - 1, 0), axis)
        channels.append((eroded > 0) & (eroded == before))
    return np.stack([*channels, labels > 0])


@pytest.mark.parametrize("name", cases.ALL)
def test_target_of_every_case(name):
    labels = cases.ALL[name]()
    target = affinities(labels)
    assert target.dtype == np.float32
    np.testing.assert_array_equal(target, slow_affinities(labels))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_target_of_random_crops(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, 3))
    labels = np.kron(rng.integers(0, 3, rng.integers(1, 4, 3)), np.ones(rng.integers(1, 6, 3), int))
    labels = labels[tuple(slice(0, n) for n in shape)]
    begin = [int(rng.integers(0, n)) for n in labels.shape]
    crop = tuple(slice(b, int(rng.integers(b, n)) + 1) for b, n in zip(begin, labels.shape, strict=True))
    np.testing.assert_array_equal(affinities(labels, crop), slow_affinities(labels)[(slice(None), *crop)])


def test_a_touching_pair_has_no_affinity_across():
    target = affinities(cases.touching_pair())
    #                      x 0  1  2  3  4  5  6  7  8  9
    np.testing.assert_array_equal(target[2, 4, 5, :10], [0, 0, 0, 0, 1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(target[1, 4, 5, :10], [0, 0, 0, 1, 1, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(target[0, 4, 5, :10], [0, 0, 0, 1, 1, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(target[3, 4, 5, :10], [0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    assert not target[0, 3, 5].any()  # z 3 is the first plane that the erosion leaves: z 2 is boundary
    assert not target[1, 4, 4].any()


def test_mask_and_weight():
    labels = cases.crowded(0)
    mask = np.random.default_rng(0).random(labels.shape) < 0.5
    crop = (slice(2, 20), slice(3, 24), slice(4, 30))
    target, weight = Affinities().target(labels, crop, None, NOBODY, mask)
    np.testing.assert_array_equal(target, slow_affinities(labels)[(slice(None), *crop)])
    np.testing.assert_array_equal(weight, mask[crop])
    assert weight.dtype == np.float32
    assert (Affinities().target(labels, crop, None, NOBODY)[1] == 1).all()


def slow_loss(output, target, weight, balance):
    """The cross-entropy in float64, channel by channel and patch by patch; also its slope."""
    output, target = output.astype(float), target.astype(float)
    losses = -(target * special.log_expit(output) + (1 - target) * special.log_expit(-output))
    weights = np.zeros(output.shape)
    for patch in range(len(output)):
        for channel in range(4):
            w, t = weight[patch].astype(float), target[patch, ..., channel]
            if balance:
                ones = np.clip((w * t).sum() / w.sum(), 0.05, 0.95)
                zeros = np.clip((w * (1 - t)).sum() / w.sum(), 0.05, 0.95)
                w = w * np.where(t == 1, 1 / (2 * ones), 1 / (2 * zeros))
            weights[patch, ..., channel] = w
    sums = weights.sum(axis=(0, 1, 2, 3))
    slope = weights * (special.expit(output) - target) / sums / 4
    return ((weights * losses).sum(axis=(0, 1, 2, 3)) / sums).mean(), slope


@pytest.mark.parametrize("balance", [True, False])
def test_loss_and_slope_are_those_of_the_cross_entropy(balance):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    shares = [[[[[0.5, 0.2, 0.01, 1.0]]]], [[[[0.1, 0.97, 0.6, 0.0]]]]]  # other in each channel and patch
    target = (rng.random((2, 6, 7, 8, 4)) < shares).astype(np.float32)
    output = rng.normal(0, 3, target.shape).astype(np.float32)
    weight = (rng.random(target.shape[:-1]) < 0.8).astype(np.float32)
    variable = tf.Variable(output)
    with tf.GradientTape() as tape:
        loss = Affinities(balance=balance).loss(variable, tf.constant(target), tf.constant(weight))
    expected, slope = slow_loss(output, target, weight, balance)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(tape.gradient(loss, variable), slope, rtol=1e-3, atol=1e-8)


def test_balance_makes_rare_affinities_count_as_much_as_the_rest():
    target = np.zeros((1, 10, 10, 10, 4), np.float32)
    target[:, :, :, 0] = 1  # one in ten
    weight = np.ones((1, 10, 10, 10), np.float32)
    certain = np.log(np.float32(0.9 / 0.1))  # P = 0.9 costs -log(0.1) where the truth is 0
    high, low = np.full_like(target, certain), np.full_like(target, -certain)
    head = Affinities()
    assert float(head.loss(high, target, weight)) == pytest.approx(
        float(head.loss(low, target, weight)), rel=1e-5
    )
    assert float(Affinities(balance=False).loss(high, target, weight)) > 5 * float(
        Affinities(balance=False).loss(low, target, weight)
    )


def test_loss_of_saturated_logits_is_finite_and_exact():
    output = np.full((1, 1, 1, 1, 4), 1000, np.float32)
    weight = np.ones((1, 1, 1, 1), np.float32)
    head = Affinities(balance=False)
    assert float(head.loss(output, np.ones_like(output), weight)) == 0
    assert float(head.loss(output, np.zeros_like(output), weight)) == 1000
    assert float(head.loss(-output, np.ones_like(output), weight)) == 1000
    assert float(Affinities().loss(output, np.ones_like(output), 0 * weight)) == 0


def test_activation_is_a_sigmoid():
    output = np.random.default_rng(0).normal(0, 100, (4, 2, 3, 4)).astype(np.float32)
    prediction = Affinities().activation(output)
    assert prediction.dtype == np.float32
    np.testing.assert_allclose(prediction, special.expit(output.astype(float)), rtol=1e-5, atol=1e-30)
    assert prediction.min() >= 0
    assert prediction.max() <= 1


def test_decoding():
    prediction = np.float32(
        [[0.99, 0.99, 0.99, 0.2], [0.99, 0.99, 0.3, 0.9], [0.99, 0.3, 0.99, 0.1], [0.9, 0.9, 0.7, 0.2]]
    ).reshape(4, 1, 1, 4)
    head = Affinities()
    np.testing.assert_allclose(head.surface(prediction)[0, 0], [0.01, 0.24, 0.24, 0.6], rtol=1e-5)
    np.testing.assert_array_equal(head.seeds(prediction, 0.98)[0, 0], [1, 1, 1, 0])
    assert not Affinities().seeds(prediction[:, ..., 3:], 0.5).any()
    np.testing.assert_array_equal(Affinities(agree=3).seeds(prediction, 0.98)[0, 0], [1, 0, 0, 0])
    np.testing.assert_array_equal(head.foreground(prediction, 0.8)[0, 0], [1, 1, 0, 0])
    assert max(head.seed_thresholds) == max(head.foreground_thresholds) == 0.99
    assert head.default_dilate == 1


@pytest.mark.parametrize("places", [(0, 1), (0, 2), (1, 2)])
def test_any_two_affinities_make_a_seed(places):
    prediction = np.zeros((4, 1, 1, 1), np.float32)
    prediction[list(places)] = 1
    assert Affinities().seeds(prediction, 0.9).all()
    assert not Affinities(agree=3).seeds(prediction, 0.9).any()


def test_a_perfect_prediction_decodes_to_touching_nuclei():
    truth = cases.ellipsoids((16, 18, 32), [((8, 9, 10), (6, 6, 6)), ((8, 9, 21), (5, 6, 6))])
    decoding = Decoding(seed_threshold=0.9, foreground_threshold=0.8)
    found = instances(affinities(truth), Scenario.named("affinities"), decoding)
    np.testing.assert_array_equal(found > 0, truth > 0)
    assert match(truth, found, thresholds=(0.9,)).ap[0.9] == 1


def test_scenarios():
    assert Scenario.named("affinities").heads == (Affinities(),)
    assert Scenario.named("affinities_cpv").loss_weights() == {"affinities": 1, "cpv": 1}
    with pytest.raises(ValidationError):
        Affinities(agree=1)


@pytest.mark.parametrize("fields", [{}, {"balance": False, "agree": 3}])
def test_contract(fields):
    check_head(Affinities(**fields))
