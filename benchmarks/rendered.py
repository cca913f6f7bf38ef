"""A prediction of random nuclei, made block by block by a task in place of a network; workers import it."""

import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import PrivateAttr

from benchmarks.exactness import prediction_of
from nucseg.blockwise.grid import Block, Grid, Shape
from nucseg.blockwise.read_back import stored_files
from nucseg.blockwise.task import Task
from nucseg.instances.digest import array_digest
from nucseg.volume import Volume, create_image, open_volume

SIDE, TILE = 32, 64


class Render(Task):
    """`OUT/prediction`: a tile, mirrored from place to place so that nuclei go on over the faces."""

    name: ClassVar[str] = "predict"

    shape: Shape
    seconds: float = 0.0
    """That a block takes at least, as of a network."""

    _tile: np.ndarray = PrivateAttr()
    _array: Volume = PrivateAttr()

    def resolved(self) -> "Render":
        """Blocks of 32 voxels a side."""
        return self.model_copy(update={"block": (SIDE,) * 3})

    def inputs(self) -> dict[str, Any]:
        """None: all follows from the fields."""
        return {}

    def grid(self) -> Grid:
        """Blocks of the volume."""
        return Grid(self.shape, (SIDE,) * 3)

    def outputs(self) -> list[Path]:
        """The prediction."""
        return [self.written()]

    def written(self) -> Path:
        """The prediction."""
        return Path(self.out) / "prediction"

    def create(self) -> None:
        """Create it, empty."""
        create_image(
            self.written(),
            shape=(3, *self.shape),
            dtype="float32",
            scale_um=(0.2, 0.2, 0.2),
            axes="czyx",
            shards=(SIDE,) * 3,
        )

    def start_worker(self) -> None:
        """Make the tile."""
        case = {"random": 1, "levels": 0, "density": -3.0, "scenario": "three_label", "shape": (TILE,) * 3}
        self._tile = prediction_of(case)
        self._array = open_volume(self.written())

    def process(self, block: Block) -> dict[str, Any]:
        """Write one block. Returns its `digest` and how many bytes are `stored` of it."""
        ends = time.monotonic() + self.seconds
        flip = tuple(axis + 1 for axis, b in enumerate(block.begin) if b // TILE % 2)
        inside = tuple(slice(b % TILE, b % TILE + n) for b, n in zip(block.begin, block.shape, strict=True))
        data = np.ascontiguousarray(np.flip(self._tile, flip)[(slice(None), *inside)])
        self._array.write(block.begin, data)
        size = sum(path.stat().st_size for path in stored_files(self, block))
        time.sleep(max(0.0, ends - time.monotonic()))
        return {"digest": array_digest(data), "stored": size}

    def expected_memory(self) -> tuple[int, int]:
        """0.25 GiB."""
        return 2**28, 2**28

    def expected_output(self) -> int:
        """Three channels of 4 bytes."""
        return 12 * int(np.prod(self.shape))
