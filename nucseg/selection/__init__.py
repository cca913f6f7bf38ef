"""Selection: which checkpoint and which decoding of a training run, by validation volumes."""

from nucseg.selection.result import Choice, RunSelection
from nucseg.selection.run import select_run

__all__ = ["Choice", "RunSelection", "select_run"]
