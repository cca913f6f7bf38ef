"""The centre vectors on a Keras model and a training loop that are all your own.

    python examples/06_vectors_on_your_model.py [FOLDER] [--steps 150]

The model here finds the foreground, and its nuclei merge where they touch. Three more channels, and one more line in
the loss, teach its features where each nucleus has its centre; the votes of the vectors tell the nuclei apart.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import nucseg as ns
from nucseg.instances.seeds import label_seeds
from nucseg.instances.watershed import flood

PATCH, MARGIN = 24, 12  # the network's output, and the voxels around it in which centres are looked for


def lab_model() -> keras.Model:
    """A model that a lab has already: raw to the logit of being a nucleus."""
    raw = keras.Input((None, None, None, 1))
    x = raw
    for dilation in (1, 1, 2, 4, 1):
        x = keras.layers.Conv3D(8, 3, padding="same", dilation_rate=dilation, activation="relu")(x)
    return keras.Model(raw, keras.layers.Conv3D(1, 1)(x), name="lab")


def lab_loss(truth: tf.Tensor, logit: tf.Tensor) -> tf.Tensor:
    """The lab's own loss."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=truth, logits=logit))


def normalized(volume: Path) -> np.ndarray:
    """The lab's own way of reading and normalising."""
    raw = ns.open_volume(volume).read().astype(np.float32)
    low, high = np.percentile(raw, (1, 99.8))
    return (raw - low) / (high - low)


def patches(volume: Path, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The lab's own data: raw of the patch, and labels of the patch with a margin."""
    raw, labels = normalized(volume), ns.open_labels(volume).read()
    rng = np.random.default_rng(seed)
    size = PATCH + 2 * MARGIN
    while True:
        place = tuple(slice(b, b + size) for b in (int(rng.integers(n - size + 1)) for n in labels.shape))
        inner = tuple(slice(p.start + MARGIN, p.stop - MARGIN) for p in place)
        if labels[inner].any():
            yield raw[inner], labels[place]


def main(folder: Path, steps: int) -> None:
    for name, seed in (("train", 1), ("test", 2)):
        ns.synthesize(folder / f"{name}.zarr", shape=(48, 64, 96), nuclei=90, seed=seed, difficulty="easy")
    keras.utils.set_random_seed(1)

    model = lab_model()
    task = ns.AuxiliaryTask(ns.CenterVectors(scale=5.0))  # about the radius of a nucleus, in voxels
    joined = task.attach(model)  # the lab's output, and the vectors

    optimizer = keras.optimizers.Adam(4e-3)

    @tf.function(jit_compile=False)
    def step(x: tf.Tensor, truth: tf.Tensor, vectors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            logit, predicted = joined(x, training=True)
            own, auxiliary = lab_loss(truth, logit), task.loss(vectors, predicted)
            total = own + auxiliary
        variables = joined.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
        return own, auxiliary

    data = patches(folder / "train.zarr", seed=1)
    losses = []
    for _ in range(steps):
        raw, labels = next(data)
        inner = (slice(MARGIN, -MARGIN),) * 3
        truth = (labels[inner] != 0).astype(np.float32)[None, ..., None]
        losses.append(step(tf.constant(raw[None, ..., None]), truth, task.targets(labels, MARGIN)))
    recent = np.mean(losses[-20:], axis=0)
    print(f"after {steps} steps: the lab's loss {recent[0]:.3f}, of the vectors {recent[1]:.3f}")

    raw, labels = normalized(folder / "test.zarr"), ns.open_labels(folder / "test.zarr").read()
    logit, output = joined.predict_on_batch(raw[None, ..., None])
    foreground = logit[0, ..., 0] > 0
    surface = -logit[0, ..., 0]
    alone = flood(surface, label_seeds(foreground), foreground)
    voted = task.head.seeds_from_votes(task.prediction(output)[0], foreground, threshold=1.0)
    together = flood(surface, label_seeds(voted), foreground)
    for name, found in (("foreground alone", alone), ("with the votes", together)):
        scores = ns.match(labels, found)
        print(f"{name}: {scores.n_predicted} nuclei of {scores.n_true}, AP at IoU .3 {scores.ap[0.3]:.2f}")

    # The lab's model has been trained with it, and is still the lab's model.
    if not np.allclose(model.predict_on_batch(raw[None, ..., None]), logit, atol=1e-4):
        raise SystemExit("the lab's model was not trained")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.mkdtemp(prefix="nucseg-")))
    parser.add_argument("--steps", type=int, default=150)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    main(arguments.folder, arguments.steps)
