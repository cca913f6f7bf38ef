"""GaussianCenters: blobs against the formula at every voxel, unknown centres, voxels that are no cubes, loss."""

import cases
import numpy as np
import pytest

from nucseg.heads.base import Centers
from nucseg.heads.gaussian_centers import GaussianCenters, gaussian_blobs
from nucseg.heads.scenario import Scenario, scenario_names
from nucseg.instances.centroids import centroids
from nucseg.testing import check_head

ALL = (slice(None),) * 3


def everything(labels):
    return tuple(slice(0, n) for n in labels.shape)


def centers_of(labels, known=True):
    found = centroids(labels)
    return Centers(found.ids, found.centers, np.full(len(found.ids), known))


def slow_blobs(points, shape, sigmas):
    """The formula at every voxel for every point, in float64; the box of 4 standard deviations around each."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    blobs = np.zeros(shape)
    for point in points:
        away = (grid - point) / sigmas
        near = (np.abs(away) <= 4).all(-1)
        blobs = np.maximum(blobs, np.where(near, np.exp(-0.5 * (away**2).sum(-1)), 0))
    return blobs


def test_the_head_keeps_the_contract():
    check_head(GaussianCenters())
    check_head(GaussianCenters(sigma=1.3, background_weight=1.0, loss_weight=3))
    assert scenario_names().count("gauss") == 1
    assert not any(name.startswith("gauss_") for name in scenario_names())
    assert Scenario.named("gauss").heads == (GaussianCenters(),)


@pytest.mark.parametrize("sigmas", [(2.0, 2.0, 2.0), (0.7, 1.9, 3.1)])
def test_blobs_as_the_formula(sigmas):
    rng = np.random.default_rng(1)
    points = rng.uniform(-6, 36, (25, 3))  # between voxels, overlapping, and outside
    points = np.concatenate([points, [[3.0, 4.0, 5.0], [-40.0, 2.0, 2.0], [500.0, 500.0, 500.0]]])
    shape = (18, 23, 31)
    np.testing.assert_allclose(
        gaussian_blobs(points, shape, sigmas), slow_blobs(points, shape, sigmas), atol=1e-6
    )


def test_overlapping_blobs_keep_their_height():
    points = np.array([[6.0, 6.0, 6.0], [6.0, 6.0, 8.0]])
    blobs = gaussian_blobs(points, (13, 13, 15), (2.0, 2.0, 2.0))
    assert blobs.max() == 1
    assert blobs[6, 6, 6] == blobs[6, 6, 8] == 1
    assert blobs[6, 6, 7] == pytest.approx(np.exp(-1 / 8))


def test_a_centre_outside_the_crop_still_contributes():
    labels = cases.touching_pair()
    whole, _ = GaussianCenters().target(labels, everything(labels), None, centers_of(labels))
    crop = (slice(0, 3), slice(2, 9), slice(5, 14))  # neither centre (z 3.5) is inside
    part, weight = GaussianCenters().target(labels, crop, None, centers_of(labels))
    np.testing.assert_array_equal(part, whole[(slice(None), *crop)])
    assert part.max() > 0.6
    np.testing.assert_array_equal(weight, np.where(part[0] >= 0.01, np.float32(1), np.float32(0.1)))


def test_sub_voxel_centres():
    target, _ = GaussianCenters().target(
        *[cases.touching_pair(), everything(cases.touching_pair()), None],
        Centers(np.array([1, 2]), np.array([[3.5, 4.25, 3.0], [3.5, 4.5, 7.5]]), np.array([True, False])),
    )
    assert target[0, 3, 4, 3] == pytest.approx(np.exp(-(0.5**2 + 0.25**2) / 8))
    assert target[0, 3, 5, 3] == pytest.approx(np.exp(-(0.5**2 + 0.75**2) / 8))


def test_blobs_are_round_in_micrometres():
    labels = np.zeros((21, 41, 41), np.uint32)
    labels[10, 20, 20] = 1
    um = (0.4, 0.2, 0.1)
    target, weight = GaussianCenters().target(labels, everything(labels), um, centers_of(labels))
    sigma_um = 2 * np.prod(um) ** (1 / 3)
    grid = (
        np.stack(np.meshgrid(*(np.arange(n) for n in labels.shape), indexing="ij"), -1) - [10, 20, 20]
    ) * um
    distance = np.sqrt((grid**2).sum(-1))
    expected = np.exp(-0.5 * (distance / sigma_um) ** 2)
    np.testing.assert_allclose(target[0], np.where(expected > 4e-4, expected, target[0]), atol=1e-6)
    assert target[0].max() == 1
    counted = 4 / 3 * np.pi * (sigma_um * np.sqrt(2 * np.log(100))) ** 3 / np.prod(um)  # a ball, in voxels
    assert (weight == 1).sum() == pytest.approx(counted, rel=0.06)


def test_an_unknown_centre_has_no_blob_and_weight_zero():
    labels = cases.touching_pair()
    centers = centers_of(labels)._replace(known=np.array([True, False]))
    target, weight = GaussianCenters(background_weight=0.25).target(labels, everything(labels), None, centers)
    np.testing.assert_allclose(
        target[0], slow_blobs([[3.5, 4.5, 3.5]], labels.shape, (2.0, 2.0, 2.0)), atol=1e-6
    )
    np.testing.assert_array_equal(
        weight, np.where(labels == 2, 0, np.where(target[0] >= 0.01, 1, 0.25)).astype(np.float32)
    )
    nowhere = Centers(centers.ids[:1], centers.centers[:1], np.array([True]))  # label 2 is not told of at all
    np.testing.assert_array_equal(
        GaussianCenters(background_weight=0.25).target(labels, everything(labels), None, nowhere)[1], weight
    )


def test_mask():
    labels = cases.touching_pair()
    mask = np.ones(labels.shape, bool)
    mask[:, :5] = False
    crop = (slice(1, 7), slice(3, 8), slice(2, 12))
    head = GaussianCenters()
    target, weight = head.target(labels, crop, None, centers_of(labels), mask)
    free_target, free = head.target(labels, crop, None, centers_of(labels))
    np.testing.assert_array_equal(target, free_target)
    np.testing.assert_array_equal(weight, np.where(mask[crop], free, 0))


def test_loss_is_the_weighted_mean_squared_error():
    rng = np.random.default_rng(0)
    output, target = rng.normal(size=(2, 2, 3, 4, 5, 1)).astype(np.float32)
    weight = rng.random((2, 3, 4, 5)).astype(np.float32)
    expected = (weight * (output - target)[..., 0] ** 2).sum() / weight.sum()
    assert float(GaussianCenters().loss(output, target, weight)) == pytest.approx(expected, rel=1e-5)


def test_it_does_not_segment():
    assert Scenario.named("gauss").can_detect
    from nucseg.errors import InputError

    with pytest.raises(InputError, match="decodes to instances"):
        GaussianCenters().surface(np.zeros((1, 2, 2, 2), np.float32))
    with pytest.raises(InputError, match="decodes to instances"):
        _ = Scenario.named("gauss").main
