"""Disk that predictions take at most, kept and dropped, and the time with and without going on block by block.

    python -m benchmarks.dropping [--length 1024] [--workers 1] [--json FILE]

A volume of --length x 64 x 64 voxels is covered by a prediction (three labels, float32) of random nuclei, written in
blocks of 32 voxels a side by a task in place of a network, and segmented in blocks of another shape. What lies on disk
at any time is added up from the records: a block is there from its end of writing to its end of dropping. All ways must
give the same digest.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import nucseg as ns
from benchmarks.rendered import Render
from nucseg.blockwise.chain import Chain
from nucseg.blockwise.grid import Shape
from nucseg.blockwise.records import Records
from nucseg.heads.scenario import Decoding

SEGMENTED = (48, 64, 40)


def peak_of(out: Path) -> tuple[int, int]:
    """Bytes of the prediction that lay on disk at once at most, and that were written in all."""
    predicted = Records(out, "predict").read()[0].values()
    dropped = Records(out, "drop").read()[0].values()
    changes = [(line["ended"], line["stored"]) for line in predicted]
    changes += [(line["ended"], -line["bytes"]) for line in dropped]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most, sum(line["stored"] for line in predicted)


def measured(out: Path, shape: Shape, halo: int, way: str, workers: int, seconds: float) -> dict[str, Any]:
    """One way: `apart` (one task after the other), `together` or `dropped`."""
    first = Render(out=str(out), shape=shape, seconds=seconds)
    second = ns.Segment(
        out=str(out),
        scenario="three_label",
        decoding=Decoding(seed_threshold=0.6, foreground_threshold=0.5),
        block=SEGMENTED,
        halo=16,
        max_halo=halo,
    )
    launcher, began = ns.Local(workers=workers), time.perf_counter()
    if way == "apart":
        results = [first.blockwise(launcher), second.blockwise(launcher)]
    else:
        keep = () if way == "dropped" else ("predictions",)
        results = Chain((first, second)).blockwise(launcher, keep=keep)
    took = time.perf_counter() - began
    peak, written = peak_of(out)
    left = sum(path.stat().st_size for path in (out / "prediction").rglob("*") if path.is_file())
    return {
        "max_halo": halo,
        "way": way,
        "blocks": [result["blocks"] for result in results],
        "seconds": round(took, 1),
        "peak_mb": round(peak / 1e6, 2),
        "written_mb": round(written / 1e6, 2),
        "left_mb": round(left / 1e6, 2),
        "digest": results[1]["digest"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dropping", description=__doc__)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=1, help="of each task")
    parser.add_argument("--seconds", type=float, default=0.1, help="that a block of the prediction takes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    for halo, ways in ((32, ("apart", "together", "dropped")), (128, ("dropped",))):
        for way in ways:
            with tempfile.TemporaryDirectory() as folder:
                shape = (arguments.length, 64, 64)
                settled = (shape, halo, way, arguments.workers, arguments.seconds)
                rows.append(measured(Path(folder) / "o", *settled))
            print(rows[-1], flush=True)
    if len({row["digest"] for row in rows}) != 1:
        raise SystemExit("the digests differ")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
