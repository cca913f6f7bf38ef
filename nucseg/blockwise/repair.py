"""Make damaged blocks again, and see that they are what they were.

A block is a pure function of its input, so that one made again equals the old one and nothing downstream changes.
The line of a damaged block is not deleted but set aside, with its digest: a block that comes out otherwise, because
the input or the hardware changed, is told from one that is right even when the repair was killed in between.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Sequence
from itertools import chain

from nucseg.blockwise.grid import Block, Shape
from nucseg.blockwise.history import attended, check_nobody_at_work
from nucseg.blockwise.json_file import write_json
from nucseg.blockwise.launch import Launcher
from nucseg.blockwise.read_back import recorded_grid, stored_files
from nucseg.blockwise.records import DROPPED, SET_ASIDE, Records
from nucseg.blockwise.task import Task
from nucseg.errors import InputError
from nucseg.volume import open_volume


def digests_before_damage(records: Records) -> dict[Shape, str]:
    """Digests that blocks had when they were first done, of those that were found damaged or needed again since."""
    found: dict[Shape, tuple[float, str]] = {}
    for line in chain(records.lines(SET_ASIDE), records.lines(DROPPED)):
        if line.get("digest"):
            z, y, x = line["block"]
            ended = line.get("ended", 0.0)
            if (z, y, x) not in found or ended < found[z, y, x][0]:
                found[z, y, x] = (ended, line["digest"])
    return {index: digest for index, (_, digest) in found.items()}


def make_again(
    task: Task,
    blocks: Collection[Shape],
    launcher: Launcher,
    log: Callable[[str], None] | None = None,
    behind: Sequence[Task] = (),
) -> dict[Shape, str]:
    """Do some blocks of a recorded task again that are done but damaged; no others.

    Args:
        task: As `recorded_task` gives it.
        blocks: Their grid indices.
        launcher: Where workers run.
        log: Takes lines about what goes on.
        behind: Tasks whose blocks it reads, where not all of them are there.

    Returns:
        Why blocks are still not what they were; empty when all are. If their input is gone, or is not what it was,
        nothing was changed.

    Raises:
        InputError: A run is at work on the task.
    """
    records = Records(task.out, task.name)
    if records.head() is None:
        return dict.fromkeys(
            blocks, "cannot be made again: its records went with the array that it was added to"
        )
    check_nobody_at_work(records)
    grid = recorded_grid(task)
    try:
        following = task.prepared_behind(behind) if behind else None
        task = following[0] if following else task.prepared()
        task.check_worker()
        with records.held(alone=True):
            _discard(task, records, blocks)
    except InputError as error:
        return dict.fromkeys(blocks, f"cannot be made again: {error}")
    if log:
        log(f"{task.name}: {len(blocks)} block{'s'[: len(blocks) > 1]} to make again")
    before, run = digests_before_damage(records), uuid.uuid4().hex
    write_json(records.job, task.job(run))
    with attended(records, run, launcher, len(blocks), "repair"):
        trouble = launcher.run(task, records, run, only=blocks, log=log)
    done, failed = records.read(run)
    causes: dict[Shape, str] = {}
    for index in blocks:
        if index not in done:
            why = failed.get(index, trouble or "lost with its worker")
            causes[index] = f"making it again failed: {why}; logs in {records.logs}"
        elif done[index]["digest"] != before[index]:
            causes[index] = other_values(done[index]["digest"], before[index])
        elif cause := _not_stored(task, grid[index], before[index]):
            causes[index] = cause
    return causes


def other_values(now: str, before: str) -> str:
    """What to tell of a block that was made again and is another."""
    return (
        f"made again, but with other values than before it was damaged (digest {now}, was {before}): what it was made "
        "from, or the hardware or libraries, changed since; start this step afresh (--overwrite), and those after it"
    )


def _not_stored(task: Task, block: Block, digest: str) -> str | None:
    """Why a block that was made again does not come back from disk as it was made; None: it does."""
    try:
        now = task.stored_digest(block)
    except InputError as error:
        return f"made again, but it cannot be read back: {error.received}; check the disk"
    return None if now == digest else "made again, but it reads back with other values; check the disk"


def _discard(task: Task, records: Records, blocks: Collection[Shape]) -> None:
    """Set the lines of blocks aside and delete what is left of their voxels, so that no old byte can mix in."""
    grid, written = recorded_grid(task), task.written()
    set_aside(records, blocks)
    if written is None:
        return
    try:
        open_volume(written)
    except InputError:  # the array itself is gone or broken: all of its blocks are to be made again
        shutil.rmtree(written, ignore_errors=True)
        task.create()
        return
    for index in blocks:
        for path in stored_files(task, grid[index]):
            path.unlink(missing_ok=True)


def set_aside(records: Records, blocks: Collection[Shape], status: str = SET_ASIDE) -> None:
    """Turn the lines of done blocks into lines of damaged ones, so that a resumed run does these blocks again.

    Args:
        records: Of the task.
        blocks: Grid indices.
        status: What the lines say from now on.

    Hold the records alone meanwhile. Each file is replaced as a whole: a kill leaves it old or new.
    """
    indices = set(blocks)
    for file in sorted(records.folder.glob("blocks-*.jsonl")):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        changed = [_set_aside(line, indices, status) for line in lines]
        if changed != lines:
            temporary = file.with_name(f"{file.name}.{os.getpid()}.new")
            temporary.write_text("".join(changed), encoding="utf-8")
            temporary.replace(file)


def _set_aside(text: str, indices: set[Shape], status: str) -> str:
    try:
        line = json.loads(text)
    except json.JSONDecodeError:
        return text
    if line["status"] != "done" or tuple(line["block"]) not in indices:
        return text
    return json.dumps({**line, "status": status}) + "\n"
