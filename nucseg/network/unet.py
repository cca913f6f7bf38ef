"""The 3-D U-Net: its configuration, the arithmetic of its shapes, and its Keras model.

Source: the 3-D U-Net of Çiçek et al. (MICCAI 2016) as Hirsch and Kainmueller use it (MIDL 2020, section 2):
valid padding, max-pooling by 2, nearest-neighbour up-sampling after a bias-free 1x1x1 channel mix,
centre-cropped skips.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from nucseg.errors import InputError

if TYPE_CHECKING:
    import keras

Shape = tuple[int, int, int]
Triple = Sequence[int]

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
    """Configuration of a 3-D U-Net with 3x3x3 convolutions, ReLU, pooling by 2 and linear outputs.

    All shapes are spatial `z, y, x` in voxels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    levels: int = Field(3, ge=1, le=7)
    """Resolutions, the full one included: one more than there are poolings."""
    feature_maps: int = Field(8, ge=1)
    """Feature maps of the first convolution."""
    factor: int = Field(2, ge=1)
    """Feature maps are multiplied by this at each pooling."""
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

    @property
    def pooling(self) -> int:
        """Total down-sampling; blocks must start at multiples of it for their predictions to agree."""
        return 2 ** (self.levels - 1)

    @property
    def context(self) -> int:
        """Voxels a side that a prediction needs beyond its output."""
        if self.padding == "valid":
            return self._lost(0)
        reach = max(
            max(x - self._low(0, x) for x in range(self.pooling)),
            max(self._high(0, x) - x for x in range(self.pooling)),
        )
        return -(-reach // self.pooling) * self.pooling

    @property
    def border(self) -> int:
        """Voxels a side by which the output of a training patch is smaller than its input: 0 for `same`."""
        return self.context if self.padding == "valid" else 0

    def output_shape(self, input_shape: Triple) -> Shape:
        """Shape predicted from an input of this shape, that is without the context.

        Raises:
            InputError: The network cannot take this shape; the error names the next one that it can.
        """
        shape = tuple(n - 2 * self.context for n in input_shape)
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
        z, y, x = (self._smallest(n + 2 * self.context) for n in output_shape)
        return z, y, x

    def training_input_shape(self, output_shape: Triple) -> Shape:
        """Input of a training patch whose output is exactly `output_shape`.

        Raises:
            InputError: No input gives exactly this output; the error names the next output that has one.
        """
        z, y, x = (self._smallest(n + 2 * self.border) for n in output_shape)
        if (got := tuple(n - 2 * self.border for n in (z, y, x))) != tuple(output_shape):
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
        import keras

        count = 0

        def initializer() -> Any:
            nonlocal count
            count += 1
            layer_seed = None if seed is None else seed * 1000 + count
            kind = {"glorot_uniform": "GlorotUniform", "he_normal": "HeNormal"}[self.initializer]
            return getattr(keras.initializers, kind)(seed=layer_seed)

        normalized = self.normalization == "batch"
        plain = not (normalized or self.residual)

        def convolve(x: Any, maps: int, name: str) -> Any:
            entered = x
            for i in range(self.convolutions):
                joins = self.residual and i == self.convolutions - 1
                x = keras.layers.Conv3D(
                    maps,
                    3,
                    padding=self.padding,
                    activation="relu" if plain else None,
                    use_bias=not normalized,
                    data_format="channels_last",
                    kernel_initializer="zeros" if joins and not normalized else initializer(),
                    name=f"{name}_conv{i}",
                )(x)
                if normalized:
                    x = keras.layers.BatchNormalization(
                        momentum=0.95,
                        gamma_initializer="zeros" if joins else "ones",
                        name=f"{name}_norm{i}",
                    )(x)
                if joins:
                    x = keras.layers.Add(name=f"{name}_add")([x, shortcut(entered, maps, name)])
                if not plain:
                    x = keras.layers.ReLU(name=f"{name}_relu{i}")(x)
            return x

        def shortcut(x: Any, maps: int, name: str) -> Any:
            if self.padding == "valid":
                x = keras.layers.Cropping3D(
                    self.convolutions, data_format="channels_last", name=f"{name}_crop"
                )(x)
            if x.shape[-1] == maps:
                return x
            return keras.layers.Conv3D(
                maps,
                1,
                use_bias=False,
                data_format="channels_last",
                kernel_initializer=initializer(),
                name=f"{name}_shortcut",
            )(x)

        def level(x: Any, depth: int) -> Any:
            maps = self.feature_maps * self.factor**depth
            x = convolve(x, maps, f"down{depth}")
            if depth == self.levels - 1:
                return x
            below = keras.layers.MaxPooling3D(2, data_format="channels_last", name=f"pool{depth}")(x)
            below = level(below, depth + 1)
            below = keras.layers.Conv3D(
                maps,
                1,
                use_bias=False,
                data_format="channels_last",
                kernel_initializer=initializer(),
                name=f"mix{depth}",
            )(below)
            below = keras.layers.UpSampling3D(2, data_format="channels_last", name=f"up{depth}_sample")(below)
            if self.padding == "valid":
                crop = 2 * self._lost(depth + 1)
                x = keras.layers.Cropping3D(crop, data_format="channels_last", name=f"skip{depth}")(x)
            x = keras.layers.Concatenate(name=f"join{depth}")([x, below])
            return convolve(x, maps, f"up{depth}")

        raw = keras.Input((None, None, None, self.input_channels), name="raw")
        output = keras.layers.Conv3D(
            channels,
            1,
            data_format="channels_last",
            dtype="float32",
            kernel_initializer=initializer(),
            name="heads",
        )(level(raw, 0))
        return keras.Model(raw, output, name="unet")

    def _lost(self, depth: int) -> int:
        """Voxels of this level a side, lost by valid convolutions from this level down and back."""
        if depth == self.levels - 1:
            return self.convolutions
        return 2 * self.convolutions + 2 * self._lost(depth + 1)

    def _smallest(self, size: int) -> int:
        """Smallest size along one axis >= `size` that the network can take."""
        lost = 2 * self.convolutions if self.padding == "valid" else 0
        shift = lost * (self.pooling - 1)  # a valid input is pooling * bottom + shift
        # The bottom must leave one voxel in each level above it after that level's convolutions.
        bottom = max(-(-(size - shift) // self.pooling), lost + 1)
        while self.padding == "valid" and self.pooling * bottom + shift <= 2 * self._lost(0):
            bottom += 1
        return self.pooling * bottom + shift

    def _low(self, depth: int, x: int) -> int:
        """Lowest voxel of the level's input that output voxel `x` depends on (`same` padding)."""
        if depth == self.levels - 1:
            return x - self.convolutions
        joined = x - self.convolutions
        return min(joined, 2 * self._low(depth + 1, joined // 2)) - self.convolutions

    def _high(self, depth: int, x: int) -> int:
        """Highest such voxel."""
        if depth == self.levels - 1:
            return x + self.convolutions
        joined = x + self.convolutions
        return max(joined, 2 * self._high(depth + 1, joined // 2) + 1) + self.convolutions


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
