"""Blockwise prediction equals that of the whole volume; every block agrees on the intensities."""

import json
import shutil

import numpy as np
import pytest
from blockwise_cases import random_raw, save_raw
from click.testing import CliRunner

from nucseg.blockwise.decoding import read_origin
from nucseg.blockwise.launch import Local
from nucseg.blockwise.predict import Predict, aligned, block_for
from nucseg.blockwise.records import Records
from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.network.model import TrainedModel
from nucseg.storage.normalization import Values
from nucseg.volume import open_volume

HERE = Local(workers=0)
SHAPE = (21, 26, 33)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    data = random_raw(SHAPE, seed=2)
    return data, save_raw(tmp_path_factory.mktemp("raw") / "raw.zarr", data)


@pytest.fixture(scope="module")
def whole(untrained, raw):
    """One prediction of the whole volume, zeros around it."""
    model = TrainedModel.load(untrained)
    bottom, top = np.percentile(raw[0], [1.0, 99.8])
    padded = np.zeros(model.network.input_shape(SHAPE), np.float32)
    context = model.context
    padded[tuple(slice(c, c + n) for c, n in zip(context, SHAPE, strict=True))] = (raw[0] - bottom) / (
        top - bottom
    )
    return model.predict(padded)[(slice(None), *(slice(0, n) for n in SHAPE))]


@pytest.mark.parametrize("block", [(8, 12, 16), (7, 9, 33), None])
def test_blocks_equal_the_whole(tmp_path, untrained, raw, whole, block):
    out = tmp_path / "o"
    result = Predict(
        volume=raw[1], out=str(out), model=str(untrained), block=block, encoding="float32"
    ).blockwise(HERE)
    prediction = open_volume(out / "prediction")
    assert prediction.axes == ("c", "z", "y", "x")
    assert prediction.scale_um == (0.2, 0.1, 0.1)
    assert prediction.dtype == np.float32
    assert all(n % 2 == 0 for n in prediction.write_unit), "rounded up to multiples of the pooling"
    np.testing.assert_allclose(prediction.read(), whole, atol=1e-5)
    assert result["nonfinite"] == 0


def test_a_model_of_fixed_intensities_takes_them_in_every_volume(tmp_path, untrained, raw):
    run = tmp_path / "run"
    shutil.copytree(untrained, run)
    record = json.loads((run / "run.json").read_text())
    record["normalize"] = {"values": [0.25, 2.0]}
    (run / "run.json").write_text(json.dumps(record))
    model = TrainedModel.load(run)
    assert model.normalize == Values(values=(0.25, 2.0))
    assert model.hash != TrainedModel.load(untrained).hash
    context = [
        (c, n - c - s) for c, n, s in zip(model.context, model.network.input_shape(SHAPE), SHAPE, strict=True)
    ]
    for factor in (1.0, 3.0):
        data = np.asarray(raw[0] * factor, np.float32)
        path = save_raw(tmp_path / f"{factor:g}.zarr", data)
        out = tmp_path / f"out{factor:g}"
        Predict(volume=path, out=str(out), model=str(run), block=(8, 12, 16), encoding="float32").blockwise(
            HERE
        )
        whole = model.predict(np.pad((data - 0.25) / 1.75, context))
        inner = whole[(slice(None), *(slice(0, n) for n in SHAPE))]
        np.testing.assert_allclose(open_volume(out / "prediction").read(), inner, atol=1e-5)


def test_blocks_are_rounded_to_the_pooling_and_clipped():
    assert aligned((128, 30, 31), (50, 100, 100), (4, 4, 2)) == (52, 32, 32)


def test_blocks_follow_from_what_the_network_sees():
    assert block_for((20, 20, 20)) == (128, 128, 128)
    assert block_for((4, 44, 30)) == (128, 282, 192)
    assert (282 + 2 * 44) ** 3 / 282**3 < 2.3


def test_voxels_that_are_no_number_count_as_zero(tmp_path, untrained, raw):
    data = raw[0].copy()
    data[3, 4, 5:8] = np.nan
    path = save_raw(tmp_path / "nan.zarr", data)
    result = Predict(volume=path, out=str(tmp_path / "o"), model=str(untrained), block=(8, 12, 16)).blockwise(
        HERE
    )
    assert result["nonfinite"] == 3
    assert np.isfinite(open_volume(tmp_path / "o" / "prediction").read()).all()


def test_a_model_for_other_channels_is_refused(tmp_path, untrained):
    path = save_raw(tmp_path / "two.zarr", random_raw((2, 8, 9, 10), seed=1))
    with pytest.raises(InputError, match="channel"):
        Predict(volume=path, out=str(tmp_path / "o"), model=str(untrained)).blockwise(HERE)
    one = Predict(volume=path, out=str(tmp_path / "o"), model=str(untrained), channel=1)
    assert one.blockwise(HERE)["blocks"] == 1


def test_another_model_is_refused(tmp_path, untrained, raw):
    import shutil

    from nucseg.network.checkpoint import find_checkpoint

    run = tmp_path / "run"
    shutil.copytree(untrained, run)
    task = Predict(volume=raw[1], out=str(tmp_path / "o"), model=str(run))
    task.blockwise(HERE)
    state = find_checkpoint(run).path / "state.json"
    state.write_text(state.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))
    with pytest.raises(InputError, match=r"inputs\.model.*overwrite"):
        task.blockwise(HERE)


def test_intensities_are_measured_once_and_a_given_range_is_another_run(
    tmp_path, untrained, raw, monkeypatch
):
    settled = {"volume": raw[1], "out": str(tmp_path / "o"), "model": str(untrained), "block": (16, 16, 20)}
    task = Predict(**settled)
    task.blockwise(HERE)
    measured = task.resolved().intensity
    np.testing.assert_allclose(measured, np.percentile(raw[0], [1.0, 99.8]))

    def again(*_):
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(type(open_volume(raw[1])), "intensity_range", again)
        assert task.blockwise(HERE)["skipped"] == 8
    given = Predict(**settled, intensity=(0.0, 1.0))
    with pytest.raises(InputError, match="intensity"):
        given.blockwise(HERE)
    given.blockwise(HERE, overwrite=True)
    assert task.resolved().intensity == measured


def test_what_workers_would_stumble_over_is_told_before_they_start(tmp_path, untrained, raw, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "o"
    shutil.copytree(untrained, run)
    task = Predict(volume=raw[1], out=str(out), model=str(run), block=(16, 16, 20))
    weights = run / "checkpoints" / "00000001" / "model.keras"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    told = r"model\.keras: expected a whole archive.*cut short.*no other checkpoint: train again"
    with pytest.raises(InputError, match=told):
        task.blockwise(Local(workers=1))
    weights.unlink()
    with pytest.raises(InputError, match=r"model\.keras.*no such file"):
        task.blockwise(Local(workers=1))
    weights.write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "backend_that_is_not_there")
        with pytest.raises(InputError, match=r"keras with a backend; received no module back.*pip install"):
            task.blockwise(Local(workers=1))
        assert not out.exists()
    task.blockwise(HERE)
    weights.unlink()
    assert task.blockwise(HERE)["skipped"] == 8, "all is done: nothing is missed"


@pytest.fixture(scope="module")
def mirrored_whole(untrained, raw):
    """The mean over views mirrored in y and x of the whole volume, in plain words."""
    model = TrainedModel.load(untrained)
    bottom, top = np.percentile(raw[0], [1.0, 99.8])
    padded = np.zeros(model.network.input_shape(SHAPE), np.float32)
    lost = [(n - m) // 2 for n, m in zip(padded.shape, model.predict(padded).shape[1:], strict=True)]
    inside = tuple(slice(o, o + n) for o, n in zip(lost, SHAPE, strict=True))
    padded[inside] = (raw[0] - bottom) / (top - bottom)
    views = []
    for y, x in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        view = model.predict(padded[:, ::y, ::x])[:, :, ::y, ::x]
        views.append(view * np.array([1, 1, 1, 1, y, x])[:, None, None, None])
    return np.mean(views, axis=0)[(slice(None), *(slice(0, n) for n in SHAPE))]


@pytest.mark.parametrize("block", [(8, 12, 16), (7, 9, 33)])
def test_blocks_with_mirrors_equal_the_whole(tmp_path, untrained, raw, whole, mirrored_whole, block):
    out = str(tmp_path / "o")
    task = Predict(
        volume=raw[1], out=out, model=str(untrained), block=block, mirrors=("x", "y"), encoding="float32"
    )
    task.blockwise(HERE)
    found = open_volume(tmp_path / "o" / "prediction").read()
    np.testing.assert_allclose(found, mirrored_whole, atol=1e-5)
    assert np.abs(found - whole).max() > 0.01, "the mirrors matter here"


def test_mirrors_are_those_of_the_mirrored_volume(tmp_path, untrained):
    """Where the volume is a multiple of the pooling, its mirror image is pooled alike: a volume by itself."""
    data = random_raw((16, 18, 22), seed=4)
    parts = []
    for z in (1, -1):
        path = save_raw(tmp_path / f"raw{z}.zarr", np.ascontiguousarray(data[::z]))
        Predict(
            volume=path, out=str(tmp_path / f"o{z}"), model=str(untrained), mirrors="none", encoding="float32"
        ).blockwise(HERE)
        prediction = open_volume(tmp_path / f"o{z}" / "prediction").read()[:, ::z]
        parts.append(prediction * np.array([1, 1, 1, z, 1, 1])[:, None, None, None])
    path, out = str(tmp_path / "raw1.zarr"), tmp_path / "both"
    Predict(
        volume=path, out=str(out), model=str(untrained), mirrors="z", block=(8, 8, 8), encoding="float32"
    ).blockwise(HERE)
    np.testing.assert_allclose(open_volume(out / "prediction").read(), np.mean(parts, axis=0), atol=1e-5)


def test_other_mirrors_are_another_run(tmp_path, untrained, raw):
    out = tmp_path / "o"
    settled = {"volume": raw[1], "out": str(out), "model": str(untrained), "block": (16, 16, 20)}
    Predict(**settled, mirrors=("x", "y")).blockwise(HERE)
    assert Records(out, "predict").head()["fields"]["mirrors"] == "yx"
    assert read_origin(str(out / "prediction")).mirrors == "yx"
    assert Predict(**settled, mirrors="xy").blockwise(HERE)["skipped"] == 8
    with pytest.raises(InputError, match=r"mirrors yx; received mirrors none; .*overwrite"):
        Predict(**settled).blockwise(HERE)
    Predict(**settled).blockwise(HERE, overwrite=True)
    assert Records(out, "predict").head()["fields"]["mirrors"] == "none"
    assert read_origin(str(out / "prediction")).mirrors == "none"


def test_mirrors_from_the_command_line(tmp_path, untrained, raw):
    out = tmp_path / "o"
    arguments = ["predict", raw[1], str(out), "--model", str(untrained), "--launcher", "local:0", "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--mirrors", "yw"])
    assert result.exit_code == 2
    assert "expected none, all, or some of the axes z, y and x" in " ".join(result.stderr.split())
    assert not out.exists()
    result = CliRunner().invoke(cli, [*arguments, "--mirrors", "all"])
    assert result.exit_code == 0, result.output
    assert Records(out, "predict").head()["fields"]["mirrors"] == "zyx"
    shown = CliRunner().invoke(cli, ["run", "--help"]).stdout
    assert "all are 8 times as much" in " ".join(shown.split())
