"""A lab's own launcher: one function that starts one worker, wherever it wants to."""

import functools
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import field_validator

from nucseg.blockwise.cluster import run_of
from nucseg.blockwise.remote import Remote, worker_command
from nucseg.errors import InputError

Start = Callable[[list[str], dict[str, str], Path], object]
"""`start(command, environment, log)`: run `command` somewhere with `environment` added to its own, its output
appended to `log`; return when it has ended, raise if it failed."""


class FunctionLauncher(Remote):
    """Workers are started by a function of your own.

    It is called once a worker, `workers` times at once, each call in a process of its own; a worker whose call raises
    is replaced, at most `restarts` times. The function is `start(command, environment, log)`: it runs the words
    `command` on whatever host, with the variables `environment` added, appends what the worker prints to the file
    `log`, and returns when the worker has ended. The host must see the same files and reach this machine.
    """

    start: Any
    """The function, or its import path, `module:function`."""

    @field_validator("start")
    @classmethod
    def _found(cls, value: Any) -> Any:
        return imported(value) if isinstance(value, str) else value

    def worker_function(self, job: Path) -> Callable[[], None]:
        """Opens a gate for one worker and calls the function."""
        return functools.partial(_start_one, self, str(job))


def imported(path: str) -> Start:
    """A launcher function by its import path.

    Raises:
        InputError: There is none.
    """
    module, _, name = path.partition(":")
    try:
        found: Start = getattr(import_module(module), name)
        problem = None if callable(found) else f"{type(found).__name__}, which cannot be called"
    except (ImportError, AttributeError, ValueError) as error:
        problem = str(error)
    if problem:
        raise InputError(
            "launcher",
            expected="the import path of a function, such as mylab.launch:start",
            received=f"{path!r} ({problem})",
            remedy="put its module onto PYTHONPATH or install it",
        )
    return found


def _start_one(launcher: FunctionLauncher, job: str) -> None:
    import daisy.v2 as daisy

    path, context = Path(job), daisy.Context.from_env()
    number = int(context["worker_id"])
    log = path.parent / "logs" / f"worker-{run_of(path)[:8]}-{number}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    gate = launcher.open_gate(path, context)
    try:
        launcher.start(worker_command(path), launcher.worker_environment(path, context, gate), log)
    finally:
        gate.close()
