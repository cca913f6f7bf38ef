"""Instances from a prediction, block by block, exactly as from the whole volume.

Every block reads its core with a halo, floods it against an adversary that stands for all it cannot see, and
knows from that whether its labels are those of the whole volume; if not, it tries again with twice the halo.
Ids are places in the whole volume, so there is nothing to merge afterwards. See `nucseg.instances.watershed`.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PrivateAttr, field_validator

from nucseg.blockwise.across_blocks import count_instances
from nucseg.blockwise.compact import Compact
from nucseg.blockwise.flooding import HALO, certified, decoded
from nucseg.blockwise.grid import Block, Box, Grid, Shape, chunk_shape, clipped, default_block
from nucseg.blockwise.labels import label_bytes, label_dtype, labels_records, stored_label_digest
from nucseg.blockwise.presence import Presence
from nucseg.blockwise.records import Records, identity
from nucseg.blockwise.sift import UNSIFTED, Sift, second_pass
from nucseg.blockwise.source import Readable, checked_scenario, is_written_by, settled_prediction
from nucseg.blockwise.task import Task
from nucseg.blockwise.values import (
    check_halo,
    check_prediction,
    check_thresholds,
    check_values,
    usable,
)
from nucseg.errors import InputError
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.instances.centroids import centroids
from nucseg.instances.digest import block_digest, combine
from nucseg.instances.expand import expand_labels
from nucseg.instances.seeds import label_seeds
from nucseg.instances.watershed import flood, mahotas_flood
from nucseg.volume import Volume, create_labels, open_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from nucseg.blockwise.launch import Launcher


class Segment(Task):
    """Labels `OUT/labels/nuclei` from a prediction; for a given prediction the same for every block shape."""

    name: ClassVar[str] = "segment"
    stored_part: ClassVar[float] = 0.1
    """Labels repeat: 0.04 was measured in crowded tissue."""

    prediction: str | None = None
    """A prediction (c, z, y, x), values after the activation; None is OUT/prediction."""
    scenario: Scenario | None = None
    """The heads that its channels follow, or their name; None: what the prediction says."""
    decoding: Decoding | None = None
    """Thresholds and the like; None: those selected for the model, else the heads' defaults."""
    halo: int = Field(HALO, ge=1)
    """Voxels read around a block at first."""
    max_halo: int = Field(128, ge=1)
    """Voxels read around a block at most; a block that needs more is reported and not written."""
    engine: Literal["flood", "mahotas"] = "flood"
    """`mahotas`: the reference implementation, which implies `whole`."""
    whole: bool = False
    """The whole volume in one piece, in memory."""
    compact: bool = False
    """Renumber the instances from 1 without gaps, uint32, in two more passes; see `Compact`."""

    _volume: Readable = PrivateAttr()
    _labels: Volume = PrivateAttr()
    _nonfinite: int = PrivateAttr(0)
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
        """See `Task.resolved`: prediction, scenario, decoding, block and halo are settled.

        Raises:
            InputError: No prediction, an incomplete one, one that the scenario does not fit, or values or
                thresholds beyond the range of a head.
        """
        done = Records(self.out, self.name).complete()
        return self._resolved(settled_prediction(self.out, self.prediction, self.name), sampled=not done)

    def following(self, earlier: "Sequence[Task]") -> tuple[Self, int] | None:
        """See `Task.following`: block by block behind what writes its prediction, unless the volume is taken whole."""
        if self.whole or self.engine == "mahotas" or not is_written_by(self.out, self.prediction, earlier):
            return None
        task = self._resolved(None, sampled=False)
        decoding = task._settled()[1]
        around = decoding.dilate if decoding.seeds == "vectors" else task.max_halo
        return task, around + decoding.context

    def _resolved(self, prediction: str | None, *, sampled: bool) -> Self:
        task = self.model_copy(update={"prediction": prediction})
        volume = open_volume(task.source)
        scenario, origin = checked_scenario(volume, task.source, task.scenario)
        decoding = task.decoding or origin.decoding or scenario.default_decoding()
        scenario.check_decoding(decoding)
        if task.engine == "mahotas" and decoding.seeds == "vectors":
            raise InputError(
                "engine",
                expected="flood: nothing is flooded where voxels are grouped by vectors",
                received="mahotas",
                remedy="leave the engine out, or take other seeds",
            )
        check_prediction(volume, task.source, scenario, decoding.reach, sampled=sampled)
        check_thresholds(scenario, decoding)
        check_halo(decoding, task.max_halo)
        return task.model_copy(
            update={
                "scenario": scenario,
                "decoding": decoding,
                "block": clipped(task.block or default_block(volume.shape), volume.shape),
                "halo": min(max(task.halo, decoding.dilate), task.max_halo),
                "whole": task.whole or task.engine == "mahotas",
            }
        )

    def inputs(self) -> dict[str, Any]:
        """The prediction: the run that made it, or its file's identity."""
        head = None if self.prediction else Records(self.out, "predict").head()
        return {"prediction": head["hash"] if head else identity(self.source)}

    def grid(self) -> Grid:
        """Blocks of the volume; one where it is segmented whole."""
        shape = self._space().shape
        return Grid(shape, shape if self.whole or self.block is None else self.block)

    def outputs(self) -> list[Path]:
        """The labels, and those before small instances are dropped."""
        return [Path(self.out) / "labels" / "nuclei", Path(self.out) / UNSIFTED]

    def create(self) -> None:
        """Create the labels, empty."""
        for later in (Sift.name, "collect_ids", "compact"):
            Records(self.out, later).clear()
        volume = self._space()
        block = self.block or default_block(volume.shape)
        create_labels(
            self._target(),
            "nuclei",
            shape=volume.shape,
            dtype=label_dtype(volume.shape),
            scale_um=volume.scale_um,
            shards=block,
            chunks=chunk_shape(block),
        )

    def start_worker(self) -> None:
        """Open prediction and labels."""
        self._volume = open_volume(self.source)
        self._presence = Presence.of(self._volume)
        self._labels = open_volume(Path(self._target()) / "labels" / "nuclei")

    def process(self, block: Block) -> dict[str, Any]:
        """Segment one block and write it.

        Returns:
            `digest`, `ids` and `sizes` (in this block) of its instances, the `halo` that it took, and `nonfinite`: its
            voxels with a value that is no number, which are background.

        Raises:
            BlockRefused: An object reaches beyond the largest halo.
            InputError: The prediction has values beyond the range of a head, or was lost there since it was made.
        """
        self._nonfinite = 0
        labels, halo = self._whole(block) if self.whole else self._certified(block)
        found = centroids(labels)
        if len(found.ids):
            self._labels.write(block.begin, labels.astype(self._labels.dtype))
        digest = block_digest(labels, block.begin, self._volume.shape)
        return {
            "digest": f"{digest:032x}",
            "ids": found.ids.tolist(),
            "sizes": found.sizes.tolist(),
            "halo": halo,
            "nonfinite": self._nonfinite,
        }

    def written(self) -> Path:
        """The labels, or those of all sizes where small ones are dropped afterwards."""
        return Path(self._target()) / "labels" / "nuclei"

    def stored_digest(self, block: Block) -> str:
        """See `Task.stored_digest`; the sum of `block_digest`, which needs no labels where there are none."""
        return stored_label_digest(self._written(), block)

    def spare(self) -> bool:
        """Whether small instances were dropped, or all renumbered, in a second pass that is done."""
        made = labels_records(self.out)
        return made.folder.name != self.name and made.complete()

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`nuclei`, `digest` (of the values of all labels), `largest_halo`, `nonfinite`."""
        return {
            "nuclei": count_instances(blocks, self.grid()),
            "digest": combine((int(block["digest"], 16) for block in blocks), self.grid().volume),
            "largest_halo": max(block["halo"] for block in blocks),
            "nonfinite": sum(block.get("nonfinite", 0) for block in blocks),
        }

    def afterwards(
        self, result: dict[str, Any], launcher: "Launcher", log: "Callable[[str], None] | None"
    ) -> dict[str, Any]:
        """With a smallest size further passes over the blocks drop what is smaller; compact ones renumber the rest."""
        min_size = self._settled()[1].min_size
        if not (min_size or self.compact):
            return result
        second = (Compact if self.compact else Sift)(out=self.out, min_size=min_size)
        return second_pass(second, result, launcher, log)

    def expected_memory(self) -> tuple[int, int]:
        """See `memory_for`."""
        return self.memory_for(self._settled()[0], self.grid().volume)

    def memory_for(self, scenario: Scenario, volume: Shape) -> tuple[int, int]:
        """Bytes of a worker with the first and with the largest halo, for a volume of this shape.

        Voxels read (the block with halo and context, clipped to the volume) times 4 bytes a channel and 60 for
        surface, seeds, labels and queue, and 0.3 GiB.
        """
        decoding = self.decoding or scenario.default_decoding()
        block = volume if self.whole else self.block or default_block(volume)

        def bytes_for(halo: int) -> int:
            margin = 2 * (decoding.context if decoding.seeds == "vectors" else halo + decoding.context)
            voxels = prod(min(b + margin, n) for b, n in zip(block, volume, strict=True))
            return voxels * (4 * scenario.channels + 60) + 3 * 2**30 // 10

        return bytes_for(self.halo), bytes_for(self.max_halo)

    def expected_output(self) -> int:
        """One label a voxel."""
        return label_bytes(self.grid().volume)

    def elsewhere(self, out: str) -> Self:
        """See `Task.elsewhere`; the prediction stays where it is."""
        return self.model_copy(update={"out": out, "prediction": self.source})

    def _space(self) -> Volume:
        return open_volume(self.source)

    def _settled(self) -> tuple[Scenario, Decoding]:
        if self.scenario is None or self.decoding is None:
            raise ValueError("call resolved() first")
        return self.scenario, self.decoding

    def _target(self) -> str:
        _, decoding = self._settled()
        return str(Path(self.out) / UNSIFTED) if decoding.min_size or self.compact else self.out

    def _read(self, box: Box, core: Box | None = None) -> np.ndarray:
        """The prediction in a box, NaN in all channels of voxels that are no number; those of the core are counted."""
        if self._presence:
            self._presence.check(box)
        data = self._volume.read(box.begin, box.shape)
        data = (data if data.ndim == 4 else data[None]).astype(np.float32, copy=False)
        check_values(self.source, data, self._settled()[0])
        data, finite = usable(data)
        if core is not None and finite is not None:
            self._nonfinite = int(np.count_nonzero(~finite[core.inside(box)]))
        return data

    def _whole(self, block: Block) -> tuple[np.ndarray, int]:
        """Labels of the whole volume at once."""
        scenario, decoding = self._settled()
        if decoding.seeds == "vectors":
            return self._grouped(block), 0
        surface, mask, foreground = decoded(self._read(block, block), scenario, decoding)
        engine = mahotas_flood if self.engine == "mahotas" else flood
        labels = engine(surface, label_seeds(mask), foreground)
        return (expand_labels(labels, decoding.dilate) if decoding.dilate else labels), 0

    def _certified(self, block: Block) -> tuple[np.ndarray, int]:
        """Labels of a block that are those of the whole volume, and the halo it took to know that."""
        scenario, decoding = self._settled()
        main = scenario.main
        seen = block.grown(decoding.dilate, self._volume.shape)
        near = self._read(seen, block)[scenario.slices()[main.name]]
        if not main.foreground(near, decoding.foreground_threshold).any():
            return np.zeros(block.shape, np.uint64), 0
        if decoding.seeds == "vectors":
            return self._grouped(block), decoding.context
        volume = self._volume.shape
        return certified(self._read, scenario, decoding, block, volume, self.halo, self.max_halo)

    def _grouped(self, block: Block) -> np.ndarray:
        """Labels of a block by vectors, which are those of the whole volume: what they depend on is read."""
        scenario, decoding = self._settled()
        volume = self._volume.shape
        read = block.grown(decoding.dilate + decoding.context, volume)
        labels = scenario.group(self._read(read, block), decoding, read.begin, volume)
        if decoding.dilate:
            labels = expand_labels(labels, decoding.dilate)
        return labels[block.inside(read)]
