"""What a chain does about predictions that are not kept: it drops them behind their readers, and makes them again.

See `nucseg.blockwise.dropping` for what a dropped block is.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nucseg.blockwise.dropping import (
    PREDICTIONS,
    Drop,
    bring_back,
    dropped_blocks,
    empty_files,
    overlapping,
)
from nucseg.blockwise.grid import Shape
from nucseg.blockwise.job import recorded_task
from nucseg.blockwise.read_back import recorded_grid
from nucseg.blockwise.records import DROPPED, Records
from nucseg.blockwise.repair import make_again, set_aside
from nucseg.blockwise.task import Task
from nucseg.blockwise.work import Work
from nucseg.errors import InputError

if TYPE_CHECKING:
    from nucseg.blockwise.launch import Launcher

Log = Callable[[str], None]


def check_keep(keep: Collection[str]) -> None:
    """See that what is to be kept is something that could be dropped.

    Raises:
        InputError: It is not.
    """
    unknown = [name for name in keep if name != PREDICTIONS]
    if isinstance(keep, str) or unknown:
        raise InputError(
            "keep",
            expected=f'("{PREDICTIONS}",) or ()',
            received=repr(keep),
            remedy="name what is to stay on disk; labels and tables always do",
        )


def dropping_work(works: Sequence[Work], later: Sequence[Task]) -> Work | None:
    """The work that deletes the prediction that the first of some works writes; None: something needs all of it.

    Args:
        works: That go on together, begun.
        later: Tasks that come when they are done.
    """
    from nucseg.blockwise.launch import Local

    first, *readers = works
    written = first.task.written()
    if (
        written is None
        or written.name != "prediction"
        or not readers
        or any(_reads(t, written) for t in later)
    ):
        return None
    reach = max(work.reach for work in readers)
    task = Drop(out=first.task.out, of=first.task.name, reach=reach).prepared()
    work = Work(task, Local(workers=min(1, first.launcher.workers)), after=works, reach=reach)
    work.begin()
    return work


def may_be_dropped(task: Task, later: Sequence[Task]) -> bool:
    """Whether the prediction that a task writes is dropped behind the tasks that come later, before these have begun.

    Args:
        task: Writes it; resolved.
        later: As they were given; whether one of them waits for all blocks is known only when they begin.
    """
    written = task.written()
    readers = [other for other in later if written is not None and _reads(other, written)]
    waits = any(getattr(t, "whole", False) or getattr(t, "engine", None) == "mahotas" for t in readers)
    return written is not None and written.name == "prediction" and bool(readers) and not waits


def _reads(task: Task, written: Path) -> bool:
    """Whether a task reads OUT/prediction, its own or one that it names."""
    if not hasattr(task, "prediction"):
        return False
    source = task.prediction or Path(task.out) / "prediction"
    return bool(Path(source).resolve() == written)


def make_ready(works: Sequence[Work], log: Log | None) -> None:
    """Have dropped blocks that are needed made again: those that blocks read which are to be done, or all to be kept.

    Args:
        works: That go on together; without a `Drop` of a prediction all of it is to be kept.
        log: Takes a line if there are any.

    Raises:
        InputError: Workers of an earlier run are still at work on them.
    """
    for work in works:
        if isinstance(work.task, Drop):
            continue
        drop = next((w for w in works if isinstance(w.task, Drop) and work in w.after), None)
        if drop and drop.task.out == work.task.out and work.records.folder.name == _of(drop):
            _drop_again(work, drop)
        dropped = dropped_blocks(work.records)
        if not dropped:
            continue
        needed = dropped
        if drop:
            readers = [w for w in works if work in w.after and w is not drop]
            boxes = [block.grown(w.reach, w.grid.volume) for w in readers for block in w.undone()[0]]
            needed = dropped & overlapping(work.grid, boxes)
        if needed:
            if log:
                log(f"{work.task.name}: {len(needed)} blocks that were dropped are made again")
            bring_back(work.task, needed)


def _of(drop: Work) -> str:
    return drop.task.of if isinstance(drop.task, Drop) else ""


def _drop_again(work: Work, drop: Work) -> None:
    """Blocks that were dropped and are not done since, as a repair that was killed leaves them, are not dropped."""
    stray = drop.records.read()[0].keys() - work.records.read()[0].keys()
    if stray:
        with drop.records.held(alone=True):
            set_aside(drop.records, stray, DROPPED)


@contextmanager
def brought_back(
    task: Task, blocks: Collection[Shape], launcher: "Launcher", log: Log | None
) -> Iterator[tuple[list[Task], str | None]]:
    """Have what some blocks of a task read there while they are repaired, where it was dropped.

    Args:
        task: As `recorded_task` gives it.
        blocks: Grid indices.
        launcher: Where workers run.
        log: Takes lines about what goes on.

    Yields:
        The task that wrote it, if it was dropped, for `make_again`; and why it could not be made again, or None.
    """
    source, reach = _dropped_source(task)
    if source is None:
        yield [], None
        return
    grid, read = recorded_grid(source), recorded_grid(task)
    boxes = [read[index].grown(reach, read.volume) for index in blocks]
    needed = overlapping(grid, boxes) & dropped_blocks(Records(source.out, source.name))
    causes = make_again(source, needed, launcher, log) if needed else {}
    try:
        first = next(iter(causes.values()), None)
        yield [source], first and f"what it was made from was dropped, and {source.name} {first}"
    finally:
        for index in needed - causes.keys():
            empty_files(source, grid[index])


def _dropped_source(task: Task) -> tuple[Task | None, int]:
    """The task whose dropped blocks a task reads, and how far it reaches; None: there is none."""
    head = Records(task.out, Drop.name).head()
    source = recorded_task(task.out, head["fields"]["of"]) if head else None
    if source is None or source.name == task.name or not dropped_blocks(Records(source.out, source.name)):
        return None, 0
    try:
        found = task.following([source])
    except InputError:  # it is said when the task is made again
        return None, 0
    return (source, found[1]) if found else (None, 0)
