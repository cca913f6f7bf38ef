"""Every scenario that segments goes the whole way: trains, saves, loads, predicts and segments blockwise, is scored."""

from types import SimpleNamespace

import cases
import numpy as np
import pytest

from nucseg.blockwise.decoding import read_origin
from nucseg.blockwise.launch import Local
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.steps import segment
from nucseg.evaluate import evaluate_paths
from nucseg.evaluate.matching import match
from nucseg.heads.scenario import Scenario, scenario_names
from nucseg.network.model import TrainedModel
from nucseg.training import TrainConfig, train
from nucseg.volume import create_image, create_labels, open_labels, open_volume

SHAPE, SCALE, BLOCK = (20, 28, 36), (0.2, 0.1, 0.1), (12, 12, 16)
HERE = Local(workers=0)
SEGMENTING = [name for name in scenario_names() if any(head.is_main for head in Scenario.named(name).heads)]


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """Balls that are brighter than the noise around them, some touching, some cut by the border."""
    path = tmp_path_factory.mktemp("volumes") / "balls.zarr"
    labels = cases.crowded(3, SHAPE, nuclei=20, radius=4)
    raw = 100 * (labels > 0) + np.random.default_rng(0).normal(100, 20, SHAPE)
    create_image(path, shape=SHAPE, dtype="uint16", scale_um=SCALE).write((0, 0, 0), raw.astype(np.uint16))
    create_labels(path, shape=SHAPE, scale_um=SCALE).write((0, 0, 0), labels)
    return str(path)


@pytest.fixture(scope="module", params=SEGMENTING)
def predicted(request, volume, tmp_path_factory):
    """A scenario trained for three steps, and its blockwise prediction of the volume."""
    base = tmp_path_factory.mktemp(request.param)
    config = TrainConfig(
        scenario=request.param,
        network="tiny",
        iterations=3,
        workers=0,
        threads=1,
        data={"train": [volume]},
        patch={"output": (8, 12, 12)},
        tensorboard=False,
    )
    trained = train(config, base / "run")
    predict = Predict(
        volume=volume, out=str(base / "out"), model=str(base / "run"), block=BLOCK, encoding="float32"
    )
    predict.blockwise(HERE)
    model = TrainedModel.load(base / "run")
    return SimpleNamespace(name=request.param, base=base, trained=trained, model=model, volume=volume)


def covering(channels, mask, share):
    """The threshold at which `mask(threshold)` is nearest to a share of all voxels."""
    values = np.quantile(channels, np.linspace(0, 1, 40))
    return float(min([*values, *(1 - values)], key=lambda value: abs(mask(value).mean() - share)))


def decoding_of(predicted, prediction, seeds):
    """Thresholds that find something in what a hardly trained network predicts."""
    scenario = predicted.model.scenario
    main = scenario.main
    own = prediction[scenario.slices()[main.name]]
    above = covering(own, lambda t: main.foreground(own, t), 0.3)
    foreground = main.foreground(own, above)
    if seeds == "main":
        threshold = covering(own, lambda t: main.seeds(own, t) & foreground, 0.03)
        return {"seeds": seeds, "seed_threshold": threshold, "foreground_threshold": above}
    votes = scenario.auxiliary.votes(prediction[scenario.slices()["cpv"]], foreground, 5) / 64**2
    threshold = covering(votes[foreground], lambda t: votes > t, 0.03)
    found = {"seeds": seeds, "seed_threshold": threshold, "foreground_threshold": above, "reach": 5}
    return found | ({"distance": 1, "within": 2} if seeds == "vectors" else {})


def test_it_trains_and_is_loaded_again(predicted):
    assert predicted.trained.iteration == predicted.model.checkpoint.iteration == 3
    assert np.isfinite(predicted.trained.loss)
    scenario = predicted.model.scenario
    assert scenario.name == predicted.name
    if scenario.auxiliary is not None:
        assert scenario.auxiliary.scale > 1  # the radius of the nuclei was filled in


def test_it_predicts_blockwise_as_the_whole(predicted):
    prediction = open_volume(predicted.base / "out" / "prediction").read()
    model = predicted.model
    assert prediction.shape == (model.scenario.channels, *SHAPE)
    assert read_origin(str(predicted.base / "out" / "prediction")).scenario == model.scenario
    raw = open_volume(predicted.volume).read()
    low, high = np.percentile(raw, model.normalize)
    padded = np.zeros(model.network.input_shape(SHAPE), np.float32)
    inner = tuple(slice(c, c + n) for c, n in zip(model.context, SHAPE, strict=True))
    padded[inner] = (raw - low) / (high - low)
    whole = model.predict(padded)[(slice(None), *(slice(0, n) for n in SHAPE))]
    np.testing.assert_allclose(prediction, whole, atol=1e-4)


def test_it_segments_blockwise_as_the_whole_and_is_scored(predicted, tmp_path):
    path = predicted.base / "out" / "prediction"
    prediction, truth = open_volume(path).read(), open_labels(predicted.volume).read()
    for seeds in ("main", "votes", "vectors") if predicted.model.scenario.auxiliary else ("main",):
        decoding = decoding_of(predicted, prediction, seeds)
        for way in ({"block": BLOCK}, {"whole": True}):
            out = tmp_path / seeds / next(iter(way))
            result = segment(str(path), str(out), launcher=HERE, **way, **decoding)
        blockwise, whole = (open_labels(tmp_path / seeds / way).read() for way in ("block", "whole"))
        np.testing.assert_array_equal(blockwise, whole)
        assert result.nuclei == len(np.unique(whole[whole > 0])) > 1
        scores = evaluate_paths(tmp_path / seeds / "block", predicted.volume)
        assert scores.to_json() == match(truth, whole).to_json()
        assert scores.n_predicted == result.nuclei
