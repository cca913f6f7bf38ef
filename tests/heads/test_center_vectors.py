"""CenterVectors: target, unknown centres, loss in physical proportion, votes as seeds."""

import cases
import numpy as np
import pytest
from pydantic import ValidationError

from nucseg.blockwise.decoding import choose_decoding
from nucseg.errors import InputError
from nucseg.heads.base import Centers
from nucseg.heads.center_vectors import CenterVectors, vote_threshold_grid
from nucseg.heads.decoding import Decoding
from nucseg.heads.scenario import Scenario
from nucseg.heads.three_label import ThreeLabel
from nucseg.instances.centroids import center_vectors, centroids
from nucseg.instances.seeds import label_seeds
from nucseg.instances.votes import MOST_PASSES
from nucseg.testing import check_head


def centers_of(labels, known=True):
    found = centroids(labels)
    return Centers(found.ids, found.centers, np.full(len(found.ids), known))


def test_a_cut_nucleus_points_to_its_true_centre_outside_the_crop():
    labels = cases.touching_pair()
    crop = (slice(2, 6), slice(3, 5), slice(0, 3))  # one column of nucleus 1, whose centre is at x 3.5
    vectors, weight = CenterVectors().target(labels, crop, None, centers_of(labels))
    whole = center_vectors(labels, *centroids(labels)[:2])
    np.testing.assert_array_equal(vectors, whole[(slice(None), *crop)])
    np.testing.assert_array_equal(vectors[2, :, :, 2], 1.5)
    np.testing.assert_array_equal(weight, labels[crop] > 0)


def test_an_unknown_centre_has_weight_zero():
    labels = cases.touching_pair()
    centers = centers_of(labels)._replace(known=np.array([True, False]))
    everything = tuple(slice(0, n) for n in labels.shape)
    vectors, weight = CenterVectors(background_weight=0.01).target(labels, everything, None, centers)
    np.testing.assert_array_equal(weight, np.float32([0.01, 1, 0])[labels])
    assert not vectors[:, labels != 1].any()


def test_a_label_without_any_centre_has_weight_zero():
    labels = cases.touching_pair()
    centers = Centers(np.array([2]), np.array([[3.5, 4.5, 7.5]]), np.array([True]))
    weight = CenterVectors().target(labels, tuple(slice(0, n) for n in labels.shape), None, centers)[1]
    np.testing.assert_array_equal(weight, labels == 2)


def test_mask():
    labels = cases.touching_pair()
    mask = np.ones(labels.shape, bool)
    mask[:, :, :4] = False
    crop = (slice(1, 7), slice(2, 8), slice(3, 11))
    head = CenterVectors(background_weight=0.5)
    weight = head.target(labels, crop, None, centers_of(labels), mask)[1]
    np.testing.assert_array_equal(weight, np.where(mask, np.where(labels > 0, 1, 0.5), 0)[crop])


def test_loss_is_the_weighted_mean_squared_length():
    rng = np.random.default_rng(0)
    output = rng.normal(size=(2, 2, 3, 4, 3)).astype(np.float32)
    target = rng.normal(0, 5, output.shape).astype(np.float32)
    weight = rng.random((2, 2, 3, 4)).astype(np.float32)
    head = CenterVectors(scale=6.0, voxel_um=(0.5, 0.2, 0.1))
    um = np.array([0.5, 0.2, 0.1])
    physical = (output - target / 6.0) * um  # um per 6 voxels
    expected = (weight * (physical**2).sum(-1)).sum() / weight.sum() / np.prod(um) ** (2 / 3)
    assert float(head.loss(output, target, weight)) == pytest.approx(expected, rel=1e-5)


def test_cubic_voxels_of_any_size_cost_the_same():
    output, target = np.ones((1, 1, 1, 1, 3), np.float32), np.zeros((1, 1, 1, 1, 3), np.float32)
    weight = np.ones((1, 1, 1, 1), np.float32)
    for um in (None, (0.2, 0.2, 0.2), (9.0, 9.0, 9.0)):
        assert float(CenterVectors(voxel_um=um).loss(output, target, weight)) == pytest.approx(3, rel=1e-6)


def test_activation_gives_voxels():
    np.testing.assert_array_equal(CenterVectors(scale=6).activation(np.ones((3, 1, 1, 2), np.float32)), 6)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_votes_find_every_nucleus_of_a_crowd(noise):
    labels = cases.ellipsoids(
        (24, 30, 36),
        [((z, y, x), (4.5, 4.2, 4.8)) for z in (6, 16) for y in (6, 15, 24) for x in (6, 15, 24)],
    )
    prediction = cases.known_prediction(labels, noise)[3:]
    head = CenterVectors(scale=4.5)
    for threshold in head.vote_thresholds[1:4]:
        seeds = head.seeds_from_votes(prediction, labels > 0, threshold, reach=12, passes=2)
        components = label_seeds(seeds)
        pairs = np.unique(np.stack([labels[seeds], components[seeds]]), axis=1)
        np.testing.assert_array_equal(pairs[0], np.arange(1, 19))  # one seed in each nucleus, and no other


def test_seeds_from_votes_equal_their_definition():
    rng = np.random.default_rng(1)
    prediction = rng.normal(0, 1, (3, 6, 7, 8)).astype(np.float32)
    foreground = rng.random((6, 7, 8)) < 0.7
    head = CenterVectors()
    votes = head.votes(prediction, foreground, reach=3, passes=1)
    seeds = head.seeds_from_votes(prediction, foreground, 0.75, reach=3, passes=1)
    np.testing.assert_array_equal(seeds, votes / 64 > 0.75)
    assert seeds.any()


def test_thresholds_grow_with_the_nucleus():
    small, large = vote_threshold_grid(3.0), vote_threshold_grid(6.0)
    assert all(0.5 <= a < b for a, b in zip(small, large, strict=True))
    assert list(large) == sorted(large)
    # all voxels of a ball of radius 6 on one voxel: 905 votes, of which sigma 1 leaves (3/8)**3 there
    assert large[-1] == pytest.approx(905 * (3 / 8) ** 3, rel=0.03)
    assert CenterVectors(scale=6.0).vote_thresholds == large
    assert CenterVectors(scale=6.0).default_vote_threshold in large


def test_votes_of_large_nuclei_are_also_smoothed_more():
    """The kernel's standard deviation, the root of half the passes, keeps its share of a radius, as far as it may."""
    assert CenterVectors(scale=5.6).vote_passes == (2,)
    assert CenterVectors(scale=3.0).vote_passes == (2,)
    assert CenterVectors(scale=7.8).vote_passes == (2, 4)
    assert CenterVectors(scale=30.0).vote_passes == (2, MOST_PASSES)
    scenario = Scenario(heads=[ThreeLabel(), CenterVectors(scale=7.8)])
    tried = {(d.seeds, d.vote_passes, d.seed_threshold) for d in scenario.decodings(reach=20)}
    for passes in (2, 4):
        thresholds = vote_threshold_grid(7.8, passes)
        assert {t for seeds, p, t in tried if (seeds, p) == ("votes", passes)} == set(thresholds)
        assert {t for seeds, p, t in tried if (seeds, p) == ("vectors", passes)} == set(thresholds[:5])
    points = {(d.vote_passes, d.threshold) for d in scenario.point_decodings(20) if d.source == "votes"}
    assert points == {(p, t) for p in (2, 4) for t in vote_threshold_grid(7.8, p)}


def test_unit_vectors_are_directions_in_um():
    labels = cases.anisotropic()
    crop = (slice(1, 7), slice(3, 20), slice(2, 15))
    um = np.array(cases.ANISOTROPIC_UM)
    vectors, weight = CenterVectors(unit=True).target(labels, crop, cases.ANISOTROPIC_UM, centers_of(labels))
    assert vectors.dtype == weight.dtype == np.float32
    center = np.argwhere(labels == 1).mean(axis=0)
    for place in np.argwhere(labels[crop] == 1):
        away = (center - place - [part.start for part in crop]) * um
        np.testing.assert_allclose(vectors[:, *place], away / np.linalg.norm(away), atol=1e-6)
    assert not vectors[:, labels[crop] == 0].any()
    np.testing.assert_array_equal(weight, labels[crop] == 1)
    cubic = CenterVectors(unit=True).target(labels, crop, None, centers_of(labels))[0]
    assert np.abs(vectors - cubic).max() > 0.3


def test_at_the_centre_itself_a_unit_vector_has_no_direction():
    labels = np.zeros((5, 6, 7), np.uint32)
    labels[1:4, 2:5, 3:6] = 4
    everything = tuple(slice(0, n) for n in labels.shape)
    head = CenterVectors(unit=True, background_weight=0.5)
    vectors, weight = head.target(labels, everything, None, centers_of(labels))
    expected = np.where(labels > 0, 1, 0.5)
    expected[2, 3, 4] = 0
    np.testing.assert_array_equal(weight, expected)
    assert not vectors[:, 2, 3, 4].any()
    np.testing.assert_array_equal(vectors[:, 2, 3, 5], [0, 0, -1])
    unknown = head.target(labels, everything, None, centers_of(labels, known=False))[1]
    assert not unknown[labels > 0].any()


def test_unit_vectors_are_trained_and_predicted_with_length_one():
    rng = np.random.default_rng(0)
    output = rng.normal(0, 3, (1, 2, 3, 4, 3)).astype(np.float32)
    target = rng.normal(size=output.shape).astype(np.float32)
    weight = rng.random(output.shape[:-1]).astype(np.float32)
    expected = (weight * ((output - target) ** 2).sum(-1)).sum() / weight.sum()
    head = CenterVectors(unit=True)
    assert float(head.loss(output, target, weight)) == pytest.approx(expected, rel=1e-5)
    raw = output[0].transpose(3, 0, 1, 2) * np.float32(1e25)  # whose squares are beyond float32
    raw[:, 0, 0, 0] = 0
    prediction = head.activation(raw)
    lengths = np.linalg.norm(raw.astype(float), axis=0)
    np.testing.assert_allclose(prediction, raw / np.where(lengths > 0, lengths, 1), rtol=1e-5)
    assert not prediction[:, 0, 0, 0].any()


def test_unit_vectors_do_not_vote():
    scenario = Scenario([ThreeLabel(), CenterVectors(unit=True)])
    assert {decoding.seeds for decoding in scenario.decodings(reach=9)} == {"main"}
    prediction = np.zeros((6, 4, 4, 4), np.float32)
    votes = Decoding(seeds="votes", seed_threshold=2, foreground_threshold=0.5, reach=4)
    for ask in (
        lambda: scenario.decode(prediction, votes),
        lambda: choose_decoding(scenario, None, seeds="votes", reach=4),
        lambda: scenario.auxiliary.votes(prediction[3:], prediction[0] > 0),
    ):
        with pytest.raises(InputError, match="unit vector"):
            ask()


@pytest.mark.parametrize("fields", [{"scale": 6.0}, {"voxel_um": (0.5, 0.2, 0.2)}])
def test_unit_vectors_have_no_size(fields):
    with pytest.raises(ValidationError, match="unit vectors"):
        CenterVectors(unit=True, **fields)


@pytest.mark.parametrize("fields", [{"scale": 0}, {"background_weight": -1}, {"reach": 3}])
def test_bad_fields_are_refused(fields):
    with pytest.raises(ValidationError):
        CenterVectors(**fields)


@pytest.mark.parametrize(
    "fields", [{}, {"scale": 6.0, "background_weight": 0.1, "voxel_um": (0.5, 0.2, 0.2)}, {"unit": True}]
)
def test_contract(fields):
    check_head(CenterVectors(**fields))
