"""Scores: means over images, pooling, and the JSON that scripts read."""

import json

import numpy as np
import pytest

from nucseg.errors import InputError
from nucseg.evaluate.matching import match
from nucseg.evaluate.scores import Scores


def blocks_of(sizes):
    """Objects of the given lengths in a row, a voxel apart."""
    labels = np.zeros((1, 1, sum(sizes) + len(sizes)), np.uint16)
    begin = 0
    for number, size in enumerate(sizes, start=1):
        labels[..., begin : begin + size] = number
        begin += size + 1
    return labels


@pytest.fixture
def perfect():
    truth = blocks_of([5])
    return match(truth, truth)


@pytest.fixture
def poor():
    truth = blocks_of([4, 4, 4])
    return match(truth, np.where(truth == 1, 1, 0))


def test_json_has_the_documented_keys(poor):
    value = json.loads(json.dumps(poor.to_json()))
    assert set(value) >= {"ap", "av_ap", "detection_ap", "n_true", "n_predicted", "tp", "fp", "fn"}
    for key in ("ap", "tp", "fp", "fn"):
        assert list(value[key]) == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9"]
    assert value["ap"]["0.5"] == pytest.approx(1 / 3)
    assert (value["tp"]["0.5"], value["fp"]["0.5"], value["fn"]["0.5"]) == (1, 0, 2)
    assert (value["n_true"], value["n_predicted"]) == (3, 1)
    assert value["av_ap"] == pytest.approx(1 / 3)


def test_json_round_trip(poor):
    again = Scores.from_json(json.loads(json.dumps(poor.to_json())))
    assert again == poor
    assert again.objects is None


@pytest.mark.parametrize("value", [{}, [], {"ap": {"x": 1}}, None])
def test_from_json_of_something_else(value):
    with pytest.raises(InputError, match="evaluate --json"):
        Scores.from_json(value)


def test_mean_counts_images_and_pooled_counts_objects(perfect, poor):
    mean, pooled = Scores.mean([perfect, poor]), Scores.pooled([perfect, poor])
    assert mean.ap[0.5] == pytest.approx((1 + 1 / 3) / 2)
    assert mean.detection_ap == pytest.approx((1 + 1 / 3) / 2)
    assert pooled.ap[0.5] == pytest.approx(2 / 4)
    assert pooled.detection == (2, 0, 2, 0.5)
    for summed in (mean, pooled):
        assert (summed.n_true, summed.n_predicted) == (4, 2)
        assert (summed.tp[0.5], summed.fp[0.5], summed.fn[0.5]) == (2, 0, 2)
        assert summed.info["images"] == 2
    assert mean.info["average"] == "mean"
    assert pooled.info["min_size"] == 0


def test_averages_of_nothing_or_of_unlike_scores(perfect):
    with pytest.raises(InputError, match="at least one"):
        Scores.mean([])
    other = match(blocks_of([5]), blocks_of([5]), thresholds=(0.5,))
    with pytest.raises(InputError, match="same IoU thresholds"):
        Scores.pooled([perfect, other])
