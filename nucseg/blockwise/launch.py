"""Where workers run.

daisy hands out the blocks: it asks a launcher for workers, each of which connects back and takes one block
after the other. A worker is `python -m nucseg.blockwise.worker JOB.json`, on this machine or any other.
"""

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from nucseg.blockwise.machine import memory_limit
from nucseg.errors import InputError

if TYPE_CHECKING:
    from nucseg.blockwise.grid import Shape
    from nucseg.blockwise.records import Records
    from nucseg.blockwise.task import Task


class Launcher(BaseModel):
    """Runs a task's blocks through daisy; subclasses say how one worker is started.

    A block is tried three times, a dead worker is replaced at most `restarts` times.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = Field(1, ge=0)
    """Workers at a time; 0 does the blocks in this process, one after the other, as a debugger wants it."""
    block_timeout: float = Field(6 * 3600.0, gt=0)
    """Seconds after which a worker that is stuck in a block is killed; a dead one is noticed at once."""
    restarts: int = Field(20, ge=0)
    """Dead workers to replace before the run is given up."""
    host: str | None = None
    """Address that workers connect to; None has daisy find one that other machines can reach."""
    preflight: bool = True
    """Refuse a task whose needs exceed what there is, before any work; see `nucseg.blockwise.preflight`."""

    def memory(self) -> int | None:
        """Bytes of memory that the workers may take together; None: not known here, and not checked."""
        return None

    def worker_function(self, job: Path) -> Callable[[], None]:
        """What daisy calls, in a process of its own, for each worker; returns when the worker has ended."""
        raise NotImplementedError

    def run(
        self, task: "Task", records: "Records", run: str, only: "Collection[Shape] | None" = None
    ) -> str | None:
        """Do all blocks that have no record yet.

        Args:
            task: A resolved task whose outputs exist.
            records: Its records.
            run: Goes into the records of this run.
            only: Of these, blocks with these grid indices only; None: all.

        Returns:
            What went wrong with the workers, in short, or None.
        """
        import daisy.v2 as daisy
        import numpy as np

        from nucseg.blockwise.worker import Worker

        grid, done = task.grid(), records.read()[0]
        mask = np.full(grid.shape, only is not None, np.uint8)
        for index in only or ():
            mask[index] = 0
        for index in done:
            mask[index] = 1
        unit = daisy.Roi((0, 0, 0), grid.block)
        log = None if _debugging() else records.logs / "driver.err"
        worker = Worker(task, records, task.job(run)["hash"], run, log) if self.workers == 0 else None
        with _worker_logs(records.logs if self.workers else None), _native_errors_to(log):
            daisy_task = daisy.Task(
                task.name,
                total_roi=daisy.Roi((0, 0, 0), [n * b for n, b in zip(grid.shape, grid.block, strict=True)]),
                read_roi=unit,
                write_roi=unit,
                process_function=worker.serve if worker else self.worker_function(records.job),
                read_write_conflict=False,
                fit="valid",
                max_workers=max(1, self.workers),
                max_retries=2,
                max_worker_restarts=self.restarts,
                timeout=self.block_timeout,
                tracking_path=False,  # our records, written before a block is given back, say what is done
                skip_mask=mask,
            )
            try:
                if worker:
                    worker.start()
                states = daisy.run_blockwise(
                    daisy_task,
                    multiprocessing=worker is None,
                    progress=sys.stderr.isatty(),
                    return_states=True,
                    host=self.host,
                    summary=False,
                )
            except RuntimeError as error:  # daisy gave the task up: its workers kept dying
                states = getattr(error, "daisy_states", None)
                if states is None:
                    raise
            finally:
                if worker:
                    worker.close()
        return _last_line(states[task.name].last_worker_error)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Local(Launcher):
    """Workers are processes on this machine, each with its share of the cores; nobody else can connect.

    >>> Local(workers=0).workers    # in this process
    0
    """

    workers: int = Field(default_factory=cores, ge=0)
    host: str | None = "127.0.0.1"

    def memory(self) -> int | None:
        """What this machine has, or the control group of this process."""
        return memory_limit()

    def worker_function(self, job: Path) -> Callable[[], None]:
        """Becomes the worker: its threads are set before anything is imported."""
        threads = str(max(1, cores() // max(1, self.workers)))
        names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
        environment = {f"{name}_NUM_THREADS": threads for name in names}
        environment |= {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": "1"}
        environment |= {name: os.environ.get(name, value) for name, value in _QUIET.items()}
        return functools.partial(_become_worker, str(job), environment)


_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def _become_worker(job: str, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "nucseg.blockwise.worker", job]
    os.execve(sys.executable, command, {**os.environ, **environment})


def parse_launcher(text: str | Launcher) -> Launcher:
    """A launcher by its name: `local` (a worker a core), `local:N`, `local:0` (in this process); or itself.

    Raises:
        InputError: There is no such launcher.
    """
    if isinstance(text, Launcher):
        return text
    kind, _, count = text.partition(":")
    if kind != "local" or not (count == "" or count.isdecimal()):
        raise InputError(
            "launcher",
            expected="local or local:N, with N workers",
            received=repr(text),
            remedy="give one of these",
        )
    return Local(workers=int(count)) if count else Local()


def short_error(error: BaseException) -> str:
    """An error in one line, with the place it came from unless it was meant for the user."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}"


def _last_line(text: str | None) -> str | None:
    lines = (text or "").strip().splitlines()
    return lines[-1].strip() if lines else None


def _debugging() -> bool:
    """Whether all is to be shown on the terminal, as with --debug."""
    return logging.getLogger("nucseg").isEnabledFor(logging.DEBUG)


@contextmanager
def _native_errors_to(path: Path | None) -> Iterator[None]:
    """Have daisy report to a file: its native part writes tracebacks of workers to the file descriptor of stderr.

    `sys.stderr` still reaches the user, and so does the progress bar. None changes nothing.
    """
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    native = logging.getLogger("daisy")
    handler, propagate = logging.FileHandler(path, encoding="utf-8"), native.propagate
    with ExitStack() as undo:
        undo.callback(handler.close)
        user = os.dup(2)
        undo.callback(os.close, user)
        with path.open("ab") as file:
            if _is_descriptor(sys.stderr, 2):
                sys.stderr.flush()
                undo.enter_context(redirect_stderr(undo.enter_context(open(user, "w", closefd=False))))
            os.dup2(file.fileno(), 2)
        undo.callback(os.dup2, user, 2)
        native.addHandler(handler)
        native.propagate = False
        undo.callback(setattr, native, "propagate", propagate)
        undo.callback(native.removeHandler, handler)
        yield


def _is_descriptor(stream: Any, number: int) -> bool:
    try:
        return bool(stream.fileno() == number)
    except (AttributeError, OSError, ValueError):  # a stream of a notebook or a test
        return False


@contextmanager
def _worker_logs(folder: Path | None) -> Iterator[None]:
    """Have daisy put what workers print into this folder; it keeps that in a setting of the whole process."""
    import daisy.logging as daisy_logging

    before: Any = daisy_logging.get_log_basedir()
    daisy_logging.set_log_basedir(folder)
    try:
        yield
    finally:
        daisy_logging.set_log_basedir(before)
