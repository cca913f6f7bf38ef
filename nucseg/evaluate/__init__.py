"""Scores of a segmentation or detection against ground truth, and selection by them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nucseg.evaluate.detect import points as points
    from nucseg.evaluate.detect import points_of_all as points_of_all
    from nucseg.evaluate.paths import evaluate_paths as evaluate_paths

_HOME = {"evaluate_paths": "paths", "points": "detect", "points_of_all": "detect"}


def __getattr__(name: str) -> Any:
    """Names load on use: scoring arrays needs no file formats."""
    if name not in _HOME:
        raise AttributeError(f"module 'nucseg.evaluate' has no attribute {name!r}")
    return getattr(import_module(f"nucseg.evaluate.{_HOME[name]}"), name)
