"""Shapes, parameters and translation equivariance of the network."""

import numpy as np
import pytest

from nucseg.errors import InputError
from nucseg.network.unet import UNet, unet

PAPER_PARAMETERS = 17.07e6


def test_paper_shapes_are_the_published_ones():
    paper = unet("paper")
    assert paper.context == (44, 44, 44)
    assert paper.pooling == (8, 8, 8)
    assert paper.output_shape((228, 228, 204)) == (140, 140, 116)
    assert paper.output_shape((236, 236, 236)) == (148, 148, 148)
    assert paper.training_input_shape((140, 140, 116)) == (228, 228, 204)
    assert paper.build(6).compute_output_shape((1, 228, 228, 204, 1)) == (1, 140, 140, 116, 6)


def test_paper_has_the_published_number_of_parameters():
    assert unet("paper").build(6).count_params() == pytest.approx(PAPER_PARAMETERS, rel=5e-4)


def test_small_maps_72_to_32_with_a_context_of_20():
    small = unet("small")
    assert (small.context, small.pooling) == ((20, 20, 20), (4, 4, 4))
    assert small.training_input_shape((32, 32, 32)) == (72, 72, 72)
    assert small.build(6).compute_output_shape((2, 72, 72, 72, 1)) == (2, 32, 32, 32, 6)
    # Every valid input is 44 + 4k, and gives 40 less.
    assert [n for n in range(1, 61) if _valid(small, n)] == [44, 48, 52, 56, 60]


def test_an_untrained_network_neither_loses_nor_blows_up_its_input():
    raw = np.random.default_rng(0).normal(size=(1, 44, 44, 44, 1)).astype(np.float32)

    def spread(initializer):
        network = unet("small", initializer=initializer).build(6, seed=0)
        return float(np.std(network.predict_on_batch(raw)))

    assert 0.2 < spread("he_normal") < 5
    assert spread("glorot_uniform") < 0.1  # as published: only the preset `paper` begins so
    assert unet("paper").initializer == "glorot_uniform"


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("convolutions", [1, 2, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("factors", ["cubes", "flat"])
def test_shape_arithmetic_equals_the_model(levels, convolutions, padding, residual, factors):
    flat = {"pool": ((1, 2, 3), (2, 3, 1))[: levels - 1], "stride": (1, 3, 2)}
    network = UNet(
        levels=levels,
        convolutions=convolutions,
        padding=padding,
        feature_maps=1,
        residual=residual,
        **(flat if factors == "flat" else {}),
    )
    model = network.build(1)
    for wanted in (1, 5, 6):
        shape = network.input_shape((wanted, wanted + 1, wanted + 3))
        got = model.compute_output_shape((1, *shape, 1))[1:4]
        assert got == tuple(n - 2 * border for n, border in zip(shape, network.border, strict=True))
        predicted = network.output_shape(shape)
        least = network.output_shape(network.input_shape((1, 1, 1)))
        assert all(
            w <= p < w + step or p == smallest
            for w, p, step, smallest in zip(
                (wanted, wanted + 1, wanted + 3), predicted, network.pooling, least, strict=True
            )
        )


@pytest.mark.parametrize(
    "network",
    [
        unet("tiny"),
        unet("tiny", padding="same"),
        UNet(levels=3, feature_maps=2),
        unet("tiny", residual=True, normalization="batch"),
        unet("tiny", padding="same", residual=True),
        unet("tiny", pool=((1, 2, 3),)),
        unet("tiny", pool=((1, 2, 3),), stride=(1, 2, 1)),
        unet("tiny", pool=((3, 2, 1),), stride=(2, 1, 2), padding="same"),
    ],
)
def test_shifting_by_the_pooling_shifts_the_output(network):
    step, context = network.pooling, network.context
    small = network.input_shape(tuple(n + 3 for n in step))
    large = tuple(n + more for n, more in zip(small, step, strict=True))
    raw = np.random.default_rng(0).random((1, *large, 1), dtype=np.float32)
    model = network.build(2, seed=3)
    whole = _predict(model, network, raw)
    begin = tuple(slice(n, None) for n in step)
    shifted = _predict(model, network, raw[:, *begin])
    np.testing.assert_allclose(shifted, whole[:, *begin], atol=1e-5)
    assert whole.shape[1:4] == tuple(n - 2 * c for n, c in zip(large, context, strict=True))
    assert np.ptp(whole) > 1e-3, "a constant output would be equivariant to anything"


@pytest.mark.parametrize("factors", [{}, {"pool": ((1, 2, 2), (2, 3, 1)), "stride": (1, 2, 3)}])
def test_output_depends_on_nothing_beyond_the_context_of_same_padding(factors):
    network = UNet(levels=3, feature_maps=1, padding="same", convolutions=1, **factors)
    shape = network.input_shape((4, 4, 4))
    model = network.build(1, seed=0)
    raw = np.random.default_rng(1).random((1, *shape, 1), dtype=np.float32)
    inner = _predict(model, network, raw)
    around = [(0, 0), *((p, p) for p in network.pooling), (0, 0)]
    padded = np.pad(raw, around)
    random = np.random.default_rng(2).random(padded.shape, dtype=np.float32)
    padded = np.where(np.pad(np.ones_like(raw), around) > 0, padded, random)
    outer = _predict(model, network, padded)
    crop = tuple(slice(p, -p) for p in network.pooling)
    np.testing.assert_allclose(outer[:, *crop], inner, atol=1e-5)


def test_a_stride_by_hand():
    """Each group of voxels enters as its mean; `heads` gives each voxel of a group weights of its own."""
    network = UNet(levels=1, feature_maps=2, convolutions=1, stride=(1, 2, 2))
    model = network.build(3, seed=0)
    raw = np.random.default_rng(0).normal(size=(1, 4, 8, 10, 1)).astype(np.float32)
    packed = raw[0].reshape(4, 4, 2, 5, 2, 1).mean((2, 4))
    kernel, bias = model.get_layer("down0_conv0").get_weights()
    windows = np.lib.stride_tricks.sliding_window_view(packed, (3, 3, 3), (0, 1, 2))
    inner = np.maximum(np.einsum("zyxmabc,abcmn->zyxn", windows, kernel) + bias, 0)
    kernel, bias = model.get_layer("heads").get_weights()
    expected = np.einsum("zyxn,abcn->zyaxbc", inner, kernel[0]).reshape(2, 4, 6, 3) + bias
    np.testing.assert_allclose(np.asarray(model(raw))[0], expected, atol=1e-5)


def test_factors_come_from_toml_as_lists_and_must_fit_the_levels():
    network = UNet(levels=3, pool=[[1, 2, 2], [2, 2, 2]], stride=[1, 2, 2])
    assert (network.pool, network.stride) == (((1, 2, 2), (2, 2, 2)), (1, 2, 2))
    assert network.pooling == (2, 8, 8)
    with pytest.raises(ValueError, match="a pool of 2 entries"):
        UNet(levels=3, pool=[[1, 2, 2]])
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        UNet(levels=2, pool=[[0, 2, 2]])


def test_a_residual_block_adds_what_it_was_given():
    """At the start its last convolution is zero: two 3x3x3 convolutions leave the cropped, mixed input."""
    network = UNet(levels=1, feature_maps=3, residual=True)
    model = network.build(2, seed=0)
    raw = np.random.default_rng(0).normal(size=(1, 9, 8, 7, 1)).astype(np.float32)
    mixed = raw[:, 2:-2, 2:-2, 2:-2] @ model.get_layer("down0_shortcut").get_weights()[0][0, 0, 0]
    kernel, bias = model.get_layer("heads").get_weights()
    np.testing.assert_allclose(
        np.asarray(model(raw)), np.maximum(mixed, 0) @ kernel[0, 0, 0] + bias, atol=1e-5
    )


def test_batch_normalization_predicts_with_what_it_saw_in_training():
    model = UNet(levels=1, feature_maps=3, normalization="batch").build(1, seed=0)
    raw = np.random.default_rng(0).normal(size=(1, 12, 12, 12, 1)).astype(np.float32)
    before = np.asarray(model(raw))
    np.testing.assert_array_equal(np.asarray(model(raw[:, :9]))[:, :5], before[:, :5])  # not of the tile
    for _ in range(200):
        model(raw, training=True)
    norm = model.get_layer("down0_norm0")
    kernel = model.get_layer("down0_conv0").get_weights()[0]
    windows = np.lib.stride_tricks.sliding_window_view(raw[0, ..., 0], (3, 3, 3))
    features = np.einsum("zyxabc,abcm->zyxm", windows, kernel[..., 0, :])
    np.testing.assert_allclose(norm.moving_mean, features.mean((0, 1, 2)), atol=1e-3)
    np.testing.assert_allclose(norm.moving_variance, features.var((0, 1, 2)), rtol=1e-2)


def test_the_seed_decides_the_weights():
    first, again, other = (unet("tiny").build(3, seed=s).get_weights() for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_bad_shapes_and_names_are_told_with_a_remedy():
    with pytest.raises(InputError, match=r"such as \(72, 72, 72\)"):
        unet("small").output_shape((70, 72, 72))
    with pytest.raises(InputError, match=r"such as \(32, 32, 32\)"):
        unet("small").training_input_shape((30, 32, 32))
    with pytest.raises(InputError, match="paper or small or modern or tiny"):
        unet("huge")


def _valid(network: UNet, n: int) -> bool:
    try:
        network.output_shape((n, n, n))
    except InputError:
        return False
    return True


def _predict(model, network, raw):
    output = np.asarray(model(raw))
    crop = [c - b for c, b in zip(network.context, network.border, strict=True)]
    return output[:, *(slice(c, n - c) for c, n in zip(crop, output.shape[1:4], strict=True))]
