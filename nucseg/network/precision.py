"""Training in half the bits: a network whose layers compute in bfloat16, with the weights of one in float32."""

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import keras

Precision = Literal["float32", "bfloat16"]


def in_precision(network: "keras.Model", precision: Precision) -> "keras.Model":
    """The network itself for float32, or a copy of it that computes in bfloat16.

    Weights, gradients of weights, and the output stay float32 (Micikevicius et al., ICLR 2018; bfloat16 has the range
    of float32, so that no loss is scaled). Batch normalisation takes its means in float32.

    Args:
        network: Of float32 layers, the last of which is its output.
        precision: What convolutions compute in.

    Returns:
        A model of the same weights in the same order. A copy's weights are its own: hand them back with `set_weights`.
    """
    if precision == "float32":
        return network
    import keras

    last = network.layers[-1].name

    def copied(layer: Any) -> Any:
        settings = layer.get_config()
        if layer.name != last:
            settings["dtype"] = "mixed_bfloat16"
        return type(layer).from_config(settings)

    copy = keras.models.clone_model(network, clone_function=copied)
    copy.set_weights(network.get_weights())
    return copy
