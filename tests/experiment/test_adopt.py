"""Cells that another folder has done are taken from its result, and only where they are the same cells."""

import json

import numpy as np
import pytest
from experiment.experiment_cases import fake_config, fake_experiment

from nucseg.cli.main import main
from nucseg.errors import InputError
from nucseg.experiment import adopt, collect, run_experiment

DATASETS = [fake_config().datasets[0].model_dump()]
TEXT = """
scenarios = ["three_label", "three_label_cpv"]
seeds = [1, 2]

[[datasets]]
name = "one"
train = "volumes/a.zarr"
validation = "volumes/b.zarr"
test = ["volumes/p.zarr", "volumes/q.zarr", "volumes/r.zarr"]
"""


@pytest.fixture
def halves(tmp_path):
    """One matrix in two folders, each with cells that the other lacks."""
    config = fake_config(datasets=DATASETS)
    titles = [("one", s, n) for s in ("three_label", "three_label_cpv") for n in (1, 2, 3)]
    for name, missing in (("a", titles[::2]), ("b", titles[1::2])):
        fake_experiment(config, tmp_path / name, np.random.default_rng(len(name)), leave_out=missing)
        collect(config, tmp_path / name)
    return config, tmp_path


def test_two_halves_make_the_whole(halves):
    config, base = halves
    first, second = (json.loads((base / name / "experiment.json").read_text()) for name in "ab")
    for name in "ab":
        taken = adopt(config, base / "all", base / name / "experiment.json")
        assert len(taken) == 3
    whole = collect(config, base / "all")
    assert whole["missing"] == whole["failed"] == whole["overlays"] == []

    def key(row):
        return (row["dataset"], row["scenario"], row["seed"], row["for"], row["seeds"])

    assert sorted(whole["rows"], key=key) == sorted(first["rows"] + second["rows"], key=key)
    assert len(whole["cells"]) == 6
    assert adopt(config, base / "all", base / "a" / "experiment.json") == [], (
        "what is done here is left alone"
    )


def test_cells_of_other_settings_are_refused(halves):
    _, base = halves
    other = fake_config(min_size=7, datasets=DATASETS)
    with pytest.raises(InputError, match=r"cell one/three_label.*min_size = 7.*received 0"):
        adopt(other, base / "all", base / "a" / "experiment.json")
    assert not list((base / "all").rglob("cell.json"))


@pytest.mark.parametrize("text", ["{", "{}", '{"cells": [], "rows": [{}]}', "[]"])
def test_a_file_that_is_no_result_is_refused(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match="nucseg experiment --json"):
        adopt(fake_config(), tmp_path / "all", tmp_path / "r.json")
    with pytest.raises(InputError, match="nucseg experiment --json"):
        run_experiment(fake_config(), tmp_path / "all", known=[tmp_path / "r.json"])
    assert not (tmp_path / "all").exists()


def test_from_the_command_line_in_a_folder_elsewhere(tmp_path, capsys):
    from nucseg.experiment import ExperimentConfig

    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "e.toml").write_text(TEXT)
    config = ExperimentConfig.from_toml(tmp_path / "here" / "e.toml")
    fake_experiment(config, tmp_path / "here" / "out", np.random.default_rng(0))
    rows = collect(config, tmp_path / "here" / "out")["rows"]
    known = str(tmp_path / "here" / "out" / "experiment.json")
    arguments = [
        "experiment",
        str(tmp_path / "there" / "e.toml"),
        "--folder",
        str(tmp_path / "there" / "out"),
    ]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--from", known, "--collect", "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["rows"] == rows
