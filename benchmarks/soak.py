"""Ten thousand small blocks while workers are killed at random: nothing lost, nothing different.

    python -m benchmarks.soak [--blocks 10000] [--every 50] [--workers 2] [--json FILE]

A prediction of random merging nuclei is segmented once undisturbed and once while a worker is killed with SIGKILL
whenever about so many further blocks are done, at any point of its work. Both labels and digests are compared.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import nucseg as ns
from benchmarks.exactness import prediction_of
from nucseg.blockwise.records import Records
from nucseg.heads.decoding import Decoding

BLOCK = (8, 8, 8)


def workers_of(job: Path) -> list[int]:
    """Process ids of the workers of a job on this machine; needs /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(job).encode() in words and b"nucseg.blockwise.worker" in words:
            found.append(int(process.name))
    return found


class Killer(threading.Thread):
    """Kills a random worker after about `every` further blocks, until told to stop."""

    def __init__(self, records: Records, every: int) -> None:
        super().__init__(daemon=True)
        self.records, self.every, self.kills, self.over = records, every, 0, threading.Event()

    def run(self) -> None:
        """Kill until told to stop."""
        rng = random.Random(0)
        due = rng.uniform(0.5, 1.5) * self.every
        while not self.over.wait(rng.uniform(0.05, 0.3)):
            if lines_of(self.records) < due:
                continue
            alive = workers_of(self.records.job)
            if alive:
                try:
                    os.kill(rng.choice(alive), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.kills += 1
                due = lines_of(self.records) + rng.uniform(0.5, 1.5) * self.every


def lines_of(records: Records) -> int:
    """Blocks that are recorded."""
    return len(records.read()[0]) if records.path.exists() else 0


def volume_for(blocks: int) -> tuple[int, int, int]:
    """A shape of about so many blocks."""
    side = max(1, round((blocks / 25) ** 0.5))
    return side * BLOCK[0], side * BLOCK[1], 25 * BLOCK[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=50, help="blocks from one kill to the next, about")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    case = {"random": 1, "levels": 12, "density": -2.0, "scenario": "three_label"}
    launcher = ns.Local(workers=arguments.workers, restarts=10 * arguments.blocks)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "p.npy", prediction_of({**case, "shape": volume_for(arguments.blocks)}))
        task: dict[str, Any] = {
            "prediction": str(folder / "p.npy"),
            "scenario": "three_label",
            "decoding": Decoding(seed_threshold=0.6, foreground_threshold=0.5),
            "block": BLOCK,
            "halo": 8,
        }
        calm = ns.Segment(out=str(folder / "calm"), **task).blockwise(launcher)
        killer = Killer(Records(folder / "killed", "segment"), arguments.every)
        killer.start()
        started = time.perf_counter()
        killed = ns.Segment(out=str(folder / "killed"), **task).blockwise(launcher)
        seconds = time.perf_counter() - started
        killer.over.set()
        killer.join()
        labels = [ns.open_labels(folder / out).read() for out in ("calm", "killed")]
        records = Records(folder / "killed", "segment")
        result = {
            "blocks": calm["blocks"],
            "kills": killer.kills,
            "lost": calm["blocks"] - len(records.read()[0]),
            "differing_voxels": int(np.count_nonzero(labels[0] != labels[1])),
            "same_digest": calm["digest"] == killed["digest"],
            "partial_files": len(list((folder / "killed").rglob("*.partial"))),
            "nuclei": killed["nuclei"],
            "seconds_calm": round(calm["seconds"], 1),
            "seconds_killed": round(seconds, 1),
            "workers": arguments.workers,
        }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sound = result["same_digest"] and not (
        result["lost"] or result["differing_voxels"] or result["partial_files"]
    )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
