"""Points that a detection found, against true labels."""

from pathlib import Path
from typing import Any

from nucseg.annotation import AnnotationMask
from nucseg.errors import InputError
from nucseg.evaluate.paths import evaluate_points
from nucseg.evaluate.scores import Scores
from nucseg.points import read_points
from nucseg.volume import Volume, open_volume


def score_points(
    base: Path,
    heads: dict[str, dict[str, Any]],
    truth: Volume,
    min_size: int,
    annotated: AnnotationMask | None,
) -> Scores:
    """Scores of the points of a detection.

    Args:
        base: The OUT of the detection.
        heads: Records of its steps, by the step.
        truth: True labels.
        min_size: True objects of fewer voxels are left out.
        annotated: What of the truth is annotated; None: all.

    Raises:
        InputError: There is no table of points, or the truth is of another shape than what they were found in.
    """
    table = base / "tables" / "points.parquet"
    if not table.is_file():
        raise InputError(
            f"report about {base}",
            expected="labels/nuclei, or tables/points of a detection, to compare with the truth",
            received="an OUT with neither",
            remedy="segment first (nucseg run, nucseg segment), or find points (nucseg detect)",
        )
    predicted, told = heads.get("predict", {}), heads.get("detect", {})
    for source in (told.get("fields", {}).get("prediction"), predicted.get("fields", {}).get("volume")):
        shape = _shape_of(source)
        if shape not in (None, truth.shape):
            raise InputError(
                truth.path,
                expected=f"labels of the shape {shape} of {source}, in which the points were found",
                received=f"{truth.shape}",
                remedy="give the labels of this very volume, at the same resolution",
            )
    return evaluate_points(read_points(table), truth, min_size, annotated=annotated)


def _shape_of(source: str | None) -> tuple[int, int, int] | None:
    """z, y, x of a volume; None where it is not there any more."""
    try:
        return open_volume(source).shape if source else None
    except InputError:
        return None
