"""The gunpowder node that trains a Keras network."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gunpowder as gp
import numpy as np
from gunpowder.nodes.generic_train import GenericTrain

from nucseg.errors import InputError, NucsegError
from nucseg.heads.scenario import Scenario
from nucseg.network.backend import jit_compile, share_gpu, use_threads
from nucseg.network.batch import Keys, arrays_of, keys_of, network_input
from nucseg.network.checkpoint import (
    check_checkpoint,
    list_checkpoints,
    restore_checkpoint,
    save_checkpoint,
    versions,
)
from nucseg.network.losses import LossLog
from nucseg.network.model import channels_first
from nucseg.network.optimizer import Optimizer
from nucseg.network.record import RunRecord
from nucseg.network.snapshot import write_snapshot
from nucseg.network.training_copy import Precision, training_copy
from nucseg.network.unet import UNet
from nucseg.storage.normalization import Normalization

logger = logging.getLogger(__name__)


class KerasTrain(GenericTrain):
    """Train a U-Net on the batches that pass: one step for each request.

    Put it last, after `AddTargets` and, for batches, `gp.Stack`. Request what `request` returns. The run
    folder is filled with `run.json`, `checkpoints/`, `losses.csv`, `tensorboard/` and `snapshots/`.

    Keras is imported, and the network built, in the first training step and not before: by then the worker
    processes of a `PreCache` upstream are running, and none of them has inherited a started TensorFlow.

    After `resume` a run goes on as if it had not stopped: weights, optimiser and learning rate are the
    checkpoint's. The node draws no random numbers while it trains; the data continue where they were if the
    pipeline's `PreCache` is started at `iteration`.

    Args:
        scenario: The heads to train, with their losses.
        network: The network's configuration.
        raw: Key of the raw image, float, `(z, y, x)` or `(channels, z, y, x)`, with `gp.Stack` the batch
            first.
        folder: The run folder; made when it is not there.
        iterations: Length of the whole run, where the learning rate's schedule ends.
        targets: Key of each head's target, `(t, z, y, x)`, by the head's name; if None those of
            `AddTargets`, such as `THREE_LABEL_TARGET`.
        weights: Key of each head's weights, `(z, y, x)`, likewise.
        labels: Key of the labels, only to be seen in snapshots.
        prediction: Key of an array this node provides when it is requested: the prediction of the batch's
            first patch, before the step, `(channels, z, y, x)`.
        optimizer: Learning rate and its schedule.
        precision: What convolutions compute in while training, see `training_copy`. Checkpoints are float32.
        checkpoint_every: Iterations between checkpoints.
        snapshot_every: Iterations between snapshots of a batch; None writes none.
        seed: Of the initial weights.
        resume: Go on from the newest checkpoint in the folder; a folder without one is started afresh.
        tensorboard: Whether to write TensorBoard events.
        threads: For the Keras backend; None leaves its own choice.
        scale_um: Voxel size of the training volumes, for the record.
        normalize: How raw was normalised, for the record; prediction does the same.
        nucleus_um: Largest diameter of a nucleus, for the record.
        config: A training configuration, for the record.

    Raises:
        InputError: The folder has a run already (without `resume`) or one of another scenario or network,
            or cannot be written, or the checkpoint to go on from is damaged.
    """

    def __init__(
        self,
        scenario: Scenario,
        network: UNet,
        *,
        raw: gp.ArrayKey,
        folder: str | Path,
        iterations: int,
        targets: Keys | None = None,
        weights: Keys | None = None,
        labels: gp.ArrayKey | None = None,
        prediction: gp.ArrayKey | None = None,
        optimizer: Optimizer | None = None,
        precision: Precision = "float32",
        checkpoint_every: int = 1000,
        snapshot_every: int | None = None,
        seed: int = 0,
        resume: bool = False,
        tensorboard: bool = True,
        threads: int | None = None,
        scale_um: tuple[float, float, float] | None = None,
        normalize: Normalization = (1.0, 99.8),
        nucleus_um: float | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.scenario, self.network = scenario, network
        self.raw, self.labels, self.prediction = raw, labels, prediction
        self.targets = keys_of(scenario, targets, "TARGET")
        self.weights = keys_of(scenario, weights, "WEIGHT")
        self.folder = Path(folder)
        self.iterations = iterations
        self.optimizer, self.precision = optimizer or Optimizer(), precision
        self.checkpoint_every, self.snapshot_every = checkpoint_every, snapshot_every
        self.seed, self.resume, self.threads, self.tensorboard = seed, resume, threads, tensorboard
        self._record = {
            "scale_um": scale_um,
            "normalize": normalize,
            "nucleus_um": nucleus_um,
            "config": config,
        }
        self._trainer: Any = None
        self._log: LossLog | None = None
        self._unsaved = False
        checkpoints = list_checkpoints(self.folder) if resume else []
        self._start = checkpoints[-1] if checkpoints else None
        if self._start is not None:
            check_checkpoint(self._start, optimizer=True)
        self.iteration = self._start.iteration if self._start else 0
        self.loss = math.nan
        inputs = {"raw": raw}
        inputs |= {f"target of {name}": key for name, key in self.targets.items()}
        inputs |= {f"weight of {name}": key for name, key in self.weights.items()}
        if labels is not None:
            inputs["labels"] = labels
        super().__init__(inputs, {} if prediction is None else {"prediction": prediction}, {})

    def request(self, output_shape: Sequence[int]) -> gp.BatchRequest:
        """What to request for one training step.

        Args:
            output_shape: Spatial shape of the network's output, voxels.

        Raises:
            InputError: The network has no such output; the error names the next one it has.
        """
        shape = self.network.training_input_shape(output_shape)
        around = gp.Roi((0, 0, 0), shape)
        border = gp.Coordinate(self.network.border)
        centre = around.grow(border * -1, border * -1)
        request = gp.BatchRequest()
        request[self.raw] = gp.ArraySpec(roi=around)
        for key in (*self.targets.values(), *self.weights.values()):
            request[key] = gp.ArraySpec(roi=centre)
        if self.labels is not None:
            request[self.labels] = gp.ArraySpec(roi=centre)
        return request

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        """Ask for the inputs, as they were requested.

        Raises:
            InputError: The request lacks one of them.
        """
        missing = [str(key) for key in self.inputs.values() if key not in request]
        if missing:
            raise InputError(
                "request to KerasTrain",
                expected="all that a training step needs",
                received=f"a request without {', '.join(missing)}",
                remedy="request train.request(output_shape)",
            )
        return super().prepare(request)

    def start(self) -> None:
        """Prepare the run folder; the network waits for the first step."""
        record = RunRecord(scenario=self.scenario, network=self.network, seed=self.seed, **self._record)
        record.begin(self.folder, resume=self.resume)

    def train_step(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        """Train on one batch; sets `batch.loss` and `batch.iteration` (the number of steps done)."""
        channels, weight = self.network.input_channels, next(iter(self.weights.values()))
        x = network_input(batch, self.raw, channels, weight, self.iteration + 1)
        y = self.scenario.pack(
            arrays_of(batch, self.targets, 4),
            arrays_of(batch, self.weights, 3),
        )
        trainer = self._trainer or self._build(batch)
        step = self.iteration + 1
        snapshot = self.snapshot_every is not None and (step == 1 or step % self.snapshot_every == 0)
        if snapshot or (self.prediction is not None and self.prediction in request):
            self._predict(batch, x, request, step if snapshot else None)
        self._unsaved = False
        logs = {name: float(value) for name, value in trainer.train_on_batch(x, y, return_dict=True).items()}
        self.iteration, self.loss = step, logs.pop("loss")
        if not math.isfinite(self.loss):
            raise NucsegError(
                f"the loss became {self.loss} at iteration {step} of {self.folder}: lower the learning rate "
                f"({self.optimizer.learning_rate:g}), lower clipnorm, or look for NaN in the raw volumes "
                "with `nucseg check`; the checkpoints before it are unharmed"
            )
        self._unsaved = True
        if self._log is not None:
            self._log.add(step, self.loss, logs)
        batch.loss, batch.iteration = self.loss, step
        if step % self.checkpoint_every == 0 or step == self.iterations:
            self._save()

    def stop(self) -> None:
        """Save what is not saved yet and close the logs."""
        if self._trainer is not None and self._unsaved:
            self._save()
        if self._log is not None:
            self._log.close()
        self._trainer = self._log = None

    def _build(self, batch: gp.Batch) -> Any:
        import keras

        use_threads(self.threads)
        share_gpu()
        record = RunRecord.read(self.folder)
        self._scale_um = record.scale_um or batch[self.raw].attrs.get("scale_um")
        record = record.model_copy(update={"versions": versions(), "scale_um": self._scale_um})
        record.write(self.folder)
        network = self.network.build(self.scenario.channels, self.seed)
        optimizer = self.optimizer.build(self.iterations)
        trained = training_copy(network, self.precision)
        optimizer.build(trained.trainable_variables)
        if self._start is not None:
            restore_checkpoint(self._start, trained, optimizer)
            logger.info("resumed %s at iteration %d", self.folder, self.iteration)
        names = [head.name for head in self.scenario.heads]
        # The trainer shares its layers with the network (or its copy of another precision), which stays uncompiled:
        # its file needs no loss to be read.
        self._trainer = keras.Model(trained.input, trained.output)
        self._trainer.compile(
            optimizer=optimizer,
            loss=self.scenario.loss,
            metrics=[_head_loss(self.scenario, name) for name in names],
            jit_compile=jit_compile(),
        )
        self._network, self._trained, self._keras_optimizer = network, trained, optimizer
        self._log = LossLog(self.folder, names, self.iteration, self.tensorboard)
        return self._trainer

    def _predict(
        self, batch: gp.Batch, x: np.ndarray, request: gp.BatchRequest, snapshot: int | None
    ) -> None:
        output = np.asarray(self._trainer.predict_on_batch(x[:1])[0])
        predicted = self.scenario.activation(channels_first(output, output.shape[:3]))
        target = batch[next(iter(self.weights.values()))]
        if self.prediction is not None and self.prediction in request:
            spec = self.spec[self.prediction].copy()
            spec.roi, spec.dtype = target.spec.roi.copy(), predicted.dtype
            batch[self.prediction] = gp.Array(predicted, spec)
        if snapshot is None:
            return

        def first(key: gp.ArrayKey) -> np.ndarray:
            return batch[key].data[0] if target.data.ndim == 4 else batch[key].data

        arrays = {"raw": np.moveaxis(x[0], -1, 0), "prediction": predicted}
        arrays |= {f"target_{name}": first(key) for name, key in self.targets.items()}
        arrays |= {f"weight_{name}": first(key) for name, key in self.weights.items()}
        if self.labels is not None:
            arrays["labels"] = first(self.labels)
        (self.folder / "snapshots").mkdir(exist_ok=True)
        write_snapshot(self.folder / "snapshots", snapshot, arrays, self._scale_um)

    def _save(self) -> None:
        if self._log is not None:
            self._log.flush()
        if self._trained is not self._network:
            self._network.set_weights(self._trained.get_weights())
        save_checkpoint(self.folder, self.iteration, self._network, self._keras_optimizer, self.loss)
        self._unsaved = False


def _head_loss(scenario: Scenario, name: str) -> Callable[[Any, Any], Any]:
    def head_loss(target: Any, output: Any) -> Any:
        return scenario.head_losses(target, output)[name]

    head_loss.__name__ = name
    return head_loss
