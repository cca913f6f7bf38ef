"""What clusters have in common: elements of arrays, their conditions, and how their commands fail."""

import json
from pathlib import Path
from typing import Literal

from nucseg.errors import NucsegError

Element = tuple[str, int]
"""Number of the job, and index in its array."""
Condition = Literal["pending", "running", "done", "dead"]
"""`done` ended by itself, with status 0; `dead` in any other way."""


class ClusterError(NucsegError):
    """A command of the cluster that failed."""


def array_name(task: str, run: str) -> str:
    """The name of a task's job array in one run."""
    return f"nucseg-{task}-{run[:8]}"


def run_of(job: Path) -> str:
    """The run that a job file was written for."""
    run: str = json.loads(job.read_text(encoding="utf-8"))["run"]
    return run
