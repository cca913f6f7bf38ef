"""The job file, from which a worker anywhere rebuilds the task."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from nucseg.blockwise.task import Task
from nucseg.errors import InputError


def task_of(job: dict[str, Any]) -> Task:
    """Rebuild the task of a job.

    Raises:
        InputError: Its class cannot be found.
    """
    module, _, name = job["task"].partition(":")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            "job",
            expected="the import path of a Task, as in nucseg.blockwise.segment:Segment",
            received=f"{job['task']!r} ({error})",
            remedy="put the class into a module that workers can import",
        ) from None
    task: Task = kind.model_validate(job["fields"])
    return task


def read_job(path: str | Path) -> dict[str, Any]:
    """Read a job file.

    Raises:
        InputError: It is missing or is no job.
    """
    try:
        job = json.loads(Path(path).read_text(encoding="utf-8"))
        missing = {"task", "fields", "hash", "run"} - job.keys()
    except (OSError, ValueError, AttributeError) as error:
        missing, job = {str(error)}, {}
    if missing:
        raise InputError(
            str(path),
            expected="a job file, OUT/.nucseg/TASK/job.json",
            received=f"none: {', '.join(sorted(missing))}",
            remedy="jobs are written by the launcher of a run",
        )
    result: dict[str, Any] = job
    return result
