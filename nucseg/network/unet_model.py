"""The Keras model of a U-Net's configuration."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

    from nucseg.network.unet import UNet


def build(network: "UNet", channels: int, seed: int | None = None) -> "keras.Model":
    """See `nucseg.network.unet.UNet.build`."""
    import keras

    count, axes, pool = 0, network.axes(), network.factors()

    def initializer() -> Any:
        nonlocal count
        count += 1
        layer_seed = None if seed is None else seed * 1000 + count
        kind = {"glorot_uniform": "GlorotUniform", "he_normal": "HeNormal"}[network.initializer]
        return getattr(keras.initializers, kind)(seed=layer_seed)

    normalized = network.normalization == "batch"
    plain = not (normalized or network.residual)

    def convolve(x: Any, maps: int, name: str) -> Any:
        entered = x
        for i in range(network.convolutions):
            joins = network.residual and i == network.convolutions - 1
            x = keras.layers.Conv3D(
                maps,
                3,
                padding=network.padding,
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
        if network.padding == "valid":
            x = keras.layers.Cropping3D(
                network.convolutions, data_format="channels_last", name=f"{name}_crop"
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
        maps = network.feature_maps * network.factor**depth
        x = convolve(x, maps, f"down{depth}")
        if depth == network.levels - 1:
            return x
        factors = pool[depth]
        below = keras.layers.MaxPooling3D(factors, data_format="channels_last", name=f"pool{depth}")(x)
        below = level(below, depth + 1)
        below = keras.layers.Conv3D(
            maps,
            1,
            use_bias=False,
            data_format="channels_last",
            kernel_initializer=initializer(),
            name=f"mix{depth}",
        )(below)
        below = keras.layers.UpSampling3D(factors, data_format="channels_last", name=f"up{depth}_sample")(
            below
        )
        if network.padding == "valid":
            crop = tuple(f * axis.lost(depth + 1) for f, axis in zip(factors, axes, strict=True))
            x = keras.layers.Cropping3D(crop, data_format="channels_last", name=f"skip{depth}")(x)
        x = keras.layers.Concatenate(name=f"join{depth}")([x, below])
        return convolve(x, maps, f"up{depth}")

    raw = keras.Input((None, None, None, network.input_channels), name="raw")
    if network.stride == (1, 1, 1):
        averaged, final = raw, keras.layers.Conv3D
    else:
        averaged = keras.layers.AveragePooling3D(network.stride, data_format="channels_last", name="average")(
            raw
        )
        final = keras.layers.Conv3DTranspose
    output = final(
        channels,
        network.stride,
        strides=network.stride,
        data_format="channels_last",
        dtype="float32",
        kernel_initializer=initializer(),
        name="heads",
    )(level(averaged, 0))
    return keras.Model(raw, output, name="unet")
