"""An experiment that is moved, alone or with its configuration and volumes, is still the same experiment."""

import shutil

import numpy as np
import pytest
from experiment.experiment_cases import fake_experiment

from nucseg.errors import InputError
from nucseg.experiment import ExperimentConfig, collect
from nucseg.experiment.cells import cells_of
from nucseg.volume import create_image, create_labels

TEXT = """
scenarios = ["three_label", "three_label_cpv"]
seeds = [1]

[[datasets]]
name = "one"
train = [{raw = "volumes/a.zarr", mask = "annotated"}]
validation = "volumes/b.zarr"
test = ["volumes/p.zarr", "volumes/q.zarr", "volumes/r.zarr"]
"""


@pytest.fixture
def made(tmp_path):
    """Configuration, volumes and finished experiment in one folder, with instances to draw."""
    place = tmp_path / "here"
    place.mkdir()
    (place / "experiment.toml").write_text(TEXT)
    config = ExperimentConfig.from_toml(place / "experiment.toml")
    fake_experiment(config, place / "out", np.random.default_rng(2))
    shape, scale = (6, 12, 16), (1.0, 1.0, 1.0)
    labels = np.zeros(shape, np.uint32)
    labels[2:5, 3:7, 4:9] = 1
    for name in "pqr":
        raw = create_image(place / "volumes" / f"{name}.zarr", shape=shape, dtype="uint8", scale_um=scale)
        raw.write((0, 0, 0), (labels * 200).astype(np.uint8))
        create_labels(raw.path, shape=shape, scale_um=scale).write((0, 0, 0), labels)
    for cell in cells_of(config, place / "out"):
        for number in range(3):
            for seeds in ("main", "votes", "vectors"):
                found = create_labels(
                    cell.folder / "instances" / str(number), seeds, shape=shape, scale_um=scale
                )
                found.write((0, 0, 0), labels)
    return place


def test_all_of_it_is_moved_together(made, tmp_path):
    before = collect(ExperimentConfig.from_toml(made / "experiment.toml"), made / "out")
    moved = tmp_path / "there" / "deeper"
    moved.parent.mkdir()
    made.rename(moved)
    after = collect(ExperimentConfig.from_toml(moved / "experiment.toml"), moved / "out")
    assert after["tables"] == before["tables"]
    raws = {overlay["raw"] for overlay in after["overlays"]}
    assert raws <= {str(moved / "volumes" / f"{name}.zarr") for name in "pqr"}
    assert len(raws) == 2
    assert "Best test image" in (moved / "out" / "report.html").read_text()


def test_the_folder_is_moved_alone(made, tmp_path):
    shutil.move(made / "out", tmp_path / "elsewhere")
    found = collect(ExperimentConfig.from_toml(made / "experiment.toml"), tmp_path / "elsewhere")
    assert found["missing"] == []


def test_other_volumes_are_still_refused(made):
    (made / "experiment.toml").write_text(TEXT.replace("volumes/r.zarr", "volumes/s.zarr"))
    with pytest.raises(InputError, match=r"dataset\.test"):
        collect(ExperimentConfig.from_toml(made / "experiment.toml"), made / "out")
    (made / "experiment.toml").write_text(TEXT.replace('"annotated"', '"other"'))
    with pytest.raises(InputError, match=r"dataset\.train"):
        collect(ExperimentConfig.from_toml(made / "experiment.toml"), made / "out")
