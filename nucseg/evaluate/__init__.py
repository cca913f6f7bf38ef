"""Scores of a segmentation or detection against ground truth, and selection by them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nucseg.evaluate.paths import evaluate_paths as evaluate_paths


def __getattr__(name: str) -> Any:
    """`evaluate_paths` loads on use: scoring arrays needs no file formats."""
    if name != "evaluate_paths":
        raise AttributeError(f"module 'nucseg.evaluate' has no attribute {name!r}")
    from nucseg.evaluate.paths import evaluate_paths

    return evaluate_paths
