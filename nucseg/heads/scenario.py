"""`Scenario`: the heads that one network carries, joined for training and decoding."""

import json
from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Self

import numpy as np
from pydantic import (
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

import nucseg.heads
from nucseg.errors import InputError, expected_of, short
from nucseg.heads.base import Head, head_class
from nucseg.heads.building import head_of
from nucseg.heads.calls import calling
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.decoding import Decoding
from nucseg.heads.points import PointDecoding
from nucseg.heads.segmenting import InstanceDecoder, channels_of

__all__ = ["Decoding", "PointDecoding", "Scenario", "scenario_names"]


class Scenario(InstanceDecoder):
    """The heads of one network, in the order of its output channels.

    >>> Scenario.named("three_label_cpv").channels
    6

    Attributes:
        heads: At least one head; names are unique; at most one main head, and at most one that detects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: tuple[SerializeAsAny[Head], ...] = Field(min_length=1)

    def __init__(self, heads: Iterable[Head | dict[str, Any]] = (), **fields: Any) -> None:
        super().__init__(heads=heads, **fields)

    @field_validator("heads", mode="before")
    @classmethod
    def _build(cls, heads: Any) -> Any:
        if isinstance(heads, (str, bytes, dict)) or not isinstance(heads, Iterable):
            raise ValueError("a list of heads")
        return tuple(head_of(head) for head in heads)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        names = [head.name for head in self.heads]
        if len(set(names)) != len(names):
            raise ValueError(f"heads of different names, not {', '.join(names)}")
        for what, those in (
            ("main head", [head.name for head in self.heads if head.is_main]),
            ("head that detects", [head.name for head in self.heads if head.detects]),
        ):
            if len(those) > 1:
                raise ValueError(f"at most one {what}, not {', '.join(those)}")
        return self

    @classmethod
    def named(cls, name: str) -> "Scenario":
        """A ready-made scenario, such as `three_label` or `three_label_cpv`.

        Raises:
            InputError: There is none of that name.
        """
        known = _named()
        if name not in known:
            raise InputError(
                f"scenario {name!r}",
                expected=f"one of {', '.join(known)}",
                received="an unknown name",
                remedy="check the spelling, or give a list of heads",
            )
        return cls(known[name])

    def pack(self, targets: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> np.ndarray:
        """Targets and weights of all heads in one array, what `loss` takes as `y_true`.

        Args:
            targets: For each head's name, (batch, target_channels, z, y, x).
            weights: For each head's name, (batch, z, y, x).

        Returns:
            float32 (batch, z, y, x, n): for each head its target channels, then its weight.

        Raises:
            InputError: A head is missing, or a shape does not fit.
        """
        parts: list[np.ndarray] = []
        for head in self.heads:
            if head.name not in targets or head.name not in weights:
                raise InputError(
                    f"targets of {self.name}",
                    expected=f"a target and a weight for {head.name}",
                    received=f"targets {sorted(targets)}, weights {sorted(weights)}",
                    remedy="add the arrays of all heads to the batch",
                )
            target, weight = np.asarray(targets[head.name]), np.asarray(weights[head.name])
            if target.ndim != 5 or target.shape != (weight.shape[0], head.target_channels, *weight.shape[1:]):
                raise InputError(
                    f"target of {head.name}",
                    expected=f"(batch, {head.target_channels}, z, y, x) with a weight (batch, z, y, x)",
                    received=f"{target.shape} and {weight.shape}",
                    remedy="stack the batch along a first axis (gp.Stack)",
                )
            parts += [np.moveaxis(target, 1, -1), weight[..., None]]
        return np.concatenate(parts, axis=-1, dtype=np.float32)

    def head_losses(self, y_true: Any, y_pred: Any) -> dict[str, Any]:
        """Loss of each head, before its weight.

        Args:
            y_true: What `pack` returned, (batch, z, y, x, n).
            y_pred: Raw output of the network, (batch, z, y, x, channels).

        Returns:
            For each head's name a scalar tensor.

        Raises:
            HeadFailed: A head's `loss` raised an error; the message names head and method.
        """
        packed = channels_of({head.name: head.target_channels + 1 for head in self.heads})
        outputs = self.slices()
        losses = {}
        for head in self.heads:
            part = y_true[..., packed[head.name]]
            target, weight = part[..., : head.target_channels], part[..., head.target_channels]
            with calling(head, "loss"):
                losses[head.name] = head.loss(y_pred[..., outputs[head.name]], target, weight)
        return losses

    def loss(self, y_true: Any, y_pred: Any) -> Any:
        """Sum over the heads of weight (`loss_weights`) times loss: a loss function for Keras; see `head_losses`."""
        losses = self.head_losses(y_true, y_pred)
        return sum(weight * losses[name] for name, weight in self.loss_weights().items())

    def loss_weights(self) -> dict[str, float]:
        """Factor of each head's loss by the head's name: its `loss_weight`, else 1 or what balances it with vectors."""
        vectors = self.auxiliary
        weights = {}
        for head in self.heads:
            weight = head.loss_weight
            if weight is None:
                weight = head.weight_beside(vectors.loss_unit) if vectors and head is not vectors else 1.0
            weights[head.name] = weight
        return weights

    def activation(self, output: np.ndarray) -> np.ndarray:
        """Raw output (channels, z, y, x) to a prediction, float32 of the same shape.

        Raises:
            InputError: Not as many channels as the heads have.
            HeadFailed: A head's `activation` raised an error.
        """
        self.check_channels(output)
        slices = self.slices()
        parts = []
        for head in self.heads:
            with calling(head, "activation"):
                parts.append(head.activation(output[slices[head.name]]))
        return np.concatenate(parts, axis=0, dtype=np.float32)

    @property
    def background(self) -> tuple[float, ...]:
        """Value of each channel of a prediction far from any nucleus; see `Head.background`."""
        return tuple(value for head in self.heads for value in head.background)

    def mirrored(self, prediction: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """What the prediction of a mirrored image says about the image itself, of all heads; see `Head.mirrored`.

        Raises:
            InputError: Not as many channels as the heads have.
        """
        self.check_channels(prediction)
        slices = self.slices()
        parts = [head.mirrored(prediction[slices[head.name]], axes) for head in self.heads]
        turned, valid = zip(*parts, strict=True)
        return np.concatenate(turned, axis=0, dtype=np.float32), np.concatenate(valid)

    def to_json(self) -> str:
        """JSON that `from_json` reads; each head carries its kind."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> "Scenario":
        """The scenario that `to_json` wrote.

        Raises:
            InputError: An unknown kind of head, a misspelt field or a wrong value.
        """
        try:
            return cls.model_validate(json.loads(text))
        except ValidationError as error:
            first = error.errors()[0]
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, InputError):
                raise cause from None
            raise InputError(
                f"scenario, {'.'.join(str(part) for part in first['loc'])}",
                expected=expected_of(first),
                received=short(first["input"]),
                remedy="correct the configuration",
            ) from None


def scenario_names() -> list[str]:
    """Names that `Scenario.named` knows."""
    return list(_named())


def _named() -> dict[str, tuple[Head, ...]]:
    """Ready-made scenarios: each head of this package that can stand alone, and main heads beside vectors."""
    scenarios: dict[str, tuple[Head, ...]] = {}
    for module in sorted(info.name for info in iter_modules(nucseg.heads.__path__)):
        classes = vars(import_module(f"nucseg.heads.{module}")).values()
        if not any(isinstance(c, type) and issubclass(c, Head) and c.kind == module for c in classes):
            continue
        head = head_class(module)()
        if head.is_scenario:
            scenarios[head.name] = (head,)
            if head.is_main:
                scenarios[f"{head.name}_cpv"] = (head, CenterVectors())
    return scenarios
