"""A trained network's prediction of a volume, block by block, equal to that of the whole to float rounding."""

from collections.abc import Sequence
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import PrivateAttr

from nucseg.blockwise.decoding import Origin, write_origin
from nucseg.blockwise.encoding import known_reach, settled_encoding
from nucseg.blockwise.grid import Block, Grid, Shape, chunk_shape
from nucseg.blockwise.mask import Mask
from nucseg.blockwise.predictor import COUNTS, Predictor, check_exact
from nucseg.blockwise.records import Records, identity
from nucseg.blockwise.task import Task
from nucseg.blockwise.values import check_finite
from nucseg.instances.digest import array_digest
from nucseg.network.mirrors import NONE, Mirrors
from nucseg.storage.encoding import Encoding, Kind
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
    """`OUT/prediction` (c, z, y, x), values after the activation, from a volume and a training run.

    Blocks begin at multiples of the network's pooling, so a block that is asked for is rounded up to such a
    multiple (the record in OUT says what was used). All inputs have one shape, since the convolution libraries may
    round differently for another; beyond the volume they are zero, the low end of normalised intensities.
    """

    name: ClassVar[str] = "predict"
    network: ClassVar[bool] = True
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

    encoding: Encoding | Kind | None = None
    """How values are stored: "float32" as they are, "float16", or "uint16" or "uint8" with a scale that is recorded
    with them; whatever reads the prediction gets values. None: `blockwise.encoding.DEFAULT`, or float32 where OUT has
    that of the same volume and model already."""
    reach: int | None = None
    """Longest vector that will vote, voxels, if longer than any that selection or training data know: bounds what
    integers keep of vectors. Only until the encoding is settled."""
    mask: Mask | None = None
    """Where to look; outside of it the prediction is background. Blocks wholly outside are neither read nor predicted.
    None: everywhere."""

    _predictor: Predictor = PrivateAttr()
    _prediction: Volume = PrivateAttr()

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
        check_exact(self.volume, volume.dtype, *(intensity or ()))
        reach = known_reach(model, volume.scale_um, self.reach)
        return self.model_copy(
            update={
                "volume": absolute(self.volume),
                "model": str(Path(self.model).resolve()),
                "checkpoint": model.checkpoint.iteration,
                "intensity": intensity,
                "measured": measured,
                "mask": self.mask and self.mask.resolved(volume),
                "mirrors": model.mirrors if self.mirrors is None else self.mirrors,
                "encoding": settled_encoding(model.scenario, self.encoding or self._known_encoding(), reach),
                "reach": None,
                "block": aligned(self.block or block_for(model.context), volume.shape, model.pooling),
            }
        )

    def inputs(self) -> dict[str, Any]:
        """The volume's file, the model's hash, and the mask's file."""
        masked = {"mask": self.mask.identity()} if self.mask else {}
        return {"volume": identity(self.volume), "model": self.trained().hash, **masked}

    def description(self) -> dict[str, Any]:
        """See `Task.description`; float32 and no mask go without saying, so that runs from before either go on."""
        said = super().description()
        fields = {name: value for name, value in said["fields"].items() if name != "reach"}
        if self.mask is None:
            del fields["mask"]
        if self._settled_encoding().dtype == "float32":
            del fields["encoding"]
        return said | {"fields": fields}

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
            encoding=self._settled_encoding(),
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
        """Open volume and prediction, and load the network, once."""
        self._predictor = self.predictor()
        self._prediction = open_volume(self.outputs()[0])

    def predictor(self) -> Predictor:
        """The network at work, loaded, of a resolved task."""
        trained, volume = self.trained(), self._open()
        _ = trained.keras
        return Predictor(
            trained, volume, self._block(), self._settled_encoding(), self.intensity, self.mirrors, self.mask
        )

    def process(self, block: Block) -> dict[str, Any]:
        """Predict one block and write it.

        Returns:
            `nonfinite`, its raw voxels that are no number (taken as 0); `saturated`, the values that lay beyond what
            the encoding can hold; `spared`, whether the network had nothing to do; and the `digest` of the values that
            were written.

        Raises:
            InputError: The network gives NaN, and the encoding has no code for it.
        """
        tile = self._predictor.tile(block.begin, block)
        predicted = self._settled_encoding().decode(tile.codes)
        self._prediction.write(block.begin, predicted)
        return {**tile.counts, "digest": array_digest(predicted)}

    def written(self) -> Path:
        """The prediction."""
        return self.outputs()[0]

    def spare(self) -> bool:
        """Whether instances or points were made of it, and none of these steps has blocks left."""
        readers = [Records(self.out, name) for name in ("segment", "detect")]
        heads = [(records, records.head()) for records in readers]
        own = [records for records, head in heads if head and head["fields"].get("prediction", "") is None]
        return bool(own) and all(records.complete() for records in own)

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The sums of `nonfinite` (voxels), `saturated` (values) and `spared` (blocks), see `process`."""
        return {key: sum(int(block.get(key, 0)) for block in blocks) for key in COUNTS}

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
        """As many bytes a channel and voxel as the encoding takes."""
        return self._settled_encoding().itemsize * self.trained().scenario.channels * prod(self._open().shape)

    def trained(self) -> "TrainedModel":
        """The network; its weights are read when it first predicts.

        Raises:
            InputError: Not a training run's folder, or no such checkpoint.
        """
        from nucseg.network.model import TrainedModel

        return TrainedModel.load(self.model, self.checkpoint)

    def _known_intensity(self) -> tuple[float, float] | None:
        """What an earlier run measured for the same volume and model: a large volume takes long to read."""
        return known_intensity(Records(self.out, self.name), self.inputs(), self.channel)

    def _settled_encoding(self) -> Encoding:
        if isinstance(self.encoding, Encoding):
            return self.encoding
        return Encoding(dtype="float32")  # as records of runs that knew no other have it

    def _known_encoding(self) -> Kind | None:
        """float32 where a run of the same inputs lies that stored it, maybe before there was a choice."""
        head = Records(self.out, self.name).head()
        old = head is not None and head["inputs"] == self.inputs() and "encoding" not in head["fields"]
        return "float32" if old else None

    def _open(self) -> Volume:
        return open_volume(self.volume, channel=self.channel)

    def _block(self) -> Shape:
        if self.block is None:
            raise ValueError("call resolved() first")
        return self.block


BUFFERS = 5
"""Buffers of the finest level, each of as many channels as its first convolution, alive at one time."""


def known_intensity(
    records: Records, inputs: dict[str, Any], channel: int | None
) -> tuple[float, float] | None:
    """Intensities that an earlier run measured for the same volume and model; None: there is none.

    Args:
        records: Of the task that may have measured them.
        inputs: What the new run reads.
        channel: Of the volume.
    """
    head = records.head()
    if head is None or head["inputs"] != inputs:
        return None
    fields = head["fields"]
    if not fields.get("measured") or fields["channel"] != channel:
        return None
    return fields["intensity"][0], fields["intensity"][1]


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
