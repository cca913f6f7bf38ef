"""Training from a configuration: the ready-made pipeline over nucseg's nodes."""

from nucseg.training.config import TrainConfig
from nucseg.training.data import Nuclei, Prepared, measure, prepare
from nucseg.training.run import TrainResult, train

__all__ = ["Nuclei", "Prepared", "TrainConfig", "TrainResult", "measure", "prepare", "train"]
