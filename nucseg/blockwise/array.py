"""Workers as elements of one job array of a cluster, and what all clusters have in common."""

import functools
import json
import shutil
import subprocess
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field

from nucseg.blockwise.cluster import ClusterError, Condition, Element, array_name
from nucseg.blockwise.foreman import STATE, oversee
from nucseg.blockwise.remote import Remote, worker_command
from nucseg.blockwise.resources import Resources, checked, read_cluster
from nucseg.errors import InputError

if TYPE_CHECKING:
    from nucseg.blockwise.records import Records

PATIENCE = 60.0
"""Seconds for a command of the cluster to answer."""


class JobArray(Remote, Resources):
    """One blocking job array a task; dead elements are replaced, at most `restarts` of them.

    The array's name is `nucseg-TASK-RUN`. It is cancelled when the run ends, in whatever way: by the driver, or by the
    process that oversees the array if the driver is killed; workers that nobody cancels end themselves when their
    scheduler is gone.
    """

    tasks: dict[str, Resources] = Field(default_factory=dict)
    """Other resources of single tasks, by the task's name; what they do not say stays."""

    kind: ClassVar[str]
    """Names the log files."""
    threads: ClassVar[str]
    """Shell expression for the number of cores of a worker."""

    @classmethod
    def from_toml(cls, path: str | Path, workers: int = 1) -> Self:
        """A launcher with the settings of a cluster's file; see `pipelines/cluster.toml`.

        Raises:
            InputError: The file cannot be read, or a setting is wrong.
        """
        launcher: Self = checked(cls, path, {**read_cluster(path), "workers": workers})
        return launcher

    # What a cluster says

    @abstractmethod
    def submission(self, name: str, elements: int, log: Path, resources: Resources) -> list[str]:
        """The command that submits an array of `elements` and blocks until it has ended; the script is its stdin.

        Args:
            name: Of the job.
            elements: Their number; indices begin at 1.
            log: Folder of the log files.
            resources: Of one element.
        """

    @abstractmethod
    def submitted(self, line: str) -> str | None:
        """The job's number, if this line of the submission's output says it."""

    @abstractmethod
    def listing(self, jobs: list[str]) -> list[str]:
        """The command that lists all elements of some jobs, those that have ended, too."""

    @abstractmethod
    def condition(self, line: str) -> tuple[Element, Condition] | None:
        """What a line of the listing says about one element."""

    @abstractmethod
    def cancellation(self, jobs: list[str], name: str) -> list[str]:
        """The command that cancels jobs, or where none is given all of a name."""

    # What all share

    def resources(self, task: str) -> Resources:
        """What a worker of a task gets; tasks of levels (`downsample-1`) are found by the word before the number."""
        head, _, tail = task.rpartition("-")
        return self.changed(self.tasks.get(task) or self.tasks.get(head if tail.isdecimal() else task))

    def worker_memory(self, task: str) -> int | None:
        """What is asked for it; None where that is left to the cluster."""
        return self.resources(task).memory_bytes

    def slots(self) -> tuple[int, int]:
        """One process oversees the whole array, and replaces dead elements itself."""
        return 1, 0

    def worker_function(self, job: Path) -> Callable[[], None]:
        """The process that submits the array and oversees it."""
        return functools.partial(oversee, self, str(job))

    def script(self, job: Path, environment: dict[str, str]) -> str:
        """What an element runs: the setup of the cluster, then a worker."""
        resources = self.resources(job.parent.name)
        threads = {f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
        threads |= {"TF_NUM_INTRAOP_THREADS"}
        lines = [
            "#!/bin/bash",
            *resources.setup,
            *(f"export {name}={quote(value)}" for name, value in sorted(environment.items())),
            *(f"export {name}={resources.cpus or self.threads}" for name in sorted(threads)),
            "export TF_NUM_INTEROP_THREADS=1",
            f"exec {join([*resources.container, *worker_command(job, resources.python)])}",
        ]
        return "\n".join(lines) + "\n"

    def conditions(self, jobs: list[str]) -> dict[Element, Condition]:
        """What the cluster knows about the elements of some jobs.

        Raises:
            ClusterError: It does not answer.
        """
        lines = self.ask(self.listing(jobs)).splitlines()
        return dict(found for line in lines if (found := self.condition(line)))

    def cancel(self, jobs: list[str], name: str) -> None:
        """Cancel jobs, or all of a name; those that have ended already are no error."""
        try:
            self.ask(self.cancellation(jobs, name))
        except ClusterError as error:
            print(f"could not cancel {name}: {error}", file=sys.stderr)

    def ask(self, command: list[str]) -> str:
        """What a command of the cluster prints.

        Raises:
            ClusterError: It fails, or does not answer.
        """
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ClusterError(f"{command[0]}: {error}") from None
        if result.returncode:
            raise ClusterError(" ".join((result.stderr or result.stdout or command[0]).split()))
        return result.stdout

    @contextmanager
    def attending(self, records: "Records", run: str, log: Callable[[str], None] | None) -> Iterator[None]:
        """Tell the user where scheduler and array are, and cancel the array in the end."""
        command = self.submission("", 1, Path(), Resources())[0]
        if shutil.which(command) is None:
            raise InputError(
                "launcher",
                expected=f"the command {command} on PATH",
                received="none",
                remedy=f"start this where jobs of {type(self).__name__} can be submitted, or use local:N",
            )
        self.address()  # or nothing is submitted
        state = records.folder / STATE
        state.unlink(missing_ok=True)
        ended = threading.Event()
        teller = threading.Thread(target=_tell, args=(state, log or (lambda _: None), ended), daemon=True)
        with super().attending(records, run, log):
            teller.start()
            try:
                yield
            finally:
                self.cancel([], array_name(records.folder.name, run))
                ended.set()
                teller.join()


def _tell(state: Path, log: Callable[[str], None], ended: threading.Event) -> None:
    """Pass on what the overseeing process says, each line once."""
    told = 0
    last = False
    while not last:
        last = ended.wait(0.2)
        try:
            lines = json.loads(state.read_text(encoding="utf-8"))["told"]
        except (OSError, ValueError):
            continue
        for line in lines[told:]:
            log(line)
        told = len(lines)
