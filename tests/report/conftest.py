"""An image with known matches, misses and false positives, shared by the tests of the report."""

from types import SimpleNamespace

import numpy as np
import pytest

from nucseg.report.image import ReportImage


def ellipsoid(labels, center, radii, number):
    grid = np.indices(labels.shape)
    inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, center, radii, strict=True)) <= 1
    labels[inside & (labels == 0)] = number
    return inside


@pytest.fixture(scope="session")
def scene():
    """Raw, truth and a perturbed prediction of 40 random ellipsoids, and which ids were perturbed how."""
    rng = np.random.default_rng(12)
    shape = (24, 44, 90)
    truth = np.zeros(shape, np.uint32)
    light = np.zeros(shape, np.float32)
    for number in range(1, 41):
        radii = rng.uniform(2.5, 5, 3)
        inside = ellipsoid(truth, rng.uniform(0, shape), radii, number)
        light[inside] = np.maximum(light[inside], rng.uniform(0.5, 1))
    raw = (rng.poisson(200 * light + 20) + rng.normal(0, 6, shape)).clip(0).astype(np.uint16)
    ids = np.unique(truth)[1:]
    missing, shifted = ids[:3], ids[3:6]
    predicted = truth.astype(np.uint64)
    predicted[np.isin(truth, missing)] = 0
    for number in shifted:
        predicted[predicted == number] = 0
        moved = np.roll(truth == number, (0, 3, 4), (0, 1, 2))
        predicted[moved & (predicted == 0)] = number
    false = 2**40 + 3
    predicted[1:5, 1:5, -6:-1] = np.where(predicted[1:5, 1:5, -6:-1] == 0, false, predicted[1:5, 1:5, -6:-1])
    return SimpleNamespace(
        raw=raw,
        truth=truth,
        predicted=predicted,
        missing=missing,
        shifted=shifted,
        false=false,
        scale=(0.3, 0.2, 0.2),
    )


@pytest.fixture(scope="session")
def image(scene):
    return ReportImage("crowd", scene.raw, scene.truth, scene.predicted, scene.scale)


@pytest.fixture(scope="session")
def image_without_truth(scene):
    return ReportImage("new volume", scene.raw, None, scene.predicted, scene.scale)
