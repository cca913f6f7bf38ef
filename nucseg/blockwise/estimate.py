"""How long it will take: from the first blocks that are done, or from one that is done for nothing else (a dry run)."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nucseg.blockwise.grid import Block, Grid
from nucseg.blockwise.lines import read_lines
from nucseg.blockwise.preflight import gib, need_of
from nucseg.blockwise.presence import chunk_files
from nucseg.blockwise.records import Records, claim_folder
from nucseg.errors import InputError
from nucseg.volume import open_volume

if TYPE_CHECKING:
    from nucseg.blockwise.launch import Launcher
    from nucseg.blockwise.task import Task

PATIENCE = 60.0
"""Seconds: a probe block that took less is done again, without what only the first one costs."""


def probe(task: "Task", launcher: "Launcher") -> dict[str, Any]:
    """Do one block, the middle one, in a temporary folder, and say what all of them would take. OUT is not touched.

    Args:
        task: As it would be run.
        launcher: Where workers would run; the probe runs here.

    Returns:
        `task`, `blocks`, `undone`, `block` (voxels z, y, x), `workers`; expected: `memory_bytes` and
        `most_memory_bytes` a worker, `disk_bytes` as far as compression is assumed, `fits` (`yes`, or the message that
        a run would end with); measured: `block_seconds`, `peak_memory_bytes` (of this process), `block_bytes` on disk;
        from these `seconds` and `stored_bytes` of all blocks that are not done.

    Raises:
        InputError: Inputs do not fit.
        BlockRefused: The probe block cannot be done.
    """
    from nucseg.blockwise.preflight import check_fits
    from nucseg.blockwise.worker import peak_memory

    task = task.model_copy(update={"out": str(Path(task.out).resolve())}).resolved()
    need, grid = need_of(task, launcher), task.grid()
    fits = "yes"
    try:
        check_fits([need], task.out)
    except InputError as refusal:
        fits = str(refusal)
    task.check_worker()
    z, y, x = (n // 2 for n in grid.shape)
    block = grid[z, y, x]
    with TemporaryDirectory(prefix="nucseg-probe-") as folder:
        here = task.elsewhere(folder)
        claim_folder(Path(folder))
        here.create()
        here.start_worker()
        seconds = _seconds(here, block)
        if seconds < PATIENCE:
            seconds = _seconds(here, block)
        stored = _stored(here, block)
    workers = max(1, launcher.workers)
    return {
        "task": task.name,
        "blocks": len(grid),
        "undone": need.todo,
        "block": list(grid.block),
        "workers": workers,
        "memory_bytes": need.usual,
        "most_memory_bytes": need.most,
        "disk_bytes": need.disk,
        "fits": fits,
        "block_seconds": seconds,
        "peak_memory_bytes": peak_memory(),
        "block_bytes": stored,
        "seconds": seconds * need.todo / min(workers, max(1, need.todo)),
        "stored_bytes": stored and int(stored * need.todo * grid_part(grid, block)),
    }


@contextmanager
def estimating(
    task: "Task", records: Records, todo: int, workers: int, log: Callable[[str], None] | None
) -> Iterator[None]:
    """While a run goes on, tell when a worker has done its second block what all will take.

    The first one has to wait for what is compiled and loaded once.

    Args:
        task: Resolved.
        records: Its records.
        todo: Blocks that were not done when the run began.
        workers: At work at a time.
        log: Takes the line; None: nothing is told.
    """
    if log is None or todo < 2:
        yield
        return
    before, ended = set(records.folder.glob("blocks-*.jsonl")), threading.Event()
    told = threading.Thread(
        target=_tell, args=(task, records, before, ended, todo, max(1, workers), log), daemon=True
    )
    told.start()
    try:
        yield
    finally:
        ended.set()
        told.join()


def grid_part(grid: Grid, block: Block) -> float:
    """Mean voxels of a block of the grid, by those of one of them: blocks at the border are smaller."""
    z, y, x = grid.volume
    return z * y * x / len(grid) / block.voxels


def duration(seconds: float) -> str:
    """Seconds for a reader."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} seconds"


def _tell(
    task: "Task",
    records: Records,
    before: set[Path],
    ended: threading.Event,
    todo: int,
    workers: int,
    log: Callable[[str], None],
) -> None:
    last = False
    while not last:
        last = ended.wait(0.5)  # and look once more when all is over
        line = _second_line(records, before)
        if line is not None:
            if not last:
                log(_told(task, line, todo, workers))
            return


def _second_line(records: Records, before: set[Path]) -> dict[str, Any] | None:
    """The record of the second block that one worker has done since."""
    for file in sorted(set(records.folder.glob("blocks-*.jsonl")) - before):
        done = (line for _, line in read_lines(file) if line["status"] == "done")
        if (line := next(islice(done, 1, None), None)) is not None:
            return line
    return None


def _told(task: "Task", line: dict[str, Any], todo: int, workers: int) -> str:
    grid = task.grid()
    z, y, x = line["block"]
    block, at_work = grid[z, y, x], min(workers, todo)
    size = _stored(task, block)
    part = grid_part(grid, block)
    disk = f", {gib(size * todo * part)} on disk" if size else ""
    return (
        f"{task.name}: a block took {line['seconds']:.3g} s and {gib(line['peak_memory_bytes'])} of memory; at "
        f"its pace {todo} blocks take {duration(line['seconds'] * todo * part / at_work)} with {at_work} "
        f"worker{'s'[: at_work > 1]}{disk}"
    )


def _stored(task: "Task", block: Block) -> int | None:
    """Bytes of a block on disk; None: not known."""
    written = task.written()
    if written is None:
        return None
    try:
        files = chunk_files(open_volume(written), block)
    except InputError:
        return None
    return sum(file.stat().st_size for file in files if file.exists())


def _seconds(task: "Task", block: Block) -> float:
    started = time.perf_counter()
    task.process(block)
    return time.perf_counter() - started
