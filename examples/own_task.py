"""A blockwise task of a lab: one class, in a module that workers can import."""

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import PrivateAttr
from scipy.ndimage import gaussian_filter

import nucseg as ns
from nucseg.blockwise.records import identity
from nucseg.instances.digest import array_digest


class Smooth(ns.Task):
    """`OUT/smooth`: an image smoothed by a Gaussian, the same for every block: each reads what it needs around it."""

    name: ClassVar[str] = "smooth"  # of its records in OUT/.nucseg

    # The settings. They are written to a job file, from which workers make the task again, and to the records: the same
    # command goes on where it stopped, another setting is refused unless overwrite is given.
    volume: str
    sigma: float = 1.5
    """Voxels."""

    _raw: Any = PrivateAttr()
    _smooth: Any = PrivateAttr()

    # Once, in the process that drives

    def resolved(self) -> Self:
        """Every choice made: here the block."""
        return self.model_copy(
            update={"volume": str(Path(self.volume).resolve()), "block": self.block or (64, 64, 64)}
        )

    def inputs(self) -> dict[str, Any]:
        """What it reads: another file is another run."""
        return {"volume": identity(self.volume)}

    def grid(self) -> ns.Grid:
        """Its blocks."""
        return ns.Grid(ns.open_volume(self.volume).shape, self.block or (64, 64, 64))

    def outputs(self) -> list[Path]:
        """What it makes, and overwrite deletes."""
        return [self.written()]

    def written(self) -> Path:
        """The array of which `process` returns the digest of each block: `nucseg verify` checks and repairs it."""
        return Path(self.out) / "smooth"

    def create(self) -> None:
        """The output, empty; a shard a block, so that no two workers write one file."""
        raw, block = ns.open_volume(self.volume), self.grid().block
        ns.create_image(self.written(), shape=raw.shape, dtype="float32", scale_um=raw.scale_um, shards=block)

    def expected_memory(self) -> tuple[int, int]:
        """Bytes of a worker, for most blocks and for the largest; the preflight compares it with what there is."""
        size = 2**28 + 4 * 8 * int(np.prod([side + 2 * self._margin() for side in self.grid().block]))
        return size, size

    def expected_output(self) -> int:
        """Bytes on disk, before compression."""
        return 4 * int(np.prod(self.grid().volume))

    # In each worker

    def start_worker(self) -> None:
        """What all blocks share."""
        self._raw, self._smooth = ns.open_volume(self.volume), ns.open_volume(self.written())

    def process(self, block: ns.Block) -> dict[str, Any]:
        """One block: read, compute, write. It may be done twice or late, so it has to come out the same each time."""
        seen = block.grown(self._margin(), self._raw.shape)
        raw = self._raw.read(seen.begin, seen.shape).astype(np.float32)
        smooth = gaussian_filter(raw, self.sigma, mode="nearest", radius=self._margin())[block.inside(seen)]
        self._smooth.write(block.begin, smooth)
        return {"digest": array_digest(smooth), "brightest": float(smooth.max())}

    # In the driver again, when all blocks are done

    def finish(self, blocks: Any) -> dict[str, Any]:
        """Add up what `process` returned."""
        return {"brightest": max(block["brightest"] for block in blocks)}

    def _margin(self) -> int:
        return int(4 * self.sigma + 0.5)
