"""Drawing: layout in physical proportion, contours and discs against obvious references, scale bars."""

import base64
import io
import itertools

import numpy as np
import pytest
from matplotlib.image import imread

from nucseg.report.colors import instance_colors
from nucseg.report.drawing import Layout, contours, data_uri, disc_mask, gray, round_length, window


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((20, 30, 40), None),
        ((10, 50, 60), (1.0, 0.2, 0.2)),
        ((3, 400, 3000), (0.5, 0.5, 0.5)),
        ((1, 1, 1), None),
    ],
)
def test_views_keep_the_physical_proportions(shape, scale):
    layout = Layout(shape, scale)
    lengths = np.array(shape) * (scale or (1, 1, 1))
    pixels = np.array(layout.size)
    np.testing.assert_allclose(pixels / pixels.max(), lengths / lengths.max(), atol=0.05)
    assert max(layout.width, layout.height) <= 1402
    volume = np.random.default_rng(0).integers(0, 255, (*shape, 3))
    views = [layout.enlarged(volume.take(n // 2, axis), axis) for axis, n in enumerate(shape)]
    joined = layout.joined(views)
    assert joined.shape == (layout.height, layout.width, 3)
    if layout.zoom.min() < 1:
        return  # not every voxel has a pixel
    np.testing.assert_array_equal(joined[0, 0], volume[shape[0] // 2, 0, 0])
    np.testing.assert_array_equal(joined[-1, 0], volume[-1, shape[1] // 2, 0])  # along y: z down, x right
    np.testing.assert_array_equal(joined[0, -1], volume[-1, 0, shape[2] // 2])  # along x: y down, z right


def test_a_point_lies_on_its_voxel():
    layout = Layout((10, 20, 30), (0.5, 0.2, 0.2))
    point = np.array([[7, 13, 21]])
    volume = np.zeros((10, 20, 30), np.uint8)
    volume[7, 13, 21] = 1
    for axis in range(3):
        row, column = np.floor(layout.pixels_of(point, axis)[0]).astype(int)
        assert layout.enlarged(volume.max(axis), axis)[row, column] == 1


def test_the_scale_bar_is_as_long_as_it_says():
    layout = Layout((10, 50, 200), (0.4, 0.1, 0.1))
    percent, text = layout.bar()
    um = float(text.split()[0])
    assert percent / 100 * layout.width == pytest.approx(um / 0.1 * layout.zoom[2])
    assert um <= 0.2 * 200 * 0.1
    assert Layout((10, 50, 200), None).bar() == (None, "")


@pytest.mark.parametrize(
    ("longest", "length"),
    [(1, 1), (1.99, 1), (2, 2), (4.9, 2), (73, 50), (0.3, 0.2), (0.05, 0.05), (999, 500)],
)
def test_round_lengths(longest, length):
    assert round_length(longest) == pytest.approx(length)


@pytest.mark.parametrize("thickness", [1, 2, 3])
def test_contours(thickness):
    rng = np.random.default_rng(thickness)
    labels = np.kron(rng.integers(0, 3, (5, 6)), np.ones((4, 4), int))
    expected = np.zeros(labels.shape, bool)
    for i, j in np.argwhere(labels):
        for step, (di, dj) in itertools.product(range(1, thickness + 1), [(0, 1), (1, 0), (0, -1), (-1, 0)]):
            a, b = i + step * di, j + step * dj
            if 0 <= a < labels.shape[0] and 0 <= b < labels.shape[1] and labels[a, b] != labels[i, j]:
                expected[i, j] = True
    np.testing.assert_array_equal(contours(labels, thickness), expected)


def test_discs():
    points = np.array([[3.2, 4.9], [0.0, 0.0], [50.0, 50.0]])
    mask = disc_mask((10, 12), points, 2)
    expected = np.zeros((10, 12), bool)
    for (i, j), (r, c) in itertools.product(np.ndindex(10, 12), [(3, 4), (0, 0)]):
        expected[i, j] |= (i - r) ** 2 + (j - c) ** 2 <= 4
    np.testing.assert_array_equal(mask, expected)
    assert not disc_mask((4, 4), np.zeros((0, 2)), 2).any()


def test_the_window_ignores_what_is_no_number():
    values = np.arange(1001, dtype=np.float32)
    low, high = window([values, np.array([np.nan, np.inf, -np.inf], np.float32)], 1, 99)
    assert (low, high) == pytest.approx((10, 990))
    assert window([np.full(5, 7.0)]) == (7.0, 8.0)
    assert window([np.full(5, np.nan)]) == (0.0, 1.0)
    light = gray(np.array([[10, 990, np.nan, 5000]]), (10, 990))
    np.testing.assert_allclose(light[..., 0], [[0, 1, 0, 1]])


def test_png_round_trip():
    picture = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    uri = data_uri(picture)
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    read = imread(io.BytesIO(base64.b64decode(data)), format="png")
    np.testing.assert_array_equal(np.rint(read[..., :3] * 255), picture)


def test_instances_have_colours_of_their_own():
    colors = instance_colors(np.array([0, 1, 1, 2**63, 7], np.uint64))
    assert (colors[0] == 0).all()
    np.testing.assert_array_equal(colors[1], colors[2])
    assert len(np.unique(instance_colors(np.arange(1, 200)), axis=0)) == 12
