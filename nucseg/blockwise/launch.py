"""Where workers run.

daisy hands out the blocks: it asks a launcher for workers, each of which connects back and takes one block
after the other. A worker is `python -m nucseg.blockwise.worker JOB.json`, on this machine or any other.
"""

import functools
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from nucseg.blockwise.machine import memory_limit

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
    preflight: bool = True
    """Refuse a task whose needs exceed what there is, before any work; see `nucseg.blockwise.preflight`."""

    def shared_memory(self) -> int | None:
        """Bytes of memory that the workers may take together; None: not known here, and not checked."""
        return None

    def worker_memory(self, task: str) -> int | None:
        """Bytes of memory that one worker of a task, by its name, gets; None: not known here, and not checked."""
        return None

    def worker_function(self, job: Path) -> Callable[[], None]:
        """What daisy calls, in a process of its own, for each worker; returns when the worker has ended."""
        raise NotImplementedError

    def slots(self) -> tuple[int, int]:
        """How many processes daisy keeps at work, each a call of `worker_function`, and how many it replaces."""
        return max(1, self.workers), self.restarts

    @contextmanager
    def attending(self, records: "Records", run: str, log: Callable[[str], None] | None) -> Iterator[None]:
        """What surrounds the work of one run on one task."""
        yield

    def run(
        self,
        task: "Task",
        records: "Records",
        run: str,
        only: "Collection[Shape] | None" = None,
        log: Callable[[str], None] | None = None,
    ) -> str | None:
        """Do all blocks that have no record yet.

        Args:
            task: A resolved task whose outputs exist.
            records: Its records.
            run: Goes into the records of this run.
            only: Of these, blocks with these grid indices only; None: all.
            log: Takes lines about what goes on.

        Returns:
            What went wrong with the workers, in short, or None.
        """
        from nucseg.blockwise.schedule import Step, run_steps

        return run_steps([Step(task, records, run, self, only)], log)[0]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Local(Launcher):
    """Workers are processes on this machine, each with its share of the cores; nobody else can connect.

    Where there are several GPUs, each worker of a task with a network has one of them.

    >>> Local(workers=0).workers    # in this process
    0
    """

    workers: int = Field(default_factory=cores, ge=0)
    threads: int | None = Field(None, ge=1)
    """Of each worker; None: the cores, divided by the workers."""

    def shared_memory(self) -> int | None:
        """What this machine has, or the control group of this process."""
        return memory_limit()

    def worker_function(self, job: Path) -> Callable[[], None]:
        """Becomes the worker: its threads are set before anything is imported."""
        threads = str(self.threads or max(1, cores() // max(1, self.workers)))
        names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
        environment = {f"{name}_NUM_THREADS": threads for name in names}
        environment |= {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": "1"}
        environment |= {name: os.environ.get(name, value) for name, value in QUIET.items()} | import_path()
        return functools.partial(_become_worker, str(job), environment)


def import_path() -> dict[str, str]:
    """`PYTHONPATH` for workers, with the folder of the script that runs here: a task may lie in a module beside it."""
    own = os.path.abspath(sys.path[0]) if sys.path and sys.path[0] else os.getcwd()
    return {"PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), own)))}


QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def _become_worker(job: str, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "nucseg.blockwise.worker", job]
    os.execve(sys.executable, command, {**os.environ, **environment})


def short_error(error: BaseException) -> str:
    """An error in one line, with the place it came from unless it was meant for the user."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}"
