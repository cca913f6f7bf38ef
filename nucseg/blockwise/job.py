"""The job file, from which a worker anywhere rebuilds the task.

It is plain JSON: it names the task's class by its import path and holds values of its fields, never code. What a
worker runs is what its own Python can import under that name.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from nucseg.blockwise.records import FOLDER, Records
from nucseg.blockwise.task import Task
from nucseg.errors import InputError

ORDER = ("predict", "segment", "sift", "collect_ids", "compact", "detect", "drop", "measure", "medians")
"""Tasks that share an OUT; each reads only what earlier ones wrote."""


def task_of(job: dict[str, Any]) -> Task:
    """Rebuild the task of a job.

    Raises:
        InputError: Its class cannot be found, or is no `Task`.
    """
    module, _, name = job["task"].partition(":")
    try:
        kind = getattr(import_module(module), name)
        problem = None if isinstance(kind, type) and issubclass(kind, Task) else "which is no Task"
    except (ImportError, AttributeError, ValueError) as error:
        problem = str(error)
    if problem:
        raise InputError(
            "job",
            expected="the import path of a Task, as in nucseg.blockwise.segment:Segment",
            received=f"{job['task']!r} ({problem})",
            remedy="put the class into a module that workers can import",
        )
    task: Task = kind.model_validate(job["fields"])
    return task


def recorded_task(out: str | Path, name: str) -> Task | None:
    """The task whose records lie in an OUT, with every choice made, as its blocks were done; None: there is none.

    Raises:
        InputError: The records cannot be read, or the task's class cannot be found.
    """
    records = Records(out, name)
    try:
        head = records.head()
        if head is None:
            return None
        return task_of({"task": head["task"], "fields": {**head["fields"], "out": str(Path(out).resolve())}})
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            str(records.path),
            expected="the description of a run",
            received=f"{type(error).__name__}: {' '.join(str(error).split())}",
            remedy="restore the file from a copy, or start afresh with overwrite (--overwrite)",
        ) from None


def recorded(out: str | Path) -> dict[str, Records]:
    """The records of all tasks of an OUT, in the order of the work; a lab's own tasks come last.

    Returns:
        Records by the task's name; levels that were added to the prediction or to labels, whose records lie there, by
        a path such as `labels/nuclei/downsample-1`.

    Raises:
        InputError: No run was ever begun there.
    """
    root = Path(out).resolve()
    found = {}
    for folder in (root, root / "prediction", *sorted((root / "labels").glob("*"))):
        names = [path.stem for path in (folder / FOLDER).glob("*.json")]
        for name in sorted(names, key=_place):
            found[(folder / name).relative_to(root).as_posix()] = Records(folder, name)
    if not found and not (root / FOLDER).is_dir():
        raise InputError(
            str(out),
            expected="the OUT of a run, with its records in .nucseg",
            received="a folder without records" if root.exists() else "nothing",
            remedy="name the OUT that `nucseg run`, `predict`, `segment`, `detect` or `measure` wrote",
        )
    return found


def _place(name: str) -> tuple[int, int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER)), len(name), name  # downsample-10 behind -2


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
