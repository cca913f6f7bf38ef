"""Volumes that are annotated in part are refused where they would be scored: right predictions would count as wrong."""

import numpy as np
import pytest
from experiment.experiment_cases import fake_config

from nucseg.errors import InputError
from nucseg.experiment import run_experiment
from nucseg.experiment.choice import read_truth
from nucseg.training.config import Data, LabelledVolume
from nucseg.volume import create_image, create_labels

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


def test_labels_are_read_where_all_is_annotated_and_refused_where_not(tmp_path, labels):
    raw = write(tmp_path / "a.zarr", labels)
    np.save(tmp_path / "all.npy", np.ones(SHAPE, bool))
    part = np.ones(SHAPE, bool)
    part[3, :, 1:3] = False
    np.save(tmp_path / "part.npy", part)
    data = Data(train=raw)
    for known in (data, data.model_copy(update={"ignore_label": 9})):
        whole = LabelledVolume(raw=raw, mask=str(tmp_path / "all.npy"))
        np.testing.assert_array_equal(read_truth(whole, known), labels)
    with pytest.raises(InputError, match=r"mask or ignore_label cannot be scored.*12 of 192 voxels"):
        read_truth(LabelledVolume(raw=raw, mask=str(tmp_path / "part.npy")), data)
    with pytest.raises(InputError, match=r"5 of 192 voxels not annotated"):
        read_truth(LabelledVolume(raw=raw), data.model_copy(update={"ignore_label": 255}))
    with pytest.raises(InputError, match="points cannot be scored"):
        read_truth(LabelledVolume(raw=raw, points="centers"), data)


@pytest.mark.parametrize("where", ["validation", "test"])
def test_an_experiment_refuses_them_before_it_trains(tmp_path, labels, where):
    paths = {name: write(tmp_path / f"{name}.zarr", labels) for name in ("train", "validation", "test")}
    mask = np.ones(SHAPE, np.uint8)
    mask[0] = 0
    create_labels(paths[where], "annotated", shape=SHAPE, dtype="uint8", scale_um=(1, 1, 1)).write(
        (0, 0, 0), mask
    )
    volumes = {k: [{"raw": v}] for k, v in paths.items()}
    volumes[where][0]["mask"] = "annotated"
    config = fake_config(datasets=[{"name": "a", **volumes}], parallel=0)
    with pytest.raises(InputError, match=r"48 of 192 voxels not annotated, by .*labels/annotated"):
        run_experiment(config, tmp_path / "out")
    assert not (tmp_path / "out" / "a").exists()
