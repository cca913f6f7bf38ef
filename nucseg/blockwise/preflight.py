"""Before any work: does it fit? What a task needs is compared with what there is, and refused with what would fit."""

from collections.abc import Callable
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

RECORD = 4096
"""Bytes of the driver's memory for the record of one block: measured with 30 nuclei in it."""
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
    """Bytes that the blocks to do take on disk, compressed as far as is assumed (`Task.stored_part`)."""
    memory_of: Callable[[Shape], int]
    """`usual` with other blocks."""
    remedy: str | None = None
    """What makes it smaller, if that is not the block."""


def need_of(task: "Task", overwrite: bool = False) -> Need:
    """What a resolved task needs; what an earlier run did of it does not count.

    Args:
        task: Resolved.
        overwrite: Whether it starts afresh.
    """

    def memory_of(block: Shape) -> int:
        return task.model_copy(update={"block": block}).resolved().expected_memory()[0]

    grid = task.grid()
    todo = undone(task.out, task.name, grid, overwrite)
    usual, most = task.expected_memory() if todo else (0, 0)
    disk = int(task.expected_output() * task.stored_part * todo / len(grid)) if todo else 0
    whole = "leave out --whole and --engine mahotas" if getattr(task, "whole", False) else None
    return Need(task.name, grid, todo, usual, most, disk, memory_of, whole)


def need_later(
    task: "Segment | Detect", scenario: "Scenario", volume: Shape, overwrite: bool = False
) -> Need:
    """What the step that reads the prediction needs, while there is none.

    Args:
        task: The step, not resolved.
        scenario: The heads of the prediction.
        volume: Its shape, voxels z, y, x.
        overwrite: Whether the step starts afresh.
    """
    grid = Grid(volume, clipped(task.block or default_block(volume), volume))
    todo = undone(task.out, task.name, grid, overwrite)
    usual, most = task.memory_for(scenario, volume)
    size = label_bytes(volume) if scenario.can_segment else 0

    def memory_of(block: Shape) -> int:
        return task.model_copy(update={"block": block}).memory_for(scenario, volume)[0]

    return Need(
        task.name, grid, todo, usual, most, int(size * task.stored_part * todo / len(grid)), memory_of
    )


def undone(out: str, name: str, grid: Grid, overwrite: bool = False) -> int:
    """How many blocks of a task are not done."""
    return len(grid) - (0 if overwrite else len(Records(out, name).read()[0]))


def check_task(task: "Task", launcher: "Launcher", overwrite: bool = False) -> None:
    """Refuse a resolved task that cannot fit; see `check_fits`."""
    if launcher.preflight:
        check_fits([need_of(task, overwrite)], task.out, launcher, freed=task.outputs() if overwrite else [])


def check_fits(needs: list[Need], out: str, launcher: "Launcher", freed: list[Path] | None = None) -> None:
    """Refuse what cannot fit, in one message, with the setting that would.

    Memory is compared with what the launcher says its workers have together, disk and files with what is free at OUT.
    What a few blocks may need more (`Need.most`) is no reason to refuse.

    Args:
        needs: Of the tasks, which run one after the other and all write to OUT.
        out: The output folder, which need not exist.
        launcher: Where workers run.
        freed: Files and folders that are deleted first.

    Raises:
        InputError: Memory, disk, or the number of files or blocks do not suffice.
    """
    problems: list[tuple[str, str, str]] = []
    needs = [need for need in needs if need.todo]
    room, workers = launcher.memory(), max(1, launcher.workers)
    for need in needs:
        problems += _memory(need, min(workers, need.todo), room)
    disk = room_at(Path(out))
    wanted = sum(need.disk for need in needs)
    if wanted > disk.bytes and wanted > disk.bytes + sum(_size(path) for path in freed or ()):
        problems.append(
            (
                f"at most {gib(disk.bytes)} on disk, which are free at {out}",
                f"{gib(wanted)} (after compression, as far as is assumed)",
                "name an OUT on a larger disk, or make room there",
            )
        )
    for need in needs:
        limit = disk.files
        if limit is not None and need.todo > limit:
            larger = _enlarged(need.grid, lambda grid, limit=limit: len(grid) <= limit)  # type: ignore[misc]
            problems.append(
                (f"at most {limit} files", f"{need.todo} blocks, each a file", f"take {_block(larger)}")
            )
        if room is not None and need.todo * RECORD > room:
            larger = _enlarged(need.grid, lambda grid: len(grid) * RECORD <= room)
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


def _memory(need: Need, workers: int, room: int | None) -> list[tuple[str, str, str]]:
    if room is None or need.usual * workers <= room:
        return []
    ways = []
    if need.usual <= room:
        ways.append(f"start fewer workers (--launcher local:{room // need.usual})")
    if need.remedy:
        ways.append(need.remedy)
    elif (smaller := _reduced(need, room // workers)) is not None:
        ways.append(f"take {_block(smaller)}")
    return [
        (
            f"at most {gib(room)} of memory, which there are",
            f"{workers} worker{'s'[: workers > 1]} with {gib(need.usual)} each for {need.task}",
            " or ".join(ways) or "use a machine with more memory",
        )
    ]


def _reduced(need: Need, room: int) -> Shape | None:
    """The first of ever smaller blocks, the longest side halved each time, whose worker fits."""
    block = list(need.grid.block)
    while max(block) > SMALLEST:
        longest = block.index(max(block))
        block[longest] = max(SMALLEST, -(-block[longest] // 2))
        z, y, x = block
        if need.memory_of((z, y, x)) <= room:
            return z, y, x
    return None


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
