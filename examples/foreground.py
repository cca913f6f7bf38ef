"""A lab's own head: the probability of being a nucleus, with a loss of its own.

It is a module of its own so that its import path, `foreground:Foreground`, is found again when a run is loaded: that
is what a run folder keeps of a head. Put yours into a package of your lab, or into a folder on PYTHONPATH.
"""

from typing import Any

import numpy as np
from keras import ops

import nucseg as ns
from nucseg.heads.base import Centers, Crop


class Foreground(ns.Head):
    """P(nucleus), trained with cross-entropy plus the soft Dice loss, which large empty regions do not swamp.

    Alone it tells nuclei that touch apart only where the probability dips between them; beside `CenterVectors` the
    seeds come from the votes.
    """

    dice: float = 1.0

    @property
    def channels(self) -> int:
        """P(nucleus)."""
        return 1

    def target(
        self,
        labels: np.ndarray,
        crop: Crop,
        scale_um: tuple[float, float, float] | None,
        centers: Centers,
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """1 in every nucleus, (1, z, y, x); each annotated voxel counts 1, (z, y, x)."""
        inside = labels[crop] != 0
        weight = np.ones(inside.shape, np.float32) if mask is None else mask[crop].astype(np.float32)
        return inside[None].astype(np.float32), weight

    def loss(self, output: Any, target: Any, weight: Any) -> Any:
        """Mean cross-entropy, plus 1 - 2 |P and T| / (|P| + |T|), over the voxels that count."""
        logit, truth = output[..., 0], target[..., 0]
        entropy = ops.softplus(logit) - truth * logit
        mean = ops.sum(weight * entropy) / ops.maximum(ops.sum(weight), 1e-6)
        probability = ops.sigmoid(logit)
        both = ops.sum(weight * probability * truth)
        either = ops.sum(weight * (probability + truth))
        return mean + self.dice * (either - 2 * both) / ops.maximum(either, 1e-6)

    def activation(self, output: np.ndarray) -> np.ndarray:
        """The logistic function of the raw output."""
        half = np.tanh(output.astype(np.float32) / 2)  # the same function, without overflow
        return (half + 1) / 2

    @property
    def seed_thresholds(self) -> tuple[float, ...]:
        """Of P(nucleus)."""
        return (0.8, 0.9, 0.95, 0.99)

    @property
    def foreground_thresholds(self) -> tuple[float, ...]:
        """Of P(nucleus)."""
        return (0.3, 0.5, 0.7)

    @property
    def default_seed_threshold(self) -> float:
        """Where there is surely a nucleus."""
        return 0.9

    @property
    def default_foreground_threshold(self) -> float:
        """Nucleus more likely than not."""
        return 0.5

    def surface(self, prediction: np.ndarray) -> np.ndarray:
        """1 - P(nucleus)."""
        return np.float32(1) - prediction[0]

    def seeds(self, prediction: np.ndarray, threshold: float) -> np.ndarray:
        """P(nucleus) > threshold."""
        return prediction[0] > np.float32(threshold)

    def foreground(self, prediction: np.ndarray, threshold: float) -> np.ndarray:
        """P(nucleus) > threshold."""
        return prediction[0] > np.float32(threshold)
