"""AuxiliaryTask: centre vectors on a model that nucseg knows nothing about."""

import cases
import numpy as np
import pytest

from nucseg.errors import InputError
from nucseg.heads.base import Centers
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.three_label import ThreeLabel
from nucseg.network.auxiliary import AuxiliaryTask

pytestmark = pytest.mark.xdist_group("tensorflow")


@pytest.fixture
def keras():
    import keras

    keras.utils.set_random_seed(3)
    return keras


def lab_model(keras, last=("conv",)):
    raw = keras.Input((None, None, None, 1))
    x = keras.layers.Conv3D(4, 3, padding="same", activation="relu", name="maps")(raw)
    for layer in last:
        x = {
            "conv": lambda x: keras.layers.Conv3D(2, 1, name="out")(x),
            "softmax": lambda x: keras.layers.Softmax(name="probabilities")(x),
            "crop": lambda x: keras.layers.Cropping3D(1, name="cropped")(x),
        }[layer](x)
    return keras.Model(raw, x, name="lab")


def lab_loss(y_true, y_pred):
    from keras import ops

    return ops.mean(ops.square(y_true - y_pred))


def batch(rng):
    """Raw, the lab's own target, and labels with a margin of one voxel."""
    labels = np.stack([cases.touching_pair(), cases.touching_pair()[::-1]])
    inner = tuple(n - 2 for n in labels.shape[1:])
    raw = rng.normal(size=(2, *inner, 1)).astype(np.float32)
    own = rng.normal(size=(2, *inner, 2)).astype(np.float32)
    return raw, own, labels


def slow_targets(labels, margin):
    """Vectors and weights voxel by voxel: weight 0 on background and on nuclei that touch a face."""
    out = np.zeros((*(n - 2 * margin for n in labels.shape), 4), np.float32)
    for index in np.ndindex(out.shape[:3]):
        place = np.array(index) + margin
        label = labels[tuple(place)]
        if label == 0:
            continue
        voxels = np.argwhere(labels == label)
        if (voxels == 0).any() or (voxels == np.array(labels.shape) - 1).any():
            continue
        out[index] = [*(voxels.mean(axis=0) - place), 1]
    return out


def test_the_joined_loss_is_the_sum_of_the_parts(keras):
    rng = np.random.default_rng(0)
    raw, own, labels = batch(rng)
    task = AuxiliaryTask(CenterVectors(scale=3.0, loss_weight=0.7))
    model = lab_model(keras)
    joined = task.attach(model)
    targets = task.targets(labels, 1)
    joined.compile(loss=[lab_loss, task.loss], jit_compile=False)
    total = joined.test_on_batch(raw, [own, targets], return_dict=True)["loss"]

    output, vectors = (keras.ops.convert_to_numpy(part) for part in joined(raw))
    np.testing.assert_allclose(output, model(raw), atol=1e-6)
    squared = ((vectors - targets[..., :3] / 3.0) ** 2).sum(axis=-1)
    of_vectors = squared[targets[..., 3] > 0].mean()
    expected = ((own - output) ** 2).mean() + 0.7 * of_vectors
    assert total == pytest.approx(expected, rel=1e-5)
    assert float(task.loss(targets, vectors)) == pytest.approx(0.7 * of_vectors, rel=1e-5)


def test_gradients_reach_the_labs_layers_and_leave_its_output_alone(keras):
    import tensorflow as tf

    raw, _, labels = batch(np.random.default_rng(1))
    task = AuxiliaryTask()
    model = lab_model(keras)
    joined = task.attach(model)
    with tf.GradientTape() as tape:
        loss = task.loss(task.targets(labels, 1), joined(raw)[1])
    gradients = dict(
        zip(
            (v.path for v in joined.trainable_variables),
            tape.gradient(loss, joined.trainable_variables),
            strict=True,
        )
    )
    assert np.abs(gradients["maps/kernel"]).max() > 0
    assert np.abs(gradients["cpv/kernel"]).max() > 0
    assert gradients["out/kernel"] is None  # the lab's own output takes no part in the vectors' loss
    # The kernel of the features is the lab's own, not a copy: a step on the joined model trains the lab's model.
    before = np.array(model(raw))
    kernel = model.get_layer("maps").kernel
    kernel.assign(kernel - 0.1 * gradients["maps/kernel"])
    assert not np.allclose(model(raw), before)


def test_the_gradient_is_that_of_finite_differences(keras):
    import tensorflow as tf

    raw, _, labels = batch(np.random.default_rng(2))
    task = AuxiliaryTask(CenterVectors(scale=2.0, loss_weight=0.5))
    joined = task.attach(lab_model(keras))
    targets = task.targets(labels, 1)
    kernel = joined.get_layer("maps").kernel
    with tf.GradientTape() as tape:
        loss = task.loss(targets, joined(raw)[1])
    gradient = np.array(tape.gradient(loss, kernel.value))
    direction = gradient / np.linalg.norm(gradient)
    start, ends = keras.ops.convert_to_numpy(kernel), []
    for step in (0.01, -0.01):
        kernel.assign(start + step * direction)
        ends.append(float(task.loss(targets, joined(raw)[1])))
    assert (ends[0] - ends[1]) / 0.02 == pytest.approx(np.linalg.norm(gradient), rel=0.02)


@pytest.mark.parametrize("margin", [0, 1, 2])
def test_targets_are_those_of_the_slow_reference(margin):
    labels = cases.touching_pair()
    labels[-2:, 2:5, 2:5] = 9  # cut by the border: its centre is unknown
    task = AuxiliaryTask()
    found = task.targets(labels, margin)
    np.testing.assert_allclose(found[0], slow_targets(labels, margin), atol=1e-5)
    both = task.targets(np.stack([labels, labels[::-1]]), margin)
    np.testing.assert_array_equal(both[0], found[0])
    np.testing.assert_allclose(both[1], slow_targets(labels[::-1], margin), atol=1e-5)
    assert found.dtype == np.float32


def test_what_the_border_of_a_whole_volume_cuts_counts_by_its_visible_part():
    labels = np.zeros((6, 7, 8), np.uint16)
    labels[:3, 2:4, 3:7] = 5
    weights = AuxiliaryTask().targets(labels, whole=True)[0, ..., 3]
    np.testing.assert_array_equal(weights, labels == 5)
    assert not AuxiliaryTask().targets(labels)[..., 3].any()


def test_given_centres_and_a_mask():
    labels = cases.touching_pair()
    mask = np.ones(labels.shape, bool)
    mask[:, :, :4] = False
    given = Centers(np.array([1]), np.array([[1.0, -2.0, 3.0]]), np.array([True]))
    targets = AuxiliaryTask().targets(labels, (1, 0, 2), mask=mask, centers=given)[0]
    z, y, x = np.argwhere((labels == 1) & mask)[0]
    np.testing.assert_allclose(targets[z - 1, y, x - 2], [1.0 - z, -2.0 - y, 3.0 - x, 1])
    np.testing.assert_array_equal(targets[..., 3] > 0, ((labels == 1) & mask)[1:-1, :, 2:-2])


@pytest.mark.parametrize(
    ("last", "read"), [(("conv",), 4), (("conv", "softmax"), 4), (("softmax", "conv"), 4), ((), 1)]
)
def test_features_are_what_the_last_layer_with_weights_reads(keras, last, read):
    joined = AuxiliaryTask().attach(lab_model(keras, last))
    assert joined.get_layer("cpv").kernel.shape == (1, 1, 1, read, 3)


def test_a_model_that_ends_in_feature_maps_names_them(keras):
    joined = AuxiliaryTask(ThreeLabel()).attach(lab_model(keras, ()), features="maps")
    assert joined.get_layer("three_label").kernel.shape == (1, 1, 1, 4, 3)
    assert [tuple(part.shape) for part in joined(np.zeros((1, 5, 6, 7, 1), np.float32))] == [
        (1, 5, 6, 7, 4),
        (1, 5, 6, 7, 3),
    ]


def test_sequential_models_and_dicts(keras):
    sequence = keras.Sequential([keras.layers.Conv3D(3, 3, name="maps"), keras.layers.Conv3D(1, 1)])
    with pytest.raises(InputError, match="built sequential Keras model"):
        AuxiliaryTask().attach(sequence)
    sequence.build((None, None, None, None, 1))
    assert [o.shape[-1] for o in AuxiliaryTask().attach(sequence).outputs] == [1, 3]
    lab = lab_model(keras)
    named = keras.Model(lab.input, {"mine": lab.output})
    assert set(AuxiliaryTask().attach(named).output) == {"mine", "cpv"}


def test_prediction_is_in_voxels_and_channels_first():
    output = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 3)).astype(np.float32)
    vectors = AuxiliaryTask(CenterVectors(scale=4.0)).prediction(output)
    np.testing.assert_allclose(vectors, 4 * output.transpose(0, 4, 1, 2, 3), rtol=1e-6)
    assert vectors.dtype == np.float32


def test_wrong_use_is_explained(keras):
    task = AuxiliaryTask()
    model = lab_model(keras)
    with pytest.raises(InputError, match="no layer named 'cpv' yet"):
        task.attach(task.attach(model))
    with pytest.raises(InputError, match=r"one of the model's layers: .*maps, out"):
        task.attach(model, features="map")
    raw = keras.Input((None, None, None, 1))
    maps = keras.layers.Conv3D(4, 1)(raw)
    with pytest.raises(InputError, match="name the layer that makes the last feature maps"):
        task.attach(keras.Model(raw, keras.layers.Add()([maps, raw])))
    flat = keras.Input((7,))
    with pytest.raises(InputError, match=r"\(batch, z, y, x, channels\)"):
        task.attach(keras.Model(flat, keras.layers.Dense(2)(flat)))
    labels = cases.touching_pair()
    with pytest.raises(InputError, match="drop the channel axis"):
        task.targets(labels[None, None])
    with pytest.raises(InputError, match="larger than the network's output"):
        task.targets(labels, 4)
    with pytest.raises(InputError, match="choose the margin"):
        task.loss(task.targets(labels, 1), np.zeros((1, *labels.shape, 3), np.float32))
    with pytest.raises(InputError, match="one patch of labels"):
        task.targets(
            np.stack([labels] * 2), centers=Centers(np.array([1]), np.zeros((1, 3)), np.array([True]))
        )
