"""Small training data and short trainings for the tests of the network."""

import gunpowder as gp
import numpy as np

from nucseg.heads.scenario import Scenario
from nucseg.network.optimizer import Optimizer
from nucseg.network.train import KerasTrain
from nucseg.network.unet import unet

RAW, LABELS = gp.ArrayKey("RAW"), gp.ArrayKey("LABELS")
SCENARIO = Scenario.named("three_label_cpv")
OUTPUT = (12, 12, 12)


class Patches(gp.BatchProvider):
    """Random raw, targets and weights; batch i depends on i only, as behind a seeded PreCache.

    Arrays whose key contains `bad` have NaN in the second batch.
    """

    def __init__(self, train: KerasTrain, start: int = 0, raw_channels: int = 0, bad: str = ""):
        self.train, self.next, self.raw_channels, self.bad = train, start, raw_channels, bad

    def setup(self):
        for key in self.train.inputs.values():
            roi = gp.Roi((0, 0, 0), (None,) * 3)
            self.provides(key, gp.ArraySpec(roi=roi, voxel_size=(1, 1, 1), interpolatable=False))

    def provide(self, request):
        rng = np.random.default_rng(self.next)
        batch = gp.Batch()
        for key, spec in request.array_specs.items():
            shape = tuple(spec.roi.shape)
            full = gp.ArraySpec(roi=spec.roi.copy(), voxel_size=(1, 1, 1))
            if key == RAW:
                data = rng.random((self.raw_channels, *shape) if self.raw_channels else shape, np.float32)
            elif key == LABELS:
                data = rng.integers(0, 3, shape).astype(np.uint64)
            elif "TARGET" in str(key):
                vectors = "CPV" in str(key)
                data = rng.random((3, *shape)) if vectors else rng.integers(0, 3, (1, *shape))
                data = data.astype(np.float32)
            else:
                data = rng.integers(0, 2, shape).astype(np.float32)
            if self.next == 1 and self.bad and self.bad in str(key):
                data[..., 0] = np.nan
            batch[key] = gp.Array(data, full, {"scale_um": (0.3, 0.1, 0.1)})
        self.next += 1
        return batch


def train(folder, steps, *, network=None, batch=None, raw_channels=0, bad="", **options):
    """Train for a number of steps; returns the node and the losses."""
    settings = {"iterations": 6, "optimizer": Optimizer(warmup=2), "checkpoint_every": 3, "seed": 5}
    node = KerasTrain(SCENARIO, network or unet("tiny"), raw=RAW, folder=folder, **{**settings, **options})
    pipeline = Patches(node, node.iteration * (batch or 1), raw_channels, bad)
    pipeline = (pipeline + gp.Stack(batch) if batch else pipeline) + node
    losses = []
    with gp.build(pipeline):
        for _ in range(steps):
            losses.append(pipeline.request_batch(node.request(OUTPUT)).loss)
    return node, losses
