"""The gunpowder node that predicts with a trained Keras network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gunpowder as gp
import numpy as np
from gunpowder.nodes.generic_predict import GenericPredict

from nucseg.errors import InputError
from nucseg.network.mirrors import mirrors_name
from nucseg.network.model import TrainedModel


class KerasPredict(GenericPredict):
    """Provide a trained network's prediction, for `gp.Scan`, `gp.DaisyRequestBlocks`, or a single request.

    Any region may be requested, of any size and place: the node asks for the raw voxels that the network
    needs around it, begins at a multiple of the network's pooling, counted from the begin of the raw array,
    and crops. A scan is therefore equal to one prediction of the whole volume, to float rounding, whatever
    its blocks; blocks of multiples of the pooling waste nothing. Raw voxels outside the volume are 0, the low
    end of normalised intensities, as in training and in the blockwise `Predict`; no `gp.Pad` is needed.

    Put it after a source whose raw is normalised as in training, such as
    `VolumeSource(volume, {RAW: "image"}, normalize=model.normalize)`. Only the prediction is to be requested.

    Args:
        model: A trained model, or the folder of a training run.
        raw: Key of the raw image, float, `(z, y, x)` or `(channels, z, y, x)`.
        prediction: Key of the prediction: float32 `(scenario.channels, z, y, x)` after the activation,
            vectors in voxels.
        mirrors: Axes along which mirrored views are predicted, too, to be averaged: "none", "all", or some such as
            "yx" or ("y", "x"). n axes take 2^n times as long. None: as was selected for the model's checkpoint, else
            none.
        threads: For the Keras backend when `model` is a folder; None leaves its own choice.
        spawn_subprocess: Predict in a process of its own, as a scan with several workers needs it.

    Raises:
        InputError: Not a run folder, or it has no checkpoint; no such mirrors.
    """

    def __init__(
        self,
        model: TrainedModel | str | Path,
        raw: gp.ArrayKey,
        prediction: gp.ArrayKey,
        *,
        mirrors: str | Sequence[str] | None = None,
        threads: int | None = None,
        spawn_subprocess: bool = False,
    ) -> None:
        if not isinstance(model, TrainedModel):
            model = TrainedModel.load(model, threads=threads)
        self.model, self.raw, self.prediction = model, raw, prediction
        self.mirrors = model.mirrors if mirrors is None else mirrors_name(mirrors)
        spec = gp.ArraySpec(voxel_size=(1, 1, 1), interpolatable=True, dtype=np.float32)
        super().__init__({"raw": raw}, {"prediction": prediction}, {prediction: spec}, spawn_subprocess)

    def setup(self) -> None:
        """Announce the prediction wherever there is raw."""
        if self.raw not in self.spec:
            raise InputError(
                "KerasPredict",
                expected=f"{self.raw} to be provided upstream",
                received="a pipeline without it",
                remedy="check the keys of the source",
            )
        self._extent = self.spec[self.raw].roi.copy()
        self.array_specs[self.prediction].roi = self._extent.copy()
        super().setup()

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        """Ask for the raw voxels around the requested region that exist."""
        needed = gp.BatchRequest()
        wanted = self._needed(request).intersect(self._extent)
        if wanted.empty:
            raise InputError(
                "request to KerasPredict",
                expected=f"a region near the raw volume {self._extent}",
                received=str(request[self.prediction].roi),
                remedy="request a part of the volume",
            )
        needed[self.raw] = gp.ArraySpec(roi=wanted)
        return needed

    def start(self) -> None:
        """Load the network, in the process that predicts."""
        _ = self.model.keras

    def predict(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        """Predict the requested region."""
        needed, wanted = self._needed(request), request[self.prediction].roi
        raw = _over(batch[self.raw], needed)
        predicted = self.model.predict(raw, self.mirrors)
        begin = needed.begin + gp.Coordinate(self.model.context)
        crop = (wanted - begin).to_slices()
        spec = self.spec[self.prediction].copy()
        spec.roi = wanted.copy()
        data = np.ascontiguousarray(predicted[(slice(None), *crop)])
        batch[self.prediction] = gp.Array(data, spec, dict(batch[self.raw].attrs))

    def _needed(self, request: gp.BatchRequest) -> gp.Roi:
        """The input for a request: from an aligned begin, of the smallest shape that the network can take."""
        wanted = request[self.prediction].roi
        offset = gp.Coordinate(
            (w - (0 if b is None else b)) % step
            for w, b, step in zip(wanted.begin, self._extent.begin, self.model.pooling, strict=True)
        )
        begin = wanted.begin - offset
        shape = self.model.network.input_shape(tuple(wanted.end - begin))
        return gp.Roi(begin - gp.Coordinate(self.model.context), shape)


def _over(array: gp.Array, roi: gp.Roi) -> np.ndarray:
    """The array's data over a region that contains it, zero where there is none."""
    have: Any = array.spec.roi
    if have == roi:
        return array.data
    before = tuple(have.begin - roi.begin)
    after = tuple(roi.end - have.end)
    padding = [(0, 0)] * (array.data.ndim - 3) + list(zip(before, after, strict=True))
    return np.pad(array.data, padding)
