"""Volumes annotated in part: scored where they are annotated, refused where StarDist would learn from them."""

import tomllib

import numpy as np
import pytest
from experiment.experiment_cases import TINY, fake_config

from nucseg.blockwise.launch import Local
from nucseg.blockwise.predict import Predict
from nucseg.errors import InputError
from nucseg.evaluate.matching import match
from nucseg.evaluate.select import instances
from nucseg.experiment import ExperimentConfig, run, run_experiment
from nucseg.experiment.choice import check_truth, read_truth
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.synthetic import synthesize
from nucseg.training.config import Data, LabelledVolume
from nucseg.volume import create_image, create_labels, open_labels, open_volume

SHAPE = (4, 6, 8)


def write(path, labels):
    create_image(path, shape=SHAPE, dtype="uint8", scale_um=(1, 1, 1)).write(
        (0, 0, 0), np.ones(SHAPE, np.uint8)
    )
    create_labels(path, shape=SHAPE, dtype="uint32", scale_um=(1, 1, 1)).write((0, 0, 0), labels)
    return str(path)


@pytest.fixture
def labels():
    labels = np.zeros(SHAPE, np.uint32)
    labels[1:3, 2:4, 1:5] = 3
    labels[0, 0, :5] = 255
    return labels


def test_labels_are_read_with_what_is_annotated(tmp_path, labels):
    raw = write(tmp_path / "a.zarr", labels)
    np.save(tmp_path / "all.npy", np.ones(SHAPE, bool))
    part = np.ones(SHAPE, bool)
    part[3, :, 1:3] = False
    np.save(tmp_path / "part.npy", part)
    data = Data(train=raw)
    ignoring = data.model_copy(update={"ignore_label": 255})
    for mask, known, annotated in (
        ("all.npy", data, None),
        ("all.npy", data.model_copy(update={"ignore_label": 9}), None),
        ("part.npy", data, part),
        (None, ignoring, labels != 255),
        ("part.npy", ignoring, part & (labels != 255)),
    ):
        volume = LabelledVolume(raw=raw, mask=mask and str(tmp_path / mask))
        found = read_truth(volume, known)
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_array_equal(found.annotated, annotated)
        if annotated is None:
            check_truth(volume, known, whole=True)
        else:
            missing = np.count_nonzero(~annotated)
            with pytest.raises(InputError, match=rf"without masks.*{missing} of 192 voxels not annotated"):
                check_truth(volume, known, whole=True)
    with pytest.raises(InputError, match="points cannot be scored"):
        read_truth(LabelledVolume(raw=raw, points="centers"), data)


def test_a_raw_image_is_not_taken_for_its_own_labels(tmp_path, labels):
    np.save(tmp_path / "raw.npy", labels)
    data = Data(train=str(tmp_path / "raw.npy"))
    bare = LabelledVolume(raw=str(tmp_path / "raw.npy"))
    with pytest.raises(InputError, match=r"received a file of raw alone.*labels = "):
        check_truth(bare, data)
    found = check_truth(bare.model_copy(update={"labels": bare.raw}), data)[0]
    np.testing.assert_array_equal(found.read(), labels)


@pytest.mark.parametrize("where", ["train", "validation", "test"])
@pytest.mark.parametrize("stardist", [False, True])
def test_only_stardist_must_learn_and_select_on_whole_volumes(tmp_path, labels, where, stardist, monkeypatch):
    monkeypatch.setattr(run, "_need_stardist", lambda: None)
    begun = []
    monkeypatch.setattr(run, "_here", lambda due, root, say: begun.extend(due))
    paths = {name: write(tmp_path / f"{name}.zarr", labels) for name in ("train", "validation", "test")}
    mask = np.ones(SHAPE, np.uint8)
    mask[0] = 0
    create_labels(paths[where], "annotated", shape=SHAPE, dtype="uint8", scale_um=(1, 1, 1)).write(
        (0, 0, 0), mask
    )
    volumes = {k: [{"raw": v}] for k, v in paths.items()}
    volumes[where][0]["mask"] = "annotated"
    rows = {"stardist": {"seconds": 1}} if stardist else {}
    config = fake_config(datasets=[{"name": "a", **volumes}], parallel=0, **rows)
    if stardist and where != "test":
        with pytest.raises(InputError, match=r"48 of 192 voxels not annotated, by .*labels/annotated"):
            run_experiment(config, tmp_path / "out")
        assert not begun
    else:
        run_experiment(config, tmp_path / "out")
        assert len(begun) == 3 * len(config.names)


@pytest.mark.xdist_group("tensorflow")
def test_an_experiment_selects_and_tests_where_volumes_are_annotated(tmp_path):
    shape, paths = (32, 48, 64), {}
    for seed, name in enumerate(("train", "validation", "test"), start=1):
        paths[name] = tmp_path / f"{name}.zarr"
        synthesize(paths[name], shape=shape, nuclei=25, seed=seed, difficulty="easy")
    known = np.indices(shape)[2] < 40
    np.save(tmp_path / "seen.npy", known)
    create_labels(paths["test"], "seen", shape=shape, dtype="uint8", scale_um=None).write(
        (0, 0, 0), known.astype(np.uint8)
    )
    settings = tomllib.loads(TINY)
    settings["datasets"] = [
        {
            "name": "part",
            "train": [{"raw": str(paths["train"]), "mask": str(tmp_path / "seen.npy")}],
            "validation": [{"raw": str(paths["validation"]), "mask": str(tmp_path / "seen.npy")}],
            "test": [{"raw": str(paths["test"]), "mask": "seen"}],
            "ignore_label": 60000,
        }
    ]
    settings["training"] |= {"iterations": 45, "checkpoint_every": 45}
    settings |= {"scenarios": ["three_label"], "seeds": [1]}
    config = ExperimentConfig.model_validate(settings)
    found = run_experiment(config, tmp_path / "out", parallel=0)
    assert found["failed"] == []
    cell = tmp_path / "out" / "part" / "three_label" / "1"
    (row,) = (row for row in found["rows"] if row["for"] == "segmentation")
    truth, labels = open_labels(paths["test"]).read(), open_labels(cell / "instances" / "0", "main").read()
    scores = match(truth, labels, annotated=known)
    assert (row["ap"]["0.5"], row["detection_ap"]) == (scores.ap[0.5], scores.detection_ap)
    assert row["images"][0]["n_true"] == len(np.unique(truth[known])) - 1 < len(np.unique(truth)) - 1
    assert scores.ap[0.5] > 0.1
    out = tmp_path / "validated"
    Predict(
        volume=str(paths["validation"]),
        out=str(out),
        model=str(cell / "run"),
        checkpoint=row["checkpoint"],
        encoding="float32",
    ).blockwise(Local(workers=0))
    labels = instances(
        open_volume(out / "prediction").read(),
        Scenario.named("three_label"),
        Decoding.model_validate(row["decoding"]),
    )
    again = match(open_labels(paths["validation"]).read(), labels, annotated=known)
    assert row["validation"]["av_ap"] == again.av_ap
    assert found["overlays"][0]["mask"] == "seen"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Best test image" in page
    assert "cannot be drawn" not in page
