"""The copy of a network that is trained: the same weights, in layers that are faster to train.

Checkpoints are of the network itself: plain Keras layers in float32, which load anywhere.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import keras

Precision = Literal["float32", "bfloat16", "auto"]

CPUINFO = Path("/proc/cpuinfo")


def has_bfloat16_units() -> bool:
    """Whether the processor multiplies matrices of bfloat16 (Intel AMX), as far as Linux tells."""
    try:
        return " amx_bf16" in CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def resolved(precision: Precision) -> Literal["float32", "bfloat16"]:
    """What `auto` means here: bfloat16 for TensorFlow on a processor with units for it, else float32."""
    if precision != "auto":
        return precision
    import keras

    if keras.backend.backend() != "tensorflow" or not has_bfloat16_units():
        return "float32"
    import tensorflow as tf

    return "float32" if tf.config.list_physical_devices("GPU") else "bfloat16"


def training_copy(network: "keras.Model", precision: Precision = "float32") -> "keras.Model":
    """A copy of a network to train, or the network itself where a copy would be no faster.

    Batch normalisation is TensorFlow's fused kernel where TensorFlow is the backend: three times as fast on a
    processor as the elementwise operations that Keras makes of five-dimensional input.

    In bfloat16, weights, gradients of weights and the output stay float32 (Micikevicius et al., ICLR 2018; bfloat16
    has the range of float32, so that no loss is scaled); batch normalisation takes its statistics in float32.

    Args:
        network: Of float32 layers, the last of which is its output.
        precision: What convolutions compute in; see `resolved` for `auto`.

    Returns:
        A model of the same weights in the same order. A copy's weights are its own: hand them back with `set_weights`.
    """
    import keras

    precision = resolved(precision)
    norm = keras.layers.BatchNormalization
    fuse = keras.backend.backend() == "tensorflow" and any(isinstance(x, norm) for x in network.layers)
    if precision == "float32" and not fuse:
        return network
    last = network.layers[-1].name

    def copied(layer: Any) -> Any:
        settings = layer.get_config()
        if layer.name != last and precision == "bfloat16":
            settings["dtype"] = "mixed_bfloat16"
        kind = _fused_normalization() if fuse and isinstance(layer, norm) else type(layer)
        return kind.from_config(settings)

    copy = keras.models.clone_model(network, clone_function=copied)
    copy.set_weights(network.get_weights())
    return copy


@cache
def _fused_normalization() -> Any:
    """`keras.layers.BatchNormalization`, trained with TensorFlow's fused kernel; over the last axis."""
    import keras
    import tensorflow as tf

    class FusedBatchNormalization(keras.layers.BatchNormalization):
        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            if not (training and self.trainable and self.scale and self.center and mask is None):
                return super().call(inputs, training=training, mask=mask)
            shape = tf.shape(inputs)
            flat = tf.reshape(inputs, (1, -1, 1, inputs.shape[-1]))
            output, mean, variance, *_ = tf.compat.v1.nn.fused_batch_norm(
                flat, self.gamma.value, self.beta.value, epsilon=self.epsilon, is_training=True
            )
            for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + now * (1.0 - self.momentum))
            return tf.reshape(output, shape)

    return FusedBatchNormalization
