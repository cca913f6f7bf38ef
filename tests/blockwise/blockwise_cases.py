"""Predictions and tasks that the blockwise tests share; workers import it too."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter

from nucseg.blockwise.grid import Block, Grid
from nucseg.blockwise.records import Records
from nucseg.blockwise.task import BlockRefused, Task
from nucseg.errors import InputError
from nucseg.instances.digest import array_digest
from nucseg.volume import create_image, open_volume


def random_prediction(
    shape: tuple[int, int, int], seed: int, scenario: str = "three_label", levels: int = 0, density: float = 0
) -> np.ndarray:
    """Smooth random maps, (c, z, y, x) float32, of nuclei that merge; rounded to `levels`, to have ties."""
    rng = np.random.default_rng(seed)
    height = gaussian_filter(rng.standard_normal(shape), 2.0, mode="nearest")
    height = 1 / (1 + np.exp(-(height / max(height.std(), 1e-9) * 2 + density)))
    if levels:
        height = np.round(height * levels) / levels
    channels = [1 - height, height**2, height * (1 - height)]
    if scenario == "three_label_cpv":
        for _ in range(3):
            vector = gaussian_filter(rng.standard_normal(shape), 2.0, mode="nearest")
            channels.append(np.round(vector / max(vector.std(), 1e-9) * 4) / 2)  # halves: ties in rounding
    return np.stack(channels).astype(np.float32)


def balls(shape: tuple[int, int, int], centers: list[tuple[int, int, int]], radius: int) -> np.ndarray:
    """A three-label prediction (3, z, y, x) of balls: interior, a boundary of one voxel, background."""
    grid = np.indices(shape)
    distance = np.min(
        [np.sqrt(((grid - np.array(c)[:, None, None, None]) ** 2).sum(0)) for c in centers], axis=0
    )
    inside, near = distance <= radius - 1, distance <= radius
    parts = [~near, inside, near & ~inside]
    slope = 0.001 * distance
    return np.stack([0.05 + 0.9 * part - slope * (i == 1) for i, part in enumerate(parts)]).astype("f4")


def save_prediction(path: Path, prediction: np.ndarray) -> str:
    """Write a prediction as a bare array, .npy, or as an OME-Zarr image of voxels 0.2 x 0.1 x 0.1 um."""
    if path.suffix == ".npy":
        np.save(path, prediction)
    else:
        shape, scale = prediction.shape, (0.2, 0.1, 0.1)
        axes = ("c", "z", "y", "x")
        volume = create_image(
            path, shape=shape, dtype=prediction.dtype, scale_um=scale, axes=axes, shards=shape[1:]
        )
        volume.write((0, 0, 0), prediction)
    return str(path)


def labels_of(out: Path) -> np.ndarray:
    """All labels of an OUT."""
    return open_volume(out / "labels" / "nuclei").read()


class Doubled(Task):
    """A lab's own task: twice the input, in blocks of 4; one block fails if asked to."""

    name: ClassVar[str] = "doubled"

    volume: str
    bad: tuple[int, int, int] | None = None
    how: str = "raise"

    def resolved(self) -> "Doubled":
        open_volume(self.volume)
        return self.model_copy(update={"block": self.block or (4, 4, 4)})

    def inputs(self) -> dict[str, Any]:
        return {}

    def grid(self) -> Grid:
        return Grid(open_volume(self.volume).shape, self.block or (4, 4, 4))

    def outputs(self) -> list[Path]:
        return [Path(self.out) / "doubled"]

    def create(self) -> None:
        shape, block = open_volume(self.volume).shape, self.block
        create_image(self.outputs()[0], shape=shape, dtype="int32", scale_um=None, shards=block, chunks=block)

    def start_worker(self) -> None:
        if self.how == "no start":
            raise InputError("weights", expected="some", received="none", remedy="train")

    def process(self, block: Block) -> dict[str, Any]:
        if block.index == self.bad and self.how == "refuse":
            raise BlockRefused("too hard")
        if block.index == self.bad and self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if block.index == self.bad:
            raise RuntimeError("no luck")
        data = open_volume(self.volume).read(block.begin, block.shape)
        open_volume(self.outputs()[0]).write(block.begin, 2 * data)
        return {"sum": int(data.sum())}

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"sum": sum(block["sum"] for block in blocks)}

    def expected_memory(self) -> tuple[int, int]:
        return 2**20, 2**21

    def expected_output(self) -> int:
        return 4 * 10**3


def random_raw(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A smooth random image, float32, (z, y, x) or (c, z, y, x)."""
    sigma = (0,) * (len(shape) - 3) + (1.5,) * 3
    data = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return (1000 * data).astype(np.float32)


def save_raw(path: Path, data: np.ndarray) -> str:
    """Write an image of voxels 0.2 x 0.1 x 0.1 um as OME-Zarr."""
    axes = ("c", "z", "y", "x")[-data.ndim :]
    shards = data.shape[-3:]
    volume = create_image(
        path, shape=data.shape, dtype=data.dtype, scale_um=(0.2, 0.1, 0.1), axes=axes, shards=shards
    )
    volume.write((0, 0, 0), data)
    return str(path)


class Maps(Task):
    """`OUT/prediction`, copied from maps in a file, in place of a network.

    A block with index `bad` fails as long as the file `bad` is there beside the maps; the last block waits until
    `patience` seconds are over or the task `until` has done a block.
    """

    name: ClassVar[str] = "predict"

    maps: str
    bad: tuple[int, int, int] | None = None
    until: str | None = None
    patience: float = 100.0

    def resolved(self) -> "Maps":
        return self.model_copy(update={"block": self.block or (8, 8, 8)})

    def inputs(self) -> dict[str, Any]:
        return {"maps": str(self.maps)}

    def grid(self) -> Grid:
        return Grid(open_volume(self.maps).shape, self.block or (8, 8, 8))

    def outputs(self) -> list[Path]:
        return [self.written()]

    def written(self) -> Path:
        return Path(self.out) / "prediction"

    def create(self) -> None:
        shape, axes = (open_volume(self.maps).channels, *self.grid().volume), ("c", "z", "y", "x")
        create_image(
            self.written(),
            shape=shape,
            dtype="float32",
            scale_um=(0.2, 0.1, 0.1),
            axes=axes,
            shards=self.grid().block,
            chunks=self.grid().block,
        )

    def process(self, block: Block) -> dict[str, Any]:
        if block.index == self.bad and Path(self.maps).with_name("bad").exists():
            raise BlockRefused("no luck")
        if self.until and block == list(self.grid())[-1]:
            end = time.monotonic() + self.patience
            while not Records(self.out, self.until).read()[0]:
                if time.monotonic() > end:
                    raise BlockRefused(f"{self.until} has not begun")
                time.sleep(0.02)
        data = open_volume(self.maps).read(block.begin, block.shape)
        open_volume(self.written()).write(block.begin, data)
        return {"digest": array_digest(data)}

    def expected_memory(self) -> tuple[int, int]:
        return 2**20, 2**20

    def expected_output(self) -> int:
        return 12 * self.grid()[0, 0, 0].voxels * len(self.grid())


def rows_of_balls(path: Path, length: int) -> str:
    """Maps of balls of radius 3 in a volume (length, 18, 22), two of them in a row, as .npy."""
    centers = [(z, 4 + (z * 5) % 9, 5 + (z * 7) % 11) for z in range(5, length - 3, 5)]
    return save_prediction(path, balls((length, 18, 22), centers, 3))
