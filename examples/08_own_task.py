"""A blockwise task of your own is one class (`own_task.py`); launchers, resuming, status and verify come with it.

    python examples/08_own_task.py VOLUME OUT [--sigma 1.5] [--workers 2]

The class lies in a module of its own, because workers import it by its name. Kill the script and start it again: it
goes on. `nucseg status OUT` says how far it is, `nucseg verify OUT --repair` makes damaged blocks again. Where one task
reads what another writes, `(first + second).blockwise(...)` does both in that order.
"""

import argparse

from own_task import Smooth

import nucseg as ns


def main(volume: str, out: str, sigma: float, workers: int) -> None:
    """Smooth a volume block by block."""
    result = Smooth(volume=volume, out=out, sigma=sigma).blockwise(ns.Local(workers=workers), log=print)
    print(
        f"{result['blocks']} blocks, {result['skipped']} of them done before; brightest voxel {result['brightest']:.4f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volume")
    parser.add_argument("out")
    parser.add_argument("--sigma", type=float, default=1.5)
    parser.add_argument("--workers", type=int, default=2)
    main(**vars(parser.parse_args()))
