"""A lab's own augmentation node: fluorescence that bleaches along the depth of the stack.

An augmentation is a class with one method. It works in any gunpowder pipeline, and one call checks it.

    python examples/02_own_augmentation.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import gunpowder as gp
import numpy as np

import nucseg as ns
from nucseg.testing import check_node


class Bleaching(ns.ArrayAugment):
    """Planes imaged later are darker: brightness falls exponentially along z, by up to `most` at the end."""

    def __init__(self, array: gp.ArrayKey, *, most: float = 0.6, p: float = 1.0) -> None:
        super().__init__(array, p=p)
        self.most = most

    def augment(self, data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Multiply each plane by what is left of the light."""
        end = np.log(1 - rng.uniform(0, self.most))
        depth = np.linspace(0, end, data.shape[-3], dtype=data.dtype)
        return data * np.exp(depth)[:, None, None]


def main(folder: Path) -> None:
    worm = folder / "worm.zarr"
    ns.synthesize(worm, shape=(48, 64, 96), nuclei=80, seed=1)

    raw, labels = gp.ArrayKey("RAW"), gp.ArrayKey("LABELS")
    scenario = ns.Scenario([ns.ThreeLabel(), ns.CenterVectors()])
    vectors = ns.target_keys(scenario)["cpv"]
    pipeline = (
        ns.VolumeSource(worm, {raw: "image", labels: "labels/nuclei"})
        + ns.RandomPatch((32, 32, 32))
        + ns.Deform(raw, labels, rotation_deg=30, jitter=1.0)
        + Bleaching(raw, most=0.6)
        + ns.AddTargets(labels, scenario, margin=16)
    )
    request = gp.BatchRequest(random_seed=7)
    request[raw] = gp.ArraySpec(roi=gp.Roi((0, 0, 0), (40, 40, 40)))
    request[vectors] = gp.ArraySpec(roi=gp.Roi((4, 4, 4), (32, 32, 32)))
    with gp.build(pipeline):
        batch = pipeline.request_batch(request)
    planes = batch[raw].data.mean(axis=(1, 2))
    print(
        f"raw {batch[raw].data.shape}, mean brightness of the first plane {planes[0]:.2f}, last {planes[-1]:.2f}"
    )
    print(
        f"vectors {batch[vectors].data.shape}, longest {np.linalg.norm(batch[vectors].data, axis=0).max():.1f} voxels"
    )

    check_node(Bleaching)
    print("Bleaching keeps the contract of an augmentation node")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
