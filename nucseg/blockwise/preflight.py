"""Before any work: does it fit? What a task needs is compared with what there is, and refused with what would fit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nucseg.blockwise.grid import Grid, Shape, clipped, default_block
from nucseg.blockwise.labels import label_bytes
from nucseg.blockwise.machine import room_at
from nucseg.blockwise.records import Records
from nucseg.errors import InputError

if TYPE_CHECKING:
    from nucseg.blockwise.detect import Detect
    from nucseg.blockwise.launch import Launcher
    from nucseg.blockwise.segment import Segment
    from nucseg.blockwise.task import Task
    from nucseg.heads.scenario import Scenario

RECORD = 64
"""Bytes of the driver's memory for one block: 56 were measured (docs/scale.md); its record stays on disk."""
SMALLEST = 32
"""No smaller side of a block is proposed: reading around it would cost more than the block."""


class Need(NamedTuple):
    """What a task needs."""

    task: str
    grid: Grid
    todo: int
    """Blocks that are not done."""
    usual: int
    """Bytes of memory of a worker for most blocks."""
    most: int
    """The same for the most demanding ones."""
    disk: int
    """Bytes that the blocks to do take on disk at once, compressed as far as is assumed (`Task.stored_part`)."""
    memory_of: Callable[[Shape], int]
    """`usual` with other blocks."""
    launcher: "Launcher"
    """Where its workers run."""
    remedy: str | None = None
    """What makes it smaller, if that is not the block."""

    @property
    def workers(self) -> int:
        """Workers at a time."""
        return min(max(1, self.launcher.workers), self.todo)


def need_of(
    task: "Task", launcher: "Launcher", *, overwrite: bool = False, planes: int | None = None
) -> Need:
    """What a resolved task needs; what an earlier run did of it does not count.

    Args:
        task: Resolved.
        launcher: Where its workers run.
        overwrite: Whether it starts afresh.
        planes: How many planes of voxels along z of its output lie on disk at once, see `planes_at_once`; None: all.
    """

    def memory_of(block: Shape) -> int:
        return task.model_copy(update={"block": block}).resolved().expected_memory()[0]

    grid = task.grid()
    todo = undone(task.out, task.name, grid, overwrite)
    usual, most = task.expected_memory() if todo else (0, 0)
    part = todo / len(grid) if planes is None else min(todo / len(grid), planes / grid.volume[0])
    disk = int(task.expected_output() * task.stored_part * part) if todo else 0
    whole = "leave out --whole and --engine mahotas" if getattr(task, "whole", False) else None
    return Need(task.name, grid, todo, usual, most, disk, memory_of, launcher, whole)


def need_later(
    task: "Segment | Detect", scenario: "Scenario", volume: Shape, launcher: "Launcher", overwrite: bool
) -> Need:
    """What the step that reads the prediction needs, while there is none.

    Args:
        task: The step, not resolved.
        scenario: The heads of the prediction.
        volume: Its shape, voxels z, y, x.
        launcher: Where its workers run.
        overwrite: Whether the step starts afresh.
    """
    grid = Grid(volume, clipped(task.block or default_block(volume), volume))
    todo = undone(task.out, task.name, grid, overwrite)
    usual, most = task.memory_for(scenario, volume)
    size = label_bytes(volume) if scenario.can_segment else 0

    def memory_of(block: Shape) -> int:
        return task.model_copy(update={"block": block}).memory_for(scenario, volume)[0]

    disk = int(size * task.stored_part * todo / len(grid))
    return Need(task.name, grid, todo, usual, most, disk, memory_of, launcher)


def planes_at_once(task: "Task", readers: Sequence["Task"]) -> int:
    """Planes of voxels along z of a prediction that lie on disk at once when its blocks are dropped after use.

    A block of either task, and twice the largest reach of the readers; where prediction is much faster than what
    reads it, more.

    Args:
        task: Writes the prediction; resolved.
        readers: Read it; not resolved.
    """
    height, volume = task.grid().block[0], task.grid().volume
    for reader in readers:
        block = reader.block or default_block(volume)
        height = max(height, task.grid().block[0] + block[0] + 2 * getattr(reader, "max_halo", 0))
    return min(height, volume[0])


def undone(out: str, name: str, grid: Grid, overwrite: bool = False) -> int:
    """How many blocks of a task are not done."""
    return len(grid) - (0 if overwrite else len(Records(out, name).read()[0]))


def check_task(
    task: "Task",
    launcher: "Launcher",
    overwrite: bool = False,
    beside: Sequence[Need] = (),
    planes: int | None = None,
) -> Need:
    """Refuse a resolved task that cannot fit, see `check_fits`; returns what it needs.

    Args:
        task: Resolved.
        launcher: Where its workers run.
        overwrite: Whether it starts afresh.
        beside: What tasks need that run at the same time.
        planes: See `need_of`.
    """
    check_importable(task, launcher)
    need = need_of(task, launcher, overwrite=overwrite, planes=planes)
    if launcher.preflight:
        check_fits([*beside, need], task.out, freed=task.outputs() if overwrite else [])
    return need


def check_importable(task: "Task", launcher: "Launcher") -> None:
    """Refuse a task whose class other processes cannot find.

    Raises:
        InputError: It was written in a script or a notebook, and there are workers.
    """
    if type(task).__module__ == "__main__" and launcher.workers:
        raise InputError(
            f"task {type(task).__qualname__}",
            expected="a class in a module, which workers import by its name",
            received="one of a script or notebook (__main__)",
            remedy="move it into a .py file beside yours and import it, or do the blocks in this process (local:0)",
        )


def check_fits(needs: Sequence[Need], out: str, freed: Sequence[Path] = ()) -> None:
    """Refuse what cannot fit, in one message, with the setting that would.

    Memory is compared with what launchers say their workers have together, or one of them; disk and files with what is
    free at OUT. What a few blocks may need more (`Need.most`) is no reason to refuse.

    Args:
        needs: Of tasks that run at the same time and all write to OUT.
        out: The output folder, which need not exist.
        freed: Files and folders that are deleted first.

    Raises:
        InputError: Memory, disk, or the number of files or blocks do not suffice.
    """
    needs = [need for need in needs if need.todo]
    problems = _memory(needs)
    disk = room_at(Path(out))
    wanted = sum(need.disk for need in needs)
    if wanted > disk.bytes and wanted > disk.bytes + sum(_size(path) for path in freed):
        problems.append(
            (
                f"at most {gib(disk.bytes)} on disk, which are free at {out}",
                f"{gib(wanted)} (after compression, as far as is assumed)",
                "name an OUT on a larger disk, or make room there",
            )
        )
    for need in needs:
        limit, room = disk.files, need.launcher.shared_memory()
        if limit is not None and need.todo > limit:
            larger = _enlarged(need.grid, lambda grid, limit=limit: len(grid) <= limit)  # type: ignore[misc]
            problems.append(
                (f"at most {limit} files", f"{need.todo} blocks, each a file", f"take {_block(larger)}")
            )
        if room is not None and need.todo * RECORD > room:
            larger = _enlarged(need.grid, lambda grid, room=room: len(grid) * RECORD <= room)  # type: ignore[misc]
            problems.append(
                (
                    f"records of blocks that fit into {gib(room)}",
                    f"{len(need.grid)} blocks, {gib(len(need.grid) * RECORD)} of the driver's memory",
                    f"take {_block(larger)}",
                )
            )
    if problems:
        expected, received, remedy = (
            "; ".join(dict.fromkeys(parts)) for parts in zip(*problems, strict=True)
        )
        blocks = ", ".join(
            f"{n.task} in {len(n.grid)} blocks of {_times(n.grid.block)} voxels" for n in needs
        )
        raise InputError(
            blocks,
            expected=expected,
            received=received,
            remedy=f"{remedy}; or start all the same (--no-preflight)",
        )


def gib(size: float) -> str:
    """Bytes for a reader."""
    return f"{size / 2**30:.3g} GiB"


Problem = tuple[str, str, str]
"""What was expected, what was received, what to do."""


def _memory(needs: list[Need]) -> list[Problem]:
    problems: list[Problem] = []
    for need in needs:
        own = need.launcher.worker_memory(need.task)
        if own is not None and need.usual > own:
            problems.append(
                (
                    f"at most {gib(own)} of memory, which a worker of {need.task} gets",
                    f"{gib(need.usual)} each",
                    f"ask for more (memory, in the cluster's file){_smaller([need], own, ' or ')}",
                )
            )
    sharing = [need for need in needs if need.launcher.shared_memory() is not None]
    if not sharing:
        return problems
    room = min(need.launcher.shared_memory() or 0 for need in sharing)
    if all(need.launcher.workers == 0 for need in sharing):  # one process, a block of one of them at a time
        sharing = [max(sharing, key=lambda need: need.usual)]
    if sum(need.usual * need.workers for need in sharing) <= room:
        return problems
    fewer = min(room // sum(need.usual for need in sharing), max(need.workers for need in sharing) - 1)
    ways = [f"start fewer workers (--launcher local:{fewer})"] if fewer else []
    remedies = [need.remedy for need in sharing if need.remedy]
    ways += remedies or [_smaller(sharing, room)]
    problems.append(
        (
            f"at most {gib(room)} of memory, which there are",
            " and ".join(
                f"{n.workers} worker{'s'[: n.workers > 1]} with {gib(n.usual)} each for {n.task}"
                for n in sharing
            ),
            " or ".join(filter(None, ways)) or "use a machine with more memory",
        )
    )
    return problems


def _smaller(needs: list[Need], room: int, before: str = "") -> str:
    """Advice on the first of ever smaller blocks, the longest side halved each time, with which all workers fit."""
    block = list(needs[0].grid.block)
    while max(block) > SMALLEST:
        longest = block.index(max(block))
        block[longest] = max(SMALLEST, -(-block[longest] // 2))
        z, y, x = block
        together = len(needs) > 1 or needs[0].launcher.shared_memory() is not None
        if sum(need.memory_of((z, y, x)) * (need.workers if together else 1) for need in needs) <= room:
            return f"{before}take {_block((z, y, x))}"
    return ""


def _enlarged(grid: Grid, fits: Callable[[Grid], bool]) -> Shape:
    """The first of ever larger blocks, the shortest side doubled each time, that are few enough."""
    block = list(grid.block)
    while True:
        z, y, x = block
        if fits(Grid(grid.volume, (z, y, x))) or all(b >= n for b, n in zip(block, grid.volume, strict=True)):
            return z, y, x
        shorter = [b if b < n else 2**62 for b, n in zip(block, grid.volume, strict=True)]
        block[shorter.index(min(shorter))] *= 2


def _block(block: Shape) -> str:
    return f"other blocks (--block {block[0]} {block[1]} {block[2]})"


def _times(block: Shape) -> str:
    return " x ".join(map(str, block))


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
