"""A trained network's prediction of a volume, block by block, equal to that of the whole to float rounding."""

from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import PrivateAttr

from nucseg.blockwise.decoding import Origin, write_origin
from nucseg.blockwise.grid import Block, Grid, Shape, chunk_shape
from nucseg.blockwise.mask import Mask, OpenMask
from nucseg.blockwise.records import Records, identity
from nucseg.blockwise.task import Task
from nucseg.blockwise.values import check_finite
from nucseg.instances.digest import array_digest
from nucseg.network.mirrors import NONE, Mirrors
from nucseg.storage.normalization import zero_and_one
from nucseg.storage.remote import absolute
from nucseg.volume import Volume, create_image, open_volume

if TYPE_CHECKING:
    from nucseg.network.model import TrainedModel

SIDE = 128
"""Voxels a side of a block at least, unless one is asked for."""
SIDE_BY_CONTEXT = 6.4
"""A side is no less than so many times what the network sees on one side: it computes 2.3 times what is kept."""


class Predict(Task):
    """`OUT/prediction`, float32 (c, z, y, x) after the activation, from a volume and a training run.

    Blocks begin at multiples of the network's pooling, so a block that is asked for is rounded up to such a
    multiple (the record in OUT says what was used). All inputs have one shape, since the convolution libraries may
    round differently for another; beyond the volume they are zero, the low end of normalised intensities.
    """

    name: ClassVar[str] = "predict"
    stored_part: ClassVar[float] = 0.95
    """Float values hardly repeat: 0.66 to 0.93 was measured, less where there is only background."""

    volume: str
    """The raw image."""
    model: str
    """Folder of a training run."""
    checkpoint: int | None = None
    """Its iteration; None: the one selected on validation volumes, else the newest."""
    channel: int | None = None
    """The channel of the volume to use; None: all that the model takes."""
    intensity: tuple[float, float] | None = None
    """Intensities that become 0 and 1, the same in all blocks; None: as the model was trained, by the volume's
    percentiles, by fixed values, or as they are."""
    measured: bool = False
    """Whether `intensity` follows from the model and the volume; set when it is found."""

    mirrors: Mirrors | None = None
    """Axes along which mirrored views are predicted, too, to be averaged: "none", "all", or some such as "yx" or
    ("y", "x"). n axes take 2^n times as long, all three 8 times. None: as was selected for the checkpoint, else
    none."""

    mask: Mask | None = None
    """Where to look; outside of it the prediction is background. Blocks wholly outside are neither read nor predicted.
    None: everywhere."""

    _model: "TrainedModel" = PrivateAttr()
    _volume: Volume = PrivateAttr()
    _prediction: Volume = PrivateAttr()
    _inside: OpenMask | None = PrivateAttr(None)
    _flat: tuple[bytes, np.ndarray] | None = PrivateAttr(None)

    def resolved(self) -> Self:
        """See `Task.resolved`: the checkpoint, its mirrors, the range of intensities and the block are settled.

        Raises:
            InputError: No volume, no model, a model for other channels, a volume without any finite voxel, or a mask
                of another space.
        """
        volume, model = self._open(), self.trained()
        model.check_volume(volume)
        intensity, measured = self.intensity, self.measured
        check_finite(volume, self.volume)
        if intensity is None and model.normalize is not None:
            intensity, measured = self._known_intensity() or zero_and_one(volume, model.normalize), True
        return self.model_copy(
            update={
                "volume": absolute(self.volume),
                "model": str(Path(self.model).resolve()),
                "checkpoint": model.checkpoint.iteration,
                "intensity": intensity,
                "measured": measured,
                "mask": self.mask and self.mask.resolved(volume),
                "mirrors": model.mirrors if self.mirrors is None else self.mirrors,
                "block": aligned(self.block or block_for(model.context), volume.shape, model.pooling),
            }
        )

    def inputs(self) -> dict[str, Any]:
        """The volume's file, the model's hash, and the mask's file."""
        masked = {"mask": self.mask.identity()} if self.mask else {}
        return {"volume": identity(self.volume), "model": self.trained().hash, **masked}

    def grid(self) -> Grid:
        """Blocks of the volume."""
        return Grid(self._open().shape, self._block())

    def outputs(self) -> list[Path]:
        """The prediction."""
        return [Path(self.out) / "prediction"]

    def create(self) -> None:
        """Create the prediction, empty, with a note of how it decodes."""
        volume, model, block = self._open(), self.trained(), self._block()
        path = self.outputs()[0]
        create_image(
            path,
            shape=(model.scenario.channels, *volume.shape),
            dtype="float32",
            scale_um=volume.scale_um,
            axes=("c", "z", "y", "x"),
            shards=block,
            chunks=chunk_shape(block),
        )
        origin = Origin(model.scenario, model.decoding, model.record.nucleus_um, model.points, self.mirrors)
        write_origin(str(path), origin)

    def check_worker(self) -> None:
        """Keras is installed and the checkpoint is whole; neither Keras nor its backend is loaded."""
        from nucseg.network.backend import require_backend
        from nucseg.network.checkpoint import check_checkpoint

        require_backend()
        check_checkpoint(self.trained().checkpoint)

    def start_worker(self) -> None:
        """Open the volume and load the network, once."""
        self._volume, self._model = self._open(), self.trained()
        self._prediction = open_volume(self.outputs()[0])
        self._inside = OpenMask(self.mask, self._volume) if self.mask else None
        _ = self._model.keras

    def process(self, block: Block) -> dict[str, Any]:
        """Predict one block and write it.

        Returns `nonfinite`, its raw voxels that are no number (taken as 0), `spared`, whether the network had nothing
        to do, and the `digest` of what was written.
        """
        inside = self._inside.read(block) if self._inside else None
        if inside is not None and not inside.any():
            predicted, nonfinite, spared = self._background(block.shape), 0, True
        else:
            begin = tuple(b - context for b, context in zip(block.begin, self._model.context, strict=True))
            shape = self._model.network.input_shape(self._block())
            raw, nonfinite = self._normalised((begin[0], begin[1], begin[2]), shape, block)
            whole, spared = self._predicted(raw)
            z, y, x = (slice(0, n) for n in block.shape)
            predicted = whole[:, z, y, x].astype(self._prediction.dtype, copy=False)
            if inside is not None:
                predicted = np.where(inside, predicted, self._background(block.shape))
        self._prediction.write(block.begin, predicted)
        return {"nonfinite": nonfinite, "spared": spared, "digest": array_digest(predicted)}

    def written(self) -> Path:
        """The prediction."""
        return self.outputs()[0]

    def spare(self) -> bool:
        """Whether instances or points were made of it, and none of these steps has blocks left."""
        readers = [Records(self.out, name) for name in ("segment", "detect")]
        heads = [(records, records.head()) for records in readers]
        own = [records for records, head in heads if head and head["fields"].get("prediction", "") is None]
        return bool(own) and all(records.complete() for records in own)

    def finish(self, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        """`nonfinite`, the number of raw voxels that are no number, and `spared`, of blocks without work."""
        return {
            "nonfinite": sum(block["nonfinite"] for block in blocks),
            "spared": sum(block.get("spared", False) for block in blocks),
        }

    def expected_memory(self) -> tuple[int, int]:
        """0.8 GiB for the library, and what the finest level of the network holds for one input.

        Views are predicted one after the other: mirrors add no more than a sum and a turned prediction.
        """
        trained = self.trained()
        network = trained.network
        voxels = prod(network.input_shape(self._block()))
        size = int(0.8 * 2**30) + 4 * voxels * (BUFFERS * network.feature_maps + 2 * network.input_channels)
        size += 4 * trained.scenario.channels * prod(self._block())  # of an input of one value
        if self.mirrors not in (None, NONE):
            size += 2 * 4 * trained.scenario.channels * prod(self._block())
        return size, size

    def expected_output(self) -> int:
        """4 bytes a channel and voxel."""
        return 4 * self.trained().scenario.channels * prod(self._open().shape)

    def trained(self) -> "TrainedModel":
        """The network; its weights are read when it first predicts.

        Raises:
            InputError: Not a training run's folder, or no such checkpoint.
        """
        from nucseg.network.model import TrainedModel

        return TrainedModel.load(self.model, self.checkpoint)

    def _predicted(self, raw: np.ndarray) -> tuple[np.ndarray, bool]:
        """The network's output, and whether it was known: an input of one value a channel is predicted only once.

        All inputs have one shape, so that the output that is kept is the one that would be computed, to the last bit.
        """
        first = raw[:, :1, :1, :1]
        if not (raw == first).all():
            return self._model.predict(raw, self.mirrors), False
        key = first.tobytes()
        if self._flat is not None and self._flat[0] == key:
            return self._flat[1], True
        self._flat = (key, self._model.predict(raw, self.mirrors))
        return self._flat[1], False

    def _background(self, shape: Shape) -> np.ndarray:
        values = np.array(self._model.scenario.background, self._prediction.dtype)
        return np.broadcast_to(values[:, None, None, None], (len(values), *shape))

    def _normalised(self, begin: Shape, shape: Shape, block: Block) -> tuple[np.ndarray, int]:
        """Raw voxels with intensities mapped and 0 outside the volume, and how many of the block are no number."""
        limits = self._volume.shape
        low = [max(0, b) for b in begin]
        high = [min(n, b + s) for n, b, s in zip(limits, begin, shape, strict=True)]
        size = [h - lo for lo, h in zip(low, high, strict=True)]
        data = self._volume.read((low[0], low[1], low[2]), (size[0], size[1], size[2]))
        data = data if data.ndim == 4 else data[None]
        # whole numbers of 32 and 64 bits far from 0 lie closer together than float32 can tell
        wide = data.dtype.itemsize > (4 if data.dtype.kind == "f" else 2)
        number = np.float64 if wide else np.float32
        data = data.astype(number, copy=False)
        if self.intensity is not None:
            bottom, top = self.intensity
            data = (data - number(bottom)) / number(top - bottom)
        with np.errstate(over="ignore"):  # beyond float32 is no number
            data = data.astype(np.float32, copy=False)
        finite = np.isfinite(data)
        core = tuple(slice(b - lo, e - lo) for b, e, lo in zip(block.begin, block.end, low, strict=True))
        nonfinite = int(np.count_nonzero(~finite[(slice(None), *core)]))
        data = np.where(finite, data, np.float32(0))
        padded = np.zeros((len(data), *shape), np.float32)
        inside = tuple(slice(lo - b, h - b) for lo, h, b in zip(low, high, begin, strict=True))
        padded[(slice(None), *inside)] = data
        return padded, nonfinite

    def _known_intensity(self) -> tuple[float, float] | None:
        """What an earlier run measured for the same volume and model: a large volume takes long to read."""
        head = Records(self.out, self.name).head()
        if head is None or head["inputs"] != self.inputs():
            return None
        fields = head["fields"]
        if not fields["measured"] or fields["channel"] != self.channel:
            return None
        return fields["intensity"][0], fields["intensity"][1]

    def _open(self) -> Volume:
        return open_volume(self.volume, channel=self.channel)

    def _block(self) -> Shape:
        if self.block is None:
            raise ValueError("call resolved() first")
        return self.block


BUFFERS = 5
"""Buffers of the finest level, each of as many channels as its first convolution, alive at one time."""


def block_for(context: Shape) -> Shape:
    """The block unless one is asked for: `SIDE`, or more where the network sees far.

    Args:
        context: Voxels z, y, x that the network sees on one side of what it predicts.
    """
    z, y, x = (max(SIDE, ceil(SIDE_BY_CONTEXT * c)) for c in context)
    return z, y, x


def aligned(block: Shape, volume: Shape, pooling: Shape) -> Shape:
    """A block no larger than the volume, rounded up to multiples of the pooling."""
    z, y, x = (-(-min(b, n) // p) * p for b, n, p in zip(block, volume, pooling, strict=True))
    return z, y, x
