"""Experiments for tests: a tiny one that runs, and cells of one that never ran."""

import json

from nucseg.experiment import ExperimentConfig
from nucseg.experiment.cells import RESULT, cells_of, claim, write_json

TINY = """
scenarios = ["three_label", "three_label_cpv"]
seeds = [1, 2]
threads = 1
checkpoints = 2

[training]
network = "tiny"
iterations = 60
workers = 0
checkpoint_every = 20
patch = {output = [12, 12, 12]}
optimizer = {learning_rate = 0.01, warmup = 0}

[[datasets]]
name = "worm"
synthetic = {difficulty = "easy", shape = [32, 48, 64], nuclei = 25, train = [1], validation = [2], test = [3]}
"""

THRESHOLDS = [f"0.{i}" for i in range(1, 10)]


def fake_config(**changes):
    """Two scenarios, three seeds, two data sets of volumes that are not there."""
    volumes = {
        "train": ["no/a.zarr"],
        "validation": ["no/b.zarr"],
        "test": ["no/p.zarr", "no/q.zarr", "no/r.zarr"],
    }
    datasets = [{"name": "one", **volumes}, {"name": "two", **volumes}]
    settings = {"scenarios": ["three_label", "three_label_cpv"], "seeds": [1, 2, 3], "datasets": datasets}
    return ExperimentConfig.model_validate(settings | changes)


def fake_image(name, rng):
    """One image's scores, from random counts."""
    value = {"image": name, "raw": f"no/{name}.zarr", "truth": f"no/{name}.zarr"}
    value |= {"n_true": 20, "n_predicted": 20, "tp": {}, "fp": {}, "fn": {}, "ap": {}}
    for i, t in enumerate(THRESHOLDS):
        tp = int(rng.integers(0, 20 - 2 * i))
        value["tp"][t], value["fp"][t], value["fn"][t] = tp, 20 - tp, 20 - tp
        value["ap"][t] = tp / (40 - tp)
    value["av_ap"] = sum(value["ap"].values()) / 9
    value["detection_ap"] = float(rng.uniform())
    return value


def fake_cell(cell, rng):
    """Write a finished cell of random scores; returns its result."""
    results = []
    for goal in ("segmentation", "detection"):
        for seeds in ("main", "votes", "vectors") if cell.name.endswith("_cpv") else ("main",):
            images = [fake_image(name, rng) for name in "pqr"]

            def mean(get, images=images):
                return sum(get(image) for image in images) / len(images)

            results.append(
                {
                    "for": goal,
                    "seeds": seeds,
                    "checkpoint": 10,
                    "decoding": {"seeds": seeds, "goal": goal},
                    "validation": {"av_ap": float(rng.uniform()), "detection_ap": float(rng.uniform())},
                    "ap": {t: mean(lambda image, t=t: image["ap"][t]) for t in THRESHOLDS},
                    "av_ap": mean(lambda image: image["av_ap"]),
                    "detection_ap": mean(lambda image: image["detection_ap"]),
                    "pooled": {},
                    "images": images,
                }
            )
    head = {"dataset": cell.dataset.name, "scenario": cell.name, "seed": cell.seed}
    result = head | {"network": "tiny", "trained_s": 1.0, "versions": {"nucseg": "0"}, "results": results}
    cell.folder.mkdir(parents=True)
    cell.begin()
    write_json(cell.folder / RESULT, result)
    return json.loads((cell.folder / RESULT).read_text())


def fake_experiment(config, folder, rng, leave_out=()):
    """An experiment's folder with finished cells; the results by (dataset, scenario, seed)."""
    claim(config, folder)
    results = {}
    for cell in cells_of(config, folder):
        key = (cell.dataset.name, cell.name, cell.seed)
        if key not in leave_out:
            results[key] = fake_cell(cell, rng)
    return results
