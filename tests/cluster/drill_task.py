"""A segmentation with an accident in one of its blocks, the first time that it is done; workers import it."""

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nucseg.blockwise.grid import Block
from nucseg.blockwise.segment import Segment


class Unlucky(Segment):
    """`Segment`, which notes each attempt at a block in FOLDER, and has an accident in one block."""

    folder: str
    """Where attempts are noted, and where the test and the block speak to each other."""
    at: tuple[int, int, int] | None = None
    """The block with the accident."""
    accident: Literal["wait", "half written", "memory", "raise"] = "wait"

    def process(self, block: Block) -> dict[str, Any]:
        folder = Path(self.folder)
        first = _note(folder, block)
        if block.index == self.at and (first or self.accident == "raise"):
            getattr(self, "_" + self.accident.replace(" ", "_"))(folder)
        return super().process(block)

    def _wait(self, folder: Path) -> None:
        """Say who is at it and wait for the file `go`."""
        words = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "job": os.environ.get("SLURM_ARRAY_JOB_ID"),
        }
        words["element"] = os.environ.get("SLURM_ARRAY_TASK_ID")
        (folder / "held.new").write_text(json.dumps(words))
        (folder / "held.new").rename(folder / "held")
        while not (folder / "go").exists():
            time.sleep(0.05)

    def _half_written(self, folder: Path) -> None:
        """Die as the chunk is written but not yet renamed, half of it lost."""

        def die(source: Path, target: Path) -> None:
            with open(source, "r+b") as file:
                file.truncate(source.stat().st_size // 2)
            (folder / "partial").write_text(str(source))
            os.kill(os.getpid(), signal.SIGKILL)

        Path.replace = die

    def _memory(self, folder: Path) -> None:
        """Take more memory than a worker was given, and hold it."""
        self._keep = np.ones(3 * 2**27)
        time.sleep(60)

    def _raise(self, folder: Path) -> None:
        raise RuntimeError("no luck")


def attempts(folder: Path) -> list[dict[str, Any]]:
    """Each time that a worker began a block: `block`, `pid`, `host`, `time`; in the order of time."""
    lines = [json.loads(path.read_text()) for path in folder.glob("attempt-*")]
    return sorted(lines, key=lambda line: line["time"])


def _note(folder: Path, block: Block) -> bool:
    """Note an attempt; whether it is the block's first."""
    line = {"block": block.index, "pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    name = "-".join(map(str, block.index))
    number = len(list(folder.glob(f"attempt-{name}-*")))
    (folder / f".{name}-{os.getpid()}").write_text(json.dumps(line))
    (folder / f".{name}-{os.getpid()}").rename(folder / f"attempt-{name}-{number}-{os.getpid()}")
    return number == 0
