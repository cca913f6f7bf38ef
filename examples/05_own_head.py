"""A lab's own head in one class, checked, trained beside the centre vectors, predicted and segmented.

    python examples/05_own_head.py [FOLDER] [--iterations 150]

The class is in examples/foreground.py. After 150 iterations, seconds of training, nearly all of these easy nuclei are
found. Far fewer find none: the network calls every voxel background first, as most of the volume is.
"""

import argparse
import tempfile
from pathlib import Path

from foreground import Foreground

import nucseg as ns
from nucseg.testing import check_head


def main(folder: Path, iterations: int) -> None:
    """Check the head, then train and segment with it as with any other."""
    check_head(Foreground())
    print("Foreground keeps the contract of a head")

    for name, seed in (("train", 1), ("test", 2)):
        ns.synthesize(folder / f"{name}.zarr", shape=(48, 64, 96), nuclei=60, seed=seed, difficulty="easy")

    scenario = ns.Scenario([Foreground(), ns.CenterVectors()])
    config = ns.TrainConfig(
        scenario=scenario,
        network="tiny",
        data={"train": [folder / "train.zarr"]},
        patch={"output": (24, 24, 24), "min_foreground": 0.05},
        optimizer={"learning_rate": 4e-3},
        workers=0,
        tensorboard=False,
    )
    trained = ns.train(config, folder / "run", iterations=iterations)
    print(f"trained {trained.iteration} iterations of {scenario.name}, loss {trained.loss:.2f}")

    result = ns.run(
        str(folder / "test.zarr"),
        str(folder / "out.zarr"),
        str(folder / "run"),
        launcher=ns.Local(workers=0),
        seeds="votes",
        seed_threshold=1.0,
    )
    scores = ns.evaluate_paths(folder / "out.zarr", folder / "test.zarr")
    print(f"{result.nuclei} nuclei found, {scores.n_true} are there; AP at IoU .3 {scores.ap[0.3]:.2f}")
    if not result.nuclei:
        print("no voxel is more likely nucleus than not yet: train longer (--iterations 150)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.mkdtemp(prefix="nucseg-")))
    parser.add_argument("--iterations", type=int, default=150)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    main(arguments.folder, arguments.iterations)
