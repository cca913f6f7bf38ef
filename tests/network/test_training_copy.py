"""The copy that is trained is the network: same outputs, same steps, same weights."""

import keras
import numpy as np
import pytest

from nucseg.network.training_copy import resolved, training_copy
from nucseg.network.unet import UNet

RNG = np.random.default_rng(0)
RAW = RNG.random((2, 28, 28, 28, 1)).astype(np.float32)
TARGET = RNG.random((2, 12, 12, 12, 3)).astype(np.float32)


def trained(network, steps=3):
    network.compile(optimizer=keras.optimizers.SGD(1e-2), loss="mse", jit_compile=False)
    return [float(np.asarray(network.train_on_batch(RAW, TARGET))) for _ in range(steps)]


def test_without_normalisation_the_network_itself_is_trained():
    network = UNet.preset("tiny").build(3, seed=1)
    assert training_copy(network) is network


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends have no fused kernel")
def test_fused_normalisation_is_normalisation():
    network = UNet.preset("tiny", normalization="batch").build(3, seed=1)
    copy = training_copy(network)
    assert copy is not network
    for training in (True, False):
        np.testing.assert_allclose(copy(RAW, training=training), network(RAW, training=training), atol=2e-4)
    network.set_weights(copy.get_weights())  # the calls above moved the averages of both
    np.testing.assert_allclose(trained(copy), trained(network), rtol=1e-5)
    for mine, theirs in zip(copy.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_allclose(
            mine, theirs, atol=5e-3
        )  # variances of the batch with and without Bessel's n - 1


@pytest.mark.parametrize(
    ("flags", "precision"), [("avx2 amx_bf16 amx_tile", "bfloat16"), ("avx2 avx512f", "float32")]
)
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow is known to gain")
def test_auto_takes_what_the_processor_is_made_for(monkeypatch, tmp_path, flags, precision):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr("nucseg.network.training_copy.CPUINFO", tmp_path / "cpuinfo")
    assert resolved("auto") == precision
    assert training_copy(UNet.preset("tiny").build(3, seed=1), "auto").layers[2].compute_dtype == precision
    assert (resolved("float32"), resolved("bfloat16")) == ("float32", "bfloat16")
    monkeypatch.setattr("nucseg.network.training_copy.CPUINFO", tmp_path / "none")
    assert resolved("auto") == "float32"


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_bfloat16_keeps_weights_and_output_in_float32(normalization):
    network = UNet.preset("tiny", normalization=normalization).build(3, seed=1)
    copy = training_copy(network, "bfloat16")
    assert {str(w.dtype) for w in copy.weights} == {"float32"}
    assert {layer.compute_dtype for layer in copy.layers[1:-1]} == {"bfloat16"}
    output = copy(RAW)
    assert output.dtype == "float32"
    difference = np.abs(np.asarray(output) - np.asarray(network(RAW)))
    assert 0 < difference.max() < 0.05 * np.abs(np.asarray(network(RAW))).max()
    losses, exact = trained(copy, 5), trained(network, 5)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, exact, rtol=0.05)
    network.set_weights(copy.get_weights())
    assert [w.name for w in copy.weights] == [w.name for w in network.weights]
