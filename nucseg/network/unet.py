"""The 3-D U-Net: its configuration and its shapes.

Source: the 3-D U-Net of Çiçek et al. (MICCAI 2016) as Hirsch and Kainmueller use it (MIDL 2020, section 2):
valid padding, max-pooling by 2, nearest-neighbour up-sampling after a bias-free 1x1x1 channel mix,
centre-cropped skips.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nucseg.errors import InputError
from nucseg.network.axis_shape import AxisShape

if TYPE_CHECKING:
    import keras

Shape = tuple[int, int, int]
Triple = Sequence[int]
_Factor = Annotated[int, Field(ge=1)]
_Factors = Annotated[tuple[_Factor, _Factor, _Factor], BeforeValidator(lambda v: _tuple(v))]

DEFAULT_PRESET = "modern"
"""What is trained where nothing else is said."""

_PRESETS: dict[str, dict[str, Any]] = {
    # The published network: 17.07 million parameters, 228x228x204 -> 140x140x116 in training.
    "paper": {"levels": 4, "feature_maps": 10, "factor": 4, "initializer": "glorot_uniform"},
    # Trains in two minutes on two CPU cores: 72^3 -> 32^3.
    "small": {"levels": 3, "feature_maps": 8, "factor": 2},
    # As small, wider and normalised: better after the same seconds. Shapes are those of small.
    "modern": {"levels": 3, "feature_maps": 16, "factor": 2, "normalization": "batch"},
    # For tests: 28^3 -> 12^3.
    "tiny": {"levels": 2, "feature_maps": 4, "factor": 2},
}


class UNet(BaseModel):
    """Configuration of a 3-D U-Net with 3x3x3 convolutions, ReLU, max-pooling and linear outputs.

    All shapes are spatial `z, y, x` in voxels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    levels: int = Field(3, ge=1, le=7)
    """Resolutions, the full one included: one more than there are poolings."""
    feature_maps: int = Field(8, ge=1)
    """Feature maps of the first convolution."""
    factor: int = Field(2, ge=1)
    """Feature maps are multiplied by this at each pooling."""
    pool: Annotated[tuple[_Factors, ...] | None, BeforeValidator(lambda v: _tuple(v))] = None
    """Factors z, y, x of the pooling below each level but the last; None: 2 along all axes. Where voxels are longer
    along z, `[[1, 2, 2], [2, 2, 2]]` lets the deeper levels see cubes."""
    stride: _Factors = (1, 1, 1)
    """Voxels z, y, x that are averaged before the first level, and for each of which the last layer, a transposed
    convolution, has weights of its own. All between works at the coarser resolution: `[1, 2, 2]` is four times as fast,
    sees twice as far, and starts from half the noise. For nuclei that are more than about 15 voxels wide."""
    convolutions: int = Field(2, ge=1)
    """3x3x3 convolutions per level, on the way down and on the way up."""
    padding: Literal["valid", "same"] = "valid"
    """`valid`: the output is smaller than the input by `context` a side, and tiles agree exactly. `same`:
    zeros are padded in every convolution, training patches keep their shape; predictions are cropped by
    `context` so that their tiles agree too."""
    input_channels: int = Field(1, ge=1)
    """Channels of the raw image."""
    initializer: Literal["glorot_uniform", "he_normal"] = "he_normal"
    """Distribution of the initial weights, by its Keras name. `he_normal` keeps the variance of the features through
    ReLU layers, `glorot_uniform` (as published) halves it at each: such a network first learns to pass its input on."""

    residual: bool = False
    """Whether each block of convolutions adds what it was given, cropped, and mixed by a 1x1x1 convolution where the
    number of maps differs (He et al., CVPR 2016). The last convolution of a block then starts at zero."""
    normalization: Literal["none", "batch"] = "none"
    """`batch`: batch normalisation after each 3x3x3 convolution. A prediction uses the running averages, never the
    statistics of its own tile, so that tiles agree."""

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A ready-made configuration.

        Args:
            name: `paper` (17 million parameters), `modern` (the best for two CPU cores), `small` (quick steps), or
                `tiny` (tests).
            changes: Fields to change, as in `UNet.preset("small", feature_maps=12)`.

        Raises:
            InputError: No such preset.
        """
        return cls(**{**preset_fields(name), **changes})

    @model_validator(mode="after")
    def _pools_between_levels(self) -> Self:
        if self.pool is not None and len(self.pool) != self.levels - 1:
            raise ValueError(f"a pool of {self.levels - 1} entries, one below each level but the last")
        return self

    @property
    def pooling(self) -> Shape:
        """Total down-sampling; blocks must start at multiples of it for their predictions to agree."""
        z, y, x = (axis.step for axis in self.axes())
        return z, y, x

    @property
    def context(self) -> Shape:
        """Voxels a side that a prediction needs beyond its output."""
        z, y, x = (axis.context for axis in self.axes())
        return z, y, x

    @property
    def border(self) -> Shape:
        """Voxels a side by which the output of a training patch is smaller than its input: 0 for `same`."""
        return self.context if self.padding == "valid" else (0, 0, 0)

    def output_shape(self, input_shape: Triple) -> Shape:
        """Shape predicted from an input of this shape, that is without the context.

        Raises:
            InputError: The network cannot take this shape; the error names the next one that it can.
        """
        shape = tuple(n - 2 * context for n, context in zip(input_shape, self.context, strict=True))
        if min(shape) < 1 or self.input_shape(shape) != tuple(input_shape):
            fits = self.input_shape(tuple(max(n, 1) for n in shape))
            raise InputError(
                "network input",
                expected=f"a shape the network can pool {self.levels - 1} times, such as {fits}",
                received=str(tuple(input_shape)),
                remedy="use UNet.input_shape(output) to find an input for a wanted output",
            )
        return shape[0], shape[1], shape[2]

    def input_shape(self, output_shape: Triple) -> Shape:
        """Smallest input that the network can take and whose prediction is at least `output_shape`."""
        z, y, x = self._smallest(output_shape, self.context)
        return z, y, x

    def training_input_shape(self, output_shape: Triple) -> Shape:
        """Input of a training patch whose output is exactly `output_shape`.

        Raises:
            InputError: No input gives exactly this output; the error names the next output that has one.
        """
        z, y, x = self._smallest(output_shape, self.border)
        if (got := tuple(n - 2 * b for n, b in zip((z, y, x), self.border, strict=True))) != tuple(
            output_shape
        ):
            raise InputError(
                "output patch",
                expected=f"a shape the network can give, such as {got}",
                received=str(tuple(output_shape)),
                remedy=f"for this network sizes go in steps of {self.pooling}",
            )
        return z, y, x

    def build(self, channels: int, seed: int | None = None) -> "keras.Model":
        """The Keras model: float32 `(batch, z, y, x, input_channels)` to linear `(batch, z, y, x, channels)`.

        Args:
            channels: Output channels: of all heads together.
            seed: Of the initial weights; None draws from Keras' global generator.
        """
        from nucseg.network.unet_model import build

        return build(self, channels, seed)

    def axes(self) -> list[AxisShape]:
        """The arithmetic of shapes along z, y and x."""
        valid = self.padding == "valid"
        pool = self.factors()
        return [
            AxisShape(self.stride[axis], tuple(factors[axis] for factors in pool), self.convolutions, valid)
            for axis in range(3)
        ]

    def factors(self) -> tuple[Shape, ...]:
        """Pooling factors z, y, x below each level but the last."""
        return ((2, 2, 2),) * (self.levels - 1) if self.pool is None else self.pool

    def _smallest(self, output_shape: Triple, around: Shape) -> Shape:
        """Smallest input that the network can take and that holds `output_shape` with so much around it."""
        z, y, x = (
            axis.smallest(n + 2 * more)
            for axis, n, more in zip(self.axes(), output_shape, around, strict=True)
        )
        return z, y, x


def unet(preset: str = DEFAULT_PRESET, **changes: Any) -> UNet:
    """A U-Net by the name of its preset, with fields changed: `unet("small", feature_maps=12)`.

    Raises:
        InputError: No such preset.
    """
    return UNet.preset(preset, **changes)


def preset_fields(name: str) -> dict[str, Any]:
    """The fields that a preset sets.

    Raises:
        InputError: No such preset.
    """
    if name not in _PRESETS:
        raise InputError(
            "network preset",
            expected=" or ".join(_PRESETS),
            received=repr(name),
            remedy="choose one of these",
        )
    return dict(_PRESETS[name])


def _tuple(value: Any) -> Any:
    """A list, as TOML has it, as a tuple; anything else is left for the validation to judge."""
    return tuple(value) if isinstance(value, list) else value
