"""A training's seconds as a number of iterations, fixed once for all seeds of a scenario."""

import fcntl
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from nucseg.experiment.cells import read_json, write_json
from nucseg.report.training import loss_columns
from nucseg.training import TrainConfig, train

logger = logging.getLogger(__name__)

BUDGET = "budget.json"
STEPS, FIRST = 40, 16
"""Steps of the probe, and those left out of its speed: the first ones find a full cache of batches."""


def iterations_for(
    seconds: float, config: TrainConfig, folder: Path, scratch: Path, log: Callable[[str], None]
) -> int:
    """How many iterations take about so many seconds on this machine, the network's compilation included.

    The number is measured once and kept in `folder/budget.json`, so that all seeds train equally long, the
    learning rate's schedule ends with the training, and a resumed training keeps its length. For other seconds than
    those of the file it is measured anew. Where the seconds end before the first step there is a warning.

    Args:
        seconds: Of training.
        config: The training; its number of iterations does not matter.
        folder: Shared by the seeds of one scenario on one data set.
        scratch: Folder for the probe's training; removed.
        log: Takes a line.
    """
    if (kept := _kept(folder, seconds)) is not None:
        return kept
    shutil.rmtree(scratch, ignore_errors=True)
    probe = config.model_copy(update={"checkpoint_every": STEPS, "snapshot_every": STEPS})
    train(probe, scratch, iterations=STEPS, progress=lambda *_: None)
    taken = loss_columns(scratch)["seconds"]
    shutil.rmtree(scratch, ignore_errors=True)
    step = float(taken[-1] - taken[FIRST - 1]) / (STEPS - FIRST)
    steps = (seconds - float(taken[0])) / step
    iterations = max(1, round(steps))
    if steps < 1:
        logger.warning(
            "%g s of training end before the first step: compiling takes %.2g s and a step %.2g s; training is one "
            "step long: give more seconds, or iterations",
            *(seconds, float(taken[0]), step),
        )
    log(f"{seconds:g} s of training are {iterations} iterations of {step * 1e3:.0f} ms")
    with (folder / f".{BUDGET}.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)  # of two that measured at the same time, one is taken
        if (kept := _kept(folder, seconds)) is not None:
            return kept
        value = {"seconds": seconds, "iterations": iterations, "seconds_per_iteration": step}
        write_json(folder / BUDGET, value)
    return iterations


def _kept(folder: Path, seconds: float) -> int | None:
    """The number of iterations that was measured for so many seconds; None: for others, or none."""
    path = folder / BUDGET
    if not path.is_file():
        return None
    kept = read_json(path)
    return int(kept["iterations"]) if kept.get("seconds") == seconds else None
