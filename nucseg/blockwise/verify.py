"""`verify`: whether all that a run wrote is still there as it was written, and its repair.

Every block has a digest in the records of its task. Here each done block is read back and its digest compared: what
is missing, truncated or flipped on disk is named. Nothing is concluded from the arrays alone, where a missing chunk
reads as zeros without an error.
"""

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from nucseg.blockwise.dropping import Drop, dropped_blocks
from nucseg.blockwise.grid import Shape
from nucseg.blockwise.job import recorded, recorded_task
from nucseg.blockwise.keeping import brought_back
from nucseg.blockwise.launch import Launcher, Local
from nucseg.blockwise.read_back import ReadBack, recorded_grid
from nucseg.blockwise.records import FOLDER, Records
from nucseg.blockwise.repair import digests_before_damage, make_again, other_values
from nucseg.blockwise.tables import check_tables
from nucseg.blockwise.task import Task
from nucseg.errors import InputError, NucsegError
from nucseg.volume import open_volume

Log = Callable[[str], None]
PENDING = "was found damaged before, and is not made again yet"


class Damage(BaseModel):
    """One block, or one table, that is not as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    """Which step wrote it."""
    block: Shape | None = None
    """Place in the grid of blocks, z, y, x; None for a table."""
    begin: Shape | None = None
    """First voxel, z, y, x."""
    shape: Shape | None = None
    """Voxels, z, y, x."""
    file: str | None = None
    """The table."""
    cause: str
    """What is wrong with it."""

    def __str__(self) -> str:
        if self.begin is None or self.shape is None:
            return f"{self.task}: {self.cause}"
        box = ", ".join(f"{b}:{b + n}" for b, n in zip(self.begin, self.shape, strict=True))
        return f"{self.task} [{box}]: {self.cause}"


class Verification(BaseModel):
    """What `verify` found, and what it repaired."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checked: int
    """Done blocks, and tables, that were read back."""
    missing: int
    """Blocks that are not done yet; that is no damage, a resumed run does them."""
    damaged: list[Damage]
    """What was found damaged, before any repair."""
    repaired: int
    """How many of these were made again and are what they were."""
    remaining: list[Damage]
    """Those that were not, with the reason where a repair was tried."""
    deleted: list[str]
    """Intermediate arrays that were deleted as a whole after all that reads them was done: no damage."""
    tasks: dict[str, dict[str, int]]
    """For each task `blocks`, `done`, `missing`, `checked`, `damaged`, `dropped` (deleted when nothing needed them any
    more: no damage), and `without_digest`: done, with nothing to compare with."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return self.model_dump(mode="json")


def verify(
    out: str | Path, *, repair: bool = False, launcher: Launcher | None = None, log: Log | None = None
) -> Verification:
    """Read back all that the steps of a run wrote, and compare it with their records.

    Without `repair` nothing in OUT is changed.

    Args:
        out: The OUT of `nucseg run`, or of single steps.
        repair: Make the damaged blocks again, and only these, with the settings and inputs in the records. They must
            come out as they were; then nothing that was made from them changes either.
        launcher: Where workers run that read, and that repair; None is one worker on this machine.
        log: Takes lines about what goes on.

    Returns:
        What was found; damage is left where `remaining` is not empty.

    Raises:
        InputError: No run lies there, its records cannot be read, or workers are still at work (`repair`).
        BlocksFailed: Workers that read died.
    """
    started, launcher = time.perf_counter(), launcher or Local(workers=1)
    written = {name: one for name, one in recorded(out).items() if one.folder.name != Drop.name}
    findings = [_Finding(name, records, launcher, log) for name, records in written.items()]
    damaged = [damage for finding in findings for damage in finding.damaged]
    remaining: list[Damage] = damaged
    if repair:
        remaining = []
        for finding in findings:
            remaining += _repaired(finding, launcher, log, remaining)
    return Verification(
        checked=sum(finding.counts["checked"] for finding in findings),
        missing=sum(finding.counts["missing"] for finding in findings),
        damaged=damaged,
        repaired=len(damaged) - len(remaining),
        remaining=remaining,
        deleted=[finding.deleted for finding in findings if finding.deleted],
        tasks={finding.name: finding.counts for finding in findings},
        seconds=time.perf_counter() - started,
    )


class _Finding:
    """What is found of one task.

    Attributes:
        name: The task's name, as `recorded` has it.
        task: The task, as its blocks were done.
        damaged: Its damaged blocks and tables.
        deleted: The path of its array where that was deleted after use.
        counts: See `Verification.tasks`.
    """

    def __init__(self, name: str, records: Records, launcher: Launcher, log: Log | None) -> None:
        task = recorded_task(records.out, records.folder.name)
        if task is None:
            raise NucsegError(f"{records.path} was deleted while it was read; verify again")
        self.name, self.task, self.damaged, self.deleted = name, task, list[Damage](), ""
        head, (done, _) = records.head() or {}, records.read()
        self.before = digests_before_damage(records)
        wanted = {index: line["digest"] for index, line in done.items() if line.get("digest")}
        pending = self.before.keys() - done.keys()
        self.damaged += [self._block(index, PENDING) for index in sorted(pending)]
        written = task.written()
        if written is None:
            wanted = {}
        dropped = dropped_blocks(records)
        wanted = {index: digest for index, digest in wanted.items() if index not in dropped}
        tables = check_tables(records, task.outputs())
        for path, cause in tables.items():
            if cause:
                self.damaged.append(Damage(task=name, file=str(path), cause=cause))
        lost = _lost(written) if written and wanted else None
        if lost and task.spare():
            self.deleted, wanted = str(written), {}
        elif lost:
            self.damaged += [self._block(index, lost) for index in wanted]
        elif wanted:
            found = _read_back(task, launcher, log)
            causes = ((index, self._cause(found[index], digest, index)) for index, digest in wanted.items())
            self.damaged += [self._block(index, cause) for index, cause in causes if cause]
        self.counts = {
            "blocks": head["blocks"],
            "done": len(done),
            "missing": head["blocks"] - len(done) - len(pending),
            "checked": len(wanted) + len(tables),
            "damaged": len(self.damaged),
            "dropped": len(dropped),
            "without_digest": 0 if self.deleted else len(done) - len(wanted) - len(dropped),
        }

    def _block(self, index: Shape, cause: str) -> Damage:
        block = recorded_grid(self.task)[index]
        return Damage(task=self.name, block=index, begin=block.begin, shape=block.shape, cause=cause)

    def _cause(self, line: dict[str, Any], digest: str, index: Shape) -> str | None:
        if line["digest"] is None:
            return f"cannot be read: {line['unreadable']}"
        if line["digest"] != digest and line["absent"]:
            more = f" and {line['absent'] - 1} more" if line["absent"] > 1 else ""
            return f"lost: {line['first_absent']} is missing{more}"
        if line["digest"] != digest:
            return f"other values than were written (digest {line['digest']}, was {digest})"
        before = self.before.get(index, digest)
        return None if digest == before else other_values(digest, before)


def _lost(written: Path) -> str | None:
    """Why nothing of an array can be read, or None."""
    try:
        open_volume(written)
    except InputError as error:
        return f"cannot be read: {error.received}" if written.exists() else f"lost: {written} is gone"
    return None


def _read_back(task: Task, launcher: Launcher, log: Log | None) -> dict[Shape, dict[str, Any]]:
    """What all blocks of a task hold now; the records of reading are made elsewhere, so that OUT is not touched."""
    if isinstance(launcher, Local):
        folder = Path(tempfile.mkdtemp(prefix="nucseg-verify-"))
    else:  # other machines have to see it
        folder = Path(task.out) / FOLDER / f"verify-{uuid.uuid4().hex[:8]}"
    try:
        reading = ReadBack(out=str(folder), source=task.out, of=task.name)
        if log:
            log(f"{task.name}: reading {len(reading.grid())} blocks back")
        found: dict[Shape, dict[str, Any]] = reading.blockwise(launcher)["found"]
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _repaired(finding: _Finding, launcher: Launcher, log: Log | None, earlier: list[Damage]) -> list[Damage]:
    """Repair one task; returns the damage that remains."""
    task, damaged = finding.task, finding.damaged
    own_input = any(getattr(task, key, None) for key in ("prediction", "labels"))
    if damaged and earlier and not own_input:
        names = ", ".join(sorted({damage.task for damage in earlier}))
        return [_because(damage, f"not made again: {names} has damage that remains") for damage in damaged]
    blocks = {damage.block: damage for damage in damaged if damage.block is not None}
    causes: dict[Shape, str] = {}
    if blocks:
        with brought_back(task, list(blocks), launcher, log) as (behind, trouble):
            causes = (
                dict.fromkeys(blocks, f"cannot be made again: {trouble}")
                if trouble
                else make_again(task, blocks, launcher, log, behind)
            )
    remaining = [_because(blocks[index], cause) for index, cause in causes.items()]
    tables = [damage for damage in damaged if damage.file]
    if tables:
        try:
            task.blockwise(launcher)  # all blocks are done: it adds them up and writes the table
        except NucsegError as error:
            remaining += [_because(damage, f"cannot be made again: {error}") for damage in tables]
    return remaining


def _because(damage: Damage, reason: str) -> Damage:
    return damage.model_copy(update={"cause": f"{damage.cause}; {reason}"})
