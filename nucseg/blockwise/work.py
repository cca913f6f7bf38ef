"""One task under way in the process that drives it: begun or continued, its blocks done, and added up."""

import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nucseg.blockwise.dropping import Drop, forget, overlapping
from nucseg.blockwise.estimate import estimating
from nucseg.blockwise.grid import Block, Box, Shape
from nucseg.blockwise.history import attended
from nucseg.blockwise.json_file import write_json
from nucseg.blockwise.lines import InOrder
from nucseg.blockwise.records import Records, Writer
from nucseg.blockwise.schedule import Step, run_steps
from nucseg.blockwise.tables import note_tables
from nucseg.errors import BlocksFailed

if TYPE_CHECKING:
    from nucseg.blockwise.launch import Launcher
    from nucseg.blockwise.task import Task

WAITS = "waits for"
"""How the reason of a block begins that was not begun, because it reads a block that is not done."""


class Work:
    """What is known of a task while this process has its blocks done.

    Args:
        task: As `Task.prepared` gives it.
        launcher: Where its workers run.
        log: Takes lines about what goes on.
        after: Other works whose output its blocks read while they go on.
        reach: Voxels around a block that it may read of that output.
    """

    def __init__(
        self,
        task: "Task",
        launcher: "Launcher",
        log: Callable[[str], None] | None = None,
        *,
        after: Sequence["Work"] = (),
        reach: int = 0,
    ) -> None:
        self.task, self.launcher, self.log, self.after, self.reach = task, launcher, log, tuple(after), reach
        self.records, self.grid = Records(task.out, task.name), task.grid()
        self.run, self.started = uuid.uuid4().hex, time.perf_counter()
        self.skipped = 0
        self.trouble: str | None = None

    def begin(self, overwrite: bool = False) -> None:
        """Create the outputs, unless the run that lies there goes on.

        Args:
            overwrite: Delete outputs and records first.
        """
        task, records = self.task, self.records
        if overwrite or records.head() is None:
            with records.held(alone=True):
                records.clear()
                for output in task.outputs():
                    _delete(output)
                task.create()
                forget(records)
                records.begin(task.description(), self.grid)
        for output in task.outputs():
            _sweep(output)
        self.count()
        if self.log:
            self.log(_plan(task, len(self.grid), self.grid.block, self.skipped))

    def count(self) -> None:
        """Take what is recorded as done by earlier runs."""
        self.skipped = len(self.records.read()[0])

    @property
    def left(self) -> int:
        """Blocks that were to do when it began."""
        return len(self.grid) - self.skipped

    def result(self) -> dict[str, Any]:
        """Add the blocks up, all of them done, and do what is left to do afterwards; see `Task.blockwise`."""
        done, _ = self.records.read(self.run)
        voxels, peak, begin, end = 0, 0, inf, 0.0
        for line in done.by_file():
            peak = max(peak, line["peak_memory_bytes"])
            if line["run"] == self.run:
                voxels += self.grid[tuple(line["block"])].voxels
                begin, end = min(begin, line["ended"] - line["seconds"]), max(end, line["ended"])
        finished = self.task.finish(InOrder(done, self.grid))
        # of a task that waits for others, from its first block's begin to its last one's end
        waited = self.after and voxels
        seconds = max(end - begin, 1e-3) if waited else time.perf_counter() - self.started
        result = {
            "blocks": len(self.grid),
            "skipped": self.skipped,
            "failed": 0,
            "seconds": seconds,
            "mvox_per_s": voxels / 1e6 / seconds,
            "peak_memory_bytes": peak,
            **finished,
        }
        result = self.task.afterwards(result, self.launcher, self.log)
        note_tables(self.records, self.task.outputs())  # only now: until then an older table may lie there
        return result

    def undone(self) -> tuple[list[Block], dict[Shape, str]]:
        """Blocks that are not done, and why, as far as that is known."""
        done, failed = self.records.read(self.run)
        return [block for block in self.grid if block.index not in done], failed


def do(works: Sequence[Work]) -> None:
    """Do all blocks of some tasks together, each as soon as the blocks that it reads are done.

    Raises:
        BlocksFailed: Blocks are not done; the others are, and stay so.
    """
    for work in works:
        work.count()
    at_work = [work for work in works if work.left]
    with ExitStack() as stack:
        for work in at_work:
            write_json(work.records.job, work.task.job(work.run))
            stack.enter_context(attended(work.records, work.run, work.launcher, work.left))
            workers = max(1, work.launcher.workers)
            stack.enter_context(estimating(work.task, work.records, work.left, workers, work.log))
        if len(at_work) == 1:
            (work,) = at_work
            work.trouble = work.launcher.run(work.task, work.records, work.run, log=work.log)
        elif at_work:
            for work, trouble in zip(at_work, run_steps(_steps(at_work), at_work[0].log), strict=True):
                work.trouble = trouble
    for work in at_work:
        _note_waiting(work)
    _raise_undone(works)


def _steps(works: Sequence[Work]) -> list[Step]:
    return [
        Step(
            work.task,
            work.records,
            work.run,
            work.launcher,
            after=tuple(i for i, earlier in enumerate(works) if earlier in work.after),
            reach=work.reach,
        )
        for work in works
    ]


def _note_waiting(work: Work) -> None:
    """Record for each block that was not begun because of an earlier task's block which block that is."""
    if not work.after:
        return
    undone, failed = work.undone()
    if not undone:
        return
    missing = [(earlier, {block.index for block in earlier.undone()[0]}) for earlier in work.after]
    waiting = {}
    for block in undone:
        seen = block.grown(work.reach, work.grid.volume)
        if block.index not in failed and (cause := _first_missing(missing, seen)):
            waiting[block.index] = f"{WAITS} {cause}, which is not done"
    if waiting:
        writer = Writer(work.records, work.task.job(work.run)["hash"], work.run)
        for index, cause in waiting.items():
            writer.append(index, "failed", error=cause, ended=round(time.time(), 3))
        writer.close()


def _first_missing(missing: Sequence[tuple[Work, set[Shape]]], seen: Box) -> str | None:
    """The first block that overlaps a box and is not done, by name.

    Args:
        missing: Earlier works, and the indices of their blocks that are not done.
        seen: Voxels that are read.
    """
    for earlier, indices in missing:
        if found := overlapping(earlier.grid, [seen]) & indices:
            return f"{earlier.task.name} {earlier.grid[min(found)]}"
    return None


def _raise_undone(works: Sequence[Work]) -> None:
    bad = [(work, *work.undone()) for work in works]
    bad = [
        (work, undone, failed)
        for work, undone, failed in bad
        if undone and not _only_waits(work, undone, failed)
    ]
    if not bad:
        return
    several = len(bad) > 1
    raise BlocksFailed(
        "; ".join(_describe(work, undone, failed) for work, undone, failed in bad),
        blocks=sum(len(work.grid) for work, _, _ in bad),
        skipped=sum(work.skipped for work, _, _ in bad),
        undone=[
            f"{work.task.name} {block}" if several else str(block)
            for work, undone, _ in bad
            for block in undone
        ],
    )


def _only_waits(work: Work, undone: list[Block], failed: dict[Shape, str]) -> bool:
    """Whether blocks are only not dropped yet, because they are needed still."""
    return isinstance(work.task, Drop) and all(failed.get(b.index, "").startswith(WAITS) for b in undone)


def _describe(work: Work, undone: list[Block], failed: dict[Shape, str]) -> str:
    reasons: dict[str, list[Block]] = {}
    for block in undone:
        reason = failed.get(block.index, work.trouble or "lost with its worker")
        reasons.setdefault(reason, []).append(block)
    if len(reasons) == 1 and len(undone) > 5:
        shown = [f"{undone[0]} and {len(undone) - 1} more, all with: {next(iter(reasons))}"]
    else:
        reason_of = {block.index: text for text, blocks in reasons.items() for block in blocks}
        shown = [f"{block} {reason_of[block.index]}" for block in undone[:5]]
    more = f" and {len(undone) - 5} more" if len(undone) > 5 and len(reasons) > 1 else ""
    others = "the others are done and are skipped next time; " if len(undone) < len(work.grid) else ""
    how = "are not done" if all(reason.startswith(WAITS) for reason in reasons) else "failed"
    return (
        f"{work.task.name}: {len(undone)} of {len(work.grid)} blocks {how}: {'; '.join(shown)}{more}; {others}"
        f"logs in {work.records.logs}"
    )


def _plan(task: "Task", blocks: int, block: Shape, skipped: int) -> str:
    usual, most = (f"{size / 2**30:.2g} GiB" for size in task.expected_memory())
    memory = usual if usual == most else f"{usual}, at most {most},"
    done = f", {skipped} of them done" if skipped else ""
    size = task.expected_output() / 2**30
    return (
        f"{task.name}: {blocks} block{'s'[: blocks > 1]} of {' x '.join(map(str, block))} voxels{done}; "
        f"expects {memory} of memory a worker and {size:.2g} GiB on disk before compression"
    )


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what killed workers left of chunks they were writing; a whole chunk is renamed into place."""
    if path.is_dir():
        for partial in path.rglob("*.partial"):
            partial.unlink(missing_ok=True)
