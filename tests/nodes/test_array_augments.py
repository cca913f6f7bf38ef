"""The intensity augmentations: their contract, and what they do to the statistics of an image."""

import gunpowder as gp
import numpy as np
import pytest
from node_cases import LABELS, RAW, ask, request
from scipy.ndimage import gaussian_filter

from nucseg.errors import InputError
from nucseg.nodes.array_augment import ArrayAugment
from nucseg.nodes.blur import Blur
from nucseg.nodes.gamma import Gamma
from nucseg.nodes.gaussian_noise import GaussianNoise
from nucseg.nodes.poisson_noise import PoissonNoise
from nucseg.nodes.scale_shift import ScaleShift
from nucseg.testing.node import MemorySource, check_node

SHAPE = (24, 26, 28)
ALL = {
    "gamma": Gamma, "scale_shift": ScaleShift, "gaussian_noise": GaussianNoise,
    "poisson_noise": PoissonNoise, "blur": Blur,
}  # fmt: skip


def augmented(node, raw, seeds=(0,), scale_um=None):
    """The raw array behind the node, for each seed."""
    with gp.build(MemorySource({RAW: raw}, scale_um=scale_um) + node) as pipeline:
        return [ask(pipeline, {RAW: ((0, 0, 0), raw.shape[-3:])}, seed)[RAW] for seed in seeds]


def random_raw(*channels):
    return np.random.default_rng(0).normal(0.5, 0.3, (*channels, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ALL)
def test_contract(name, dtype):
    check_node(ALL[name], dtype=dtype)


def test_gamma_is_a_power_of_what_is_positive():
    raw = random_raw()
    out = augmented(Gamma(RAW, (2.0, 2.0)), raw)[0]
    np.testing.assert_allclose(out, np.where(raw > 0, raw**2, raw), rtol=1e-5)
    powers = [
        np.log(out[raw > 0.1]) / np.log(raw[raw > 0.1])
        for out in augmented(Gamma(RAW, (0.5, 2.0)), raw, range(40))
    ]
    assert all(np.ptp(power[np.abs(power) < 10]) < 0.1 for power in powers)
    drawn = np.array([np.median(power) for power in powers])
    assert drawn.min() >= 0.499
    assert drawn.max() <= 2.001
    assert np.ptp(np.log(drawn)) > 0.8 * np.log(4)


def test_scale_shift_is_about_the_mean_of_each_channel():
    raw = random_raw(2)
    raw[1] += 3
    scales, shifts = [], []
    for out in augmented(ScaleShift(RAW), raw, range(60)):
        for before, after in zip(raw, out, strict=True):
            scale, offset = np.polyfit(before.ravel().astype(float), after.ravel(), 1)
            np.testing.assert_allclose(after, scale * before + offset, atol=1e-5)
            scales.append(scale)
            shifts.append(after.mean(dtype=float) - before.mean(dtype=float))
    np.testing.assert_allclose(scales[::2], scales[1::2], atol=1e-4)
    np.testing.assert_allclose(shifts[::2], shifts[1::2], atol=1e-4)
    assert 0.9 <= min(scales) < 0.92
    assert 1.08 < max(scales) <= 1.1 + 1e-6
    assert -0.1 - 1e-6 <= min(shifts) < -0.08
    assert 0.08 < max(shifts) <= 0.1 + 1e-6


def test_scale_shift_does_not_clip():
    raw = np.linspace(-2, 5, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    out = augmented(ScaleShift(RAW, (1.1, 1.1), (0.1, 0.1)), raw)[0]
    assert out.max() > 5
    assert out.min() < -2


def test_gaussian_noise_has_the_sigma_everywhere():
    raw = random_raw()
    noise = augmented(GaussianNoise(RAW, (0.2, 0.2)), raw)[0] - raw
    assert noise.std() == pytest.approx(0.2, rel=0.03)
    assert abs(noise.mean()) < 0.01
    assert np.corrcoef(noise.ravel(), raw.ravel())[0, 1] == pytest.approx(0, abs=0.03)
    assert np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1] == pytest.approx(0, abs=0.03)


def test_poisson_noise_grows_with_the_signal_and_keeps_the_mean():
    levels = np.repeat([-0.5, 0.0, 0.25, 1.0], 6 * 26 * 28).reshape(SHAPE).astype(np.float32)
    out = augmented(PoissonNoise(RAW, (50, 50)), levels)[0]
    for level in (-0.5, 0.0):
        assert (out[levels == level] == level).all()
    for level in (0.25, 1.0):
        part = out[levels == level].astype(float)
        assert part.mean() == pytest.approx(level, rel=0.02)
        assert part.std() == pytest.approx(np.sqrt(level / 50), rel=0.05)
        np.testing.assert_allclose(part * 50, np.round(part * 50), atol=1e-3)


@pytest.mark.parametrize(
    ("scale_um", "axial", "sigma"),
    [
        (None, 1, (1.5, 1.5, 1.5)),
        ((0.6, 0.2, 0.2), 1, (0.5, 1.5, 1.5)),
        ((0.2, 0.2, 0.2), 2, (3.0, 1.5, 1.5)),
    ],
)
def test_blur_is_as_wide_in_um_along_each_axis(scale_um, axial, sigma):
    raw = random_raw(2)
    out = augmented(Blur(RAW, (1.5, 1.5), axial=axial), raw, scale_um=scale_um)[0]
    for channel in range(2):
        expected = gaussian_filter(raw[channel].astype(float), sigma, mode="nearest")
        np.testing.assert_allclose(out[channel], expected, atol=1e-5)


def test_p_is_how_often_it_happens():
    raw = random_raw()
    node = ScaleShift(RAW, shift=(0.05, 0.1), p=0.3)
    changed = [not np.array_equal(out, raw) for out in augmented(node, raw, range(300))]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.1)
    assert not any(np.shares_memory(out, raw) for out in augmented(ScaleShift(RAW, p=0), raw))


def test_two_nodes_of_a_kind_draw_independently():
    raw = np.zeros(SHAPE, np.float32)
    with gp.build(
        MemorySource({RAW: raw}) + GaussianNoise(RAW, (1, 1)) + GaussianNoise(RAW, (1, 1))
    ) as pipeline:
        out = ask(pipeline, {RAW: ((0, 0, 0), SHAPE)}, 1)[RAW]
    assert out.std() == pytest.approx(np.sqrt(2), rel=0.03)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gamma(RAW, (0, 1)), lambda: Gamma(RAW, (2, 1)), lambda: GaussianNoise(RAW, (-1, 0)),
        lambda: PoissonNoise(RAW, (0, 9)), lambda: ScaleShift(RAW, shift=(0, np.inf)), lambda: Blur(RAW, axial=0),
        lambda: Blur(RAW, p=2),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_an_array_that_is_not_there_is_refused():
    pipeline = MemorySource({LABELS: np.zeros(SHAPE, np.uint8)}) + Gamma(RAW)
    with pytest.raises(gp.PipelineSetupError) as error, gp.build(pipeline):
        pass
    assert "RAW to be provided upstream" in str(error.value.__cause__)


class Own(ArrayAugment):
    """A lab's own augmentation; `how` changes the data."""

    def __init__(self, array, how):
        super().__init__(array)
        self.how = how

    def augment(self, data, rng):
        return self.how(self, data, rng)


def in_place(node, data, rng):
    data += rng.uniform(-1, 1)
    return data


def shared_state(node, data, rng):
    node.calls = getattr(node, "calls", 0) + 1
    return data + node.calls


def test_check_node_accepts_an_own_node_that_works_in_place():
    check_node(lambda key: Own(key, in_place))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda node, data, rng: data, "ignores the seed"),
        (lambda node, data, rng: data + np.random.default_rng().random(), "one seed, two results"),
        (shared_state, "one seed, two results"),
        (lambda node, data, rng: np.sqrt(data, where=data > -9, out=data) * rng.random(), "NaN"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_check_node_finds_what_is_wrong(how, message):
    with pytest.raises(AssertionError, match=message):
        check_node(lambda key: Own(key, how))


class InPlaceUpstream(gp.BatchFilter):
    """A node that is no ArrayAugment and changes what it was given."""

    def __init__(self, array):
        self.array = array

    def process(self, batch, request):
        if self.array in batch:
            batch[self.array].data *= 0.5


class LosesAttributes(gp.BatchFilter):
    def __init__(self, array):
        self.array = array

    def process(self, batch, request):
        out = gp.Batch()
        if self.array in batch:
            out[self.array] = gp.Array(batch[self.array].data + 1, batch[self.array].spec)
        return out


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (InPlaceUpstream, "changes upstream's|one seed"),
        (LosesAttributes, "loses attrs"),
        (lambda k: gp.Stack(2), "makes"),
    ],
)
def test_check_node_finds_what_other_nodes_do_wrong(node, message):
    with pytest.raises(AssertionError, match=message):
        check_node(node, random=False)


def test_check_node_knows_nodes_that_are_not_random():
    check_node(lambda key: Own(key, lambda node, data, rng: data * 2), random=False)


@pytest.mark.parametrize(
    "how", [lambda node, data, rng: data[..., 1:], lambda node, data, rng: (data * 9).astype(np.int32)]
)
def test_another_shape_or_kind_of_numbers_is_refused(how):
    pipeline = MemorySource({RAW: random_raw()}) + Own(RAW, how)
    reason = r"Own\.augment: expected an array like the one given"
    with gp.build(pipeline), pytest.raises(gp.PipelineRequestError, match=reason):
        pipeline.request_batch(request({RAW: ((0, 0, 0), SHAPE)}))


def test_the_base_class_says_what_is_missing():
    pipeline = MemorySource({RAW: random_raw()}) + ArrayAugment(RAW)
    with gp.build(pipeline), pytest.raises(gp.PipelineRequestError, match="does not define augment"):
        pipeline.request_batch(request({RAW: ((0, 0, 0), SHAPE)}))
