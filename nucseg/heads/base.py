"""`Head`: everything about one output of the network, in one file.

A head says how many channels it needs, what they are trained on, with which loss, and how a prediction
decodes. To add a model, write one file in this folder with one subclass, or a subclass in your own package;
a scenario names it by `kind`: the file's name here, or `"package.module:Class"`.
"""

import re
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from nucseg.errors import InputError, NucsegError

Crop = tuple[slice, ...]
"""Three slices z,y,x with whole, non-negative start and stop."""


class Centers(NamedTuple):
    """Centres of the nuclei of a label array.

    Attributes:
        ids: Labels, (n,).
        centers: z,y,x in index coordinates of the label array, float64 (n, 3); may lie outside it.
        known: bool (n,); False where the centre cannot be known, because the nucleus is cut by the border of
            the array, or by what is not annotated. What such a nucleus would teach gets weight 0.
        extent: Whether the labels show how far nuclei reach. False where points alone are annotated: each label
            is a small ball around its point, and what surrounds it may be nucleus or background.
    """

    ids: np.ndarray
    centers: np.ndarray
    known: np.ndarray
    extent: bool = True


class Head(BaseModel):
    """One output of the network.

    Subclasses set `kind` implicitly by where they are defined, give `channels` and `target_channels`, and
    write `target` and `loss`. A main head (`is_main`) also decodes: `surface`, `seeds`, `foreground`. A head that
    `detects` gives a map whose maxima are nuclei, `peaks`, and a `foreground` for votes.

    Attributes:
        loss_weight: Factor of this head's loss in the sum over the heads of a scenario. None: 1, or beside center
            vectors what `weight_beside` says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str] = ""
    is_main: ClassVar[bool] = True
    """Whether the head decodes to instances by itself."""
    is_scenario: ClassVar[bool] = True
    """Whether the head makes a scenario without any other head."""
    needs_extent: ClassVar[bool] = True
    """Whether the target needs to know how far each nucleus extends. Where only points are annotated, such a head
    is not trained; others see a small ball around each point as the label."""

    detects: ClassVar[bool] = False
    """Whether the head decodes to points, one a nucleus, without instances."""

    value_range: ClassVar[tuple[float, float] | None] = None
    """Lowest and highest value of a prediction and of its thresholds; None: any. Values beyond it are refused."""
    tolerance: ClassVar[float] = 0.05
    """How far beyond it a prediction may be: maps that were resampled overshoot a little."""

    loss_weight: float | None = Field(None, gt=0)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if "kind" not in cls.__dict__:
            package, _, module = cls.__module__.rpartition(".")
            cls.kind = module if package == __package__ else f"{cls.__module__}:{cls.__qualname__}"

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": self.kind, **handler(self)}

    @property
    def name(self) -> str:
        """Name of the head in a scenario, and prefix of its arrays: `three_label`."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def channels(self) -> int:
        """Channels of the network's output."""
        raise NotImplementedError

    @property
    def target_channels(self) -> int:
        """Channels of the training target."""
        return self.channels

    @property
    def background(self) -> tuple[float, ...]:
        """Value of each channel of a prediction far from any nucleus; not foreground at any threshold but the lowest.

        Zeros, unless a head has another.
        """
        return (0.0,) * self.channels

    def weight_beside(self, radius: float) -> float:
        """Factor of this head's loss that balances it with the loss of center vectors, where none is given.

        Args:
            radius: The vectors' loss is in squared units of so many voxels (`CenterVectors.scale`); 1 as published.
        """
        return 1.0

    def target(
        self,
        labels: np.ndarray,
        crop: Crop,
        scale_um: tuple[float, float, float] | None,
        centers: Centers,
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the network should predict, and how much each voxel counts.

        Args:
            labels: Integer array (z, y, x) with a margin around the wanted part; 0 is background.
            crop: The wanted part.
            scale_um: Size of a voxel, None when unknown.
            centers: Centres of the nuclei in `labels`.
            mask: bool, `labels`' shape; False where nothing is annotated (weight 0). None: all is annotated.

        Returns:
            Target float32 (target_channels, z, y, x) and weight float32 (z, y, x), both of the crop's shape.
        """
        raise NotImplementedError

    def loss(self, output: Any, target: Any, weight: Any) -> Any:
        """Weighted mean loss, written with `keras.ops`.

        Args:
            output: Raw output of the network, float (batch, z, y, x, channels).
            target: float (batch, z, y, x, target_channels).
            weight: float (batch, z, y, x).

        Returns:
            A scalar tensor: sum(weight * loss) / sum(weight), 0 where no voxel counts; never negative.
        """
        raise NotImplementedError

    def activation(self, output: np.ndarray) -> np.ndarray:
        """Raw output (channels, z, y, x) to what is stored and decoded, float32 of the same shape."""
        return output.astype(np.float32, copy=False)

    def mirrored(self, prediction: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """What the prediction of a mirrored image says about the image itself.

        As it is here it is right for scalars, that is, channels whose target is mirrored where the labels are. Write
        it for channels with a direction. Where a channel would be that of another voxel (its neighbour before
        becomes the one after), it is not valid: shifting it back would need a voxel that a block does not have.
        `nucseg.testing.check_head` compares with the target of mirrored labels.

        Args:
            prediction: After the activation (channels, z, y, x), of the image mirrored along `axes`.
            axes: Some of 0, 1, 2 for z, y, x, ascending.

        Returns:
            The prediction in the image's own places and directions, float32 of the same shape, and the channels of
            it that are valid, bool (channels,).
        """
        return np.flip(prediction, tuple(axis + 1 for axis in axes)), np.ones(len(prediction), np.bool_)

    def stored_range(self, reach: int | None) -> tuple[float, float] | None:
        """Lowest and highest value of a prediction that integers keep, see `nucseg.storage.encoding`.

        What lies beyond becomes the nearest of the two when it is stored, and is counted. None: no range is known, and
        the prediction is stored as floats.

        Args:
            reach: Longest vector that votes, voxels; None where it is not known.
        """
        return self.value_range

    @property
    def seed_thresholds(self) -> tuple[float, ...]:
        """Seed thresholds to choose from on validation data."""
        raise self._no_instances()

    @property
    def foreground_thresholds(self) -> tuple[float, ...]:
        """Foreground thresholds to choose from on validation data."""
        raise self._no_instances()

    @property
    def default_seed_threshold(self) -> float:
        """Seed threshold when nothing was selected."""
        raise self._no_instances()

    @property
    def default_foreground_threshold(self) -> float:
        """Foreground threshold when nothing was selected."""
        raise self._no_instances()

    @property
    def default_dilate(self) -> int:
        """Voxels to grow the instances by, because the head is trained on eroded nuclei."""
        return 0

    @property
    def dilations(self) -> tuple[int, ...]:
        """Dilations to choose from on validation data."""
        return (self.default_dilate,)

    def surface(self, prediction: np.ndarray) -> np.ndarray:
        """Heights for the watershed of a prediction (channels, z, y, x): float32 (z, y, x), low in nuclei."""
        raise self._no_instances()

    def seeds(self, prediction: np.ndarray, threshold: float) -> np.ndarray:
        """Where nuclei certainly are, bool (z, y, x)."""
        raise self._no_instances()

    def foreground(self, prediction: np.ndarray, threshold: float) -> np.ndarray:
        """Where nuclei may grow, bool (z, y, x)."""
        raise self._no_instances()

    @property
    def peak_thresholds(self) -> tuple[float, ...]:
        """Heights of `peaks` to choose from on validation data."""
        raise self._no_points()

    @property
    def default_peak_threshold(self) -> float:
        """Height of `peaks` when nothing was selected."""
        raise self._no_points()

    def peaks(self, prediction: np.ndarray) -> np.ndarray:
        """Map of a prediction (channels, z, y, x) whose maxima are nuclei: float32 (z, y, x), voxel by voxel."""
        raise self._no_points()

    def _no_points(self) -> NucsegError:
        if self.detects:
            return NucsegError(f"{type(self).__name__} says that it `detects` but not how")
        return InputError(
            f"head {self.name}",
            expected="a head that decodes to points",
            received="one that does not",
            remedy="take a head such as gauss, or the centres of instances",
        )

    def _no_instances(self) -> NucsegError:
        if self.is_main:
            return NucsegError(
                f"{type(self).__name__} is a main head (is_main) but does not say how it decodes"
            )
        return InputError(
            f"head {self.name}",
            expected="a head that decodes to instances",
            received="one that does not",
            remedy="combine it with a main head such as three_label",
        )


def weighted_mean(loss: Any, weight: Any) -> Any:
    """sum(weight * loss) / sum(weight) of two tensors of one shape; 0 where no voxel counts.

    Voxels of weight 0 do not count even where their loss is not finite.
    """
    from keras import ops

    weight = ops.cast(weight, loss.dtype)
    counted = ops.where(weight > 0, loss, ops.zeros_like(loss))
    return ops.sum(weight * counted) / ops.maximum(ops.sum(weight), 1e-12)


def head_class(kind: str) -> type[Head]:
    """The class that a `kind` names.

    Args:
        kind: A file of `nucseg.heads` such as `three_label`, or an import path `package.module:Class`.

    Raises:
        InputError: There is no such head.
    """
    module_name, _, class_name = kind.partition(":")
    path = module_name if class_name else f"{__package__}.{module_name}"
    try:
        module = import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise  # the module is there, something that it imports is not
        raise _unknown(kind) from None
    found: Any
    if class_name:
        found = getattr(module, class_name, None)
    else:
        found = next((c for c in vars(module).values() if _is_head(c) and c.__module__ == path), None)
    if found is None or not _is_head(found):
        raise _unknown(kind)
    return found


def _is_head(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Head) and value is not Head


def _unknown(kind: str) -> InputError:
    return InputError(
        f"head {kind!r}",
        expected="a file of nucseg.heads such as 'three_label', or 'package.module:Class' of a Head",
        received="no such head",
        remedy="check the spelling, and that the package is installed here",
    )
