"""Points of a grid of decodings: what each gives alone."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import nucseg.evaluate
from nucseg.errors import InputError
from nucseg.evaluate.detect import points, points_of_all
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.gaussian_centers import GaussianCenters, gaussian_blobs
from nucseg.heads.scenario import PointDecoding, Scenario


def test_a_grid_gives_what_each_decoding_gives_alone():
    rng = np.random.default_rng(0)
    scenario = Scenario([GaussianCenters(), CenterVectors()])
    maps = gaussian_filter(rng.standard_normal((4, 16, 24, 28)), (0, 1.2, 1.2, 1.2))
    maps = (maps / maps.std(axis=(1, 2, 3), keepdims=True)).astype(np.float32)
    maps[1:] *= 2
    grid = scenario.point_decodings(reach=5)[::7]
    grid = [*grid[::-1], PointDecoding(threshold=-0.5, distance=1)]
    together = points_of_all(maps, scenario, grid)
    assert len(together) == len(grid) > 40
    assert len({len(found) for found in together}) > 10
    for decoding, found in zip(grid, together, strict=True):
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, points(maps, scenario, decoding))


def test_isolated_blobs_are_found_where_they_are():
    centers = np.array([[4.2, 5.0, 6.9], [5.0, 18.6, 7.0], [15.0, 6.0, 20.4]])
    maps = gaussian_blobs(centers, (20, 24, 28), (2.0, 1.5, 2.5))[None]
    found = nucseg.evaluate.points(maps, Scenario.named("gauss"), PointDecoding(threshold=0.5, distance=3))
    np.testing.assert_array_equal(found, np.rint(centers))


def test_what_does_not_fit():
    decoding = PointDecoding(threshold=0.5, distance=3)
    with pytest.raises(InputError, match="channels first"):
        points(np.zeros((2, 4, 4, 4), np.float32), Scenario.named("gauss"), decoding)
