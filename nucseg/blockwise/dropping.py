"""Blocks of a prediction are deleted when all that reads them is done; what is dropped is told from what is lost.

`Drop` is a task like any other, behind those that read the prediction: daisy gives it a block when they have done
theirs, and its records, OUT/.nucseg/drop, say what was dropped. The records of the prediction keep the digest, so that
a block that is needed again is made again and must come out as it was.

A dropped block leaves empty files, not none: zarr reads a missing chunk as zeros without an error, so a worker that was
thought dead and reads it late would write wrong labels over right ones. An empty file cannot be read.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr

from nucseg.blockwise.grid import Block, Box, Grid, Shape
from nucseg.blockwise.job import recorded_task
from nucseg.blockwise.read_back import recorded_grid, stored_files
from nucseg.blockwise.records import DROPPED, Records
from nucseg.blockwise.repair import set_aside
from nucseg.blockwise.task import Task
from nucseg.errors import InputError

PREDICTIONS = "predictions"
"""What `keep` and `--keep` call them."""


class Drop(Task):
    """Deletes what another task of OUT wrote, block by block. Who reads it is for the chain to say.

    Results: `bytes`, of the files that were deleted.
    """

    name: ClassVar[str] = "drop"

    of: str
    """Name of the task whose blocks are deleted; they are the blocks of this one."""
    reach: int = Field(0, ge=0)
    """Voxels around a block that others' blocks may be which read it."""

    _task: Task = PrivateAttr()

    def resolved(self) -> Self:
        """The block is that of the other task.

        Raises:
            InputError: There is no such task, or its blocks are not files of their own.
        """
        task = self._other()
        grid = recorded_grid(task)
        if not stored_files(task, grid[0, 0, 0]):
            raise InputError(
                str(task.written() or self.out),
                expected="an array whose shards are its blocks, to delete them one by one",
                received="another layout",
                remedy="keep it (--keep predictions)",
            )
        return self.model_copy(update={"block": grid.block})

    def following(self, earlier: Any) -> tuple[Self, int] | None:
        """Behind those that write and read the blocks."""
        return self.resolved(), self.reach

    def description(self) -> dict[str, Any]:
        """As for every task; what is dropped stays so, whoever reads how far next time."""
        said = super().description()
        return said | {"fields": {key: said["fields"][key] for key in ("block", "of")}}

    def inputs(self) -> dict[str, Any]:
        """The run that wrote the blocks."""
        return {self.of: (Records(self.out, self.of).head() or {}).get("hash")}

    def grid(self) -> Grid:
        """As the blocks were written."""
        return recorded_grid(self._other())

    def outputs(self) -> list[Path]:
        """None."""
        return []

    def create(self) -> None:
        """Nothing."""

    def start_worker(self) -> None:
        """Rebuild the other task from its records."""
        self._task = self._other()

    def process(self, block: Block) -> dict[str, Any]:
        """Delete one block. Returns `bytes`, of its files."""
        return {"bytes": empty_files(self._task, block)}

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`bytes`, of all files."""
        return {"bytes": sum(block["bytes"] for block in blocks)}

    def expected_memory(self) -> tuple[int, int]:
        """0.2 GiB: it reads no voxel."""
        return 2**30 // 5, 2**30 // 5

    def expected_output(self) -> int:
        """Nothing."""
        return 0

    def _other(self) -> Task:
        task = recorded_task(self.out, self.of)
        if task is None:
            raise InputError(
                self.out, expected=f"records of {self.of}", received="none", remedy="name the OUT of a run"
            )
        return task


def empty_files(task: Task, block: Block) -> int:
    """Replace the files of a block of what a task wrote by empty ones; returns the bytes that they had."""
    freed = 0
    for path in stored_files(task, block):
        try:
            size = path.stat().st_size
        except FileNotFoundError:  # a block of zeros is not stored
            continue
        if size:
            empty = path.with_name(f"{path.name}.{os.getpid()}.partial")
            empty.touch()
            empty.replace(path)
            freed += size
    return freed


def dropped_blocks(records: Records) -> set[Shape]:
    """Grid indices of a task's blocks that were done and then dropped.

    A worker that is killed right after it has emptied the files of a block leaves no record of it: such files tell.
    """
    drop = Records(records.out, Drop.name)
    head = drop.head()
    if head is None or head["fields"]["of"] != records.folder.name:
        return set()
    done, recorded = records.read()[0], drop.read()[0]
    found = recorded.keys() & done.keys()
    task = recorded_task(records.out, records.folder.name)
    if task is not None and task.written() is not None and Path(str(task.written())).exists():
        grid = recorded_grid(task)
        found |= {index for index in done if index not in recorded and _is_empty(task, grid[index])}
    return found


def _is_empty(task: Task, block: Block) -> bool:
    """Whether a file of a block is there and empty, which no writer leaves."""
    for path in stored_files(task, block):
        try:
            if not path.stat().st_size:
                return True
        except FileNotFoundError:  # a block of zeros is not stored
            continue
    return False


def forget(records: Records) -> None:
    """A task begins afresh: none of its blocks is dropped."""
    drop = Records(records.out, Drop.name)
    head = drop.head()
    if head and head["fields"]["of"] == records.folder.name:
        drop.clear()


def overlapping(grid: Grid, boxes: Iterable[Box]) -> set[Shape]:
    """Indices of the blocks that some boxes overlap."""
    found: set[Shape] = set()
    for box in boxes:
        sides = zip(box.begin, box.end, grid.block, strict=True)
        found |= {(z, y, x) for z, y, x in product(*(range(b // s, -(-e // s)) for b, e, s in sides))}
    return found


def bring_back(task: Task, blocks: Collection[Shape]) -> None:
    """Have dropped blocks count as not done, by the task that wrote them and by `Drop`; they are made again, as before.

    Raises:
        InputError: Workers are still at work on one of the two.
    """
    records, drop = Records(task.out, task.name), Records(task.out, Drop.name)
    grid = recorded_grid(task)
    with records.held(alone=True), drop.held(alone=True):
        for (
            index
        ) in blocks:  # first: an empty file beside a record of a block that was dropped is nothing new
            for path in stored_files(task, grid[index]):
                path.unlink(missing_ok=True)
        set_aside(records, blocks, DROPPED)
        set_aside(drop, blocks, DROPPED)
