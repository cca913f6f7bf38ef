"""SignedDistance: the target against nearest-neighbour queries per nucleus, the loss and its slope against numpy."""

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage
from scipy.spatial import cKDTree

from nucseg.evaluate.select import instances
from nucseg.heads.base import Centers
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.decoding import Decoding
from nucseg.heads.scenario import Scenario
from nucseg.heads.signed_distance import SignedDistance
from nucseg.testing import check_head

NOBODY = Centers(np.zeros(0, np.uint64), np.zeros((0, 3)), np.zeros(0, bool))
OBLONG = (0.5, 0.2, 0.1)


def everything(labels):
    return tuple(slice(0, n) for n in labels.shape)


def target_of(labels, crop=None, scale_um=None, mask=None, **fields):
    target, weight = SignedDistance(**fields).target(
        labels, crop or everything(labels), scale_um, NOBODY, mask
    )
    assert target.dtype == weight.dtype == np.float32
    assert target.shape == (1, *weight.shape)
    return target[0], weight


def slow_distance(labels, scale_um=None):
    """Signed distance in mean voxels: inside to the nearest boundary voxel of the same label, outside to any."""
    size = np.array(scale_um or (1.0, 1.0, 1.0))
    size = size / size.prod() ** (1 / 3)
    signed, every = np.full(labels.shape, np.inf), np.zeros(labels.shape, bool)
    for label in np.unique(labels[labels > 0]):
        own = labels == label
        interior = ndimage.binary_erosion(own, np.ones((3, 3, 3)), border_value=1)
        signed[interior] = -nearest(interior, own & ~interior, size)
        every |= own & ~interior
    background = labels == 0
    signed[background] = nearest(background, every, size)
    signed[every] = 0
    return signed


def nearest(voxels, others, size):
    """Distance of each of some voxels to the nearest of others, inf where there is none."""
    if not others.any():
        return np.inf
    return cKDTree(np.argwhere(others) * size).query(np.argwhere(voxels) * size)[0]


@pytest.mark.parametrize("scale_um", [None, OBLONG])
@pytest.mark.parametrize("name", cases.ALL)
def test_target_of_every_case(name, scale_um):
    labels = cases.ALL[name]()
    target, weight = target_of(labels, scale_um=scale_um)
    np.testing.assert_allclose(target, np.tanh(slow_distance(labels, scale_um) / 9), atol=1e-6)
    assert (weight == 1).all()
    assert np.abs(target).max() <= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_target_of_random_crops(seed):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, rng.integers(1, 4, 3)), np.ones(rng.integers(1, 6, 3), int))
    begin = [int(rng.integers(0, n)) for n in labels.shape]
    crop = tuple(slice(b, int(rng.integers(b, n)) + 1) for b, n in zip(begin, labels.shape, strict=True))
    scale_um = tuple(rng.uniform(0.5, 2, 3))
    target = target_of(labels, crop, scale_um, distance=30)[0]
    np.testing.assert_allclose(target, np.tanh(slow_distance(labels, scale_um) / 30)[crop], atol=1e-6)


def test_a_touching_pair_is_separated_by_two_boundaries():
    target = target_of(cases.touching_pair(), distance=2)[0]
    expected = np.array([2, 1, 0, -1, -1, 0, 0, -1, -1, 0, 1, 2, 3, 4])
    np.testing.assert_allclose(target[4, 5], np.tanh(expected / 2), rtol=1e-6)


def test_distances_are_physical():
    labels = np.zeros((9, 9, 9), np.uint32)
    labels[4, 4, 4] = 1
    target = target_of(labels, scale_um=(0.8, 0.2, 0.1))[0]
    mean = (0.8 * 0.2 * 0.1) ** (1 / 3)
    for place, um in (((2, 4, 4), 1.6), ((4, 1, 4), 0.6), ((4, 4, 8), 0.4), ((3, 3, 3), 0.69**0.5)):
        assert target[place] == pytest.approx(np.tanh(um / mean / 9), rel=1e-5)


def test_boundaries_outside_the_crop_count():
    labels = cases.ellipsoids((24, 26, 28), [((12, 13, 14), (8, 9, 10))])
    crop = (slice(9, 15), slice(10, 17), slice(12, 19))
    whole = np.tanh(slow_distance(labels) / 9)[crop]
    assert whole.max() < 0  # all inside: the crop alone has no boundary
    np.testing.assert_allclose(target_of(labels, crop)[0], whole, atol=1e-6)
    np.testing.assert_array_equal(target_of(labels[crop])[0], -1)


def test_without_any_boundary_the_target_is_saturated():
    for value, expected in ((0, 1), (7, -1)):
        labels = np.full((5, 6, 7), value, np.uint32)
        for scale_um in (None, OBLONG):
            target, weight = target_of(labels, (slice(1, 4), slice(2, 5), slice(0, 7)), scale_um)
            assert (target == expected).all()
            assert (weight == 1).all()


@pytest.mark.parametrize(("axis", "um"), [(0, 0.5), (1, 0.2), (2, 0.1)])
def test_boundaries_count_as_far_as_three_distances(axis, um):
    mean = (0.5 * 0.2 * 0.1) ** (1 / 3)
    reach = int(3 * 4 * mean / um)  # in voxels along the axis
    for away, seen in ((reach, True), (reach + 2, False)):
        labels = np.zeros((3, 3, 100), np.uint32)
        labels[:, :, 10 + away :] = 1  # boundary at 10 + away, the crop ends at 10
        labels = np.moveaxis(labels, 2, axis)
        crop = [slice(0, 3)] * 3
        crop[axis] = slice(0, 11)
        target = target_of(labels, tuple(crop), (0.5, 0.2, 0.1), distance=4)[0]
        last = np.take(target, 10, axis)
        np.testing.assert_allclose(last, np.tanh(away * um / mean / 4) if seen else 1, rtol=1e-6)
        assert last.min() > 0.98


def test_what_the_margin_hides_is_as_small_as_stated():
    labels = np.zeros((1, 1, 100), np.uint32)
    labels[:, :, 61:] = 1
    crop = (slice(0, 1), slice(0, 1), slice(0, 41))
    for margin, most in ((20, 0.024), (27, 0.005)):
        true = target_of(labels, crop)[0]
        seen = target_of(labels[:, :, : 41 + margin], crop)[0]
        assert np.abs(seen - true).max() <= most


def test_a_voxel_counts_where_no_boundary_can_hide_in_what_is_not_annotated():
    labels = cases.ellipsoids((20, 22, 40), [((10, 11, 9), (5, 6, 6)), ((10, 10, 20), (6, 5, 4))])
    mask = np.ones(labels.shape, bool)
    mask[:, :, 33:] = mask[:2] = mask[11, 11, 9] = False
    size = np.array(OBLONG) / np.prod(OBLONG) ** (1 / 3)
    crop = (slice(1, 18), slice(2, 21), slice(3, 38))
    spare = np.full(labels.shape, -1.0)
    spare[mask] = nearest(mask, ~mask, size) - np.minimum(np.abs(slow_distance(labels, OBLONG)), 27)[mask]
    target, weight = target_of(labels, crop, OBLONG, mask)
    clear = np.abs(spare[crop]) > 1e-4  # not at equal distances
    np.testing.assert_array_equal(weight[clear], spare[crop][clear] > 0)
    assert 0 < weight.sum() < mask[crop].sum()
    np.testing.assert_array_equal(target, target_of(labels, crop, OBLONG)[0])


def test_an_open_background_counts_though_the_unannotated_is_far_away():
    labels = np.zeros((1, 1, 80), np.uint32)
    mask = np.ones(labels.shape, bool)
    mask[..., 60:] = False
    weight = target_of(labels, mask=mask)[1]
    np.testing.assert_array_equal(weight[0, 0], np.arange(80) <= 60 - 27)


def test_loss_is_the_weighted_mean_square_and_so_is_its_slope():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    output, target = rng.normal(size=(2, 2, 3, 4, 5, 1)).astype(np.float32)
    weight = rng.random((2, 3, 4, 5)).astype(np.float32)
    variable = tf.Variable(output)
    with tf.GradientTape() as tape:
        loss = SignedDistance().loss(variable, tf.constant(target), tf.constant(weight))
    difference = (output - target)[..., 0]
    assert float(loss) == pytest.approx((weight * difference**2).sum() / weight.sum(), rel=1e-5)
    slope = 2 * weight * difference / weight.sum()
    np.testing.assert_allclose(tape.gradient(loss, variable)[..., 0], slope, rtol=1e-4, atol=1e-8)


def test_decoding_is_below_the_thresholds():
    head = SignedDistance()
    prediction = np.float32([-0.5, -0.15, -0.13, 0, 0.2]).reshape(1, 1, 1, 5)
    np.testing.assert_array_equal(head.surface(prediction), prediction[0])
    np.testing.assert_array_equal(head.seeds(prediction, -0.14)[0, 0], [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(head.foreground(prediction, 0.0)[0, 0], [1, 1, 1, 0, 0])
    assert head.seed_thresholds[0] == round(np.tanh(-6 / 9), 3)
    assert {-0.138, -0.111} <= set(head.seed_thresholds)
    assert head.default_seed_threshold == -0.111  # one voxel inside the boundary
    short = SignedDistance(distance=3)
    assert (short.default_seed_threshold, short.foreground_thresholds[-1]) == (-0.322, 0.322)
    assert (head.default_foreground_threshold, head.default_dilate) == (0, 1)


def test_a_perfect_prediction_decodes_to_the_truth():
    truth = cases.touching_pair()
    scenario = Scenario.named("sdt")
    prediction = target_of(truth)[0][None]
    exact = instances(prediction, scenario, Decoding(seed_threshold=-0.08, foreground_threshold=0.05))
    assert [len(np.unique(exact[truth == number])) for number in (0, 1, 2)] == [1, 1, 1]
    assert len(np.unique(exact)) == 3
    # as published: the interior, grown by one voxel into the faces of the boundary
    usual = instances(prediction, scenario, Decoding(seed_threshold=-0.1, foreground_threshold=0, dilate=1))
    interiors = np.where(ndimage.minimum_filter(truth, 3) == ndimage.maximum_filter(truth, 3), truth, 0)
    grown = sum(number * ndimage.binary_dilation(interiors == number) for number in (1, 2))
    np.testing.assert_array_equal(usual > 0, grown > 0)
    pairs = np.unique(np.stack([usual[usual > 0], grown[usual > 0]]), axis=1)
    assert pairs.shape == (2, 2)


def test_scenarios():
    assert Scenario.named("sdt").heads == (SignedDistance(),)
    assert Scenario.named("sdt").loss_weights() == {"sdt": 1}
    both = Scenario.named("sdt_cpv")
    assert [(head.name, head.kind) for head in both.heads] == [
        ("sdt", "signed_distance"),
        ("cpv", "center_vectors"),
    ]
    assert both.loss_weights() == {"sdt": 100, "cpv": 1}


def test_the_balance_with_the_vectors_is_the_published_one_in_any_unit():
    """Ten times larger units make the vectors' squared error 100 times smaller: the weight follows."""
    vectors = CenterVectors(scale=10)
    assert Scenario([SignedDistance(), vectors]).loss_weights() == {"sdt": 1, "cpv": 1}
    assert Scenario([SignedDistance(loss_weight=7), vectors]).loss_weights() == {"sdt": 7, "cpv": 1}
    again = Scenario.from_json(Scenario([SignedDistance(), vectors]).to_json())
    assert again.loss_weights() == {"sdt": 1, "cpv": 1}
    short = Scenario([SignedDistance(distance=3), CenterVectors(scale=6)])
    assert short.loss_weights()["sdt"] == pytest.approx(100 / 36 / 3)


def test_a_distance_of_nothing_is_refused():
    with pytest.raises(ValidationError):
        SignedDistance(distance=0)


@pytest.mark.parametrize("fields", [{}, {"distance": 3.0, "loss_weight": 100.0}])
def test_contract(fields):
    check_head(SignedDistance(**fields))
