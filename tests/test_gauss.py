"""Points from the first step to the last: a hardly trained gauss network predicts, detects, and is scored."""

import json
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest

from nucseg.blockwise.decoding import read_origin
from nucseg.blockwise.launch import Local
from nucseg.blockwise.run import run
from nucseg.blockwise.steps import detect, segment
from nucseg.errors import InputError
from nucseg.evaluate import evaluate_paths
from nucseg.evaluate.detect import points
from nucseg.evaluate.matching import detection
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.gaussian_centers import GaussianCenters
from nucseg.heads.scenario import PointDecoding, Scenario
from nucseg.network.model import TrainedModel
from nucseg.points import read_points
from nucseg.training import TrainConfig, train
from nucseg.volume import create_image, create_labels, open_labels, open_volume

pytestmark = pytest.mark.xdist_group("tensorflow")

HERE = Local(workers=0)
KEEP = ("predictions",)
SHAPE, SCALE, BLOCK = (20, 28, 36), (0.2, 0.1, 0.1), (12, 12, 16)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """Bright balls, some touching, some cut by the border."""
    path = tmp_path_factory.mktemp("volumes") / "balls.zarr"
    labels = cases.crowded(3, SHAPE, nuclei=12, radius=4)
    raw = 100 * (labels > 0) + np.random.default_rng(0).normal(100, 10, SHAPE)
    create_image(path, shape=SHAPE, dtype="uint16", scale_um=SCALE).write((0, 0, 0), raw.astype(np.uint16))
    create_labels(path, shape=SHAPE, scale_um=SCALE).write((0, 0, 0), labels)
    return str(path)


def trained(volume, folder, scenario):
    config = TrainConfig(
        scenario=scenario,
        network="tiny",
        iterations=4,
        workers=0,
        threads=1,
        data={"train": [volume]},
        patch={"output": (8, 12, 12)},
        tensorboard=False,
    )
    result = train(config, folder)
    assert result.iteration == 4
    assert np.isfinite(result.loss)
    return str(folder)


@pytest.fixture(scope="module")
def model(volume, tmp_path_factory):
    """A network that has seen the balls four times, with the settings that a selection would have chosen."""
    folder = tmp_path_factory.mktemp("runs") / "gauss"
    trained(volume, folder, "gauss")
    chosen = PointDecoding(threshold=-5.0, distance=3)  # every maximum: nothing is learned yet
    selected = {"checkpoint": 4, "decoding": None, "points": chosen.model_dump(), "score": 0.1}
    (folder / "selected.json").write_text(json.dumps(selected))
    return str(folder)


def test_the_whole_way(volume, model, tmp_path):
    said: list[str] = []
    out = tmp_path / "out"
    result = run(volume, str(out), model, block=BLOCK, launcher=HERE, keep=KEEP, log=said.append)
    assert "memory a worker" in said[0]
    assert list(result.steps) == ["predict", "detect"]
    assert (result.blocks, result.skipped, result.failed) == (2 * 2 * 3 * 3, 0, 0)
    loaded = TrainedModel.load(model)
    prediction = open_volume(out / "prediction").read()
    assert prediction.shape == (1, *SHAPE)
    origin = read_origin(str(out / "prediction"))
    assert (origin.scenario, origin.decoding, origin.points) == (loaded.scenario, None, loaded.points)
    assert origin.nucleus_um > 0.4
    expected = points(prediction, loaded.scenario, loaded.points)
    np.testing.assert_array_equal(read_points(out / "tables" / "points.csv"), expected)
    assert result.nuclei == len(expected) > 1
    assert not (out / "labels").exists()
    scores = evaluate_paths(out, volume)
    assert scores.detection == detection(expected, open_labels(volume).read())
    assert run(volume, str(out), model, block=BLOCK, launcher=HERE, keep=KEEP).skipped == result.blocks
    again = detect(str(out / "prediction"), str(tmp_path / "again"), launcher=HERE)
    assert again.digest == result.digest


def test_segmentation_is_refused_with_a_way_out(volume, model, tmp_path):
    with pytest.raises(InputError, match=r"dilate: .*gauss finds points.*nucseg detect"):
        run(volume, str(tmp_path / "o"), model, launcher=HERE, dilate=1, seeds=None)
    run(volume, str(tmp_path / "o"), model, launcher=HERE, keep=KEEP)
    with pytest.raises(InputError, match="nucseg detect"):
        segment(str(tmp_path / "o" / "prediction"), str(tmp_path / "s"), launcher=HERE)


def test_vectors_beside_blobs(volume, tmp_path):
    scenario = Scenario([GaussianCenters(), CenterVectors()])
    folder = trained(volume, tmp_path / "run", scenario)
    run(volume, str(tmp_path / "out"), folder, launcher=HERE, keep=KEEP)
    path = str(tmp_path / "out" / "prediction")
    heads = read_origin(path).scenario
    assert heads.auxiliary.scale > 1  # the radius of the nuclei was filled in
    prediction = open_volume(path).read()
    foreground = float(np.quantile(prediction[0], 0.6))
    changes = {"threshold": 0.4, "distance": 2, "foreground_threshold": foreground}
    result = detect(path, str(tmp_path / "votes"), launcher=HERE, source="votes", block=BLOCK, **changes)
    reach = int(np.ceil(read_origin(path).nucleus_um / 0.1))
    decoding = PointDecoding(source="votes", reach=reach, **changes)
    np.testing.assert_array_equal(
        read_points(tmp_path / "votes" / "tables" / "points.parquet"), points(prediction, heads, decoding)
    )
    assert result.nuclei > 1


def test_the_command_line(volume, model, tmp_path):
    def nucseg(*arguments):
        command = [sys.executable, "-m", "nucseg", *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    out = tmp_path / "out"
    ran = nucseg("run", volume, out, "--model", model, "--launcher", "local:0", "--keep", "predictions")
    options = ("--threshold", -5, "--distance", 3, "--block", 9, 28, 17, "--launcher", "local:0")
    found = nucseg("detect", out / "prediction", tmp_path / "points", *options)
    assert {"nuclei", "blocks", "skipped", "failed", "digest"} <= set(found)
    assert found["digest"] == ran["digest"]
    assert (found["blocks"], found["skipped"], found["failed"]) == (9, 0, 0)
    scores = nucseg("evaluate", tmp_path / "points", volume)
    assert scores["n_predicted"] == found["nuclei"] == ran["nuclei"]
    assert scores["detection_ap"] == nucseg("evaluate", out, volume)["detection_ap"]
    page = Path(nucseg("report", out)["path"]).read_text(encoding="utf-8")
    assert "Detection" in page


def test_the_pipeline_s_configuration():
    toml = Path(__file__).resolve().parent.parent / "pipelines" / "gauss.toml"
    assert TrainConfig.from_toml(toml).scenario == Scenario.named("gauss")
