"""Seconds as iterations: measured once, and anew for other seconds; against plain arithmetic on a probe's times."""

import logging

import numpy as np
import pytest

from nucseg.experiment import budget
from nucseg.training import TrainConfig

CONFIG = TrainConfig(scenario="three_label", data={"train": ["unread.zarr"]})


@pytest.fixture
def probes(monkeypatch):
    """A probe that compiles for 3 s, takes 1 s for each of the first steps and 0.25 s for the others."""
    made = []
    steps = np.array([3.0, *[1.0] * (budget.FIRST - 1), *[0.25] * (budget.STEPS - budget.FIRST)])
    monkeypatch.setattr(budget, "train", lambda config, folder, **options: made.append(folder))
    monkeypatch.setattr(budget, "loss_columns", lambda folder: {"seconds": np.cumsum(steps)})
    return made


def iterations(folder, seconds):
    return budget.iterations_for(seconds, CONFIG, folder, folder / "probe", lambda line: None)


def test_a_budget_is_measured_once_and_another_anew(tmp_path, probes):
    assert [iterations(tmp_path, 13.0) for _ in range(3)] == [40] * 3
    assert len(probes) == 1
    assert iterations(tmp_path, 23.0) == 80
    assert iterations(tmp_path, 23.0) == 80
    assert len(probes) == 2


def test_of_two_that_measure_at_the_same_time_one_is_taken(tmp_path, probes, monkeypatch):
    first = {"seconds": 13.0, "iterations": 39, "seconds_per_iteration": 0.26}
    monkeypatch.setattr(budget, "train", lambda *_, **__: budget.write_json(tmp_path / budget.BUDGET, first))
    assert iterations(tmp_path, 13.0) == 39


@pytest.mark.parametrize(("seconds", "found", "warned"), [(3.2, 1, True), (1.0, 1, True), (3.25, 1, False)])
def test_a_budget_below_one_step_gives_a_warning(tmp_path, probes, caplog, seconds, found, warned):
    with caplog.at_level(logging.WARNING):
        assert iterations(tmp_path, seconds) == found
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    assert all("end before the first step" in record.getMessage() for record in caplog.records)
