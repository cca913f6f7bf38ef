"""The charts as SVG: what they name, that they load nothing, and the moving mean."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from nucseg.evaluate.matching import match
from nucseg.report.figures import ap_chart, loss_chart, moving_mean, volume_chart


def texts(svg):
    return [t.text for t in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def losses(n=300):
    rng = np.random.default_rng(0)
    return {
        name: (np.arange(1, n + 1), np.exp(-np.arange(n) / 100) * k + 0.01 * rng.random(n))
        for k, name in enumerate(["loss", "three_label", "cpv"], start=1)
    }


def test_losses_are_named_on_a_log_axis():
    found = texts(loss_chart(losses()))
    assert {"loss", "three_label", "cpv", "iteration"} <= set(found)
    ticks = [float(t) for t in found if re.fullmatch(r"[\d.]+", t or "") and float(t) < 5]
    assert {0.1, 1.0} <= set(ticks)


def test_losses_that_are_negative_or_no_number_or_missing():
    values = np.array([1.0, np.nan, -0.5, 0.2])
    assert "sdt" in texts(loss_chart({"sdt": (np.arange(4), values)}))
    assert texts(loss_chart({"empty": (np.zeros(0), np.zeros(0))}))


def test_each_method_has_its_line_and_its_marker(scene):
    scores = {
        "ours": match(scene.truth, scene.predicted),
        "perfect": match(scene.truth, scene.truth),
    }
    svg = ap_chart(scores)
    found = texts(svg)
    assert f"ours ({scores['ours'].av_ap:.3f})" in found
    assert "perfect (1.000)" in found
    assert {"0.1", "0.5", "0.9", "IoU threshold"} <= set(found)


def test_volumes(scene):
    sizes = np.unique(scene.truth, return_counts=True)[1][1:]
    assert f"median {np.median(sizes):.3g} voxels" in texts(volume_chart(sizes, "voxels"))
    assert "median 3 voxels" in texts(volume_chart(np.array([3]), "voxels"))


@pytest.mark.parametrize(
    "chart", [lambda: loss_chart(losses()), lambda: volume_chart(np.arange(1, 99), "µm³")]
)
def test_svg_scales_loads_nothing_and_is_the_same_every_time(chart):
    svg = chart()
    assert svg == chart()
    assert svg.startswith("<svg")
    opening = svg[: svg.index(">")]
    assert "viewBox" in opening
    assert "aria-label" in opening
    assert not re.search(r"\s(width|height)=", opening)
    assert "DejaVu" not in svg
    assert not re.search(r"(href|src)=\"(?!#)", svg)
    assert "<style" not in svg  # a style inside an SVG would apply to the whole page


@pytest.mark.parametrize("width", [1, 2, 5, 50])
def test_moving_mean(width):
    values = np.random.default_rng(1).random(23)
    half = width // 2
    expected = [values[max(0, i - half) : i + half + 1].mean() for i in range(23)]
    np.testing.assert_allclose(moving_mean(values, width), expected)
