"""Points from a prediction, block by block, exactly as from the whole volume."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import PrivateAttr, field_validator

from nucseg.blockwise.grid import Block, Grid, Shape, clipped, default_block
from nucseg.blockwise.point_table import table_files, write_points
from nucseg.blockwise.presence import Presence
from nucseg.blockwise.records import Records, identity
from nucseg.blockwise.source import checked_scenario, is_written_by, settled_prediction
from nucseg.blockwise.task import Task
from nucseg.blockwise.values import check_prediction, check_values, usable
from nucseg.heads.scenario import PointDecoding, Scenario
from nucseg.instances.detection import local_maxima
from nucseg.volume import Volume, open_volume


class Detect(Task):
    """`OUT/tables/points`, one row a nucleus, from a prediction; for a given prediction the same for every block.

    Columns: `id`, the linear index of the point's voxel in the volume, + 1, ascending; `z, y, x` in voxels, and
    `z_um, y_um, x_um` where the voxel size is known; `score`, the height of the peak, or votes per voxel.
    """

    name: ClassVar[str] = "detect"

    prediction: str | None = None
    """A prediction (c, z, y, x), values after the activation; None is OUT/prediction."""
    scenario: Scenario | None = None
    """The heads that its channels follow, or their name; None: what the prediction says."""
    decoding: PointDecoding | None = None
    """Source, threshold and window; None: those selected for the model, else the heads' defaults."""

    _volume: Volume = PrivateAttr()
    _presence: Presence | None = PrivateAttr(None)

    @field_validator("scenario", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return Scenario.named(value) if isinstance(value, str) else value

    @property
    def source(self) -> str:
        """Path of the prediction."""
        return self.prediction or str(Path(self.out) / "prediction")

    def resolved(self) -> Self:
        """See `Task.resolved`: prediction, scenario, decoding and block are settled.

        Raises:
            InputError: No prediction, an incomplete one, or one that the scenario or the decoding does not fit.
        """
        done = Records(self.out, self.name).complete()
        return self._resolved(settled_prediction(self.out, self.prediction, self.name), sampled=not done)

    def following(self, earlier: "Sequence[Task]") -> tuple[Self, int] | None:
        """See `Task.following`: block by block behind what writes its prediction."""
        if not is_written_by(self.out, self.prediction, earlier):
            return None
        task = self._resolved(None, sampled=False)
        scenario, decoding = task._settled()
        return task, max(decoding.distance, scenario.point_context(decoding))

    def _resolved(self, prediction: str | None, *, sampled: bool) -> Self:
        task = self.model_copy(update={"prediction": prediction})
        volume = open_volume(task.source)
        scenario, origin = checked_scenario(volume, task.source, task.scenario)
        decoding = task.decoding or origin.points or scenario.default_point_decoding()
        scenario.check_points(decoding)
        check_prediction(volume, task.source, scenario, decoding.reach or 0, sampled=sampled)
        return task.model_copy(
            update={
                "scenario": scenario,
                "decoding": decoding,
                "block": clipped(task.block or default_block(volume.shape), volume.shape),
            }
        )

    def inputs(self) -> dict[str, Any]:
        """The prediction: the run that made it, or its file's identity."""
        head = None if self.prediction else Records(self.out, "predict").head()
        return {"prediction": head["hash"] if head else identity(self.source)}

    def grid(self) -> Grid:
        """Blocks of the volume."""
        shape = open_volume(self.source).shape
        return Grid(shape, self.block or default_block(shape))

    def outputs(self) -> list[Path]:
        """Both files of the table."""
        return table_files(self.out)

    def create(self) -> None:
        """Nothing: the table is written when all blocks are done."""

    def start_worker(self) -> None:
        """Open the prediction."""
        self._volume = open_volume(self.source)
        self._presence = Presence.of(self._volume)

    def process(self, block: Block) -> dict[str, Any]:
        """Find the points of one block. Returns `points`, voxels z,y,x of the volume, and their `scores`.

        Voxels that are no number are background; `nonfinite` counts those of the block.
        """
        scenario, decoding = self._settled()
        volume = self._volume.shape
        seen = block.grown(decoding.distance, volume)
        read = block.grown(scenario.point_context(decoding), volume)
        if self._presence:
            self._presence.check(read)
        data = self._volume.read(read.begin, read.shape)
        data = (data if data.ndim == 4 else data[None]).astype(np.float32, copy=False)
        check_values(self.source, data, scenario)
        data, finite = usable(data)
        scores = scenario.score_map(data, decoding)
        nonfinite = 0
        if finite is not None:
            scores = np.where(finite, scores, -np.inf)
            nonfinite = int(np.count_nonzero(~finite[block.inside(read)]))
        scores = scores[seen.inside(read)]
        found = local_maxima(scores, decoding.threshold, decoding.distance, block.inside(seen))
        return {
            "points": (found.points + np.array(seen.begin)).tolist(),
            "scores": found.scores.astype(np.float64).tolist(),
            "nonfinite": nonfinite,
        }

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Write the table.

        Returns `nuclei`, its rows, `digest`, of places and scores, `table`, its path, and `nonfinite`.
        """
        volume = open_volume(self.source)
        points = np.array([p for block in blocks for p in block["points"]], np.int64).reshape(-1, 3)
        scores = np.array([s for block in blocks for s in block["scores"]], np.float64)
        ids = np.asarray(np.ravel_multi_index(tuple(points.T), volume.shape), np.uint64) + np.uint64(1)
        order = np.argsort(ids)
        table = write_points(self.out, volume, ids[order], points[order].astype(np.float64), scores[order])
        return {**table, "nonfinite": sum(block.get("nonfinite", 0) for block in blocks)}

    def expected_memory(self) -> tuple[int, int]:
        """See `memory_for`."""
        return self.memory_for(self._settled()[0], self.grid().volume)

    def memory_for(self, scenario: Scenario, volume: Shape) -> tuple[int, int]:
        """Bytes of a worker for a volume of this shape.

        Voxels read times 4 bytes a channel and 40 for scores and votes, and 0.3 GiB.
        """
        margin = 2 * scenario.point_context(self.decoding or scenario.default_point_decoding())
        block = self.block or default_block(volume)
        voxels = prod(min(b + margin, n) for b, n in zip(block, volume, strict=True))
        size = voxels * (4 * scenario.channels + 40) + 3 * 2**30 // 10
        return size, size

    def expected_output(self) -> int:
        """Unknown before the nuclei are counted, and small."""
        return 0

    def elsewhere(self, out: str) -> Self:
        """See `Task.elsewhere`; the prediction stays where it is."""
        return self.model_copy(update={"out": out, "prediction": self.source})

    def _settled(self) -> tuple[Scenario, PointDecoding]:
        if self.scenario is None or self.decoding is None:
            raise ValueError("call resolved() first")
        return self.scenario, self.decoding
