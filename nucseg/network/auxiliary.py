"""`AuxiliaryTask`: the centre vectors, or any other head, on a Keras model of your own.

Nothing here needs gunpowder, `KerasTrain` or the U-Net of this package: a model, its loss and the loop that
trains it stay the lab's own; the task adds output channels, their targets and their loss.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from nucseg.errors import InputError
from nucseg.heads.base import Centers, Head
from nucseg.heads.center_vectors import CenterVectors
from nucseg.instances.centroids import centroids, label_array

if TYPE_CHECKING:
    import keras


class AuxiliaryTask:
    """A head that is trained beside a model's own output, to make the features behind that output better.

    Source: Hirsch and Kainmueller, MIDL 2020: three more output channels for the vectors from each voxel of a
    nucleus to its centre of mass, whose loss is added to the main loss.

    >>> task = AuxiliaryTask(CenterVectors(scale=6.0))
    >>> task.head.name
    'cpv'

    With a Keras model `mine` of one output, and a loss of its own:

        joined = task.attach(mine)                        # mine's output, and the vectors
        output, vectors = joined(x)
        loss = my_loss(y, output) + task.loss(task.targets(labels, margin=16), vectors)

    or `joined.compile(loss=[my_loss, task.loss])`. The joined model has `mine`'s own layers, so `mine` is trained
    with it, and is as fast as before when it predicts alone.

    Args:
        head: What to add; None is `CenterVectors()`. For small networks give its `scale`, about the mean radius of
            a nucleus in voxels.
    """

    def __init__(self, head: Head | None = None) -> None:
        self.head = CenterVectors() if head is None else head

    def attach(self, model: "keras.Model", features: str | None = None) -> "keras.Model":
        """A model with the outputs of `model`, and the head's channels after them.

        The channels are a linear 1x1x1 convolution of feature maps. These are found by going back from the model's
        (last) output to the last layer that has weights: what it reads is taken. A model that ends in feature
        maps of its own, or branches there, names them.

        Args:
            model: A functional or sequential Keras model, channels last, `(batch, z, y, x, channels)`; its layers
                are shared, not copied.
            features: Name of the layer whose output is taken instead.

        Returns:
            A model with the same inputs. Its outputs are a list: those of `model`, then `(batch, z, y, x,
            head.channels)`, float32, linear; or, if `model`'s outputs are a dict, that dict with the head's name
            added.

        Raises:
            InputError: The model has no layers to look at (a subclass of `keras.Model`), no such layer, a layer of
                the head's name already, or its features are no volumes with channels last.
        """
        import keras

        if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
            raise InputError(
                "model to add an auxiliary task to",
                expected="a functional or built sequential Keras model",
                received=type(model).__name__,
                remedy="build it with keras.Model(inputs, outputs), or call a sequential model's build(shape) first",
            )
        names = [layer.name for layer in model.layers]
        if self.head.name in names:
            raise InputError(
                f"model {model.name}",
                expected=f"no layer named {self.head.name!r} yet",
                received=f"layers {', '.join(names)}",
                remedy="rename the layer, or attach the task once only",
            )
        if features is None:
            maps = _features(model)
        elif features in names:
            maps = model.get_layer(features).output
        else:
            raise InputError(
                f"features {features!r}",
                expected=f"one of the model's layers: {', '.join(names)}",
                received="no such layer",
                remedy="name the layer that makes the last feature maps",
            )
        if not hasattr(maps, "shape") or len(maps.shape) != 5 or maps.shape[-1] is None:
            raise InputError(
                f"features of model {model.name}",
                expected="(batch, z, y, x, channels) with a known number of channels",
                received=str(getattr(maps, "shape", "several tensors")),
                remedy="name a layer whose output is a volume, as features",
            )
        added = keras.layers.Conv3D(
            self.head.channels, 1, data_format="channels_last", dtype="float32", name=self.head.name
        )(maps)
        if isinstance(model, keras.Sequential):  # it has one of each, which it does not name as others do
            inputs, own = model.inputs[0], model.outputs
        else:
            inputs, own = model.input, model.output
        outputs = {**own, self.head.name: added} if isinstance(own, dict) else [*model.outputs, added]
        return keras.Model(inputs, outputs, name=f"{model.name}_{self.head.name}")

    def targets(
        self,
        labels: np.ndarray,
        margin: int | tuple[int, int, int] = 0,
        *,
        mask: np.ndarray | None = None,
        scale_um: tuple[float, float, float] | None = None,
        centers: Centers | None = None,
        whole: bool = False,
    ) -> np.ndarray:
        """What the added channels are trained on: target and weight of each voxel.

        Compute them after all augmentation, from the augmented labels: vectors cannot be mirrored as images can.
        A nucleus that touches a face of `labels` may go on behind it, so its centre is unknown, and its voxels
        weigh 0; with a margin of a nucleus's diameter there are none in the patch. Voxels of unknown centre are
        never taught a zero vector.

        Args:
            labels: Instances, 0 for background, integer `(z, y, x)` or `(batch, z, y, x)`: the network's output
                patch and `margin` voxels around it.
            margin: Voxels a side, one number or z, y, x.
            mask: bool, `labels`' shape; False where nothing is annotated.
            scale_um: Size of a voxel z, y, x, for heads whose targets are lengths.
            centers: Ids, centres and whether they are known, in index coordinates of `labels`, for one patch;
                None takes the centres of mass in `labels`.
            whole: `labels` are a whole volume: what its border cuts counts by its visible part.

        Returns:
            float32 `(batch, z, y, x, head.target_channels + 1)`, the last channel being the weight; a batch of one
            for `(z, y, x)`. What `loss` takes as `y_true`.

        Raises:
            InputError: A shape or type does not fit, or the margin leaves nothing.
        """
        batch = labels[None] if np.ndim(labels) == 3 else np.asarray(labels)
        masks = None if mask is None else np.asarray(mask, bool).reshape((-1, *np.shape(mask)[-3:]))
        sides = (margin,) * 3 if isinstance(margin, int) else tuple(margin)
        if batch.ndim != 4 or (masks is not None and masks.shape != batch.shape):
            raise InputError(
                "labels for an auxiliary task",
                expected="(z, y, x) or (batch, z, y, x), and a mask of the same shape or none",
                received=f"{np.shape(labels)}, mask {np.shape(mask) if mask is not None else None}",
                remedy="drop the channel axis",
            )
        if (
            len(sides) != 3
            or min(sides) < 0
            or any(2 * m >= n for m, n in zip(sides, batch.shape[1:], strict=True))
        ):
            raise InputError(
                "margin",
                expected=f"0 or more voxels that leave something of {batch.shape[1:]}",
                received=str(margin),
                remedy="give labels that are larger than the network's output by the margin on each side",
            )
        if centers is not None and len(batch) != 1:
            raise InputError(
                "centers",
                expected="one patch of labels to which they belong",
                received=f"{len(batch)} patches",
                remedy="call targets for each patch, and concatenate",
            )
        crop = tuple(slice(m, n - m) for m, n in zip(sides, batch.shape[1:], strict=True))
        parts = []
        for index, patch in enumerate(map(label_array, batch)):
            found = _centers(patch, whole) if centers is None else centers
            annotated = None if masks is None else masks[index]
            target, weight = self.head.target(patch, crop, scale_um, found, annotated)
            parts.append(np.concatenate([np.moveaxis(target, 0, -1), weight[..., None]], axis=-1))
        return np.stack(parts).astype(np.float32, copy=False)

    def loss(self, y_true: Any, y_pred: Any) -> Any:
        """The head's loss times its `loss_weight`: a loss function for Keras, and for a loop of your own.

        Args:
            y_true: What `targets` returned.
            y_pred: The added channels, `(batch, z, y, x, head.channels)`.

        Returns:
            A scalar tensor: a mean over the voxels by weight, 0 where no voxel counts.

        Raises:
            InputError: The shapes do not fit.
        """
        from keras import ops

        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        have, want = tuple(y_true.shape), (*y_pred.shape[:-1], self.head.target_channels + 1)
        if len(have) != len(want) or any(
            a != b for a, b in zip(have, want, strict=True) if a is not None and b is not None
        ):
            raise InputError(
                f"targets of the auxiliary task {self.head.name}",
                expected=f"{want}, as the prediction {tuple(y_pred.shape)} has it",
                received=str(have),
                remedy="choose the margin so that labels without it have the shape of the network's output",
            )
        channels = self.head.target_channels
        weight = 1.0 if self.head.loss_weight is None else self.head.loss_weight
        return weight * self.head.loss(y_pred, y_true[..., :channels], y_true[..., channels])

    def prediction(self, output: Any) -> np.ndarray:
        """The added channels as the head decodes them.

        Args:
            output: Of the joined model, `(batch, z, y, x, head.channels)`.

        Returns:
            float32 `(batch, head.channels, z, y, x)` after the head's activation: for `CenterVectors` voxels, which
            `head.seeds_from_votes` takes patch by patch.
        """
        from keras import ops

        return np.stack(
            [
                self.head.activation(np.ascontiguousarray(np.moveaxis(patch, -1, 0)))
                for patch in ops.convert_to_numpy(output)
            ]
        )


def _features(model: "keras.Model") -> Any:
    """What the last layer with weights reads, on the way back from the model's last output."""
    producers: dict[int, Any] = {}
    for layer in model.layers:
        with suppress(AttributeError, ValueError):  # a layer that is called several times has no one output
            producers |= {id(tensor): layer for tensor in _tensors(layer.output)}
    tensor = model.outputs[-1]
    while True:
        layer = producers.get(id(tensor))
        inputs = _tensors(layer.input) if layer else []
        if layer is None or len(inputs) != 1 or inputs[0] is tensor:
            raise InputError(
                f"features of model {model.name}",
                expected="a chain of layers from the last one with weights to the output",
                received="it ends at "
                + (f"layer {layer.name!r}" if layer else "a layer that is called several times"),
                remedy="name the layer that makes the last feature maps, as features",
            )
        if layer.weights:
            return inputs[0]
        tensor = inputs[0]


def _tensors(value: Any) -> list[Any]:
    import keras

    return list(keras.tree.flatten(value))


def _centers(labels: np.ndarray, whole: bool) -> Centers:
    """Centres of mass; unknown for nuclei at a face, unless the faces are those of the volume."""
    found = centroids(labels)
    known = np.ones(len(found.ids), np.bool_)
    if not whole:
        faces = [labels.take(side, axis=axis).ravel() for axis in range(3) for side in (0, -1)]
        known = ~np.isin(found.ids, np.unique(np.concatenate(faces)).astype(np.uint64))
    return Centers(found.ids, found.centers, known)
