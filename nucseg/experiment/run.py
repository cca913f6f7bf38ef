"""Running the matrix: which cells are due, processes for them, and how long it will still take."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nucseg.errors import InputError
from nucseg.experiment.adopt import adopt, read_results
from nucseg.experiment.cells import FAILED, LOG, Cell, cells_of, claim, read_json, write_json
from nucseg.experiment.collect import collect
from nucseg.experiment.config import ExperimentConfig
from nucseg.experiment.dataset import check_synthetic, make_volumes, volumes_of

Log = Callable[[str], None]

_POLL_S = 0.2
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


class _Running(NamedTuple):
    cell: Cell
    process: subprocess.Popen
    begun: float


def run_experiment(
    config: ExperimentConfig,
    folder: str | Path,
    *,
    parallel: int | None = None,
    threads: int | None = None,
    known: Sequence[str | Path] = (),
    log: Log | None = None,
) -> dict[str, Any]:
    """Run what is not done yet of an experiment, and collect all of it.

    A cell is one scenario with one seed on one data set, in `folder/DATASET/SCENARIO/SEED`. It is done when
    its `cell.json` is there, which is written last; what was interrupted goes on at the next call. A cell that
    fails is named in the result, the others go on.

    Args:
        config: The experiment.
        folder: Where everything goes.
        parallel: Cells at a time instead of the configuration's number; 0: in this process.
        threads: Of each cell, instead of the configuration's number.
        known: Results of cells that were done elsewhere, see `adopt`.
        log: Takes lines about what goes on, and the time left.

    Returns:
        See `collect`.

    Raises:
        InputError: The folder is of something else, a cell of other settings lies in it, volumes or StarDist
            are missing.
    """
    say = log or (lambda _: None)
    root = Path(folder)
    width = config.parallel if parallel is None else parallel
    cores = len(os.sched_getaffinity(0))
    each = threads or config.threads or max(1, cores // max(1, width))
    config = config.model_copy(update={"threads": each, "parallel": width})
    if config.stardist:
        _need_stardist()
    cells = cells_of(config, root)
    for cell in cells:
        cell.check()
    for dataset in config.datasets:
        check_synthetic(dataset)
    for results in known:
        read_results(results)  # or nothing is left in the folder
    claim(config, root)
    for results in known:
        say(f"{len(adopt(config, root, results))} cells are taken from {results}")
    for dataset in config.datasets:
        make_volumes(dataset, root, say)
    due = [cell for cell in cells if not cell.done]
    _check_volumes(due, root)
    if len(due) < len(cells):
        say(f"{len(cells) - len(due)} of {len(cells)} cells are done already")
    if width == 0:
        _here(due, root, say)
    else:
        _processes(due, root, width, each, say)
    return collect(config, root)


def _check_volumes(due: list[Cell], root: Path) -> None:
    """See, before hours of training, that there is a truth to score with.

    StarDist's training and its choice of thresholds know no mask: their volumes must be annotated in the whole.
    """
    from nucseg.experiment.choice import check_truth

    for dataset in dict.fromkeys(cell.dataset.name for cell in due):
        mine = [cell for cell in due if cell.dataset.name == dataset]
        volumes, data = volumes_of(mine[0].dataset, root), mine[0].dataset
        stardist = any(cell.entry is None for cell in mine)
        for volume in volumes.validation:
            check_truth(volume, data, whole=stardist)
        for volume in volumes.test:
            check_truth(volume, data)
        for volume in data.train if stardist else ():
            check_truth(volume, data, whole=True)


def _here(due: list[Cell], root: Path, say: Log) -> None:
    """One cell after another in this process."""
    from nucseg.experiment.work import work

    begun = time.monotonic()
    for number, cell in enumerate(due, start=1):
        say(f"{cell.title} begins")
        try:
            work(cell, root, lambda message: None)
        except Exception as error:
            say(f"[{number}/{len(due)}] {cell.title} failed: {error}")
            continue
        spent = time.monotonic() - begun
        say(f"[{number}/{len(due)}] {_told(cell)}{_left(spent / number * (len(due) - number))}")


def _processes(due: list[Cell], root: Path, width: int, threads: int, say: Log) -> None:
    """Up to `width` cells at a time, each in a process that ends with this one."""
    waiting, running = list(due), list[_Running]()
    finished, spent = 0, 0.0
    environment = os.environ | dict.fromkeys(_THREADS, str(threads))
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        while waiting or running:
            while waiting and len(running) < width:
                cell = waiting.pop(0)
                say(f"{cell.title} begins")
                running.append(_Running(cell, _start(cell, root, environment), time.monotonic()))
            time.sleep(_POLL_S)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                finished, spent = finished + 1, spent + time.monotonic() - one.begun
                _close(one)
                _account(one)
                left = spent / finished * (len(due) - finished) / width
                if one.cell.done:
                    say(f"[{finished}/{len(due)}] {_told(one.cell)}{_left(left)}")
                else:
                    why = why_failed(one.cell)
                    say(f"[{finished}/{len(due)}] {one.cell.title} failed: {why}{_left(left)}")
    finally:
        for one in running:
            one.process.kill()
            one.process.wait()
            _close(one)


def _start(cell: Cell, root: Path, environment: dict[str, str]) -> subprocess.Popen:
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / FAILED).unlink(missing_ok=True)
    place = (str(root), cell.dataset.name, cell.name, str(cell.seed))
    with (cell.folder / LOG).open("a", encoding="utf-8") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "nucseg.experiment.work", *place],
            stdin=subprocess.PIPE,  # open as long as this process lives
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _close(one: _Running) -> None:
    if one.process.stdin is not None:
        one.process.stdin.close()


def _account(one: _Running) -> None:
    """Say why a cell is not done where its process could not: it was killed, or could not begin."""
    path = one.cell.folder / FAILED
    if not one.cell.done and not path.is_file():
        code = one.process.returncode
        how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
        write_json(path, {"error": f"its process was ended {how}"})


def why_failed(cell: Cell) -> str:
    """Why a cell's last attempt failed, in one line, with its log."""
    return f"{read_json(cell.folder / FAILED)['error']} (see {cell.folder / LOG})"


def _told(cell: Cell) -> str:
    """A finished cell in one line: the best of its segmentations, or its detection."""
    result = cell.result() or {}
    told = [f"{cell.title}: trained {result['trained_s']:.0f} s"]
    for one in result["results"]:
        if one["for"] == "segmentation":
            told.append(f"{one['seeds']} AP.5 {one['ap']['0.5']:.3f} avAP {one['av_ap']:.3f}")
        elif one["seeds"] == "main":
            told.append(f"detection AP {one['detection_ap']:.3f}")
    return ", ".join(told)


def _left(seconds: float) -> str:
    if seconds <= 0:
        return ""
    if seconds < 90:
        return f"; about {seconds:.0f} s left"
    return (
        f"; about {seconds / 60:.0f} min left" if seconds < 5400 else f"; about {seconds / 3600:.1f} h left"
    )


def _need_stardist() -> None:
    from importlib.util import find_spec

    if find_spec("stardist") is None:
        raise InputError(
            "stardist",
            expected="the package stardist, for its row of the tables",
            received="not installed",
            remedy="pip install 'nucseg[stardist]', or remove stardist from the configuration",
        )
