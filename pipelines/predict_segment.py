"""Predict, segment and measure a volume block by block; what a lab copies and changes.

    python pipelines/predict_segment.py VOLUME OUT RUN [--workers N] [--block Z Y X]

Segmentation begins while prediction goes on. The same command again goes on where it stopped. `nucseg run` does
the same.
"""

import argparse

import nucseg as ns


def main(volume: str, out: str, model: str, workers: int, block: tuple[int, int, int] | None) -> None:
    """Predict and segment together, then measure; a block of the prediction is deleted when nothing needs it any more.

    `keep=("predictions",)` in place of `keep=()` leaves the prediction on disk.
    """
    steps = (
        ns.Predict(volume=volume, out=out, model=model, block=block)
        + ns.Segment(out=out, block=block)
        + ns.Measure(volume=volume, out=out)
    )
    _, segmented, measured = steps.blockwise(ns.Local(workers=workers), log=print, keep=())
    print(f"{measured['nuclei']} nuclei, digest {segmented['digest']}, table {measured['table']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("volume", help="the raw image")
    parser.add_argument("out", help="output folder, a zarr group")
    parser.add_argument("model", help="a training run's folder")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--block", type=int, nargs=3, metavar=("Z", "Y", "X"))
    arguments = parser.parse_args()
    block = tuple(arguments.block) if arguments.block else None
    main(arguments.volume, arguments.out, arguments.model, arguments.workers, block)
