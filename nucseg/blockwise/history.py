"""When a task was worked on, by which process, and whether that process is still there.

    OUT/.nucseg/<task>/runs.jsonl     a line when workers are about to start, one when they have ended

A driver that was killed leaves no second line. Whether it lives is asked of its machine, by process number and start
time; from another machine only the age of the newest record and the lock that workers hold can tell.
"""

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nucseg.blockwise.records import Records
from nucseg.errors import InputError

if TYPE_CHECKING:
    from nucseg.blockwise.launch import Launcher


Kind = Literal["run", "repair"]


@contextmanager
def attended(
    records: Records, run: str, launcher: "Launcher", blocks: int, kind: Kind = "run"
) -> Iterator[None]:
    """Note that this process has a task's blocks done, and when it has ended.

    Args:
        records: The task's records.
        run: Names this run, as in the lines of its blocks.
        launcher: Where workers run.
        blocks: Number of blocks to do.
        kind: A run does all blocks that are not done, a repair only damaged ones.
    """
    path = records.folder / "runs.jsonl"
    started = time.time()
    process = {"host": socket.gethostname(), "pid": os.getpid(), "process_start": _process_start(os.getpid())}
    where = {"kind": kind, "launcher": type(launcher).__name__, "workers": launcher.workers}
    _append(path, {"run": run, "event": "start", "time": started, "blocks": blocks, **process, **where})
    try:
        yield
    finally:
        how = "interrupted" if sys.exc_info()[0] is not None else "ended"
        _append(path, {"run": run, "event": how, "time": time.time(), "seconds": time.time() - started})


def runs(records: Records) -> list[dict[str, Any]]:
    """All runs of a task, oldest first.

    Each has `run`, `kind`, `started` (seconds since 1970), `blocks` (to do), `host`, `pid`, `launcher`, `workers`, and
    `ended` and `how` (ended, interrupted); these two are None where there is no such line.
    """
    path = records.folder / "runs.jsonl"
    if not path.exists():
        return []
    found: dict[str, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # torn by a kill
            continue
        if line["event"] == "start":
            rest = {key: line[key] for key in line if key not in ("event", "time")}
            found[line["run"]] = {**rest, "started": line["time"], "ended": None, "how": None}
        elif line["run"] in found:
            found[line["run"]] |= {"ended": line["time"], "how": line["event"]}
    return list(found.values())


def process_alive(run: dict[str, Any]) -> bool | None:
    """Whether the process that started a run is there; None: it ran on another machine."""
    if run["host"] != socket.gethostname():
        return None
    try:
        os.kill(run["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's: it is there
        pass
    return bool(_process_start(run["pid"]) == run["process_start"])


def check_nobody_at_work(records: Records) -> None:
    """Make sure that no run of this machine is at work on a task.

    Raises:
        InputError: One is.
    """
    history = runs(records)
    if history and history[-1]["ended"] is None and process_alive(history[-1]):
        raise InputError(
            str(records.path.parent.parent),
            expected=f"nobody at work on {records.folder.name}",
            received=f"a run of process {history[-1]['pid']} on this machine",
            remedy="wait until it has ended, then repair",
        )


def held_by_workers(records: Records) -> bool | None:
    """Whether workers hold the task's lock; None: this file system or user cannot tell. Changes nothing."""
    lock = records.folder.with_suffix(".lock")
    try:
        with open(lock, "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None


def newest_record(records: Records) -> float | None:
    """When the newest line was written, in seconds since 1970, by the clock of the file system; None: no line."""
    times = [file.stat().st_mtime for file in records.folder.glob("blocks-*.jsonl")]
    return max(times, default=None)


def _process_start(pid: int) -> str | None:
    """When a process started, in the kernel's own count, which tells it from a later one of the same number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] == "Z" else fields[19]  # a zombie runs no more


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
