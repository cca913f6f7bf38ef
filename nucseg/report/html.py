"""The page: what a report holds, put together as one HTML file that needs nothing else."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import nucseg
from nucseg.errors import InputError
from nucseg.evaluate.scores import Scores
from nucseg.report.drawing import Picture
from nucseg.report.figures import Curve, ap_chart, loss_chart, volume_chart
from nucseg.report.image import ReportImage
from nucseg.report.outlines import LEGEND
from nucseg.report.panels import panels
from nucseg.report.worst import worst_cases

_SHORT = 28  # characters of a fact that is shown large


@dataclass(frozen=True)
class Chart:
    """An SVG with a line below it."""

    svg: str
    title: str
    caption: str


@dataclass(frozen=True)
class Charts:
    """Charts side by side."""

    charts: Sequence[Chart]
    kind: str = "charts"


@dataclass(frozen=True)
class Table:
    """Rows of text under a head; `best` are the cells (row, column) to point out."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = frozenset()
    note: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Pictures:
    """Pictures in a grid; `small` ones are many to a row."""

    pictures: Sequence[Picture]
    small: bool = False
    heading: str = ""
    note: str = ""
    legend: Sequence[Any] = ()
    kind: str = "pictures"


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    facts: Mapping[str, Any]
    kind: str = "facts"


Part = Charts | Table | Pictures | Facts


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading."""

    title: str
    parts: Sequence[Part] = ()
    text: str = ""


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    losses: Mapping[str, Curve] | None = None,
    scores: Mapping[str, Scores] | None = None,
    images: Sequence[ReportImage] = (),
    worst: int = 6,
    sections: Sequence[Section] = (),
) -> Path:
    """Write a report as one HTML file that loads nothing from anywhere.

    Args:
        path: The file to write; replaced in one step if it is there.
        title: Heading of the page.
        summary: The key facts, name to value, at the top of the page.
        losses: Per head the iterations and the losses.
        scores: Per method its scores, for the table and the AP over IoU.
        images: Shown with their prediction and, where there is one, against the truth.
        worst: How many of the worst true objects, and of the false positives, to enlarge per image.
        sections: Further sections at the end.

    Returns:
        The path.

    Raises:
        InputError: If it cannot be written.
    """
    charts = [_loss_chart(losses)] if losses else []
    body: list[Section] = []
    if scores:
        body.append(score_section(scores, charts))
    elif charts:
        body.append(Section("Training", [Charts(charts)]))
    for image in images:
        body.append(image_section(image, worst))
    body += sections
    facts = {name: written(value) for name, value in summary.items()}
    page = _template().render(
        title=title,
        short={name: value for name, value in facts.items() if len(value) <= _SHORT},
        long={name: value for name, value in facts.items() if len(value) > _SHORT},
        sections=body,
        version=nucseg.__version__,
        style=Markup(files("nucseg.report").joinpath("style.css").read_text(encoding="utf-8")),
        svg=Markup,
        written=written,
    )
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        raise InputError(
            str(path),
            expected="a place where a file can be written",
            received=error.strerror or str(error),
            remedy="choose another folder or change its permissions",
        ) from None
    return target


def _loss_chart(losses: Mapping[str, Curve]) -> Chart:
    return Chart(loss_chart(losses), "Training loss.", "Dots: single iterations. Lines: moving mean.")


def score_section(scores: Mapping[str, Scores], charts: Sequence[Chart] = ()) -> Section:
    """The chart of AP over IoU, further charts beside it, and the table of all scores."""
    curves = {name: score for name, score in scores.items() if score.ap}
    thresholds = sorted({t for score in curves.values() for t in score.thresholds})
    head = ["method", "avAP", *(f"{t:g}".lstrip("0") for t in thresholds), "detection AP"]
    head += ["nuclei", "predicted"]
    values: list[list[float | None]] = [
        [score.av_ap, *(score.ap.get(t) for t in thresholds), score.detection_ap] for score in scores.values()
    ]
    rows = [
        [name, *("–" if v is None else f"{v:.3f}" for v in row), f"{score.n_true}", f"{score.n_predicted}"]
        for (name, score), row in zip(scores.items(), values, strict=True)
    ]
    best: set[tuple[int, int]] = set()
    for column in range(len(values[0]) if len(values) > 1 else 0):
        known = [row[column] for row in values if row[column] is not None]
        top = max((v for v in known if v is not None), default=None)
        best |= {(i, column + 1) for i, row in enumerate(values) if row[column] == top and top is not None}
    sizes = {score.info.get("min_size", 0) for score in scores.values()}
    note = "Columns .1 to .9: AP at that IoU." if thresholds else ""
    if sizes != {0}:
        note += f" Objects below {', '.join(map(str, sorted(sizes)))} voxels are left out."
    shown = list(charts)
    if curves:
        shown.insert(
            0, Chart(ap_chart(curves), "AP over IoU.", "How AP falls as a match has to be more exact.")
        )
    parts: list[Part] = [Charts(shown)] if shown else []
    parts.append(Table(head, rows, frozenset(best), note))
    text = (
        "AP = TP / (TP + FP + FN) of a one-to-one matching at an intersection over union (IoU) of at least the "
        "threshold; avAP is the mean over the thresholds. Detection AP asks only whether each nucleus holds one "
        "predicted centre."
    )
    return Section("Scores and training" if charts else "Scores", parts, text)


def image_section(image: ReportImage, worst: int) -> Section:
    """Pictures of one image, its worst cases if there is a truth, else its numbers."""
    parts: list[Part] = [Pictures(panels(image))]
    if image.truth is not None:
        missed, false = worst_cases(image, worst)
        note = "Slices along z, y and x through the centre; the nucleus itself with thick outlines."
        if missed:
            parts.append(Pictures(missed, True, "Worst met nuclei", note, LEGEND))
        if false:
            parts.append(Pictures(false, True, "Largest false positives", note, () if missed else LEGEND))
        if not missed and not false:
            parts.append(
                Facts({"worst cases": "none: every nucleus matches at an IoU of .5, nothing is false"})
            )
    else:
        sizes = image.predicted_centers.sizes
        volumes, unit = sizes.astype(float), "voxels"
        if image.voxel_um is not None:
            volumes, unit = volumes * float(image.voxel_um[0] * image.voxel_um[1] * image.voxel_um[2]), "µm³"
        if len(volumes):
            chart = Chart(volume_chart(volumes, unit), "Volumes", f"of the {len(volumes)} instances.")
            parts.append(Charts([chart]))
    shape = " × ".join(map(str, image.shape))
    scale = "voxel size unknown"
    if image.voxel_um is not None:
        scale = f"voxels of {' × '.join(f'{u:.3g}' for u in image.voxel_um)} µm"
    count = f"{len(image.predicted_centers.ids)} instances predicted"
    if image.truth is not None:
        count += f", {len(image.true_centers.ids)} in the ground truth"
    text = f"{shape} voxels (z, y, x), {scale}; {count}. Seen along z, at its right along x, below along y."
    return Section(image.name[:1].upper() + image.name[1:], parts, text)


def written(value: Any) -> str:
    """A fact as text: numbers with at most four digits behind the point, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {written(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(written(v) for v in value)
    return str(value)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nucseg.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html")
