"""Reports about what nucseg wrote: a demo, an experiment, a training run, or the OUT of a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from nucseg.annotation import AnnotationMask, annotation_of
from nucseg.blockwise.dropping import dropped_blocks
from nucseg.blockwise.presence import check_labels
from nucseg.blockwise.records import FOLDER, Records
from nucseg.errors import InputError
from nucseg.evaluate.scores import Scores
from nucseg.points import read_table
from nucseg.report.detected import score_points
from nucseg.report.experiment import report_experiment
from nucseg.report.figures import volume_chart
from nucseg.report.html import Chart, Charts, Facts, Section, write_report
from nucseg.report.image import ReportImage
from nucseg.report.training import read_losses, selection_section, training_sections
from nucseg.storage import ome
from nucseg.volume import Volume, open_labels, open_volume

PAGE = "report.html"

_STEPS = {
    "predict": "Prediction",
    "segment": "Segmentation",
    "sift": "Smallest size",
    "collect_ids": "Ids",
    "compact": "Renumbering",
    "measure": "Measurement",
    "medians": "Medians",
    "detect": "Detection",
}


def report_folder(
    folder: str | Path,
    *,
    truth: str | Path | None = None,
    min_size: int = 0,
    mask: str | Path | None = None,
    ignore_label: int | None = None,
) -> Path:
    """Write `report.html` into a folder, about what lies there.

    Args:
        folder: What `nucseg demo`, `nucseg experiment`, `nucseg train` or `nucseg run` (`predict`, `segment`,
            `detect`, `measure`) wrote.
        truth: True labels for the OUT of a run: the page then has the scores, what was found and missed, and the
            worst cases; of a detection the scores of its points.
        min_size: Objects of fewer voxels are left out of the scores, see `nucseg.match`.
        mask: What of the truth is annotated, 0 or False elsewhere: path of an array of its shape, or the name of a
            label image inside the OME-Zarr `truth`.
        ignore_label: A label of the truth that means "not annotated here".

    Returns:
        Path of the page.

    Raises:
        InputError: If the folder is nothing of these, or something in it cannot be read; if truth is given for
            something else than instances or points, or of another shape.
    """
    base = Path(folder)
    if truth is None and (mask is not None or ignore_label is not None):
        raise InputError(
            f"report about {folder}",
            expected="true labels, of which a mask or an ignore label says what is annotated",
            received="no truth",
            remedy="give the truth, or leave out the mask and the ignore label",
        )
    if truth is not None and not (base / FOLDER).is_dir():
        raise InputError(
            f"report about {folder}",
            expected="the OUT of `nucseg run` or `nucseg segment`, to compare with true labels",
            received="another folder",
            remedy="leave out --truth, or give the OUT",
        )
    if (base / "experiment.json").is_file():
        return report_experiment(base, base / PAGE)
    if (base / "demo.json").is_file():
        return _report_demo(base)
    if (base / "run.json").is_file():
        return _report_training(base)
    if (base / FOLDER).is_dir() or ((base / "labels" / "nuclei").is_dir() and not _is_image(base)):
        if truth is None:
            return _report_output(base)
        check_labels(base)
        labels = open_labels(truth)
        return _report_output(base, labels, min_size, annotation_of(labels, mask, ignore_label, inside=truth))
    raise InputError(
        str(folder),
        expected="the folder of a demo, an experiment, a training run, or the OUT of `nucseg run`",
        received=_kind(base),
        remedy="give a folder that nucseg wrote",
    )


def _is_image(base: Path) -> bool:
    """Whether the folder is an image, such as a volume with true labels, and no OUT of a run."""
    node = ome.open_node(str(base)) if ome.is_zarr(base) else None
    return isinstance(node, zarr.Group) and "multiscales" in ome.metadata(node)


def _kind(base: Path) -> str:
    if not base.is_dir():
        return "no such folder"
    return "a volume" if _is_image(base) else "a folder with nothing of these"


def _report_demo(base: Path) -> Path:
    """`demo.json`: title, summary, scores by name, run (a training run's folder), images; paths below `base`."""
    path = base / "demo.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        images = [
            ReportImage(
                image["name"],
                _raw(base / image["raw"]),
                open_labels(base / image["truth"]) if image.get("truth") else None,
                open_labels(base / image["predicted"]),
            )
            for image in told["images"]
        ]
        scores = {name: Scores.from_json(value) for name, value in told["scores"].items()}
        summary = dict(told["summary"])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise InputError(
            str(path),
            expected="summary, scores and images, as `nucseg demo` writes them",
            received=f"{type(error).__name__}: {error}",
            remedy="run the demo again",
        ) from None
    run = base / told["run"] if told.get("run") else None
    return write_report(
        base / PAGE,
        title=told.get("title", "nucseg demo"),
        summary=summary,
        losses=read_losses(run) if run else None,
        scores=scores,
        images=images,
        sections=selection_section(run) if run else [],
    )


def _report_training(base: Path) -> Path:
    summary, sections = training_sections(base)
    return write_report(
        base / PAGE,
        title=f"Training run {base.resolve().name}",
        summary=summary,
        losses=read_losses(base),
        sections=sections,
    )


def _report_output(
    base: Path,
    truth: Volume | None = None,
    min_size: int = 0,
    annotated: AnnotationMask | None = None,
) -> Path:
    heads = {step: head for step in _STEPS if (head := Records(base, step).head())}
    table = _table(base)
    images, parts = [], []
    labelled = (base / "labels" / "nuclei").is_dir()
    if labelled:
        image = _shown_image(base, heads)
        if image:
            images.append(replace(image, truth=truth, min_size=min_size, annotated=annotated))
    if not images and table is not None and len(table["voxels"]):
        known = "volume_um3" in table
        volumes = table["volume_um3" if known else "voxels"].astype(float)
        chart = volume_chart(volumes, "µm³" if known else "voxels")
        parts.append(
            Section("Instances", [Charts([Chart(chart, "Volumes", f"of the {len(volumes)} instances.")])])
        )
    summary: dict[str, Any] = {}
    if images:
        summary["nuclei"] = len(images[0].predicted_centers.ids)
    elif table is not None:
        summary["nuclei"] = len(table["id"])
    elif (points := base / "tables" / "points.parquet").is_file():
        summary["nuclei"] = len(read_table(points)["id"])
    if table is not None and len(table["id"]):
        summary |= _measured(table)
    for step, head in heads.items():
        done = len(Records(base, step).read()[0])
        summary[f"{_STEPS[step].lower()} blocks"] = f"{done} of {head.get('blocks', '?')}"
    parts += [_step_section(base, step, head) for step, head in heads.items()]
    scores: dict[str, Scores] = {}
    if images and images[0].scores:
        scores["instances"] = images[0].scores
    elif truth is not None and not labelled:
        scores["points"] = score_points(base, heads, truth, min_size, annotated)
    elif truth is not None:
        raise InputError(
            f"report about {base}",
            expected="the image that labels/nuclei lie on, to show them against the truth",
            received="an OUT whose image is not where it was",
            remedy="bring the image back, or take the scores alone (nucseg evaluate)",
        )
    return write_report(
        base / PAGE,
        scores=scores or None,
        title=f"{'Segmentation' if labelled or table is not None else 'Detection'} {base.resolve().name}",
        summary=summary,
        images=images,
        sections=parts,
    )


def _shown_image(base: Path, heads: dict[str, dict[str, Any]]) -> ReportImage | None:
    """The instances over the raw image, or over the prediction where the raw image is not recorded."""
    labels = open_labels(base)
    for step in ("predict", "measure"):
        fields = heads.get(step, {}).get("fields", {})
        if fields.get("volume"):
            try:
                raw = _raw(Path(fields["volume"]), fields.get("channel"))
            except InputError:
                continue  # moved or deleted since: the next best picture, under a title that says so
            return ReportImage("Instances", raw, None, labels)
    source = heads.get("segment", {}).get("fields", {}).get("prediction") or base / "prediction"
    if dropped_blocks(Records(Path(source).parent, "predict")):
        return None  # deleted block by block when nothing needed it any more
    try:
        prediction = open_volume(source)
        shown = (
            open_volume(source, channel=min(1, prediction.channels - 1))
            if prediction.channels
            else prediction
        )
    except InputError:
        return None
    name = "Instances over the prediction (the raw image is not there)"
    return ReportImage(name, shown, None, labels)


def _raw(path: Path, channel: int | None = None) -> Volume:
    volume = open_volume(path)
    return open_volume(path, channel=channel or 0) if volume.channels else volume


def _table(base: Path) -> dict[str, np.ndarray] | None:
    path = base / "tables" / "nuclei.parquet"
    return read_table(path) if path.is_file() else None


def _measured(table: dict[str, np.ndarray]) -> dict[str, Any]:
    """Facts from the table of nuclei, as far as it has their columns."""
    facts: dict[str, Any] = {}
    if "volume_um3" in table:
        facts["median volume"] = f"{float(np.median(table['volume_um3'])):.3g} µm³"
    elif "voxels" in table:
        facts["median volume"] = f"{float(np.median(table['voxels'])):.0f} voxels"
    if "touches_border" in table:
        facts["nuclei at the border"] = int(np.count_nonzero(table["touches_border"].astype(bool)))
    return facts


def _step_section(base: Path, step: str, head: dict[str, Any]) -> Section:
    """Settings of one step, and how its blocks went."""
    done, failed = Records(base, step).read()
    facts = {name: value for name, value in head.get("fields", {}).items() if value is not None}
    if isinstance(facts.get("scenario"), dict):
        facts["scenario"] = [part.get("kind") for part in facts["scenario"].get("heads", [])]
    facts["blocks done"] = f"{len(done)} of {head.get('blocks', '?')}"
    seconds = [line["seconds"] for line in done.values() if "seconds" in line]
    if seconds:
        facts["time in blocks"] = f"{sum(seconds):.0f} s"
    memory = [line["peak_memory_bytes"] for line in done.values() if "peak_memory_bytes" in line]
    if memory:
        facts["largest worker"] = f"{max(memory) / 2**30:.2f} GiB"
    facts |= {name: head[name] for name in ("versions", "python", "hash") if name in head}
    text = f"{len(failed)} blocks failed, the first: {next(iter(failed.values()))}" if failed else ""
    return Section(_STEPS[step], [Facts(facts)], text)
