"""Instances from a volume and a trained network, block by block, without a prediction on disk.

A block predicts its core with a halo in memory and segments it as `Segment` does; where the halo has to grow, more is
predicted. What two blocks read is predicted twice: see `PredictAndSegment.cost`, and docs/disk.md.
"""

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import PrivateAttr

from nucseg.blockwise.encoding import check_vectors
from nucseg.blockwise.grid import Block, Grid, Shape, clipped, default_block
from nucseg.blockwise.mask import Mask
from nucseg.blockwise.predict import Predict, known_intensity
from nucseg.blockwise.predictor import COUNTS
from nucseg.blockwise.records import Records
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.task import Task
from nucseg.blockwise.tiles import Lattice, PredictedTiles, best_lattice, tiles_touched
from nucseg.blockwise.values import check_halo, check_thresholds
from nucseg.errors import InputError
from nucseg.network.mirrors import Mirrors
from nucseg.storage.encoding import Encoding, Kind
from nucseg.volume import Volume, open_volume


class PredictAndSegment(Segment):
    """Labels `OUT/labels/nuclei` from a volume and a training run; no prediction is stored.

    The labels are those of `Predict` with this encoding and `Segment` after it, as long as the network's library gives
    a voxel the same value wherever in a tile it lies: TensorFlow on CPUs does, bit by bit. With `offset` (0, 0, 0) the
    tiles are those of `Predict` with `tile` as its block, and nothing is left to the library. Either way every block
    has the same tiles, so the labels do not depend on blocks, workers and halos.
    """

    # The name is that of Segment, which writes the same labels: one of the two, never a mixture.
    network: ClassVar[bool] = True

    volume: str
    """The raw image."""
    model: str
    """Folder of a training run."""
    checkpoint: int | None = None
    """See `Predict.checkpoint`, and so on."""
    channel: int | None = None
    intensity: tuple[float, float] | None = None
    measured: bool = False
    mirrors: Mirrors | None = None
    encoding: Encoding | Kind | None = None
    """What a stored prediction would be rounded to: tiles are kept so in memory; see `Predict.encoding`."""
    reach: int | None = None
    mask: Mask | None = None
    tile: Shape | None = None
    """Voxels that the network predicts in one go; None: as `Predict` chooses its block."""
    offset: Shape | None = None
    """Where the first tile begins, a multiple of the pooling; None: where blocks touch the fewest tiles."""

    _tiles: PredictedTiles = PrivateAttr()

    @property
    def source(self) -> str:
        """What messages call the prediction."""
        return f"prediction of {self.volume}"

    def resolved(self) -> Self:
        """See `Task.resolved`: all of `Predict` and `Segment`, and the lattice of tiles.

        Raises:
            InputError: No volume, no model, one that finds points only, or thresholds and an offset that do not fit.
        """
        if self.prediction is not None or self.scenario not in (None, self._predict().trained().scenario):
            raise InputError(
                "prediction",
                expected="none, nor a scenario: both are made from the model",
                received=str(self.prediction or self.scenario),
                remedy="segment a prediction with Segment",
            )
        predict = self._measured().resolved()
        model, volume = predict.trained(), self._space().shape
        decoding = self.decoding or model.decoding or model.scenario.default_decoding()
        model.scenario.check_decoding(decoding)
        check_thresholds(model.scenario, decoding)
        check_halo(decoding, self.max_halo)
        encoding = predict.encoding
        if isinstance(encoding, Encoding):
            check_vectors(encoding, self.source, model.scenario, decoding.reach)
        names = (
            "volume",
            "model",
            "checkpoint",
            "intensity",
            "measured",
            "mirrors",
            "encoding",
            "reach",
            "mask",
        )
        task = self.model_copy(
            update={
                **{name: getattr(predict, name) for name in names},
                "scenario": model.scenario,
                "decoding": decoding,
                "tile": predict.block,
                "block": clipped(self.block or default_block(volume), volume),
                "halo": min(max(self.halo, decoding.dilate), self.max_halo),
                "whole": self.whole or self.engine == "mahotas",
            }
        )
        best = best_lattice(task.grid(), task._margin(task.halo), task._tile(), model.pooling).offset
        offset = best if self.offset is None else self.offset
        for begin, side, step in zip(offset, task._tile(), model.pooling, strict=True):
            if not 0 <= begin < side or begin % step:
                raise InputError(
                    "offset",
                    expected=f"multiples of the pooling {model.pooling}, below the tile {task._tile()}",
                    received=str(offset),
                    remedy="correct it, or leave it out",
                )
        return task.model_copy(update={"offset": offset})

    def following(self, earlier: "Sequence[Task]") -> tuple[Self, int] | None:
        """Behind no task: its input is the volume."""
        return None

    def inputs(self) -> dict[str, Any]:
        """The volume's file and the model's hash."""
        return self._predict().inputs()

    def check_worker(self) -> None:
        """See `Predict.check_worker`."""
        self._predict().check_worker()

    def start_worker(self) -> None:
        """Open volume and labels, and load the network, once."""
        self._volume = self._tiles = PredictedTiles(self._predict().predictor(), self._lattice())
        self._labels = open_volume(Path(self._target()) / "labels" / "nuclei")

    def process(self, block: Block) -> dict[str, Any]:
        """As `Segment.process`; also returns what `Predict` does of its tiles, and `tiles` predicted.

        Raises:
            BlockRefused: An object reaches beyond the largest halo.
            InputError: The network gives NaN.
        """
        before = self._tiles.predicted
        self._tiles.keep(block.grown(self._margin(self.halo), self._tiles.shape))
        result = super().process(block) | self._tiles.counts(block)
        return result | {"tiles": self._tiles.predicted - before}

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """As `Segment.finish`; also sums of `predictor.COUNTS`, and `network_factor`, see `cost`, as it came out."""
        counts = {key: sum(block[key] for block in blocks) for key in (*COUNTS, "tiles")}
        factor = counts.pop("tiles") / self._tiles_of_predict()
        return super().finish(blocks) | counts | {"network_factor": factor}

    def cost(self) -> tuple[float, float]:
        """What it costs to store no prediction, of a resolved task.

        Returns:
            How many times as often as `Predict` with the same tile the network runs, if each block predicts all that it
            reads with the first halo; and how many voxels a block reads for each that it writes. A worker whose
            blocks are neighbours saves tiles, blocks whose halo grows need more. Along each axis both are about
            (block + 2 margin) / block, the former rounded up to whole tiles.
        """
        grid, margin = self.grid(), self._margin(self.halo)
        read = 1.0
        for length, side in zip(grid.volume, grid.block, strict=True):
            begins = range(0, length, side)
            read *= sum(min(length, b + side + margin) - max(0, b - margin) for b in begins) / length
        return tiles_touched(self._lattice(), grid, margin)[0] / self._tiles_of_predict(), read

    def expected_memory(self) -> tuple[int, int]:
        """The network's, the tiles that a block touches as they are encoded, and what `Segment` takes."""
        predict = self._predict()
        scenario, _ = self._settled()
        network = predict.expected_memory()[0]
        itemsize = predict.encoding.itemsize if isinstance(predict.encoding, Encoding) else 4
        sizes = []
        for halo, segment in zip((self.halo, self.max_halo), super().expected_memory(), strict=True):
            most = tiles_touched(self._lattice(), self.grid(), self._margin(halo))[1]
            sizes.append(network + segment + most * prod(self._tile()) * scenario.channels * itemsize)
        return sizes[0], sizes[1]

    def _margin(self, halo: int) -> int:
        """Voxels that are read around a block."""
        _, decoding = self._settled()
        return decoding.context + (decoding.dilate if decoding.seeds == "vectors" else halo)

    def _lattice(self) -> Lattice:
        return Lattice(self.grid().volume, self._tile(), self.offset or (0, 0, 0))

    def _tile(self) -> Shape:
        if self.tile is None:
            raise ValueError("call resolved() first")
        return self.tile

    def _tiles_of_predict(self) -> int:
        return len(Grid(self.grid().volume, self._tile()))

    def _space(self) -> Volume:
        return open_volume(self.volume, channel=self.channel)

    def _predict(self) -> Predict:
        """The prediction that is not stored; its block is the tile."""
        names = (
            "volume",
            "model",
            "checkpoint",
            "channel",
            "intensity",
            "measured",
            "mirrors",
            "encoding",
            "reach",
            "mask",
        )
        return Predict(out=self.out, block=self.tile, **{name: getattr(self, name) for name in names})

    def _measured(self) -> Predict:
        """The same with the intensities that an earlier run measured, if there is one: it takes long."""
        predict = self._predict()
        if predict.intensity is None and predict.trained().normalize is not None:
            known = known_intensity(Records(self.out, self.name), predict.inputs(), self.channel)
            return predict.model_copy(update={"intensity": known, "measured": known is not None})
        return predict


def fused(predict: Predict, segment: Segment) -> PredictAndSegment:
    """One task for both that stores no prediction.

    Args:
        predict: What is predicted; its block is not used.
        segment: How it is segmented, of OUT/prediction.

    Raises:
        InputError: They have not the same OUT.
    """
    if predict.out != segment.out:
        raise InputError(
            "out",
            expected=f"{predict.out}, as the prediction's",
            received=segment.out,
            remedy="give both the same",
        )
    fields = predict.model_dump(exclude={"block"}) | segment.model_dump(exclude={"scenario"})
    return PredictAndSegment(**fields)


def fused_tasks(
    predict: Predict,
    tasks: tuple[Task, ...],
    *,
    overwrite: bool = False,
    check: Callable[[Task], object] | None = None,
    log: Callable[[str], None] | None = None,
) -> tuple[Task, ...]:
    """The tasks behind a prediction, the segmentation with the prediction in it and prepared.

    Args:
        predict: The prediction, which is not stored.
        tasks: The segmentation, and what follows.
        overwrite: See `Task.prepared`.
        check: See there.
        log: Takes a line about what it costs.

    Raises:
        InputError: The first of them does not segment, or inputs or OUT do not fit.
    """
    first, *others = tasks
    if not isinstance(first, Segment):
        raise InputError(
            "fused",
            expected="a model that segments",
            received=f"one that finds points ({first.name})",
            remedy="leave it out: the prediction is stored",
        )
    task = fused(predict, first).prepared(overwrite=overwrite, check=check)
    if log:
        network, read = task.cost()
        log(
            f"segment: no prediction is stored. Blocks with their surroundings touch {network:.2f} times as many tiles "
            f"of {' x '.join(map(str, task.tile or ()))} voxels as the volume has: the network runs up to that many "
            "times (less where one worker does neighbours, more where a halo grows); it reads each voxel "
            f"{read:.2f} times"
        )
    return (task, *others)
