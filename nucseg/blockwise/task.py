"""The blockwise task: a strict configuration that knows how to do one block, and runs anywhere.

A task says what it reads and writes (`resolved`, `grid`, `create`), does one block (`process`) and adds the
blocks up (`finish`); everything else, that is records, resuming, failures, launching, is here and the same
for all. A worker, in this process or on another machine, rebuilds the task from its own fields in a JSON
file, so that there is one way through the code.
"""

import shutil
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

import nucseg
from nucseg.blockwise.grid import Block, Grid, Shape
from nucseg.blockwise.history import attended
from nucseg.blockwise.records import Records, check_folder, claim_folder, hash_of, write_json
from nucseg.blockwise.tables import note_tables
from nucseg.errors import BlocksFailed
from nucseg.instances.digest import array_digest
from nucseg.volume import Volume, open_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from nucseg.blockwise.launch import Launcher


class BlockRefused(Exception):
    """A block that cannot be done, however often it is tried; its message says why."""


class Task(BaseModel):
    """One step over all blocks of a volume; subclass it for your own.

    Everything a block's result depends on is a field (or follows from the fields and the inputs' identity),
    so that a block is a pure function of these: it may be done twice, late, or by two workers at once, and
    the same bytes are written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    """Names the records in OUT/.nucseg; unique among the tasks that share an OUT."""
    stored_part: ClassVar[float] = 1.0
    """Part of `expected_output` that is left after compression, as the preflight assumes it."""

    out: str
    """Output folder, a zarr group."""
    block: tuple[int, int, int] | None = None
    """Voxels (z, y, x) of a block, which is also the shard that is written; None has it chosen."""

    # What a subclass says

    def resolved(self) -> Self:
        """The task with every choice made: inputs looked at, defaults filled in. Called once, in the driver.

        Raises:
            InputError: Something is missing or does not fit.
        """
        raise NotImplementedError

    def inputs(self) -> dict[str, Any]:
        """Identity of what is read (`records.identity`, a model's hash): other inputs are another run."""
        raise NotImplementedError

    def grid(self) -> Grid:
        """The blocks, of a resolved task."""
        raise NotImplementedError

    def outputs(self) -> list[Path]:
        """Files and folders that the task makes, and that `overwrite` deletes."""
        raise NotImplementedError

    def create(self) -> None:
        """Make the outputs, empty. Called once, in the driver, of a resolved task."""
        raise NotImplementedError

    def check_worker(self) -> None:
        """See that workers can start. Called in the driver, of a resolved task, before anything is written.

        Raises:
            InputError: They would fail, each in the same way.
        """

    def start_worker(self) -> None:
        """Load what all blocks share. Called once in each worker."""

    def process(self, block: Block) -> dict[str, Any]:
        """Do one block: read, compute, write. What is returned (plain JSON) is recorded for `finish`.

        Raises:
            BlockRefused: The block cannot be done; it is reported and nothing is written for it.
        """
        raise NotImplementedError

    def finish(self, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        """Add up what `process` returned, in the grid's order. Called in the driver, all blocks done."""
        return {}

    def expected_memory(self) -> tuple[int, int]:
        """Memory of a worker in bytes: for most blocks, and for the most demanding ones."""
        raise NotImplementedError

    def expected_output(self) -> int:
        """Bytes written, before compression."""
        raise NotImplementedError

    def elsewhere(self, out: str) -> Self:
        """The resolved task with another OUT, and the same inputs, for a dry run.

        As it is here it is right for a task that reads nothing from its own OUT.
        """
        return self.model_copy(update={"out": out})

    def written(self) -> Path | None:
        """The array that `process` writes blocks to and whose `digest` it returns, for `nucseg verify`.

        None: `process` writes nothing, or returns no digest of it; then blocks cannot be verified.
        """
        return None

    def stored_digest(self, block: Block) -> str:
        """The digest of a block as it lies on disk now; as it was written, it equals what `process` returned.

        Without `start_worker`. `array_digest` of the block of `written`, unless a subclass has another.

        Raises:
            InputError: It cannot be read.
        """
        return array_digest(self._written().read(block.begin, block.shape))

    def spare(self) -> bool:
        """Whether what is written is not needed any more, so that it is no loss if it was deleted as a whole."""
        return False

    def _written(self) -> Volume:
        return open_volume(self.written() or self.out)

    # What all tasks share

    def prepared(self, *, overwrite: bool = False, check: "Callable[[Task], None] | None" = None) -> Self:
        """The resolved task, with an OUT that it may work in; nothing is done yet.

        Args:
            overwrite: Whether a run with other settings may lie there.
            check: Looks at the resolved task before OUT is touched.

        Raises:
            InputError: Inputs or OUT do not fit.
        """
        out = Path(self.out).resolve()
        check_folder(out)
        task = self.model_copy(update={"out": str(out)}).resolved()
        task.grid()  # or the block is impossible: nothing is left in OUT then
        if overwrite or not Records(task.out, task.name).complete():
            task.check_worker()
        if check:
            check(task)
        claim_folder(out)
        if not overwrite:
            Records(task.out, task.name).check_same(task.description())
        return task

    def blockwise(
        self,
        launcher: "Launcher | None" = None,
        *,
        overwrite: bool = False,
        log: "Callable[[str], None] | None" = None,
    ) -> dict[str, Any]:
        """Do all blocks that are not done yet.

        Args:
            launcher: Where workers run; None is one worker on this machine.
            overwrite: Delete this task's outputs and records first.
            log: Takes lines about what goes on.

        Returns:
            `blocks`, `skipped` (done by an earlier run), `failed` (0), `seconds`, `mvox_per_s` (of this run's
            blocks), `peak_memory_bytes` (of the largest worker), and what `finish` returns.

        Raises:
            InputError: Inputs or OUT do not fit, or memory or disk do not suffice (`preflight.check_fits`).
            BlocksFailed: Blocks are not done; the others are, and stay so.
        """
        from nucseg.blockwise.estimate import estimating
        from nucseg.blockwise.launch import Local
        from nucseg.blockwise.preflight import check_task

        launcher = launcher or Local(workers=1)
        task = self.prepared(
            overwrite=overwrite, check=partial(check_task, launcher=launcher, overwrite=overwrite)
        )
        records, grid, description = Records(task.out, task.name), task.grid(), task.description()
        if overwrite or records.head() is None:
            with records.held(alone=True):
                records.clear()
                for output in task.outputs():
                    _delete(output)
                task.create()
                records.begin(description, grid)
        for output in task.outputs():
            _sweep(output)

        run, started = uuid.uuid4().hex, time.perf_counter()
        skipped = len(records.read()[0])
        if log:
            log(_plan(task, grid, skipped))
        trouble = None
        if skipped < len(grid):
            write_json(records.job, task.job(run))
            todo = len(grid) - skipped
            with (
                attended(records, run, launcher, todo),
                estimating(task, records, todo, launcher.workers, log),
            ):
                trouble = launcher.run(task, records, run)
        done, failed = records.read(run)
        if len(done) < len(grid):
            raise BlocksFailed(
                _describe(task, grid, done, failed, trouble, records),
                blocks=len(grid),
                skipped=skipped,
                undone=[str(block) for block in grid if block.index not in done],
            )
        lines = [done[block.index] for block in grid]
        now = [line for line in lines if line["run"] == run]
        voxels = sum(grid[tuple(line["block"])].voxels for line in now)
        seconds = time.perf_counter() - started
        finished = task.finish(lines)
        note_tables(records, task.outputs())
        return {
            "blocks": len(grid),
            "skipped": skipped,
            "failed": 0,
            "seconds": seconds,
            "mvox_per_s": voxels / 1e6 / seconds,
            "peak_memory_bytes": max(line["peak_memory_bytes"] for line in lines),
            **finished,
        }

    def description(self) -> dict[str, Any]:
        """What the blocks depend on: the class, its fields but `out`, the inputs' identity, the version."""
        return {
            "task": f"{type(self).__module__}:{type(self).__qualname__}",
            "fields": self.model_dump(mode="json", exclude={"out"}),
            "inputs": self.inputs(),
            "nucseg": nucseg.__version__,
        }

    def job(self, run: str) -> dict[str, Any]:
        """What a worker needs to know, as plain JSON."""
        description = self.description()
        return {
            "task": description["task"],
            "fields": self.model_dump(mode="json"),
            "hash": hash_of(description),
            "run": run,
        }

    def __add__(self, other: "Task | Chain") -> "Chain":
        return Chain((self,)) + other


class Chain:
    """Tasks one after the other; `a + b + c` makes one."""

    def __init__(self, tasks: tuple[Task, ...]) -> None:
        self.tasks = tasks

    def __add__(self, other: "Task | Chain") -> "Chain":
        return Chain(self.tasks + (other.tasks if isinstance(other, Chain) else (other,)))

    def blockwise(self, launcher: "Launcher | None" = None, **options: Any) -> list[dict[str, Any]]:
        """Run each task over all of its blocks before the next begins; see `Task.blockwise`."""
        return [task.blockwise(launcher, **options) for task in self.tasks]


def _plan(task: Task, grid: Grid, skipped: int) -> str:
    usual, most = (f"{size / 2**30:.2g} GiB" for size in task.expected_memory())
    memory = usual if usual == most else f"{usual}, at most {most},"
    done = f", {skipped} of them done" if skipped else ""
    size = task.expected_output() / 2**30
    return (
        f"{task.name}: {len(grid)} block{'s'[: len(grid) > 1]} of {' x '.join(map(str, grid.block))} voxels{done}; "
        f"expects {memory} of memory a worker and {size:.2g} GiB on disk before compression"
    )


def _describe(
    task: Task,
    grid: Grid,
    done: dict[Shape, dict[str, Any]],
    failed: dict[Shape, str],
    trouble: str | None,
    records: Records,
) -> str:
    undone = [block for block in grid if block.index not in done]
    reasons: dict[str, list[Block]] = {}
    for block in undone:
        reasons.setdefault(failed.get(block.index, trouble or "lost with its worker"), []).append(block)
    if len(reasons) == 1 and len(undone) > 5:
        shown = [f"{undone[0]} and {len(undone) - 1} more, all with: {next(iter(reasons))}"]
    else:
        reason = {block.index: text for text, blocks in reasons.items() for block in blocks}
        shown = [f"{block} {reason[block.index]}" for block in undone[:5]]
    more = f" and {len(undone) - 5} more" if len(undone) > 5 and len(reasons) > 1 else ""
    others = "the others are done and are skipped next time; " if done else ""
    return (
        f"{task.name}: {len(undone)} of {len(grid)} blocks failed: {'; '.join(shown)}{more}; {others}"
        f"logs in {records.logs}"
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
