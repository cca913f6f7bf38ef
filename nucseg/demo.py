"""The whole way on synthetic worms, as `nucseg demo` and `make demo` run it."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nucseg.errors import InputError

_MARK = ".nucseg-demo"
_SEED = 2020


@dataclass(frozen=True)
class _Size:
    """What a demo makes: shapes in voxels, nuclei, how long it trains, among how many last checkpoints it selects."""

    train: tuple[int, int, int]
    train_nuclei: int
    volumes: int
    test: tuple[int, int, int]
    test_nuclei: int
    network: str
    iterations: int
    checkpoints: int


_FULL = _Size((64, 88, 160), 320, 3, (64, 96, 256), 480, "modern", 600, 3)
_QUICK = _Size((48, 64, 96), 90, 1, (48, 64, 112), 100, "tiny", 40, 1)

_CONFIG = """# What the demo trained; `nucseg train train.toml --folder another-run` does it again.
scenario = "three_label_cpv"
seed = {seed}
iterations = {iterations}
precision = "auto"

[network]
preset = "{network}"

[data]
train = {train}
validation = ["volumes/validation.zarr"]
"""


def run_demo(
    folder: str | Path, *, quick: bool = False, log: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Make worms, train 3-label + cpv, select on a validation worm, and score a worm the network never saw.

    Four ways to segment the test worm are compared: seeds from the main output, seeds from the votes of the
    center vectors, voxels grouped by the vectors (all with thresholds selected on the validation worm), and as the
    floor a threshold and watershed whose parameters are tuned on the test worm itself, which flatters it.

    Args:
        folder: Where volumes, run, results and `report.html` go; an earlier demo's folder is made anew.
        quick: Small worms and seconds of training: shows the way, not the quality.
        log: Takes lines about what goes on.

    Returns:
        `ap` (keys "0.1" to "0.9"), `av_ap`, `detection_ap` of the selected decoding on the test worm;
        `floor_ap`, `main_seeds_ap`, `votes_ap`, `vectors_ap` (each AP at IoU .5 on the test worm), `seconds`, `report`
        (absolute path), and `text`, the same as a table.

    Raises:
        InputError: The folder holds something else than a demo.
    """
    from nucseg.blockwise.launch import Local
    from nucseg.blockwise.run import run
    from nucseg.evaluate.floor_search import tune_threshold_watershed
    from nucseg.evaluate.matching import match
    from nucseg.evaluate.select import instances
    from nucseg.network.checkpoint import list_checkpoints
    from nucseg.network.model import TrainedModel
    from nucseg.report import report_folder
    from nucseg.selection import select_run
    from nucseg.synthetic import synthesize
    from nucseg.training import TrainConfig, train
    from nucseg.volume import open_labels, open_volume

    def say(message: str) -> None:
        if log:
            log(f"[{time.perf_counter() - started:5.0f} s] {message}")

    started = time.perf_counter()
    size = _QUICK if quick else _FULL
    base = _claim(Path(folder))

    say(f"making {size.volumes + 2} synthetic worms")
    volumes = base / "volumes"
    names = [f"train_{i}" for i in range(size.volumes)]
    for i, name in enumerate([*names, "validation"]):
        synthesize(volumes / f"{name}.zarr", shape=size.train, nuclei=size.train_nuclei, seed=_SEED + i)
    test = volumes / "test.zarr"
    synthesize(test, shape=size.test, nuclei=size.test_nuclei, seed=_SEED + 200)

    config = base / "train.toml"
    paths = json.dumps([f"volumes/{name}.zarr" for name in names])
    config.write_text(
        _CONFIG.format(seed=_SEED, iterations=size.iterations, network=size.network, train=paths),
        encoding="utf-8",
    )
    say(f"training three_label_cpv for {size.iterations} iterations on {size.volumes} worm(s)")
    trained = train(TrainConfig.from_toml(config), base / "run")
    say(f"trained; {1 / trained.seconds_per_iteration:.1f} iterations a second")

    newest = [checkpoint.iteration for checkpoint in list_checkpoints(base / "run")][-size.checkpoints :]
    say(f"selecting among {len(newest)} checkpoint(s), thresholds and seeds on the validation worm")
    chosen = select_run(base / "run", checkpoints=newest)
    scenario = TrainedModel.load(base / "run").scenario

    say("predicting, segmenting and measuring the test worm block by block, two workers")
    blocks = (size.test[0], size.test[1], size.test[2] // 2)
    result = run(
        str(test),
        str(base / "out"),
        model=str(base / "run"),
        block=blocks,
        launcher=Local(workers=2),
        keep=("predictions",),
        log=log,
    )

    say("scoring, and tuning the threshold-and-watershed floor on the test worm itself")
    truth, raw = open_labels(test).read(), open_volume(test).read()
    prediction = open_volume(base / "out" / "prediction").read()
    ours = match(truth, open_labels(base / "out").read())
    scores = {"selected, blockwise": ours}
    for seeds, name in (("main", "main seeds"), ("votes", "vote seeds"), ("vectors", "grouped by vectors")):
        scores[name] = match(truth, instances(prediction, scenario, chosen.decodings[seeds]))
    scores["threshold + watershed"] = match(truth, tune_threshold_watershed(raw, truth).labels)

    rows = {
        name: {"AP.5": s.ap[0.5], "avAP": s.av_ap, "detection AP": s.detection_ap}
        for name, s in scores.items()
    }
    at_half = {name: row["AP.5"] for name, row in rows.items()}
    shown = {
        "title": "nucseg demo: a synthetic worm",
        "summary": {
            "test volume": f"{' x '.join(map(str, size.test))} voxels, {ours.n_true} nuclei, difficulty worm",
            "training": f"{trained.iteration} iterations, {trained.seconds_per_iteration * 1e3:.0f} ms each",
            "selected on validation": ", ".join(
                f"{k} {v}" for k, v in {"checkpoint": chosen.checkpoint, **dict(chosen.candidate)}.items()
            ),
            "nuclei found": result.nuclei,
            "labels digest": result.digest,
        },
        "scores": {name: s.to_json() for name, s in scores.items()},
        "run": "run",
        "images": [
            {
                "name": "test worm",
                "raw": "volumes/test.zarr",
                "truth": "volumes/test.zarr",
                "predicted": "out",
            }
        ],
    }
    (base / "demo.json").write_text(json.dumps(shown, indent=1), encoding="utf-8")
    report = report_folder(base).resolve()
    say("done")

    seconds = time.perf_counter() - started
    summary = ours.to_json()
    width = max(map(len, rows))
    lines = [f"{'':{width}}  " + "  ".join(rows[name := next(iter(rows))])]
    lines += [
        f"{name:{width}}  " + "  ".join(f"{v:{len(k)}.3f}" for k, v in row.items())
        for name, row in rows.items()
    ]
    return {
        "ap": summary["ap"],
        "av_ap": summary["av_ap"],
        "detection_ap": summary["detection_ap"],
        "seconds": seconds,
        "floor_ap": at_half["threshold + watershed"],
        "main_seeds_ap": at_half["main seeds"],
        "votes_ap": at_half["vote seeds"],
        "vectors_ap": at_half["grouped by vectors"],
        "report": str(report),
        "text": "\n".join([*lines, f"{seconds:.0f} seconds; look at {report}"]),
    }


def _claim(folder: Path) -> Path:
    """An empty folder for the demo; what an earlier demo left is removed, anything else is refused."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / _MARK).is_file():
            raise InputError(
                str(folder),
                expected="a new folder, or one that an earlier demo made",
                received="a folder with other things in it" if folder.is_dir() else "a file",
                remedy="choose another folder with --folder",
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    return folder
