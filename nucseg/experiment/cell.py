"""One cell: train, select on the validation volumes, score the test volumes."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nucseg.evaluate.scores import Scores
from nucseg.experiment.budget import iterations_for
from nucseg.experiment.cells import Cell, read_json, write_json
from nucseg.experiment.choice import Choice, choose, predict, read_truth, scenario_of, score
from nucseg.experiment.config import Entry
from nucseg.experiment.dataset import Volumes, image_names, volumes_of
from nucseg.network.unet import DEFAULT_PRESET
from nucseg.report.training import loss_columns
from nucseg.training import train
from nucseg.training.config import LabelledVolume
from nucseg.volume import create_labels, open_volume

Log = Callable[[str], None]


def run_cell(cell: Cell, entry: Entry, root: Path, log: Log) -> dict[str, Any]:
    """Train, select and test; each step goes on where an earlier attempt stopped.

    Args:
        cell: Which one.
        entry: Its scenario.
        root: The experiment's folder.
        log: Takes lines about what goes on.

    Returns:
        What `cell.json` says, but for settings and versions: `network`, `parameters`, `iterations`,
        `trained_s`, `seconds` (of each step), `results`: for each goal and kind of seeds `for`, `seeds`,
        `checkpoint`, `decoding`, `validation`, the means over the images `ap`, `av_ap`, `detection_ap`,
        `pooled`, and `images`.
    """
    volumes, run = volumes_of(cell.dataset, root), cell.folder / "run"
    started = time.perf_counter()
    iterations = _train(cell, entry, volumes, run, log)
    trained = time.perf_counter()
    choices = _selected(cell, volumes, run, log)
    selected = time.perf_counter()
    results = _tested(cell, volumes, run, choices, log)
    if not cell.config.keep_predictions:
        for folder in ("validation", "test"):
            shutil.rmtree(cell.folder / folder, ignore_errors=True)
    return {
        "network": network_name(cell.config.settings_of(cell.dataset, entry).get("network", DEFAULT_PRESET)),
        "parameters": _parameters(run),
        "iterations": iterations,
        "trained_s": float(loss_columns(run)["seconds"][-1]),
        "seconds": {
            "train": trained - started,
            "select": selected - trained,
            "test": time.perf_counter() - selected,
        },
        "results": results,
    }


def image_results(scores: Sequence[Scores], volumes: Sequence[LabelledVolume]) -> list[dict[str, Any]]:
    """Scores of each test image as plain values, with its name and the paths to draw it."""
    return [
        {"image": name, "raw": volume.raw, "truth": volume.labels or volume.raw}
        | {k: v for k, v in one.to_json().items() if k != "info"}
        for one, volume, name in zip(scores, volumes, image_names(volumes), strict=True)
    ]


def summed_up(scores: list[Scores]) -> dict[str, Any]:
    """Mean over the images, as the paper has it, and the score of all objects pooled."""
    mean, pooled = Scores.mean(scores).to_json(), Scores.pooled(scores).to_json()
    short = ("ap", "av_ap", "detection_ap")
    return {k: mean[k] for k in short} | {"pooled": {k: pooled[k] for k in (*short, "n_true", "n_predicted")}}


def network_name(network: Any) -> str:
    """The preset's name, and what was changed of it; such as `small` or `small, feature_maps 12`."""
    if isinstance(network, str):
        return network
    fields = dict(network)
    name = fields.pop("preset", "custom")
    return ", ".join([name, *(f"{key} {value}" for key, value in fields.items())])


def write_instances(path: Path, name: str, labels: np.ndarray, volume: LabelledVolume) -> None:
    """Keep a test volume's instances as `path/labels/name`."""
    kind = np.uint32 if labels.size < 2**32 else np.uint64
    scale = open_volume(volume.raw).scale_um
    stored = create_labels(path, name, shape=labels.shape, dtype=kind, scale_um=scale, overwrite=True)
    for begin, shape in stored.blocks():
        part = tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))
        stored.write(begin, labels[part].astype(kind))


def _train(cell: Cell, entry: Entry, volumes: Volumes, run: Path, log: Log) -> int:
    settings = cell.config.settings_of(cell.dataset, entry)
    training = cell.config.training_of(cell.dataset, entry, cell.seed, volumes.data)
    if "seconds" in settings:
        iterations = iterations_for(
            float(settings["seconds"]), training, cell.folder.parent, cell.folder / "probe", log
        )
        training = training.model_copy(update={"iterations": iterations})
    log(f"training for {training.iterations} iterations")
    train(training, run, resume=(run / "run.json").is_file(), progress=lambda *_: None)
    return training.iterations


def _selected(cell: Cell, volumes: Volumes, run: Path, log: Log) -> list[Choice]:
    path = cell.folder / "selection.json"
    if path.is_file():
        return [Choice.from_json(value) for value in read_json(path)["choices"]]
    choices = choose(
        run,
        volumes.validation,
        labels=cell.dataset.labels,
        channel=cell.dataset.channel,
        ignore_label=cell.dataset.ignore_label,
        newest=cell.config.checkpoints,
        min_size=cell.config.min_size,
        mirrors=cell.config.mirrors,
        threads=cell.config.threads,
        log=log,
    )
    write_json(path, {"choices": [choice.to_json() for choice in choices]})
    return choices


def _tested(cell: Cell, volumes: Volumes, run: Path, choices: list[Choice], log: Log) -> list[dict[str, Any]]:
    """Every choice on every test volume; each volume is predicted once a checkpoint."""
    scenario = scenario_of(run)
    scores: dict[tuple[int, str, str], Scores] = {}
    names = image_names(volumes.test)
    for number, volume in enumerate(volumes.test):
        truth = read_truth(volume, cell.dataset)
        for checkpoint in sorted({choice.checkpoint for choice in choices}):
            log(f"testing iteration {checkpoint} on {names[number]}")
            out = cell.folder / "test" / f"{checkpoint}_{number}"
            prediction = predict(run, checkpoint, volume, cell.dataset.channel, out, cell.config.mirrors)
            for choice in choices:
                if choice.checkpoint != checkpoint:
                    continue
                found, labels = score(prediction, scenario, choice.decoding, truth, cell.config.min_size)
                scores[number, choice.goal, choice.seeds] = found
                if labels is not None and choice.goal == "segmentation":
                    write_instances(cell.folder / "instances" / str(number), choice.seeds, labels, volume)
    results = []
    for choice in choices:
        mine = [scores[number, choice.goal, choice.seeds] for number in range(len(volumes.test))]
        value = choice.to_json()
        results.append(
            {"for": value.pop("goal"), **value}
            | summed_up(mine)
            | {"images": image_results(mine, volumes.test)}
        )
    return results


def _parameters(run: Path) -> int:
    """Weights of the network: what `run.json` describes, built."""
    from nucseg.network.record import RunRecord

    record = RunRecord.read(run)
    return int(record.network.build(record.scenario.channels).count_params())
