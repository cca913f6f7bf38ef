"""Cost and memory against the volume's size: what a voxel costs, what a worker and the driver hold.

    python -m benchmarks.scale [--log2 24 25 26 27] [--blocks 1000 10000 100000] [--folder DIR] [--json FILE]

For each size 2**n a prediction (three labels, float32) of a mirrored tile of random nuclei is written block by block
and segmented by one worker in blocks of 128 voxels: seconds a voxel of the blocks (as recorded, so without the start
of the worker), of all and of those that have neighbours on all sides (at the border a halo is cut, small volumes are
mostly border), the worker's largest resident memory beside the bound that is printed before. Then a task that does
nothing, over ever more blocks, shows the price of daisy and of records: memory of the driver and blocks a second.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import nucseg as ns
from benchmarks.exactness import prediction_of
from nucseg.blockwise.grid import Block, Grid
from nucseg.blockwise.records import Records
from nucseg.blockwise.task import Task
from nucseg.heads.decoding import Decoding

TILE = 128
SCALE_UM = (0.2, 0.1, 0.1)


class Nothing(Task):
    """Blocks of one voxel in which nothing is done."""

    name: ClassVar[str] = "nothing"

    blocks: int

    def resolved(self) -> "Nothing":
        """As it is."""
        return self

    def inputs(self) -> dict[str, Any]:
        """None."""
        return {}

    def grid(self) -> Grid:
        """A row of blocks."""
        return Grid((self.blocks, 1, 1), (1, 1, 1))

    def outputs(self) -> list[Path]:
        """None."""
        return []

    def create(self) -> None:
        """Nothing to make."""

    def process(self, block: Block) -> dict[str, Any]:
        """Nothing to do."""
        return {}

    def expected_memory(self) -> tuple[int, int]:
        """Next to nothing."""
        return 2**28, 2**28

    def expected_output(self) -> int:
        """No voxels."""
        return 0


def shape_of(log2: int) -> tuple[int, int, int]:
    """A box of 2**log2 voxels, as near to a cube as powers of two allow."""
    z, rest = log2 // 3, log2 - log2 // 3
    return 2**z, 2 ** (rest // 2), 2 ** (rest - rest // 2)


def write_prediction(path: Path, shape: tuple[int, int, int]) -> None:
    """A tile, mirrored from block to block so that nuclei go on over the faces; in all blocks of equal cost."""
    case = {"random": 1, "levels": 0, "density": -2.0, "scenario": "three_label", "shape": (TILE,) * 3}
    tile = prediction_of(case)
    made = ns.create_image(
        path, shape=(3, *shape), dtype="float32", scale_um=SCALE_UM, axes="czyx", shards=(TILE,) * 3
    )
    for index in np.ndindex(*(-(-n // TILE) for n in shape)):
        flip = tuple(axis + 1 for axis, i in enumerate(index) if i % 2)
        begin = tuple(TILE * i for i in index)
        size = tuple(min(TILE, n - b) for n, b in zip(shape, begin, strict=True))
        made.write(begin, np.flip(tile, flip)[(slice(None), *(slice(0, n) for n in size))])


def is_inner(index: list[int], shape: tuple[int, int, int]) -> bool:
    """Whether a block has neighbours on all sides: only these read a whole halo, so that their cost can be compared."""
    return all(0 < i < -(-n // TILE) - 1 for i, n in zip(index, shape, strict=True))


def segmented(folder: Path, log2: int) -> dict[str, Any]:
    """Segment one size; what it took."""
    shape = shape_of(log2)
    write_prediction(folder / "p.zarr", shape)
    task = ns.Segment(
        out=str(folder / "o"),
        prediction=str(folder / "p.zarr"),
        scenario="three_label",
        decoding=Decoding(seed_threshold=0.6, foreground_threshold=0.5),
        block=(TILE,) * 3,
    )
    result = task.blockwise(ns.Local(workers=1))
    lines = list(Records(folder / "o", "segment").read()[0].values())
    usual, most = task.resolved().expected_memory()
    seconds = sum(line["seconds"] for line in lines)
    inner = [line["seconds"] for line in lines if is_inner(line["block"], shape)]
    stored = sum(file.stat().st_size for file in (folder / "o").rglob("*") if file.is_file())
    return {
        "log2_voxels": log2,
        "shape": shape,
        "blocks": result["blocks"],
        "nuclei": result["nuclei"],
        "ns_per_voxel": round(1e9 * seconds / 2**log2, 1),
        "inner_blocks": len(inner),
        "inner_ns_per_voxel": round(1e9 * sum(inner) / len(inner) / TILE**3, 1) if inner else None,
        "largest_halo": result["largest_halo"],
        "wall_s": round(result["seconds"], 1),
        "worker_peak_bytes": result["peak_memory_bytes"],
        "bound_bytes": most,
        "usual_bytes": usual,
        "out_bytes_per_voxel": round(stored / 2**log2, 3),
    }


def resident() -> int:
    """Memory of this process now, bytes; needs /proc."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def scheduled(blocks: int) -> dict[str, Any]:
    """Schedule so many empty blocks in a process of its own; its memory and time."""
    code = f"from benchmarks.scale import schedule; schedule({blocks})"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def schedule(blocks: int) -> None:
    """Print what this process holds before and after a run over so many empty blocks."""
    with tempfile.TemporaryDirectory() as folder:
        Nothing(out=f"{folder}/warm", blocks=10).blockwise(ns.Local(workers=1))
        before, started, sizes, over = resident(), time.perf_counter(), [0], threading.Event()

        def sample() -> None:
            while not over.wait(0.05):
                sizes.append(resident())

        sampling = threading.Thread(target=sample)
        sampling.start()
        result = Nothing(out=f"{folder}/o", blocks=blocks).blockwise(ns.Local(workers=1))
        over.set()
        sampling.join()
        seconds = time.perf_counter() - started
        records = sum(f.stat().st_size for f in Path(folder, "o").rglob("*") if f.is_file())
    grown = max(sizes) - before
    print(
        json.dumps(
            {
                "blocks": result["blocks"],
                "driver_bytes_before": before,
                "driver_bytes_per_block": round(grown / blocks),
                "records_bytes_per_block": round(records / blocks),
                "blocks_per_s": round(blocks / seconds),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--log2", type=int, nargs="*", default=[24, 25, 26, 27])
    parser.add_argument("--blocks", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument(
        "--folder", type=Path, help="where the volumes go, deleted after each; default temporary"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"segment": [], "schedule": []}
    for log2 in arguments.log2:
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            result["segment"].append(segmented(folder, log2))
        finally:
            shutil.rmtree(folder)
        print(json.dumps(result["segment"][-1]), flush=True)
    for blocks in arguments.blocks:
        result["schedule"].append(scheduled(blocks))
        print(json.dumps(result["schedule"][-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
