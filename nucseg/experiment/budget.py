"""A training's seconds as a number of iterations, fixed once for all seeds of a scenario."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from nucseg.experiment.cells import read_json, write_json
from nucseg.report.training import loss_columns
from nucseg.training import TrainConfig, train

BUDGET = "budget.json"
STEPS, FIRST = 40, 16
"""Steps of the probe, and those left out of its speed: the first ones find a full cache of batches."""


def iterations_for(
    seconds: float, config: TrainConfig, folder: Path, scratch: Path, log: Callable[[str], None]
) -> int:
    """How many iterations take about so many seconds on this machine, the network's compilation included.

    The number is measured once and kept in `folder/budget.json`, so that all seeds train equally long, the
    learning rate's schedule ends with the training, and a resumed training keeps its length.

    Args:
        seconds: Of training.
        config: The training; its number of iterations does not matter.
        folder: Shared by the seeds of one scenario on one data set.
        scratch: Folder for the probe's training; removed.
        log: Takes a line.
    """
    path = folder / BUDGET
    if path.is_file():
        return int(read_json(path)["iterations"])
    shutil.rmtree(scratch, ignore_errors=True)
    probe = config.model_copy(update={"checkpoint_every": STEPS, "snapshot_every": STEPS})
    train(probe, scratch, iterations=STEPS, progress=lambda *_: None)
    taken = loss_columns(scratch)["seconds"]
    shutil.rmtree(scratch, ignore_errors=True)
    step = float(taken[-1] - taken[FIRST - 1]) / (STEPS - FIRST)
    iterations = max(1, round((seconds - float(taken[0])) / step))
    log(f"{seconds:g} s of training are {iterations} iterations of {step * 1e3:.0f} ms")
    mine = folder / f".{BUDGET}.{os.getpid()}"
    write_json(mine, {"seconds": seconds, "iterations": iterations, "seconds_per_iteration": step})
    try:
        os.link(mine, path)  # of two that measured at the same time, one is taken
    except FileExistsError:
        pass
    finally:
        mine.unlink()
    return int(read_json(path)["iterations"])
