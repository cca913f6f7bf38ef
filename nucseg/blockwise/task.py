"""The blockwise task: a strict configuration that knows how to do one block, and runs anywhere.

A task says what it reads and writes (`resolved`, `grid`, `create`), does one block (`process`) and adds the
blocks up (`finish`); everything else, that is records, resuming, failures, launching, is here and the same
for all. A worker, in this process or on another machine, rebuilds the task from its own fields in a JSON
file, so that there is one way through the code.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

import nucseg
from nucseg.blockwise.grid import Block, Grid
from nucseg.blockwise.records import Records, check_folder, claim_folder, hash_of
from nucseg.errors import InputError
from nucseg.instances.digest import array_digest
from nucseg.volume import Volume, open_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from nucseg.blockwise.chain import Chain
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
    network: ClassVar[bool] = False
    """Whether a network runs in it: each worker on a machine with several GPUs gets one of its own."""

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
        raise self._unwritten("resolved")

    def following(self, earlier: "Sequence[Task]") -> tuple[Self, int] | None:
        """How the task goes on block by block while earlier tasks of a chain do.

        Args:
            earlier: These tasks, resolved. Their outputs exist, but are empty where blocks are not done.

        Returns:
            The task as `resolved` gives it, without a look at blocks that are not there yet, and how many voxels around
            a block `process` may read of what they write. None, unless a subclass says otherwise: it needs all of their
            blocks, or what their `finish` makes, and waits for them.

        Raises:
            InputError: Something is missing or does not fit.
        """
        return None

    def inputs(self) -> dict[str, Any]:
        """Identity of what is read (`records.identity`, a model's hash): other inputs are another run."""
        raise self._unwritten("inputs")

    def grid(self) -> Grid:
        """The blocks, of a resolved task."""
        raise self._unwritten("grid")

    def outputs(self) -> list[Path]:
        """Files and folders that the task makes, and that `overwrite` deletes."""
        raise self._unwritten("outputs")

    def create(self) -> None:
        """Make the outputs, empty. Called once, in the driver, of a resolved task."""
        raise self._unwritten("create")

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
        raise self._unwritten("process")

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Add up what `process` returned, in the grid's order. Called in the driver, all blocks done."""
        return {}

    def afterwards(
        self, result: dict[str, Any], launcher: "Launcher", log: "Callable[[str], None] | None"
    ) -> dict[str, Any]:
        """What is left to do when all blocks are done and added up, such as a second pass; in the driver.

        Args:
            result: What `blockwise` is about to return.
            launcher: Where its workers ran.
            log: Takes lines about what goes on.

        Returns:
            What `blockwise` returns.
        """
        return result

    def expected_memory(self) -> tuple[int, int]:
        """Memory of a worker in bytes: for most blocks, and for the most demanding ones."""
        raise self._unwritten("expected_memory")

    def expected_output(self) -> int:
        """Bytes written, before compression."""
        raise self._unwritten("expected_output")

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

    def _unwritten(self, method: str) -> InputError:
        return InputError(
            f"task {type(self).__qualname__}",
            expected=f"a method `{method}`, which every task has to say for itself",
            received="none",
            remedy="write it: `nucseg.Task` says what it gives, examples/08_own_task.py shows one",
        )

    # What all tasks share

    def prepared(self, *, overwrite: bool = False, check: "Callable[[Task], object] | None" = None) -> Self:
        """The resolved task, with an OUT that it may work in; nothing is done yet.

        Args:
            overwrite: Whether a run with other settings may lie there.
            check: Looks at the resolved task before OUT is touched.

        Raises:
            InputError: Inputs or OUT do not fit.
        """
        return self._placed().resolved()._admitted(overwrite, check)

    def prepared_behind(
        self,
        earlier: "Sequence[Task]",
        *,
        overwrite: bool = False,
        check: "Callable[[Task], object] | None" = None,
    ) -> tuple[Self, int] | None:
        """As `prepared`, for a task that goes on together with earlier ones, see `following`.

        Args:
            earlier: These tasks, whose outputs exist, but not all of their blocks.
            overwrite: Whether a run with other settings may lie in OUT.
            check: Looks at the resolved task before OUT is touched.

        Returns:
            The task and how far its blocks reach; None: it has to wait until the others are done.

        Raises:
            InputError: Inputs or OUT do not fit.
        """
        found = self._placed().following(earlier)
        return found and (found[0]._admitted(overwrite, check), found[1])

    def _placed(self) -> Self:
        out = Path(self.out).resolve()
        check_folder(out)
        return self.model_copy(update={"out": str(out)})

    def _admitted(self, overwrite: bool, check: "Callable[[Task], object] | None") -> Self:
        """See that workers can start, and claim OUT."""
        self.grid()  # or the block is impossible: nothing is left in OUT then
        if overwrite or not Records(self.out, self.name).complete():
            self.check_worker()
        if check:
            check(self)
        claim_folder(Path(self.out))
        if not overwrite:
            Records(self.out, self.name).check_same(self.description())
        return self

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
        from nucseg.blockwise.keeping import make_ready
        from nucseg.blockwise.launch import Local
        from nucseg.blockwise.preflight import check_task
        from nucseg.blockwise.work import Work, do

        launcher = launcher or Local(workers=1)
        check = partial(check_task, launcher=launcher, overwrite=overwrite)
        work = Work(self.prepared(overwrite=overwrite, check=check), launcher, log)
        work.begin(overwrite)
        make_ready([work], log)
        do([work])
        return work.result()

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
        from nucseg.blockwise.chain import Chain

        return Chain((self,)) + other
