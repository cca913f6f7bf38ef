"""What one cell's process runs: `python -m nucseg.experiment.work FOLDER DATASET SCENARIO SEED`."""

import contextlib
import fcntl
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nucseg.errors import NucsegError
from nucseg.experiment.cells import (
    FAILED,
    MATRIX,
    RESULT,
    Cell,
    cells_of,
    read_json,
    write_json,
)
from nucseg.experiment.config import ExperimentConfig

_PACKAGES = (
    "nucseg",
    "tensorflow-cpu",
    "tensorflow",
    "keras",
    "gunpowder",
    "numpy",
    "scipy",
    "numba",
    "zarr",
)
_PATIENCE_S = 20.0


def work(cell: Cell, root: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """Run a cell and write its result; what fails is written to `failed.json` and raised.

    Args:
        cell: Which one.
        root: The experiment's folder.
        log: Takes lines about what goes on.

    Raises:
        InputError: The folder is of a cell with other settings.
        NucsegError: Another process works on it.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    with _alone(cell.folder / ".lock"):
        if (done := cell.result()) is not None:
            return done
        try:
            cell.check()
            cell.begin()
            result = _run(cell, root, log)
        except Exception as error:
            report = {"error": _one_line(error), "traceback": traceback.format_exc()}
            write_json(cell.folder / FAILED, report)
            raise
        (cell.folder / FAILED).unlink(missing_ok=True)
        head = {"dataset": cell.dataset.name, "scenario": cell.name, "seed": cell.seed}
        tail = {"threads": cell.config.threads, "settings": cell.settings(), "versions": versions()}
        write_json(cell.folder / RESULT, head | result | tail)
        return head | result | tail


def versions() -> dict[str, str]:
    """Versions of the installed packages that results depend on."""
    found = {}
    for name in (*_PACKAGES, "stardist", "csbdeep"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _run(cell: Cell, root: Path, log: Callable[[str], None]) -> dict[str, Any]:
    entry = cell.entry
    if entry is not None:
        from nucseg.experiment.cell import run_cell

        return run_cell(cell, entry, root, log)
    from nucseg.experiment.stardist import run_stardist

    return run_stardist(cell, root, log)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a file's lock, which ends with the process: a process left over from a killed run has a moment to end."""
    with path.open("w") as file:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > until:
                    raise NucsegError(f"{path.parent}: another process works on this cell") from error
                time.sleep(0.2)
        yield


def _one_line(error: BaseException) -> str:
    text = str(error) if isinstance(error, NucsegError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: its end of standard input closes then."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(arguments: list[str]) -> None:
    """Entry point of a cell's process; its log is its output."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("gunpowder.nodes.generic_train").setLevel(logging.WARNING)  # losses.csv has each step
    threading.Thread(target=_end_with_parent, daemon=True, name="end-with-parent").start()
    folder, (dataset, name, seed) = Path(arguments[0]), arguments[1:4]
    config = ExperimentConfig.model_validate(read_json(folder / MATRIX))
    wanted = (dataset, name, int(seed))
    cell = next(c for c in cells_of(config, folder) if (c.dataset.name, c.name, c.seed) == wanted)
    started = time.perf_counter()

    def log(message: str) -> None:
        print(f"[{time.perf_counter() - started:6.0f} s] {message}", flush=True)

    work(cell, folder, log)


if __name__ == "__main__":
    main(sys.argv[1:])
