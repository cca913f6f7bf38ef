"""A trained network at work on one part of a volume after the other, as prediction stores it."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nucseg.blockwise.grid import Box, Shape
from nucseg.blockwise.mask import Mask, OpenMask
from nucseg.errors import InputError
from nucseg.network.mirrors import Mirrors
from nucseg.storage.encoding import Encoding
from nucseg.volume import Volume

if TYPE_CHECKING:
    from nucseg.network.model import TrainedModel


COUNTS = ("nonfinite", "saturated", "spared")
"""What is counted of tiles."""


def check_exact(path: str, dtype: np.dtype, *values: float) -> None:
    """Refuse whole numbers that float64, in which intensities are normalised, cannot tell apart.

    Args:
        path: The volume's, for the message.
        dtype: The volume's.
        values: The smallest and the largest that were seen.

    Raises:
        InputError: One beyond 2^53.
    """
    if dtype.kind in "iu" and dtype.itemsize == 8 and (most := max(map(abs, values), default=0)) > 2**53:
        raise InputError(
            path,
            expected="whole numbers up to 2^53, which float64 can tell apart",
            received=f"values up to {int(most)}",
            remedy="subtract the offset first, and save the image with 16 or 32 bits",
        )


class Tile(NamedTuple):
    """What the network predicted in one go.

    Attributes:
        codes: As it is stored, (c, z, y, x).
        nonfinite: How many of its raw voxels are no number; they were taken as 0.
        saturated: How many of its values lay beyond what the encoding holds.
        spared: 1 where the network had nothing to do, else 0.
    """

    codes: np.ndarray
    nonfinite: int
    saturated: int
    spared: int

    @property
    def counts(self) -> dict[str, int]:
        """All but the codes, by name."""
        return {name: getattr(self, name) for name in COUNTS}


class Predictor:
    """Predicts tiles of a volume.

    All inputs of the network have one shape, since the convolution libraries may round differently for another; beyond
    the volume they are zero, the low end of normalised intensities.

    Args:
        model: The network.
        volume: The raw image, opened.
        shape: Voxels z, y, x of a tile.
        encoding: How values are stored.
        intensity: Intensities that become 0 and 1; None: as they are.
        mirrors: Axes along which mirrored views are averaged.
        mask: Where to look; None: everywhere.

    Raises:
        InputError: The mask does not cover the volume.
    """

    def __init__(
        self,
        model: "TrainedModel",
        volume: Volume,
        shape: Shape,
        encoding: Encoding,
        intensity: tuple[float, float] | None,
        mirrors: Mirrors | None,
        mask: Mask | None,
    ) -> None:
        self.encoding = encoding
        self._model, self._volume, self._shape = model, volume, shape
        self._intensity, self._mirrors = intensity, mirrors
        self._mask = OpenMask(mask, volume) if mask else None
        self._flat: tuple[bytes, np.ndarray] | None = None

    def tile(self, begin: Shape, box: Box) -> Tile:
        """Predict one tile.

        Args:
            begin: Its first voxel, a multiple of the pooling; may lie outside the volume.
            box: The part of it that is wanted, inside the volume.

        Raises:
            InputError: The network gives NaN, and the encoding has no code for it.
        """
        inside = self._mask.read(box) if self._mask else None
        if inside is not None and not inside.any():
            return Tile(self.encoding.encode(self._background(box.shape))[0], 0, 0, 1)
        z, y, x = (b - context for b, context in zip(begin, self._model.context, strict=True))
        raw, nonfinite = self._normalised((z, y, x), self._model.network.input_shape(self._shape), box)
        whole, known = self._predicted(raw)
        predicted = whole[
            :, *(slice(b - o, e - o) for b, e, o in zip(box.begin, box.end, begin, strict=True))
        ]
        if inside is not None:
            predicted = np.where(inside, predicted, self._background(box.shape))
        codes, saturated = self.encoding.encode(predicted)
        return Tile(codes, nonfinite, saturated, int(known))

    def _predicted(self, raw: np.ndarray) -> tuple[np.ndarray, bool]:
        """The network's output, and whether it was known: an input of one value a channel is predicted only once.

        All inputs have one shape, so that the output that is kept is the one that would be computed, to the last bit.
        """
        first = raw[:, :1, :1, :1]
        if not (raw == first).all():
            return self._model.predict(raw, self._mirrors), False
        key = first.tobytes()
        if self._flat is not None and self._flat[0] == key:
            return self._flat[1], True
        self._flat = (key, self._model.predict(raw, self._mirrors))
        return self._flat[1], False

    def _background(self, shape: Shape) -> np.ndarray:
        values = np.array(self._model.scenario.background, np.float32)
        return np.broadcast_to(values[:, None, None, None], (len(values), *shape))

    def _normalised(self, begin: Shape, shape: Shape, wanted: Box) -> tuple[np.ndarray, int]:
        """Raw voxels with intensities mapped and 0 outside the volume, and how many of the box are no number."""
        limits = self._volume.shape
        low = [max(0, b) for b in begin]
        high = [min(n, b + s) for n, b, s in zip(limits, begin, shape, strict=True)]
        size = [h - lo for lo, h in zip(low, high, strict=True)]
        data = self._volume.read((low[0], low[1], low[2]), (size[0], size[1], size[2]))
        data = data if data.ndim == 4 else data[None]
        # whole numbers of 32 and 64 bits far from 0 lie closer together than float32 can tell
        wide = data.dtype.itemsize > (4 if data.dtype.kind == "f" else 2)
        number = np.float64 if wide else np.float32
        if data.size and data.dtype.kind in "iu":
            check_exact(self._volume.path, data.dtype, int(data.min()), int(data.max()))
        data = data.astype(number, copy=False)
        if self._intensity is not None:
            bottom, top = self._intensity
            data = (data - number(bottom)) / number(top - bottom)
        with np.errstate(over="ignore"):  # beyond float32 is no number
            data = data.astype(np.float32, copy=False)
        finite = np.isfinite(data)
        core = tuple(slice(b - lo, e - lo) for b, e, lo in zip(wanted.begin, wanted.end, low, strict=True))
        nonfinite = int(np.count_nonzero(~finite[(slice(None), *core)]))
        data = np.where(finite, data, np.float32(0))
        padded = np.zeros((len(data), *shape), np.float32)
        inside = tuple(slice(lo - b, h - b) for lo, h, b in zip(low, high, begin, strict=True))
        padded[(slice(None), *inside)] = data
        return padded, nonfinite
