"""A trained network, as prediction uses it."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from nucseg.errors import InputError
from nucseg.heads.scenario import Decoding, PointDecoding, Scenario
from nucseg.network.backend import jit_compile, share_gpu, use_threads
from nucseg.network.checkpoint import Checkpoint, find_checkpoint, load_weights
from nucseg.network.mirrors import NONE, mean_over_mirrors, mirrors_name
from nucseg.network.record import RunRecord
from nucseg.network.unet import Shape, UNet
from nucseg.storage.normalization import Normalization

if TYPE_CHECKING:
    import keras

    from nucseg.volume import Volume

logger = logging.getLogger(__name__)


class TrainedModel:
    """The network of a training run at one of its checkpoints.

    Loading reads small files only; Keras is imported and the weights are read at the first prediction, so
    that a process that plans or schedules pays for neither.

    Attributes:
        run: The run folder.
        record: What `run.json` says.
        checkpoint: The checkpoint whose weights are used.
        decoding: The decoding chosen on validation volumes for this checkpoint; None if none was chosen.
        points: The same of points; None if none was chosen.
        mirrors: The mirrored views that the selected decoding was chosen with, see `nucseg.network.mirrors`; "none"
            if nothing was chosen for this checkpoint.
    """

    def __init__(
        self,
        run: Path,
        record: RunRecord,
        checkpoint: Checkpoint,
        decoding: Decoding | None = None,
        threads: int | None = None,
        points: PointDecoding | None = None,
        mirrors: str = NONE,
    ) -> None:
        self.run = run
        self.record = record
        self.checkpoint = checkpoint
        self.decoding = decoding
        self.points = points
        self.mirrors = mirrors
        self.threads = threads
        self._keras: keras.Model | None = None

    @classmethod
    def load(
        cls, run_folder: str | Path, checkpoint: int | None = None, *, threads: int | None = None
    ) -> Self:
        """Open a training run's network.

        Args:
            run_folder: What `nucseg train --folder` wrote.
            checkpoint: Its iteration; None takes the one selected on validation volumes (`selected.json`),
                or else the newest.
            threads: For the Keras backend; None leaves its own choice.

        Raises:
            InputError: Not a run folder, or no such checkpoint.
        """
        run = Path(run_folder)
        record = RunRecord.read(run)
        selected = _read_selected(run)
        decoding, points, mirrors = None, None, NONE
        if selected is not None and checkpoint in (None, selected[0]):
            checkpoint, decoding, points, mirrors = selected
        return cls(run, record, find_checkpoint(run, checkpoint), decoding, threads, points, mirrors)

    @property
    def scenario(self) -> Scenario:
        """The heads of the network."""
        return self.record.scenario

    @property
    def network(self) -> UNet:
        """The network's configuration, with the arithmetic of its shapes."""
        return self.record.network

    @property
    def input_channels(self) -> int:
        """Channels of the raw image."""
        return self.network.input_channels

    @property
    def scale_um(self) -> tuple[float, float, float] | None:
        """Voxel size `z, y, x` of the training volumes; None when unknown."""
        return self.record.scale_um

    @property
    def normalize(self) -> Normalization:
        """Percentiles of a volume's intensities that are mapped to 0 and 1; None: raw values as they are."""
        return self.record.normalize

    @property
    def context(self) -> tuple[int, int, int]:
        """Voxels a side, z, y, x, that an input must have beyond the prediction."""
        return self.network.context

    @property
    def pooling(self) -> tuple[int, int, int]:
        """Blocks start at multiples of it, z, y, x, or their predictions differ from those of the whole volume."""
        return self.network.pooling

    @property
    def hash(self) -> str:
        """SHA-256 of the weights and of all that decides a prediction."""
        parts = {
            "weights": self.checkpoint.state["weights_sha256"],
            "scenario": self.scenario.model_dump(mode="json"),
            "network": self.network.model_dump(mode="json"),
            "normalize": self.record.model_dump(mode="json", include={"normalize"})["normalize"],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def keras(self) -> "keras.Model":
        """The Keras model with this checkpoint's weights, channels last, linear; loaded on first use."""
        if self._keras is None:
            use_threads(self.threads)
            share_gpu()
            network = self.network.build(self.scenario.channels)
            network.jit_compile = jit_compile()
            load_weights(self.checkpoint, network)
            self._keras = network
        return self._keras

    def check_volume(self, volume: "Volume") -> None:
        """See that the network can be used on a volume.

        Raises:
            InputError: The volume has another number of channels than the training volumes had.
        """
        channels = max(volume.channels, 1)
        if channels != self.input_channels:
            raise InputError(
                str(volume.path),
                expected=f"{self.input_channels} channel(s), as the model {self.run} was trained on",
                received=f"{channels} channel(s)",
                remedy="choose one channel of the volume, or a model for as many channels",
            )
        if volume.scale_um and self.scale_um:
            worst = max(max(a / b, b / a) for a, b in zip(volume.scale_um, self.scale_um, strict=True))
            if worst > 1.25:
                logger.warning(
                    "%s has voxels of %s um, the model %s was trained on %s um: expect poor results",
                    *(volume.path, volume.scale_um, self.run, self.scale_um),
                )

    def predict(self, raw: np.ndarray, mirrors: str | Sequence[str] | None = None) -> np.ndarray:
        """Predict one tile.

        Args:
            raw: Normalised, `(z, y, x)` or `(channels, z, y, x)`, of a shape the network can take
                (`network.input_shape`).
            mirrors: Axes along which mirrored views are predicted, too, to be averaged: "none", "all", or some such
                as "yx" or ("y", "x"). n axes take 2^n times as long. None: as was selected for this checkpoint, else
                none.

        Returns:
            float32 `(scenario.channels, z, y, x)` after the activation, vectors in voxels; smaller than
            `raw` by `context` a side.

        Raises:
            InputError: A shape or a number of channels that the network cannot take, or no such mirrors.
        """
        image = raw[None] if raw.ndim == 3 else raw
        if image.ndim != 4 or image.shape[0] != self.input_channels:
            raise InputError(
                "raw image to predict",
                expected=f"(z, y, x) or (channels, z, y, x) with {self.input_channels} channel(s)",
                received=f"shape {raw.shape}",
                remedy="use a model for as many channels, or choose the channel it was trained on",
            )
        shape = self.network.output_shape(image.shape[1:])
        chosen = self.mirrors if mirrors is None else mirrors
        return mean_over_mirrors(lambda view: self._predict(view, shape), image, self.scenario, chosen)

    def _predict(self, image: np.ndarray, shape: Shape) -> np.ndarray:
        """One pass of the network."""
        batch = np.ascontiguousarray(np.moveaxis(image, 0, -1)[None], dtype=np.float32)
        return self.scenario.activation(channels_first(self.keras.predict_on_batch(batch)[0], shape))


def channels_first(output: np.ndarray, shape: Sequence[int] | Shape) -> np.ndarray:
    """A network's output `(z, y, x, c)` as `(c, z, y, x)`, cropped in the centre to the spatial `shape`."""
    crops = tuple(
        slice((have - want) // 2, (have - want) // 2 + want)
        for have, want in zip(output.shape[:3], shape, strict=True)
    )
    return np.ascontiguousarray(np.moveaxis(np.asarray(output)[crops], -1, 0), dtype=np.float32)


def _read_selected(run: Path) -> tuple[int, Decoding | None, PointDecoding | None, str] | None:
    path = run / "selected.json"
    if not path.is_file():
        return None
    selected = json.loads(path.read_text(encoding="utf-8"))
    try:
        decoding, points = selected["decoding"], selected.get("points")
        return (
            int(selected["checkpoint"]),
            None if decoding is None else Decoding.model_validate(decoding),
            None if points is None else PointDecoding.model_validate(points),
            mirrors_name(selected.get("mirrors", NONE)),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            str(path),
            expected="a checkpoint and a decoding",
            received=str(error).strip().splitlines()[0],
            remedy="delete it and select again",
        ) from error
