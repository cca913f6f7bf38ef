"""Mirrored views: what is averaged with what, and tiles that agree as they do without mirrors."""

from itertools import product

import gunpowder as gp
import keras
import numpy as np
import pytest
from scipy import ndimage
from test_predict_node import PREDICTION, RAW, Source

from nucseg.errors import InputError
from nucseg.heads.scenario import Scenario
from nucseg.network.checkpoint import save_checkpoint
from nucseg.network.mirrors import mean_over_mirrors, mirrors_name, views
from nucseg.network.model import TrainedModel
from nucseg.network.predict import KerasPredict
from nucseg.network.record import RunRecord
from nucseg.network.unet import unet

SUBSETS = ["none", "z", "y", "x", "zy", "zx", "yx", "all"]


@pytest.mark.parametrize(
    ("said", "name"),
    [("none", "none"), ("all", "zyx"), ("xz", "zx"), (("y", "x"), "yx"), (["z"], "z"), ((), "none")],
)
def test_names(said, name):
    assert mirrors_name(said) == name
    assert mirrors_name(name) == name


@pytest.mark.parametrize("said", ["", "w", "zz", "yes", ("zy",), (0, 1), 3, None, True])
def test_what_names_no_axes_is_told(said):
    with pytest.raises(InputError, match="mirrors: expected none, all, or some of the axes z, y and x"):
        mirrors_name(said)


def test_views_are_all_subsets_the_image_itself_first():
    assert views("none") == [()]
    assert views("xz") == [(), (0,), (2,), (0, 2)]
    assert len(set(views("all"))) == 8
    assert views("all")[0] == ()
    assert views("all") == views("xyz")


def lopsided(image):
    """A network without any symmetry: 7 channels, which lose two voxels at both ends."""
    rng = np.random.default_rng(5)
    kernels = rng.standard_normal((7, 5, 5, 5))
    return np.stack([ndimage.correlate(image[0], k)[2:-2, 2:-2, 2:-2] for k in kernels]).astype(np.float32)


@pytest.mark.parametrize("mirrors", SUBSETS)
def test_the_mean_is_that_of_the_plain_loops(mirrors):
    """Channels: affinities -z, -y, -x, foreground; vectors z, y, x. Voxel by voxel, view by view."""
    image = np.random.default_rng(1).standard_normal((1, 8, 9, 11)).astype(np.float32)
    found = mean_over_mirrors(lopsided, image, Scenario.named("affinities_cpv"), mirrors)
    axes = "zyx" if mirrors == "all" else "" if mirrors == "none" else mirrors
    n = found.shape[1:]
    assert n == (4, 5, 7)
    total, count = np.zeros((7, *n)), np.zeros(7)
    for flips in product(*((1, -1) if axis in axes else (1,) for axis in "zyx")):
        predicted = lopsided(image[:, :: flips[0], :: flips[1], :: flips[2]])
        for channel in range(7):
            if channel < 3 and flips[channel] < 0:
                continue
            sign = flips[channel - 4] if channel >= 4 else 1
            count[channel] += 1
            for z, y, x in np.ndindex(n):
                here = (i if flip > 0 else m - 1 - i for i, flip, m in zip((z, y, x), flips, n, strict=True))
                total[channel, z, y, x] += sign * predicted[(channel, *here)]
    np.testing.assert_allclose(found, total / count[:, None, None, None], atol=1e-5)
    assert found.dtype == np.float32
    again = mean_over_mirrors(lopsided, image, Scenario.named("affinities_cpv"), tuple(reversed(axes)))
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("mirrors", SUBSETS)
def test_a_mean_over_mirrors_turns_with_the_image(mirrors):
    """What averaging is for: no answer depends on which of the mirror images was given."""
    image = np.random.default_rng(1).standard_normal((1, 8, 9, 11)).astype(np.float32)
    scenario = Scenario.named("three_label_cpv")

    def predict(view):
        return lopsided(view)[:6]

    found = mean_over_mirrors(predict, image, scenario, mirrors)
    for axes in views(mirrors):
        other = mean_over_mirrors(predict, np.flip(image, [a + 1 for a in axes]), scenario, mirrors)
        np.testing.assert_allclose(scenario.mirrored(other, axes)[0], found, atol=1e-5)


@pytest.fixture(scope="module", params=["valid", "same"])
def model(request, tmp_path_factory):
    """Three levels, so that blocks begin at multiples of 4; random weights, large ones."""
    run = tmp_path_factory.mktemp("run") / request.param
    run.mkdir()
    scenario = Scenario.named("affinities_cpv")
    network = unet("tiny", levels=3, feature_maps=3, padding=request.param, convolutions=1)
    RunRecord(scenario=scenario, network=network).write(run)
    built = network.build(scenario.channels, seed=3)
    optimizer = keras.optimizers.Adam()
    optimizer.build(built.trainable_variables)
    save_checkpoint(run, 1, built, optimizer, loss=1.0)
    return TrainedModel.load(run)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("convolutions", [1, 2, 3])
def test_windows_counted_from_either_end_are_the_same(padding, levels, convolutions):
    """What lets mirrored tiles agree: at each pooling an input of any admitted size is a whole number of windows."""
    network = unet("tiny", levels=levels, convolutions=convolutions, padding=padding)
    for wanted in range(1, 40):
        left = network.input_shape((wanted, wanted, wanted))[0]
        for _ in range(levels - 1):
            left -= 2 * convolutions if padding == "valid" else 0
            assert left % 2 == 0
            left //= 2


SHAPE = (17, 22, 27)  # no multiples of the pooling: its windows have no symmetry in the volume


@pytest.fixture(scope="module")
def volume():
    return np.random.default_rng(7).random(SHAPE, dtype=np.float32)


@pytest.fixture(scope="module")
def whole(model, volume):
    """The mean over all views of the whole volume, zeros around it, in plain words."""
    padded = np.zeros(model.network.input_shape(SHAPE), np.float32)
    lost = [(size - n) // 2 for size, n in zip(padded.shape, model.predict(padded).shape[1:], strict=True)]
    padded[tuple(slice(o, o + n) for o, n in zip(lost, SHAPE, strict=True))] = volume
    parts = [[] for _ in range(model.scenario.channels)]
    for flips in product((1, -1), repeat=3):
        turn = tuple(slice(None, None, flip) for flip in flips)
        predicted = model.predict(padded[turn], "none")[(slice(None), *turn)]
        for channel, part in enumerate(predicted):
            if channel >= 3 or flips[channel] > 0:
                parts[channel].append(flips[channel - 4] * part if channel >= 4 else part)
    assert [len(part) for part in parts] == [4, 4, 4, 8, 8, 8, 8]
    mean = np.stack([np.mean(part, axis=0) for part in parts])
    return mean[(slice(None), *(slice(0, n) for n in SHAPE))]


@pytest.mark.parametrize("block", [(8, 12, 16), (7, 11, 13)])
def test_a_scan_with_mirrors_equals_the_whole(model, volume, whole, block):
    reference = gp.BatchRequest()
    reference.add(PREDICTION, block)
    request = gp.BatchRequest()
    request[PREDICTION] = gp.ArraySpec(roi=gp.Roi((0, 0, 0), SHAPE))
    pipeline = Source(volume) + KerasPredict(model, RAW, PREDICTION, mirrors=("x", "y", "z"))
    with gp.build(pipeline + gp.Scan(reference, progress_callback=None)) as built:
        scanned = built.request_batch(request)[PREDICTION].data
    np.testing.assert_allclose(scanned, whole, atol=1e-5)
    with gp.build(Source(volume) + KerasPredict(model, RAW, PREDICTION)) as built:
        plain = built.request_batch(request)[PREDICTION].data
    assert np.abs(plain - whole).max() > 0.01, "the mirrors matter here"


def test_the_node_refuses_other_mirrors(model):
    with pytest.raises(InputError, match="mirrors"):
        KerasPredict(model, RAW, PREDICTION, mirrors="q")
