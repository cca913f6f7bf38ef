"""How the numbers of a prediction are stored: floats of 32 or 16 bits, or integers of 16 or 8 bits and a scale.

Integers stand for `value = (code - zero_point) * scale`, with a scale and a zero point for each channel: the linear
quantisation of ONNX (DequantizeLinear, https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html). Both are an
attribute of the zarr array, and everything that opens the array with `open_volume` gets values, not codes.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from nucseg.errors import InputError, short

Kind = Literal["float32", "float16", "uint16", "uint8"]

ATTRIBUTE, KEY = "nucseg", "encoding"
"""An encoded array says so in its attribute `nucseg`, under this key."""


class Encoding(BaseModel):
    """How the values of an array (c, z, y, x) are stored.

    Attributes:
        dtype: Of the stored array.
        scale: For integers, a channel each: the value of one step.
        zero_point: For integers, a channel each: the code of the value 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Kind
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if len(self.scale) != len(self.zero_point) or bool(self.scale) != (self.dtype[0] == "u"):
            raise ValueError("integers have a scale and a zero point a channel, floats have neither")
        if not all(isfinite(scale) and scale > 0 for scale in self.scale):
            raise ValueError(f"scales are positive numbers, not {self.scale}")
        return self

    @classmethod
    def of_ranges(cls, dtype: Kind, ranges: Sequence[tuple[float, float]]) -> Self:
        """The finest linear encoding of channels whose values lie in these ranges, so that 0 is a code of its own.

        A range from 0 uses all codes; one that is symmetric has 0 in the middle, and the code 0 stands for nothing.

        Args:
            dtype: Of the stored array.
            ranges: Lowest and highest value of each channel; floats need none.

        Raises:
            InputError: A range is empty or not finite.
        """
        if dtype[0] != "u":
            return cls(dtype=dtype)
        top = int(np.iinfo(dtype).max)
        scales, zeros = [], []
        for low, high in ranges:
            if not (isfinite(low) and isfinite(high) and low < high):
                raise InputError(
                    "range of values to store",
                    expected="two numbers, the lower one first",
                    received=f"{low:g} to {high:g}",
                    remedy="correct the head's stored_range",
                )
            if low == 0:
                scale, zero = high / top, 0
            elif low == -high:
                scale, zero = high / (top // 2), top // 2 + 1
            else:
                scale = (high - low) / (top - 1)  # one code to spare: the zero point is rounded
                zero = -int(np.floor(low / scale))
            scales.append(scale)
            zeros.append(zero)
        return cls(dtype=dtype, scale=tuple(scales), zero_point=tuple(zeros))

    @property
    def itemsize(self) -> int:
        """Bytes of a stored number."""
        return np.dtype(self.dtype).itemsize

    def limits(self, channel: int) -> tuple[float, float]:
        """Lowest and highest value that a channel can hold; those of the dtype for floats."""
        if not self.scale:
            largest = float(np.finfo(self.dtype).max)
            return -largest, largest
        scale, zero = self.scale[channel], self.zero_point[channel]
        return -zero * scale, (int(np.iinfo(self.dtype).max) - zero) * scale

    def encode(self, values: np.ndarray) -> tuple[np.ndarray, int]:
        """Values as they are stored.

        Args:
            values: float (c, z, y, x).

        Returns:
            An array of `dtype` and the same shape, and how many values lay beyond the range of their channel: these
            have become the nearest value that is in it.

        Raises:
            InputError: NaN or infinity in what has no code for it; another number of channels.
        """
        if self.dtype == "float32":
            return values.astype(np.float32, copy=False), 0
        if not np.isfinite(values).all():
            raise InputError(
                "prediction",
                expected=f"a number in every voxel, to store it as {self.dtype}",
                received=f"{values.size - np.count_nonzero(np.isfinite(values))} values that are NaN or infinite",
                remedy="look for the mistake in the network that predicted it, or store it as float32",
            )
        if not self.scale:
            low, high = (np.float32(limit) for limit in self.limits(0))
            beyond = int(np.count_nonzero((values < low) | (values > high)))
            return np.clip(values, low, high).astype(self.dtype), beyond
        self._check_channels(len(values))
        top = np.float32(np.iinfo(self.dtype).max)
        codes, beyond = np.empty(values.shape, self.dtype), 0
        for channel, (scale, zero) in enumerate(zip(self.scale, self.zero_point, strict=True)):
            steps = values[channel].astype(np.float32) / np.float32(scale)
            np.rint(steps, out=steps)
            steps += np.float32(zero)
            beyond += int(np.count_nonzero((steps < 0) | (steps > top)))
            codes[channel] = np.clip(steps, 0, top, out=steps)
        return codes, beyond

    def decode(self, codes: np.ndarray, channel: int | None = None) -> np.ndarray:
        """The values that codes stand for: float32 of the same shape, a function of the codes alone.

        Args:
            codes: (c, z, y, x); or (z, y, x), those of `channel`.
            channel: Which channel; None: all.

        Raises:
            InputError: Another number of channels.
        """
        if not self.scale:
            return codes.astype(np.float32, copy=False)
        if channel is not None:
            return self._values(channel)[codes]
        if codes.ndim == 3:  # an array without a channel axis
            return self.decode(codes[None])[0]
        self._check_channels(len(codes))
        values = np.empty(codes.shape, np.float32)
        for index, own in enumerate(codes):
            values[index] = self._values(index)[own]
        return values

    def _values(self, channel: int) -> np.ndarray:
        """The value of every code, computed in float64 and rounded once."""
        codes = np.arange(int(np.iinfo(self.dtype).max) + 1, dtype=np.int64)
        return ((codes - self.zero_point[channel]) * self.scale[channel]).astype(np.float32)

    def _check_channels(self, number: int) -> None:
        if number != len(self.scale):
            raise InputError(
                "encoded array",
                expected=f"{len(self.scale)} channels, as many as it has scales",
                received=f"{number}",
                remedy="write the array again",
            )


def attributes_of(encoding: Encoding | None) -> dict[str, Any]:
    """Attributes that say how an array's values are stored; none for float32, which are the values."""
    if encoding is None or encoding.dtype == "float32":
        return {}
    return {ATTRIBUTE: {KEY: encoding.model_dump(mode="json")}}


def noted_encoding(where: str, array: Any) -> Encoding | None:
    """What an array's attributes say about how its values are stored; None: they are the values.

    Raises:
        InputError: They say something that does not fit the array.
    """
    said = dict(array.attrs).get(ATTRIBUTE)
    if not isinstance(said, dict) or KEY not in said:
        return None
    try:
        encoding = Encoding.model_validate(said[KEY])
    except ValidationError:
        received = short(said[KEY])
    else:
        if np.dtype(encoding.dtype) == array.dtype:
            return encoding
        received = f"{encoding.dtype}, for an array of {array.dtype}"
    raise InputError(
        f"{where}: attribute {ATTRIBUTE}.{KEY}",
        expected="how its values are stored: dtype, scale, zero_point",
        received=received,
        remedy="restore the array's zarr.json from a copy, or predict again",
    )
