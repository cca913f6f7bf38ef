"""Launchers whose workers may run on other hosts: how they reach daisy's scheduler, and prove that they may."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from nucseg.blockwise.address import reachable_address
from nucseg.blockwise.cluster import run_of
from nucseg.blockwise.gate import KEY, Gate, make_key, read_key
from nucseg.blockwise.launch import QUIET, Launcher
from nucseg.errors import InputError

if TYPE_CHECKING:
    from daisy.v2 import Context

    from nucseg.blockwise.records import Records


class Remote(Launcher):
    """Workers connect to a gate on one address of this machine, with the run's key; daisy is on the loopback."""

    host: str | None = None
    """Address, name or network interface of this machine that the workers' hosts can reach; None has it chosen."""
    patience: float = Field(60.0, gt=0)
    """Seconds of silence after which worker and scheduler take each other for gone."""

    @contextmanager
    def attending(self, records: "Records", run: str, log: Callable[[str], None] | None) -> Iterator[None]:
        """Have a key while the run lasts."""
        if self.workers == 0:
            raise InputError(
                "workers",
                expected="at least one worker",
                received="0",
                remedy="local:0 does the blocks in this process",
            )
        key = records.folder / KEY
        make_key(key)
        try:
            yield
        finally:
            key.unlink(missing_ok=True)

    def address(self) -> str:
        """Where the gate listens.

        Raises:
            InputError: No such address.
        """
        return reachable_address(self.host)

    def open_gate(self, job: Path, context: "Context") -> Gate:
        """A gate to the scheduler that `context` names."""
        target = (context["hostname"], int(context["port"]))
        return Gate(self.address(), target, read_key(job.with_name(KEY)), self.patience)

    def worker_environment(self, job: Path, context: "Context", gate: Gate) -> dict[str, str]:
        """What a worker finds in its environment."""
        inner = context.copy()
        inner["hostname"], inner["port"] = gate.address
        inner["worker_id"] = -1  # a worker that daisy did not start itself
        inner["logdir"] = ""  # what a worker prints is kept by who starts it
        inner["run"] = run_of(job)
        inner["patience"] = self.patience
        return {type(context).ENV_VARIABLE: inner.to_env(), **QUIET}


def worker_command(job: Path, python: str | None = None) -> list[str]:
    """The words that start a worker."""
    return [python or sys.executable, "-m", "nucseg.blockwise.worker", str(job)]


def parent_gone(parent: int) -> bool:
    """Whether the process that started this one has ended since, whatever way."""
    return os.getppid() != parent
