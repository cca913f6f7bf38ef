"""`run_status`: how far a run is, living or dead, from what lies in its OUT. Reads only."""

import json
import time
from datetime import UTC, datetime
from heapq import heappush, heappushpop
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from nucseg.blockwise.dropping import dropped_blocks
from nucseg.blockwise.grid import Grid, Shape
from nucseg.blockwise.history import held_by_workers, newest_record, process_alive, runs
from nucseg.blockwise.job import recorded
from nucseg.blockwise.lines import Lines
from nucseg.blockwise.records import SET_ASIDE, Records
from nucseg.errors import InputError

WINDOW = 300.0
"""Seconds that the rate of a running task is taken over."""
PATIENCE = 120.0
"""A task that nobody else can tell about is taken as running if a block was done so many seconds ago, or three times
as long as its slowest block took, whichever is more."""
SLOWEST = 5
"""Blocks that are named as the slowest."""

State = Literal["done", "running", "failed", "stopped"]


class BlockStatus(BaseModel):
    """One block that failed, or that took long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: Shape
    """Place in the grid of blocks, z, y, x."""
    begin: Shape | None
    """First voxel, z, y, x; None where old records do not say."""
    shape: Shape | None
    """Voxels, z, y, x."""
    seconds: float | None = None
    """How long it took; None: it failed."""
    error: str | None = None
    log: str | None = None
    """The file with the traceback, or the folder of all logs where it is not known which file."""

    def __str__(self) -> str:
        if self.begin is None or self.shape is None:
            return f"block {self.block}"
        return "[" + ", ".join(f"{b}:{b + n}" for b, n in zip(self.begin, self.shape, strict=True)) + "]"


class TaskStatus(BaseModel):
    """How far one task is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    state: State
    """`failed`: it ended with blocks undone; `stopped`: its driver was interrupted or killed."""
    based_on: str
    """How the state is known."""
    blocks: int
    done: int
    failed: list[BlockStatus]
    """Blocks that failed in the newest run, or in a repair since, and are not done."""
    damaged: int
    """Blocks that `verify` found damaged and that are not made again."""
    dropped: int
    """Done blocks that were deleted when nothing needed them any more, see `nucseg.blockwise.dropping`."""
    blocks_per_minute: float | None
    """Running: over the last five minutes; else over the newest run that did blocks. None: unknown."""
    mvox_per_s: float | None
    """The same in million voxels of the volume a second."""
    seconds_left: float | None
    """At this rate; None unless running."""
    slowest: list[BlockStatus]
    block_seconds: float
    """Sum over all done blocks: what they cost, whatever the number of workers."""
    peak_memory_bytes: int
    """Of the largest worker."""
    runs: list[dict[str, Any]]
    """Each time the task was worked on: `kind` (run, repair), `started`, `ended` (UTC; None: unknown or not yet),
    `how`, `host`, `pid`, `launcher`, `workers`, `blocks` (that were to do)."""
    config: dict[str, Any]
    """The task's fields, every choice made."""
    inputs: dict[str, Any]
    """Identity of what it reads."""
    model_hash: str | None
    """Of weights and settings of the network, where the task uses one."""
    versions: dict[str, str]
    logs: str
    """Folder of the workers' logs."""


class RunStatus(BaseModel):
    """How far all tasks of an OUT are, in the order of the work. A step that has not begun is not known yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: str
    state: State
    """`running` if any task is, else `failed` if any is, else `stopped` if any is, else `done`."""
    tasks: list[TaskStatus]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return self.model_dump(mode="json")


def run_status(out: str | Path) -> RunStatus:
    """Say how far a run is; it may be running, here or elsewhere, or dead.

    Whether it runs is asked of this machine by the number and start time of the driver's process. A driver on another
    machine is taken as running while workers hold the task's lock or the newest record is young.

    Args:
        out: The OUT of `nucseg run`, or of single steps.

    Raises:
        InputError: No run lies there, or its records cannot be read.
    """
    tasks = [_task_status(name, records) for name, records in recorded(out).items()]
    states = [task.state for task in tasks]
    order: tuple[State, ...] = ("running", "failed", "stopped", "done")
    return RunStatus(
        out=str(Path(out).resolve()),
        state=next((state for state in order if state in states), "stopped"),
        tasks=tasks,
    )


def _task_status(name: str, records: Records) -> TaskStatus:
    try:
        head = records.head() or {}
        total, fields, inputs = head["blocks"], head["fields"], head["inputs"]
    except (ValueError, KeyError) as error:
        raise InputError(
            str(records.path),
            expected="the description of a run",
            received=f"{type(error).__name__}: {error}",
            remedy="restore the file from a copy, or start afresh with overwrite (--overwrite)",
        ) from None
    history, now = runs(records), time.time()
    done, _ = records.read()
    failed = _failures(records, history, done)
    aside = {tuple(line["block"]) for line in records.lines(SET_ASIDE)} - done.keys()
    grid = _grid(head)
    attempts = [run for run in history if run["kind"] == "run" or run["ended"] is None]
    state, based_on = _state(records, attempts, done, total - len(aside), now)
    if state == "failed" and grid is not None:
        undone = (block.index for block in grid if block.index not in done and block.index not in aside)
        failed = {index: {"error": "lost with its worker"} for index in undone} | failed
    rate = _rate(attempts, done, state, now)
    cost = _Cost(done)
    return TaskStatus(
        task=name,
        state=state,
        based_on=based_on,
        blocks=total,
        done=len(done),
        failed=[
            _block(grid, index, error=line["error"], log=_log(records, line))
            for index, line in sorted(failed.items())
        ],
        damaged=len(aside),
        dropped=len(dropped_blocks(records)),
        blocks_per_minute=rate and rate[0] * 60,
        mvox_per_s=rate and rate[1] / 1e6,
        seconds_left=(total - len(done)) / rate[0] if rate and state == "running" else None,
        slowest=[_block(grid, index, seconds=seconds) for seconds, index in cost.slowest],
        block_seconds=cost.seconds,
        peak_memory_bytes=cost.memory,
        runs=[
            {**run, "started": _utc(run["started"]), "ended": run["ended"] and _utc(run["ended"])}
            for run in history
        ],
        config=fields,
        inputs=inputs,
        model_hash=inputs.get("model"),
        versions={**head.get("versions", {}), "python": head.get("python", "")},
        logs=str(records.logs),
    )


def _state(
    records: Records, history: list[dict[str, Any]], done: Lines, whole: int, now: float
) -> tuple[State, str]:
    """The state of a task and how it is known; `whole`: blocks that were never found damaged, or are made again."""
    total = (records.head() or {}).get("blocks")
    if len(done) == total:
        return "done", "all blocks are recorded"
    last = history[-1] if history else None
    driver = f"process {last['pid']} on {last['host']}" if last else "an unknown process"
    if len(done) == whole and last and last["ended"]:
        return "failed", "all blocks were done, but some were found damaged since"
    if last and last["how"] == "ended":
        return "failed", f"{driver} ended it with blocks undone"
    if last and last["how"] == "interrupted":
        return "stopped", f"{driver} was interrupted"
    held, alive = held_by_workers(records), process_alive(last) if last else None
    if alive:
        return "running", f"{driver} is alive"
    if alive is False:
        finishing = "; workers still hold the task's lock and finish their blocks" if held else ""
        return "stopped", f"{driver} is gone and did not say that it ended{finishing}"
    if held:
        return "running", f"workers hold the task's lock; {driver} cannot be asked from here"
    began = last["started"] if last else 0.0
    age = now - max(newest_record(records) or began, began)
    patience = max(PATIENCE, 3 * max((line["seconds"] for line in done.by_file()), default=0.0))
    sign = f"the newest record is {age:.0f} s old; {driver} cannot be asked from here"
    return ("running" if age < patience else "stopped"), sign


def _rate(history: list[dict[str, Any]], done: Lines, state: State, now: float) -> tuple[float, float] | None:
    """Blocks and voxels a second, of the last minutes where the task is running, else of the newest run."""
    for run in reversed(history):
        going_on = state == "running" and run is history[-1]
        begin = max(run["started"], now - WINDOW) if going_on else run["started"]
        blocks, voxels, newest = 0, 0, 0.0
        for line in done.by_file():
            if line["run"] == run["run"] and line.get("ended", -1.0) >= begin:
                blocks, voxels = blocks + 1, voxels + prod(line["shape"])
                newest = max(newest, line["ended"])
        end = now if going_on else run["ended"] or newest
        if blocks and end > begin:
            return blocks / (end - begin), voxels / (end - begin)
        if state == "running":
            return None
    return None


class _Cost:
    """What done blocks took: `seconds` of all, the most `memory`, and the `slowest`, seconds and grid index."""

    def __init__(self, done: Lines) -> None:
        self.seconds, self.memory, slowest = 0.0, 0, list[tuple[float, tuple[int, ...]]]()
        for line in done.by_file():
            self.seconds += line["seconds"]
            self.memory = max(self.memory, line["peak_memory_bytes"])
            z, y, x = line["block"]
            entry = (line["seconds"], (-z, -y, -x))  # of equal ones the first
            (heappush if len(slowest) < SLOWEST else heappushpop)(slowest, entry)
        self.slowest: list[tuple[float, Shape]] = [
            (seconds, (-z, -y, -x)) for seconds, (z, y, x) in sorted(slowest, reverse=True)
        ]


def _failures(records: Records, history: list[dict[str, Any]], done: Lines) -> dict[Shape, dict[str, Any]]:
    """Lines of blocks that failed in the newest run, or in a repair since, and are not done."""
    last = max((i for i, run in enumerate(history) if run["kind"] == "run"), default=0)
    names = {run["run"] for run in history[last:]} or {_job_run(records)}
    found = {}
    for line in records.lines():
        z, y, x = line["block"]
        if line["status"] == "failed" and line["run"] in names and (z, y, x) not in done:
            found[z, y, x] = line
    return found


def _job_run(records: Records) -> str | None:
    """The run that the job file was written for, in records that have no history."""
    try:
        run: str | None = json.loads(records.job.read_text(encoding="utf-8")).get("run")
    except (OSError, ValueError):
        return None
    return run


def _grid(head: dict[str, Any]) -> Grid | None:
    if "grid" not in head:
        return None
    (vz, vy, vx), (bz, by, bx) = head["grid"]["volume"], head["grid"]["block"]
    return Grid((vz, vy, vx), (bz, by, bx))


def _block(grid: Grid | None, index: Shape, **values: Any) -> BlockStatus:
    block = grid and grid[index]
    return BlockStatus(block=index, begin=block and block.begin, shape=block and block.shape, **values)


def _log(records: Records, line: dict[str, Any]) -> str:
    name = line.get("log")
    return str(records.folder / name) if name else str(records.logs)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
