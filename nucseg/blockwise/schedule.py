"""One or more tasks in one run of daisy: a block begins as soon as the blocks that it reads are done."""

import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nucseg.blockwise.grid import Shape
from nucseg.blockwise.logs import debugging, native_errors_to, worker_logs
from nucseg.blockwise.records import Records
from nucseg.errors import InputError

if TYPE_CHECKING:
    from nucseg.blockwise.launch import Launcher
    from nucseg.blockwise.task import Task
    from nucseg.blockwise.worker import Worker


@dataclass(frozen=True)
class Step:
    """One task's part in a run of daisy."""

    task: "Task"
    """Resolved, and its outputs exist."""
    records: Records
    run: str
    """Goes into the records of this run."""
    launcher: "Launcher"
    """Where its workers run."""
    only: Collection[Shape] | None = None
    """Blocks with these grid indices only; None: all. Blocks that are done are never done again."""
    after: tuple[int, ...] = ()
    """Places of the steps whose output its blocks read."""
    reach: int = 0
    """Voxels around a block that it may read of that output."""


def run_steps(steps: Sequence[Step], log: Callable[[str], None] | None = None) -> list[str | None]:
    """Do all blocks of all steps that have no record yet, each as soon as the blocks that it reads are done.

    Which blocks are done, and why others are not, is in the records afterwards. Blocks that read what could not be
    done are not begun.

    Args:
        steps: Each reads only earlier ones. Their launchers run either all in this process (no workers) or none.
        log: Takes lines about what goes on.

    Returns:
        For each step what went wrong with its workers, in short, or None.

    Raises:
        InputError: Launchers that cannot run together.
    """
    import daisy.v2 as daisy

    from nucseg.blockwise.worker import Worker

    here = _in_this_process(steps)
    folder, names = _log_names(steps)
    workers: list[Worker] = []
    files = [None if debugging() else step.records.logs / "driver.err" for step in steps]
    if here:
        for step, file in zip(steps, files, strict=True):
            key = step.task.job(step.run)["hash"]
            workers.append(Worker(step.task, step.records, key, step.run, file))
    with ExitStack() as around:
        for step in steps:
            around.enter_context(step.launcher.attending(step.records, step.run, log))
        around.enter_context(worker_logs(None if here else folder))
        around.enter_context(native_errors_to(files[0]))
        tasks = [
            _daisy_task(step, name, workers[i].serve if here else None)
            for i, (step, name) in enumerate(zip(steps, names, strict=True))
        ]
        edges = [(tasks[earlier], tasks[i]) for i, step in enumerate(steps) for earlier in step.after]
        pipeline = daisy.Pipeline(tasks, edges)
        bars = _Bars(names) if sys.stderr.isatty() else None
        try:
            if here:
                for worker in workers:
                    worker.start()
                _serve_here(pipeline, names, workers, bars)
                return [None] * len(steps)
            states = daisy.run_blockwise(
                pipeline,
                progress=bars or False,
                return_states=True,
                host="127.0.0.1",  # daisy knows no authentication; other hosts come through a gate
                summary=False,
            )
        except RuntimeError as error:  # daisy gave a task up: its workers kept dying
            states = getattr(error, "daisy_states", None)
            if states is None:
                raise
        finally:
            for worker in workers:
                worker.close()
    return [_last_line(states[name].last_worker_error) for name in names]


def _daisy_task(step: Step, name: str, serve: Any) -> Any:
    """The step as a task of daisy; in units of voxels, blocks at the end of the volume are not clipped."""
    import daisy.v2 as daisy

    grid, done = step.task.grid(), step.records.read()[0]
    mask = np.full(grid.shape, step.only is not None, np.uint8)
    for index in step.only or ():
        mask[index] = 0
    done.mark(mask)
    slots, restarts = step.launcher.slots()
    if step.after:  # daisy gives a task up that may restart no worker, before it has given it the first
        restarts = max(1, restarts)
    edge, margin = (-step.reach,) * 3, 2 * step.reach
    return daisy.Task(
        name,
        total_roi=daisy.Roi(edge, [n * b + margin for n, b in zip(grid.shape, grid.block, strict=True)]),
        read_roi=daisy.Roi(edge, [b + margin for b in grid.block]),
        write_roi=daisy.Roi((0, 0, 0), grid.block),
        process_function=serve or step.launcher.worker_function(step.records.job),
        read_write_conflict=False,
        fit="valid",
        max_workers=slots,
        max_retries=2,
        max_worker_restarts=restarts,
        timeout=step.launcher.block_timeout,
        tracking_path=False,  # our records, written before a block is given back, say what is done
        skip_mask=mask,
    )


def _serve_here(
    pipeline: Any, names: Sequence[str], workers: "Sequence[Worker]", bars: "_Bars | None"
) -> None:
    """Do all blocks in this process, one after the other; blocks of later tasks first, where there are any."""
    import daisy.v2 as daisy

    scheduler = daisy.Scheduler(pipeline)
    order = list(zip(names, workers, strict=True))[::-1]
    if bars:
        bars.on_start(scheduler.task_states)
    empty = 0
    try:
        while empty <= len(
            order
        ):  # to ask for a block may end a task that skips all its blocks, and free the next
            for name, worker in order:
                block = scheduler.acquire_block(name)
                if block is None:
                    continue
                worker.serve(block)
                if block.status != daisy.BlockStatus.FAILED:
                    block.status = daisy.BlockStatus.SUCCESS
                scheduler.release_block(block)
                empty = 0
                break
            else:
                empty += 1
            if bars:
                bars.on_progress(scheduler.task_states)
        if bars:
            bars.on_finish(scheduler.task_states)
    finally:  # an error's traceback can keep this frame; daisy lets no other thread free its scheduler
        del scheduler


def _in_this_process(steps: Sequence[Step]) -> bool:
    counts = {step.launcher.workers for step in steps}
    if 0 in counts and len(counts) > 1:
        raise InputError(
            "launchers",
            expected="workers for each task, or none for any of them",
            received=", ".join(f"{step.launcher.workers} for {step.task.name}" for step in steps),
            remedy="give each launcher at least one worker, or do all in this process (local:0)",
        )
    return counts == {0}


def _log_names(steps: Sequence[Step]) -> tuple[Path, list[str]]:
    """A folder, and for each step where below it daisy is to have its workers' logs: in `records.logs`/TASK.

    daisy has one folder for all tasks and appends a task's name, which is a path here.
    """
    if len(steps) == 1:
        return steps[0].records.logs, [steps[0].task.name]
    folder = Path(os.path.commonpath([step.records.folder.parent for step in steps]))
    return folder, [(step.records.logs / step.task.name).relative_to(folder).as_posix() for step in steps]


class _Bars:
    """A progress bar a task, by the names that the user knows."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.bars: dict[str, Any] = {}

    def on_start(self, states: dict[str, Any]) -> None:
        from tqdm.auto import tqdm

        for name in self.names:
            total = int(states[name].total_block_count)
            self.bars[name] = tqdm(
                total=total, desc=name.rpartition("/")[2], unit="block", dynamic_ncols=True
            )

    def on_progress(self, states: dict[str, Any]) -> None:
        for name, bar in self.bars.items():
            state = states[name]
            failed, restarts = int(state.failed_count + state.orphaned_count), int(state.worker_restart_count)
            bar.set_postfix(
                {k: v for k, v in (("failed", failed), ("restarts", restarts)) if v}, refresh=False
            )
            bar.update(int(state.completed_count) - bar.n)

    def on_finish(self, states: dict[str, Any]) -> None:
        self.on_progress(states)
        for bar in self.bars.values():
            bar.close()


def _last_line(text: str | None) -> str | None:
    """The last words of a worker; of one that a signal ended, that it did."""
    killed = re.search(r"worker subprocess exited with code -\d+", text or "")
    lines = (text or "").strip().splitlines()
    return killed[0] if killed else lines[-1].strip() if lines else None
