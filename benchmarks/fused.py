"""What it costs to store no prediction: runs of the network and seconds of `PredictAndSegment`, derived and measured.

`python -m benchmarks.fused RUN VOLUME [--tile N] [--halo N] [--blocks N ...]`: for each side of a block the labels are
made with a stored prediction and without; they are the same, or this ends with an error.
"""

import argparse
import tempfile
import time
from pathlib import Path

from nucseg.blockwise.fused import PredictAndSegment
from nucseg.blockwise.launch import Local
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.segment import Segment
from nucseg.network.model import TrainedModel


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fused", description=__doc__)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("volume", metavar="VOLUME")
    parser.add_argument("--tile", type=int, default=32)
    parser.add_argument("--halo", type=int, default=16)
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 64])
    arguments = parser.parse_args()
    here, tile = Local(workers=0), (arguments.tile,) * 3
    model = {"volume": arguments.volume, "model": arguments.run, "encoding": "float32"}
    print("| block | derived network | measured network | voxels read | largest halo | stored s | fused s |")
    print("|---|---|---|---|---|---|---|")
    _ = TrainedModel.load(arguments.run).keras  # the library's start is no part of it
    with tempfile.TemporaryDirectory(prefix="nucseg-fused-") as place:
        for side in arguments.blocks:
            block, stored = (side,) * 3, str(Path(place) / f"stored{side}")
            started = time.process_time()
            Predict(**model, out=stored, block=tile).blockwise(here)
            wanted = Segment(out=stored, block=block, halo=arguments.halo).blockwise(here)
            between = time.process_time()
            out = str(Path(place) / f"fused{side}")
            task = PredictAndSegment(**model, out=out, block=block, tile=tile, halo=arguments.halo)
            found = task.blockwise(here)
            ended = time.process_time()
            if found["digest"] != wanted["digest"]:
                raise SystemExit(f"other labels: {found['digest']}, not {wanted['digest']}")
            network, read = task.resolved().cost()
            print(
                f"| {side} | {network:.2f} | {found['network_factor']:.2f} | {read:.2f} | {found['largest_halo']} "
                f"| {between - started:.0f} | {ended - between:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
