"""A first segmentation, from nothing to a score: make a worm, train a little, segment another worm, score it.

    python examples/01_first_segmentation.py [FOLDER] [--iterations 400]

400 iterations take about a minute on two cores; the more, the better the score.
"""

import argparse
import tempfile
from pathlib import Path

import nucseg as ns


def main(folder: Path, iterations: int) -> None:
    """The whole way in a dozen lines."""
    for name, seed in (("train", 1), ("test", 2)):
        ns.synthesize(folder / f"{name}.zarr", shape=(64, 88, 160), nuclei=320, seed=seed)

    config = ns.TrainConfig(scenario="three_label_cpv", data={"train": [folder / "train.zarr"]})
    trained = ns.train(config, folder / "run", iterations=iterations)
    print(f"trained {trained.iteration} iterations, {trained.seconds_per_iteration * 1e3:.0f} ms each")

    result = ns.run(str(folder / "test.zarr"), str(folder / "out.zarr"), str(folder / "run"))
    scores = ns.evaluate_paths(folder / "out.zarr", folder / "test.zarr")
    print(f"{result.nuclei} nuclei found, {scores.n_true} are there")
    print(f"AP at IoU .5 {scores.ap[0.5]:.2f}, mean over .1 to .9 {scores.av_ap:.2f}")
    print(f"look at {ns.report_folder(folder / 'out.zarr')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.mkdtemp(prefix="nucseg-")))
    parser.add_argument("--iterations", type=int, default=400)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    main(arguments.folder, arguments.iterations)
