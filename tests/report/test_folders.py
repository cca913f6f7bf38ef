"""`nucseg report DIR` for what nucseg writes: a demo, a training run, the OUT of a segmentation."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from nucseg.blockwise.launch import Local
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.steps import detect
from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.evaluate.matching import detection, match
from nucseg.evaluate.select import select
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.heads.three_label import three_classes
from nucseg.instances.centroids import centroids
from nucseg.network.record import RunRecord
from nucseg.network.unet import UNet
from nucseg.points import read_points
from nucseg.report import report_folder
from nucseg.report.training import read_losses
from nucseg.volume import create_image, create_labels, open_labels


def write(volume, array):
    for begin, shape in volume.blocks():
        volume.write(begin, array[tuple(slice(b, b + s) for b, s in zip(begin, shape, strict=True))])


def prediction_of(truth):
    probability = np.full((3, *truth.shape), 0.05, np.float32)
    np.put_along_axis(probability, three_classes(truth)[None].astype(np.int64), 0.9, 0)
    return probability


@pytest.fixture(scope="module")
def raw_path(scene, tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "raw.zarr"
    write(create_image(path, shape=scene.raw.shape, dtype=scene.raw.dtype, scale_um=scene.scale), scene.raw)
    return path


@pytest.fixture(scope="module")
def segmented(scene, raw_path):
    """An OUT with labels and a table, made from a prediction that came from elsewhere."""
    np.save(raw_path.parent / "prediction.npy", prediction_of(scene.truth))
    out = raw_path.parent / "OUT"
    task = Segment(
        prediction=str(raw_path.parent / "prediction.npy"),
        out=str(out),
        scenario="three_label",
        block=(24, 44, 48),
    )
    task.blockwise(Local(workers=0))
    return out


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints" / "00000040").mkdir(parents=True)
    scenario = Scenario.named("three_label_cpv")
    config = {"scenario": "three_label_cpv", "iterations": 40}
    RunRecord(scenario=scenario, network=UNet.preset("tiny"), config=config, versions={"numpy": "2"}).write(
        folder
    )
    rows = [f"{i},{3 / i:.6g},{1 / i:.6g},{2 / i:.6g},{i * 0.5:.3f}" for i in range(1, 41)]
    (folder / "losses.csv").write_text("\n".join(["iteration,loss,three_label,cpv,seconds", *rows]) + "\n")
    return folder


def text_of(path):
    return re.sub(r"<[^>]*>", " ", path.read_text(encoding="utf-8"))


def test_output_of_a_segmentation(segmented, raw_path, scene, tmp_path):
    first = text_of(report_folder(segmented))
    assert "the raw image is not there" in first
    assert "Instances over the prediction" in first
    Measure(out=str(segmented), volume=str(raw_path)).blockwise(Local(workers=0))
    path = report_folder(segmented)
    assert path == segmented / "report.html"
    text = text_of(path)
    assert "the raw image is not there" not in text
    assert "median volume" in text
    assert "µm³" in text
    assert "three_label" in text
    assert "2 of 2" in text
    nuclei = len(np.load(raw_path.parent / "prediction.npy")) and re.search(r"nuclei\s+(\d+)", text)
    assert int(nuclei.group(1)) > 10
    moved = tmp_path / "moved"
    shutil.copytree(segmented, moved)
    shutil.rmtree(moved / "labels")
    only_table = text_of(report_folder(moved))
    assert "of the" in only_table
    assert "median volume" in only_table


def test_an_output_is_compared_with_the_truth(segmented, raw_path, scene, tmp_path):
    out = tmp_path / "OUT"
    shutil.copytree(segmented, out)
    wrong = scene.truth.copy()
    wrong[wrong == wrong.max()] = 0
    np.save(tmp_path / "truth.npy", wrong)
    scores = match(wrong, open_labels(out).read(), min_size=9)
    assert 0 < scores.ap[0.5] < 1
    text = text_of(report_folder(out, truth=tmp_path / "truth.npy", min_size=9))
    assert f"{scores.av_ap:.3f}" in text
    assert f"{scores.ap[0.5]:.3f}" in text
    assert "True positives" in text
    assert "9 voxels" in text
    np.save(tmp_path / "other.npy", wrong[1:])
    with pytest.raises(InputError, match="one shape"):
        report_folder(out, truth=tmp_path / "other.npy")


def test_an_output_is_compared_where_the_truth_is_annotated(segmented, scene, tmp_path):
    out = tmp_path / "OUT"
    shutil.copytree(segmented, out)
    known = np.indices(scene.truth.shape)[2] < 50
    np.save(tmp_path / "truth.npy", scene.truth)
    np.save(tmp_path / "mask.npy", known)
    scores = match(scene.truth, open_labels(out).read(), annotated=known)
    arguments = ["report", str(out), "--truth", str(tmp_path / "truth.npy")]
    result = CliRunner().invoke(cli, [*arguments, "--mask", str(tmp_path / "mask.npy"), "--json"])
    assert result.exit_code == 0, result.output
    text = text_of(Path(json.loads(result.stdout)["path"]))
    assert f"{scores.av_ap:.3f}" in text
    assert f"{match(scene.truth, open_labels(out).read()).av_ap:.3f}" not in text
    with pytest.raises(InputError, match="received no truth"):
        report_folder(out, mask=tmp_path / "mask.npy")


def test_a_detection_is_compared_with_the_truth(scene, tmp_path):
    """Peaks at the centres of mass, but for one nucleus, and one peak beside them."""
    heights = np.zeros((1, *scene.truth.shape), np.float32)
    found = centroids(scene.truth)
    places = np.vstack([np.rint(found.centers[1:]).astype(int), [0, 0, 0]])
    heights[0][tuple(places.T)] = 1
    np.save(tmp_path / "p.npy", heights)
    np.save(tmp_path / "truth.npy", scene.truth)
    out = str(tmp_path / "OUT")
    detect(str(tmp_path / "p.npy"), out, head="gauss", distance=1, launcher=Local(workers=0))
    points = read_points(tmp_path / "OUT" / "tables" / "points.csv")
    expected = detection(points, scene.truth, min_size=9)
    assert 0.5 < expected.ap < 1
    text = text_of(report_folder(out, truth=tmp_path / "truth.npy", min_size=9))
    row = f"points – {expected.ap:.3f} {expected.tp + expected.fn} {expected.tp + expected.fp}"
    assert row in " ".join(text.split())
    assert "Detection OUT" in text
    np.save(tmp_path / "other.npy", scene.truth[1:])
    with pytest.raises(InputError, match="in which the points were found"):
        report_folder(out, truth=tmp_path / "other.npy")
    for table in (tmp_path / "OUT" / "tables").iterdir():
        table.unlink()
    with pytest.raises(InputError, match=r"with neither; segment first .*nucseg detect"):
        report_folder(out, truth=tmp_path / "truth.npy")


def test_truth_is_for_instances(run, scene, tmp_path):
    np.save(tmp_path / "truth.npy", scene.truth)
    with pytest.raises(InputError, match="OUT of"):
        report_folder(run, truth=tmp_path / "truth.npy")


def test_labels_without_a_record(scene, tmp_path):
    out = tmp_path / "labels.zarr"
    write(create_labels(out, shape=scene.truth.shape, dtype="uint32", scale_um=None), scene.truth)
    assert "nucseg" in text_of(report_folder(out))


def test_a_volume_with_true_labels_is_no_output(scene, tmp_path):
    path, shape = tmp_path / "v.zarr", scene.truth.shape
    create_image(path, shape=shape, dtype="uint16", scale_um=None)
    write(create_labels(path, shape=shape, dtype="uint32", scale_um=None), scene.truth)
    with pytest.raises(InputError, match="received a volume"):
        report_folder(path)
    assert not (path / "report.html").exists()


def test_training_run(run, scene):
    text = text_of(report_folder(run))
    for part in ("three_label + center_vectors", "40", "0.3 min", "checkpoints", "Configuration", "levels"):
        assert part in text, part
    prediction = np.concatenate([prediction_of(scene.truth), np.zeros((3, *scene.truth.shape), np.float32)])
    grid = [Decoding(seed_threshold=t, foreground_threshold=0.5) for t in (0.5, 0.8, 0.95)]
    selection = select([(prediction, scene.truth)], Scenario.named("three_label_cpv"), grid)
    selected = {
        "checkpoint": 40,
        "decoding": selection.decoding.model_dump(mode="json"),
        **selection.to_json(),
    }
    (run / "selected.json").write_text(json.dumps(selected))
    text = text_of(report_folder(run))
    assert "Selected on validation" in text
    assert "The best 3 of 3 decodings" in text


def test_a_torn_last_line_is_no_line(run):
    whole = read_losses(run)
    assert list(whole) == ["loss", "three_label", "cpv"]
    assert len(whole["loss"][0]) == 40
    with (run / "losses.csv").open("a") as file:
        file.write("41,0.07,0.02,0.0")
    assert len(read_losses(run)["loss"][0]) == 40
    with (run / "losses.csv").open("a") as file:
        file.write("4,20.5")
    assert len(read_losses(run)["loss"][0]) == 40
    (run / "losses.csv").write_text("iteration,loss,three_label,cpv,seconds\n")
    assert read_losses(run) == {}
    (run / "losses.csv").unlink()
    assert read_losses(run) == {}
    assert "three_label" in text_of(report_folder(run))


def test_demo(run, segmented, raw_path, scene, image, tmp_path):
    volume = tmp_path / "test.zarr"
    shutil.copytree(raw_path, volume)
    write(create_labels(volume, shape=scene.truth.shape, scale_um=scene.scale), scene.truth)
    shutil.copytree(segmented, tmp_path / "out")
    told = {
        "title": "nucseg demo: a test",
        "summary": {"nuclei found": 37},
        "scores": {"selected": image.scores.to_json()},
        "run": "run",
        "images": [{"name": "test worm", "raw": "test.zarr", "truth": "test.zarr", "predicted": "out"}],
    }
    (tmp_path / "demo.json").write_text(json.dumps(told))
    text = text_of(report_folder(tmp_path))
    for part in (
        "nucseg demo: a test",
        "nuclei found",
        "selected",
        "Test worm",
        "True positives",
        "Scores and training",
    ):
        assert part in text, part
    del told["images"][0]["raw"]
    (tmp_path / "demo.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"demo\.json.*KeyError"):
        report_folder(tmp_path)


def test_other_folders(tmp_path):
    with pytest.raises(InputError, match="nothing of these"):
        report_folder(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        report_folder(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        report_folder(tmp_path)
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(InputError, match="JSON object"):
        report_folder(tmp_path)
