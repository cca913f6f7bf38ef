"""Mirrored views in an experiment: in the predictions of validation and test volumes, and in what a cell is."""

import json
import tomllib

import numpy as np
import pytest
from experiment.experiment_cases import TINY

from nucseg.blockwise.decoding import read_origin
from nucseg.blockwise.launch import Local
from nucseg.blockwise.predict import Predict
from nucseg.errors import InputError
from nucseg.experiment import ExperimentConfig, run_experiment
from nucseg.experiment.cells import cells_of
from nucseg.volume import open_volume

pytestmark = pytest.mark.xdist_group("tensorflow")


def config_of(**changes):
    return ExperimentConfig.model_validate(tomllib.loads(TINY) | changes)


def test_mirrors_are_a_setting_of_every_cell_with_a_scenario(tmp_path):
    plain = cells_of(config_of(), tmp_path)[0]
    assert "mirrors" not in plain.settings(), "cells that were begun before there were mirrors go on"
    assert cells_of(config_of(mirrors="none"), tmp_path)[0].settings() == plain.settings()
    both = cells_of(config_of(mirrors=["x", "z"], stardist={"seconds": 3}), tmp_path)
    assert {cell.name: cell.settings().get("mirrors") for cell in both[:3]} == {
        "three_label": "zx",
        "three_label_cpv": "zx",
        "stardist": None,
    }
    plain.folder.mkdir(parents=True)
    plain.begin()
    with pytest.raises(InputError, match=r'mirrors = "zx", as the configuration says; .*begun with null'):
        both[0].check()
    path = tmp_path / "experiment.toml"
    path.write_text('mirrors = "yy"\n' + TINY)
    with pytest.raises(InputError, match=r"mirrors.*none, all, or some of the axes"):
        ExperimentConfig.from_toml(path)


def test_validation_and_test_volumes_are_predicted_with_them(tmp_path):
    config = config_of(scenarios=["three_label_cpv"], seeds=[1], mirrors="x", checkpoints=1)
    config = config.model_copy(
        update={"keep_predictions": True, "training": config.training | {"iterations": 20}}
    )
    found = run_experiment(config, tmp_path / "out", parallel=0)
    assert found["failed"] == []
    cell = cells_of(config, tmp_path / "out")[0].folder
    assert json.loads((cell / "run" / "selected.json").read_text())["mirrors"] == "x"
    assert [p.stem.split("-")[-1] for p in (cell / "run" / "selection").glob("*/*.json")] == ["x"]
    assert json.loads((cell / "cell.json").read_text())["settings"]["mirrors"] == "x"
    (kept,) = (cell / "test").glob("*_0/prediction")
    assert read_origin(str(kept)).mirrors == "x"
    (volume,) = (tmp_path / "out" / "volumes").glob("*seed3.zarr")
    Predict(
        volume=str(volume), out=str(tmp_path / "p"), model=str(cell / "run"), mirrors="x", encoding="float32"
    ).blockwise(Local(workers=0))
    np.testing.assert_array_equal(open_volume(tmp_path / "p" / "prediction").read(), open_volume(kept).read())
