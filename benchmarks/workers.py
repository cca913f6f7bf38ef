"""Two workers against one, each with a single thread: prediction and segmentation.

    python -m benchmarks.workers RUN VOLUME [--block 64] [--repeat 3] [--json FILE]

Seconds from the first block's begin to the last one's end, as recorded, so without the start of the workers; both ways
in turns, medians. The number of blocks should be even, or the last one leaves a worker idle. Digests are compared.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import nucseg as ns
from nucseg.blockwise.records import Records
from nucseg.blockwise.task import Task


def span(task: Task, workers: int) -> tuple[float, str, int]:
    """Seconds from the first begin to the last end, something that tells results apart, and the blocks."""
    task.blockwise(ns.Local(workers=workers, threads=1))
    lines = list(Records(task.out, task.name).read()[0].values())
    begin = min(line["ended"] - line["seconds"] for line in lines)
    return max(line["ended"] for line in lines) - begin, str([line["digest"] for line in lines]), len(lines)


def compared(name: str, make: Any, repeat: int) -> dict[str, Any]:
    """One step with one and with two workers, in turns."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    digests, blocks = set(), 0
    for _ in range(repeat):
        for workers in (1, 2):
            with tempfile.TemporaryDirectory(prefix="nucseg-workers-") as folder:
                took, digest, blocks = span(make(folder), workers)
            seconds[workers].append(took)
            digests.add(digest)
    if len(digests) > 1:
        raise SystemExit(f"{name}: other results with two workers")
    one, two = (statistics.median(seconds[workers]) for workers in (1, 2))
    ratios = [a / b for a, b in zip(seconds[1], seconds[2], strict=True)]
    return {
        "step": name,
        "blocks": blocks,
        "one_s": round(one, 2),
        "two_s": round(two, 2),
        "ratio": round(one / two, 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("volume", metavar="VOLUME")
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    block = (arguments.block,) * 3
    with tempfile.TemporaryDirectory(prefix="nucseg-workers-") as place:
        fields = {"volume": arguments.volume, "model": arguments.run, "block": block}
        predict = ns.Predict(**fields, out=place)
        predict.blockwise(ns.Local(workers=2, threads=1))
        prediction = str(Path(place) / "prediction")
        rows = [
            compared("predict", lambda out: ns.Predict(**fields, out=out), arguments.repeat),
            compared(
                "segment",
                lambda out: ns.Segment(prediction=prediction, out=out, block=block, halo=16),
                arguments.repeat,
            ),
        ]
    for row in rows:
        print(json.dumps(row), file=sys.stdout)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
