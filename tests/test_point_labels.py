"""Balls around points: against a loop over all voxels, and their centres against the points."""

import numpy as np
import pytest

from nucseg.errors import InputError
from nucseg.point_labels import PointLabels


def reference(points, shape, scale_um, radius_um):
    """Each voxel asks every point; the nearest voxel of a point is its own, whatever the radius."""
    um, points = np.array(scale_um), np.asarray(points, float)
    out = np.zeros(shape, np.uint32)
    radii = []
    for i, p in enumerate(points):
        others = [np.linalg.norm((p - q) * um) for j, q in enumerate(points) if j != i]
        radii.append(min([radius_um, *(0.49 * d for d in others)]))
    for voxel in np.ndindex(shape):
        for i, p in enumerate(points):
            offset = np.array(voxel) - p
            face = np.minimum(p + 0.5, np.array(shape) - 0.5 - p)
            if np.linalg.norm(offset * um) <= radii[i] and (np.abs(offset) <= face).all():
                assert out[voxel] == 0, "balls overlap"
                out[voxel] = i + 1
    nearest = {}
    for i, p in enumerate(points):
        voxel = tuple(int(min(max(np.floor(c + 0.5), 0), n - 1)) for c, n in zip(p, shape, strict=True))
        distance = np.linalg.norm((np.array(voxel) - p) * um)
        if voxel not in nearest or distance < nearest[voxel][0]:
            nearest[voxel] = (distance, i + 1)
    for voxel, (_, label) in nearest.items():
        out[voxel] = label
    return out


def scattered(shape, number, seed, least):
    """Random points at least `least` voxels apart."""
    rng = np.random.default_rng(seed)
    points = []
    while len(points) < number:
        p = rng.uniform(-0.5, np.array(shape) - 0.5)
        if all(np.linalg.norm(p - q) >= least for q in points):
            points.append(p)
    return np.array(points)


@pytest.mark.parametrize("scale_um", [(1.0, 1.0, 1.0), (0.5, 0.2, 0.1)])
@pytest.mark.parametrize("least", [0.2, 4.0])
def test_balls_as_a_slow_reference_makes_them(scale_um, least):
    """Crowded or well apart, many at the faces; the radius is 2.5 voxels of the middle axis."""
    shape, radius = (9, 14, 11), 2.5 * scale_um[1]
    points = np.concatenate([scattered(shape, 12, 3, least), [(-0.5, 13.5, 10.5), (8.5, -0.5, 0.2)]])
    made = PointLabels(points, shape, scale_um, radius_um=radius)
    expected = reference(points, shape, scale_um, radius)
    assert made.read().dtype == np.uint32
    np.testing.assert_array_equal(made.read(), expected)
    assert len(np.unique(expected)) > 12


@pytest.mark.parametrize("shape", [(12, 9, 10), (9, 10, 14), (8, 15, 9)])
def test_a_region_is_a_part_of_the_whole(shape):
    """Whatever axis is the longest; also regions that reach beyond the volume, and empty ones."""
    made = PointLabels(scattered(shape, 30, 1, 0.3), shape, (0.4, 0.2, 0.3), radius_um=0.9)
    padded = np.pad(made.read(), 6)
    rng = np.random.default_rng(0)
    for _ in range(60):
        begin = rng.integers(-6, np.array(shape) + 4)
        size = np.minimum(rng.integers(0, 9, 3), np.array(shape) + 6 - begin)
        part = padded[tuple(slice(b + 6, b + 6 + n) for b, n in zip(begin, size, strict=True))]
        np.testing.assert_array_equal(made.read(tuple(begin), tuple(size)), part)
    np.testing.assert_array_equal(made.read((2, 3, 4)), made.read()[2:, 3:, 4:])


def offsets(points, made):
    labels = made.read()
    return np.array([np.argwhere(labels == i + 1).mean(axis=0) - p for i, p in enumerate(points)])


@pytest.mark.parametrize(
    ("scale_um", "radius", "mean", "most"),
    [((1, 1, 1), 1.0, 0.1, 0.4), ((1, 1, 1), 3.0, 0.04, 0.2), ((2.5, 1, 1), 5.0, 0.04, 0.2)],
)
def test_the_centre_of_mass_is_the_point(scale_um, radius, mean, most):
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.arange(8, 64, 12),) * 3, indexing="ij"), -1).reshape(-1, 3)
    points = grid + rng.uniform(-1, 1, grid.shape)
    off = np.abs(offsets(points, PointLabels(points, (70, 70, 70), scale_um, radius_um=radius)))
    assert (off.mean(axis=0) < mean).all()
    assert off.max() < most


def test_near_pairs_do_not_overlap_and_keep_their_centres():
    rng = np.random.default_rng(4)
    firsts = np.stack(np.meshgrid(*(np.arange(8, 50, 14),) * 3, indexing="ij"), -1).reshape(-1, 3)
    firsts = firsts + rng.uniform(-1, 1, firsts.shape)
    directions = rng.normal(size=firsts.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = np.concatenate([firsts, firsts + 5 * directions])
    made = PointLabels(points, (56, 56, 56), radius_um=4)
    np.testing.assert_allclose(made.radii_um, 2.45)
    off = np.abs(offsets(points, made))
    assert off.mean() < 0.05
    assert off.max() < 0.25
    # A voxel and a half apart: a voxel or a few each, and none is lost.
    near = np.concatenate([firsts, firsts + 1.75 * directions])
    made = PointLabels(near, (56, 56, 56), radius_um=4)
    assert made.shared == 0
    assert np.abs(offsets(near, made)).max() <= 0.5


def test_at_a_face_the_centre_stays_within_a_quarter_of_a_voxel():
    along = np.linspace(-0.5, 3.5, 23)
    for axis in range(3):
        points = np.full((len(along), 3), 10.0)
        points[:, axis] = along
        points[:, (axis + 1) % 3] = 12 + 24 * np.arange(len(along))
        shape = [21, 21, 21]
        shape[(axis + 1) % 3] = 24 * len(along)
        for mirrored in (points, np.array(shape) - 1 - points):
            off = np.abs(offsets(mirrored, PointLabels(mirrored, tuple(shape), radius_um=3.0)))
            assert off.max() <= 0.5 + 1e-9, "the outer half of the first voxel"
            assert off[along >= 0].max() <= 0.25 + 1e-9


def test_points_in_one_voxel_are_counted():
    points = [(5.0, 5.0, 5.0), (5.2, 5.0, 5.0), (5.0, 5.0, 5.0), (8.0, 8.0, 8.0)]
    made = PointLabels(np.array(points), (12, 12, 12), radius_um=1.0)
    assert made.shared == 2
    assert made.read()[5, 5, 5] == 1
    assert set(np.unique(made.read())) == {0, 1, 4}


def test_a_volume_of_any_size_costs_nothing():
    shape = (4000, 5000, 60000)
    points = np.random.default_rng(2).uniform(0, 1, (20000, 3)) * (np.array(shape) - 1)
    points[7] = (2000.25, 2500.0, 30000.75)
    made = PointLabels(points, shape, (0.2, 0.1, 0.1), radius_um=0.4)
    labels = made.read((1990, 2490, 29990), (20, 20, 20))
    assert set(np.unique(labels)) == {0, 8}
    np.testing.assert_allclose(np.argwhere(labels == 8).mean(axis=0), (10.25, 10, 10.75), atol=0.15)


def test_how_much_of_a_nucleus_a_ball_fills():
    made = PointLabels(np.array([[3.0, 3, 3], [9, 9, 9]]), (12, 12, 12), radius_um=2)
    assert made.filled(8.0) == pytest.approx(1 / 8)
    assert made.filled(1.0) == 1.0
    assert PointLabels(np.zeros((0, 3)), (4, 4, 4), radius_um=1).filled(3.0) == 1.0


@pytest.mark.parametrize(
    ("points", "radius", "message"),
    [
        ([[1, 2]], 1, r"finite positions z, y, x.*received an array of shape \(1, 2\)"),
        ([[1, 2, np.nan]], 1, "finite positions"),
        ([[1, 2, 3], [1, 2, 4.6]], 1, r"inside the shape \(5, 5, 5\).*1 of 2 outside, e\.g\. \[1\.0, 2\.0, 4\.6\]"),
        ([[1, 2, 3]], 0, "a positive length"),
    ],
)  # fmt: skip
def test_what_cannot_be_labels_is_refused(points, radius, message):
    with pytest.raises(InputError, match=message):
        PointLabels(np.array(points, float), (5, 5, 5), radius_um=radius)
