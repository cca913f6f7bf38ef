"""`SignedDistance`: a saturating distance to the nearest boundary, negative inside nuclei (sdt)."""

from math import ceil, tanh
from typing import Any, ClassVar

import edt
import numpy as np
from pydantic import Field

from nucseg.heads.base import Centers, Crop, Head, weighted_mean
from nucseg.heads.three_label import three_classes

PUBLISHED = 9.0
"""The published `SignedDistance.distance`, voxels."""
OVERSHOOT = 1.05
"""Largest value that integers keep; the target is within 1."""
SATURATION = 3.0
"""Distances are looked for as far as this times `SignedDistance.distance`: tanh(3) is 0.995."""


class SignedDistance(Head):
    """One value per voxel: `tanh(d / distance)`, d the signed Euclidean distance to the nearest boundary voxel.

    Boundary voxels are those of `ThreeLabel`: the nucleus minus its one-step 26-connected erosion. They have
    d = 0; the interior is negative, the background positive. Inside a nucleus the nearest boundary voxel is
    always one of its own: on the straight line of voxels to any other, the last voxel of the nucleus itself is
    a boundary voxel, and nearer. So touching nuclei need no distance transform of their own.

    The watershed floods the output as it is. The foreground `output < 0` leaves out the boundary voxels;
    growing the instances by one voxel gives them back.

    Attributes:
        distance: Distance at which the target is tanh(1) = 0.76, in voxels of mean size: distances are
            measured in um and divided by the geometric mean of the three voxel sizes. 9 as published. Where it is not
            given, training takes half the mean radius of the nuclei, except for the preset `paper`: 9 voxels leave the
            interior of a nucleus of 5.6 voxels radius within tanh(0.6) of its boundary, and small networks learn
            that slowly.
    """

    value_range: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)
    tolerance: ClassVar[float] = (
        0.5  # the output is linear: trained networks give up to 1.2 in the background
    )

    distance: float = Field(PUBLISHED, gt=0)

    @property
    def name(self) -> str:
        """The usual short name."""
        return "sdt"

    @property
    def channels(self) -> int:
        """The signed distance."""
        return 1

    @property
    def background(self) -> tuple[float, ...]:
        """As far outside as the distance saturates."""
        return (1.0,)

    def weight_beside(self, radius: float) -> float:
        """100 beside vectors in voxels, as published; 100 / radius**2 beside vectors in units of `radius` voxels.

        Their squared error is smaller by radius**2 then, and the balance of the two losses stays the published one.
        For another `distance` than the published 9 it is distance / 9 times that: a shorter one makes the squared
        error of a misplaced boundary larger.
        """
        return 100.0 / radius**2 * self.distance / PUBLISHED

    def target(
        self,
        labels: np.ndarray,
        crop: Crop,
        scale_um: tuple[float, float, float] | None,
        centers: Centers,
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance (1, z, y, x) and weight (z, y, x) of the crop; see `Head.target`.

        Boundaries outside the crop count, up to three times `distance` away and as far as `labels` reaches.
        One farther away is not seen: then the target may be off by what is left to saturation at the margin,
        0.005 for a margin of 27 mean voxels, 0.024 for one of 20. Where no boundary is near at all, the target
        is 1 or, inside a nucleus, -1. The border of `labels` itself is no boundary.

        With a mask, the weight is also 0 where something that is not annotated is nearer than the nearest
        boundary: there might be a boundary in it.
        """
        size = voxel_sizes(scale_um)
        reach = SATURATION * self.distance
        around = tuple(
            slice(max(0, part.start - ceil(reach / step)), min(n, part.stop + ceil(reach / step)))
            for part, step, n in zip(crop, size, labels.shape, strict=True)
        )
        inner = tuple(
            slice(part.start - grown.start, part.stop - grown.start)
            for part, grown in zip(crop, around, strict=True)
        )
        classes = three_classes(labels, around)
        away = _distance_to(classes == 2, size)[inner]
        target = np.tanh(away / np.float32(self.distance))
        np.negative(target, where=classes[inner] == 1, out=target)
        if mask is None or mask[around].all():
            return target[None], np.ones(target.shape, np.float32)
        unknown = _distance_to(~mask[around], size)[inner]
        return target[None], (mask[crop] & (np.minimum(away, reach) <= unknown)).astype(np.float32)

    def loss(self, output: Any, target: Any, weight: Any) -> Any:
        """Squared difference."""
        from keras import ops

        return weighted_mean(ops.square(output[..., 0] - ops.cast(target[..., 0], output.dtype)), weight)

    def stored_range(self, reach: int | None) -> tuple[float, float] | None:
        """A little more than the target has. The output is not bounded, but no threshold tells what is beyond apart."""
        return -OVERSHOOT, OVERSHOOT

    @property
    def seed_thresholds(self) -> tuple[float, ...]:
        """Seeds are below: the values half a voxel to six voxels inside the boundary; -0.11 is one for 9 voxels."""
        return tuple(self._value(-depth) for depth in (6, 5, 4, 3, 2, 1.5, 1.25, 1, 0.75, 0.5))

    @property
    def foreground_thresholds(self) -> tuple[float, ...]:
        """The foreground is below; halfway to the first background voxel (0.055 for 9 voxels) it has the boundary."""
        return tuple(self._value(away) for away in (-1, -0.5, 0, 0.5, 1))

    @property
    def default_seed_threshold(self) -> float:
        """One voxel inside the boundary: -0.11 for 9 voxels, from the published range -0.11 to -0.14."""
        return self._value(-1)

    def _value(self, voxels: float) -> float:
        """The target so many voxels outside the boundary."""
        return round(tanh(voxels / self.distance), 3)

    @property
    def default_foreground_threshold(self) -> float:
        """As published."""
        return 0.0

    @property
    def default_dilate(self) -> int:
        """The boundary voxels, which `output < 0` leaves out."""
        return 1

    @property
    def dilations(self) -> tuple[int, ...]:
        """1 as published; 0 for foreground thresholds that keep the boundary voxels."""
        return (0, 1)

    def surface(self, prediction: np.ndarray) -> np.ndarray:
        """The output."""
        return prediction[0].astype(np.float32, copy=False)

    def seeds(self, prediction: np.ndarray, threshold: float) -> np.ndarray:
        """Output < threshold."""
        return prediction[0] < np.float32(threshold)

    def foreground(self, prediction: np.ndarray, threshold: float) -> np.ndarray:
        """Output < threshold."""
        return prediction[0] < np.float32(threshold)


def voxel_sizes(scale_um: tuple[float, float, float] | None) -> tuple[float, float, float]:
    """Voxel sizes z, y, x in units of their geometric mean; 1, 1, 1 where they are unknown."""
    if scale_um is None:
        return 1.0, 1.0, 1.0
    z, y, x = (float(um) / float(np.prod(scale_um)) ** (1 / 3) for um in scale_um)
    return z, y, x


def _distance_to(marked: np.ndarray, size: tuple[float, float, float]) -> np.ndarray:
    """Exact Euclidean distance to the nearest marked voxel, float32; inf where there is none."""
    return edt.edt(np.ascontiguousarray(~marked), anisotropy=size, parallel=1)
