"""TrainedModel: what a run folder becomes for prediction, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from training_runs import SCENARIO

from nucseg.errors import InputError
from nucseg.heads.scenario import Decoding, PointDecoding
from nucseg.network.checkpoint import find_checkpoint
from nucseg.network.model import TrainedModel
from nucseg.network.unet import unet
from nucseg.volume import create_image


def test_a_run_folder_becomes_a_model(straight):
    folder, _ = straight
    model = TrainedModel.load(folder)
    assert model.checkpoint.iteration == 6
    assert model.scenario == SCENARIO
    assert model.network == unet("tiny")
    assert (model.input_channels, model.context, model.pooling) == (1, (8, 8, 8), (2, 2, 2))
    assert model.scale_um == (0.3, 0.1, 0.1)
    assert model.normalize == (1.0, 99.8)
    assert model.decoding is None


def test_prediction_is_activation_of_the_networks_output(straight):
    folder, _ = straight
    model = TrainedModel.load(folder)
    raw = np.random.default_rng(0).random((22, 26, 30), dtype=np.float32)
    predicted = model.predict(raw)
    assert predicted.shape == (6, 6, 10, 14)
    assert predicted.dtype == np.float32
    output = np.asarray(model.keras(raw[None, ..., None]))[0].transpose(3, 0, 1, 2)
    np.testing.assert_allclose(predicted, SCENARIO.activation(output), atol=1e-5)
    np.testing.assert_array_equal(model.predict(raw[None]), predicted)
    with pytest.raises(InputError, match="a shape the network can pool"):
        model.predict(raw[1:])
    with pytest.raises(InputError, match=r"1 channel\(s\)"):
        model.predict(np.stack([raw, raw]))


def test_checkpoints_differ_and_the_keras_file_can_be_read_by_keras(straight):
    import keras

    folder, _ = straight
    early, late = TrainedModel.load(folder, 3), TrainedModel.load(folder, 6)
    assert early.hash != late.hash == TrainedModel.load(folder).hash
    raw = np.random.default_rng(0).random((18, 18, 18), dtype=np.float32)
    assert not np.allclose(early.predict(raw), late.predict(raw))
    alone = keras.saving.load_model(find_checkpoint(folder, 6).path / "model.keras", compile=False)
    output = np.asarray(alone(raw[None, ..., None]))[0].transpose(3, 0, 1, 2)
    np.testing.assert_allclose(SCENARIO.activation(output), late.predict(raw), atol=1e-5)


def test_the_selected_checkpoint_is_taken_unless_another_is_asked_for(straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight[0], run)
    decoding = Decoding(seeds="votes", seed_threshold=3, foreground_threshold=0.5, reach=9)
    selected = {"checkpoint": 3, "decoding": decoding.model_dump(), "score": 0.5}
    (run / "selected.json").write_text(json.dumps(selected))
    assert TrainedModel.load(run).checkpoint.iteration == 3
    assert TrainedModel.load(run).decoding == decoding
    assert TrainedModel.load(run, 6).decoding is None
    assert TrainedModel.load(run).points is None
    points = PointDecoding(threshold=0.2, distance=3)
    selected |= {"decoding": None, "points": points.model_dump()}
    (run / "selected.json").write_text(json.dumps(selected))
    assert (TrainedModel.load(run).decoding, TrainedModel.load(run).points) == (None, points)
    assert TrainedModel.load(run, 6).points is None
    (run / "selected.json").write_text("{}")
    with pytest.raises(InputError, match="a checkpoint and a decoding"):
        TrainedModel.load(run)


def test_a_volume_of_other_channels_is_refused(straight, tmp_path, caplog):
    model = TrainedModel.load(straight[0])
    one = create_image(tmp_path / "one.zarr", shape=(8, 8, 8), dtype="uint8", scale_um=(0.3, 0.1, 0.1))
    model.check_volume(one)
    assert not caplog.records
    coarse = create_image(tmp_path / "coarse.zarr", shape=(8, 8, 8), dtype="uint8", scale_um=(1, 1, 1))
    model.check_volume(coarse)
    assert "expect poor results" in caplog.text
    axes = ("c", "z", "y", "x")
    two = tmp_path / "two.zarr"
    two = create_image(two, shape=(2, 8, 8, 8), dtype="uint8", scale_um=(1, 1, 1), axes=axes)
    with pytest.raises(InputError, match=r"two.zarr: expected 1 channel\(s\).*received 2 channel"):
        model.check_volume(two)


def test_what_is_no_run_folder_is_told(straight, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        TrainedModel.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="a folder without it"):
        TrainedModel.load(tmp_path)
    shutil.copy(straight[0] / "run.json", tmp_path)
    with pytest.raises(InputError, match="at least one checkpoint"):
        TrainedModel.load(tmp_path)
    with pytest.raises(InputError, match="expected one of 3, 6; received 5"):
        TrainedModel.load(straight[0], 5)
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**record, "colour": "red"}))
    with pytest.raises(InputError, match="colour"):
        TrainedModel.load(tmp_path)


def test_damaged_weights_are_told(straight, tmp_path):
    run, raw = tmp_path / "run", np.zeros((18, 18, 18), np.float32)
    shutil.copytree(straight[0], run)
    checkpoints = run / "checkpoints"
    shutil.copy(checkpoints / "00000003" / "model.keras", checkpoints / "00000006" / "model.keras")
    with pytest.raises(InputError, match=r"not the ones that were saved"):
        TrainedModel.load(run, 6).predict(raw)
    (checkpoints / "00000006" / "model.keras").write_bytes(b"PK torn")
    with pytest.raises(InputError, match=r"model\.keras: expected a whole archive"):
        TrainedModel.load(run, 6).predict(raw)
    record = json.loads((run / "run.json").read_text())
    record["network"]["feature_maps"] = 5
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="weights of another network"):
        TrainedModel.load(run, 3).predict(raw)
