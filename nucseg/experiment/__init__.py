"""Experiments: scenarios x seeds x data sets, trained, selected, tested and put into tables."""

from nucseg.experiment.adopt import adopt
from nucseg.experiment.collect import collect
from nucseg.experiment.config import ExperimentConfig
from nucseg.experiment.run import run_experiment

__all__ = ["ExperimentConfig", "adopt", "collect", "run_experiment"]
