"""Read what a task wrote, block by block, and say what is there now; any launcher spreads it over workers."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import PrivateAttr

from nucseg.blockwise.grid import Block, Box, Grid
from nucseg.blockwise.job import recorded_task
from nucseg.blockwise.presence import chunk_files
from nucseg.blockwise.records import Records
from nucseg.blockwise.task import Task
from nucseg.errors import InputError
from nucseg.volume import Volume, open_volume


class ReadBack(Task):
    """The digests of all blocks of another task as they lie on disk; writes nothing but its records.

    The other task's inputs are not needed.
    """

    name: ClassVar[str] = "verify"

    source: str
    """The OUT that is read."""
    of: str
    """Name of the task whose blocks are read."""

    _task: Task = PrivateAttr()

    def resolved(self) -> Self:
        """Nothing is left open."""
        return self

    def inputs(self) -> dict[str, Any]:
        """None: it is never continued."""
        return {}

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
        """Read one block. Returns its `digest`, or why it is `unreadable`, and the number of `absent` files.

        A file that is absent is no damage by itself: blocks of zeros are not stored.
        """
        absent = [path for path in stored_files(self._task, block) if not path.exists()]
        found = {"absent": len(absent), "first_absent": str(absent[0]) if absent else None}
        try:
            return {**found, "digest": self._task.stored_digest(block)}
        except MemoryError:
            raise
        except InputError as error:
            return {**found, "digest": None, "unreadable": error.received}
        except Exception as error:  # codecs raise what they like
            return {**found, "digest": None, "unreadable": f"{type(error).__name__}: {error}"}

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`found`: what was found, a line a block."""
        return {"found": {tuple(line["block"]): line for line in blocks}}

    def expected_memory(self) -> tuple[int, int]:
        """Two copies of a block, and 0.3 GiB."""
        written = self._volume()
        size = 2 * prod(self.grid().block) * max(1, written.channels) * written.dtype.itemsize
        return size + 3 * 2**30 // 10, size + 3 * 2**30 // 10

    def expected_output(self) -> int:
        """Nothing."""
        return 0

    def _other(self) -> Task:
        task = recorded_task(self.source, self.of)
        if task is None:
            raise InputError(
                self.source,
                expected=f"records of {self.of}",
                received="none",
                remedy="name the OUT of a run",
            )
        return task

    def _volume(self) -> Volume:
        return open_volume(self._other().written() or self.source)


def recorded_grid(task: Task) -> Grid:
    """The blocks of a task as its records have them, without its inputs."""
    head = Records(task.out, task.name).head() or {}
    if "grid" not in head:  # records of an earlier nucseg
        return task.grid()
    volume, block = (tuple(head["grid"][key]) for key in ("volume", "block"))
    return Grid((volume[0], volume[1], volume[2]), (block[0], block[1], block[2]))


def stored_files(task: Task, box: Box) -> list[Path]:
    """The files (shards) that hold a box of what a task writes, whether they exist or not.

    Empty where these are not known, or may hold voxels of other boxes: the array has not the voxels of the task's grid,
    other axes than (c,) z, y, x, or shards that the box cuts.

    Raises:
        InputError: The array cannot be opened.
    """
    written = task.written()
    if written is None:
        return []
    volume = open_volume(written)
    return chunk_files(volume, box) if volume.shape == recorded_grid(task).volume else []
