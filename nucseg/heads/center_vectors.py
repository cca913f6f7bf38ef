"""`CenterVectors`: at each voxel of a nucleus the vector to its centre (cpv)."""

from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from nucseg.errors import InputError
from nucseg.heads.base import Centers, Crop, Head, weighted_mean
from nucseg.instances.centroids import center_field
from nucseg.instances.votes import MOST_PASSES, smooth_votes, vote_map, votes_above


class CenterVectors(Head):
    """Vectors from each voxel of a nucleus to its centre of mass, z,y,x components in voxels.

    Auxiliary: beside a main head it helps the training, and its votes are another source of seeds: each
    foreground voxel adds 1 at the voxel its vector points to; seeds are where the smoothed votes exceed a
    threshold. Without another head nothing says what is foreground: then all voxels vote, and the maxima of the
    votes are points (detection), no instances.

    Attributes:
        scale: The network's output times this are voxels; about the mean radius of a nucleus for small
            networks, whose main loss raw squared voxels would swamp. 1 as published.
        background_weight: Weight of background voxels, whose target is 0. 0: the foreground alone is trained, as
            it always is where points alone are annotated and nobody knows what is background.
        voxel_um: Size of a voxel, um, z,y,x; the squared difference of component k is multiplied by
            (voxel_um[k] / geometric mean) ** 2, so that anisotropic voxels count by physical length. None:
            isotropic.
        unit: Unit vectors instead, for the paper's comparison: the direction to the centre in physical space,
            z,y,x components of length 1 together. They do not vote, and take no `scale` and no `voxel_um`.
    """

    is_main: ClassVar[bool] = False
    is_scenario: ClassVar[bool] = False
    needs_extent: ClassVar[bool] = False

    scale: float = Field(1.0, gt=0)
    background_weight: float = Field(0.0, ge=0)
    voxel_um: tuple[float, float, float] | None = None
    unit: bool = False

    @model_validator(mode="after")
    def _unit_has_no_size(self) -> Self:
        if self.unit and (self.scale != 1 or self.voxel_um is not None):
            raise ValueError("no scale and no voxel_um beside unit: unit vectors have no size")
        return self

    @property
    def name(self) -> str:
        """The usual short name."""
        return "cpv"

    @property
    def channels(self) -> int:
        """z, y and x component."""
        return 3

    def target(
        self,
        labels: np.ndarray,
        crop: Crop,
        scale_um: tuple[float, float, float] | None,
        centers: Centers,
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (3, z, y, x) in voxels and weight (z, y, x) of the crop; see `Head.target`.

        The weight is 0 where the centre is not known: such a voxel must not be taught a zero vector. Unit
        vectors have no direction at the centre itself: there the target is 0, and so is the weight.
        """
        known = np.asarray(centers.known, np.bool_)
        origin = np.array([part.start for part in crop], np.float64)
        ids = np.asarray(centers.ids)[known]
        places = np.asarray(centers.centers, np.float64).reshape(-1, 3)[known] - origin
        cropped = labels[crop]
        vectors, has_center = center_field(cropped, ids, places)
        if self.unit:
            vectors *= np.array(scale_um or (1, 1, 1), np.float32)[:, None, None, None]
            vectors = _directions(vectors)
            has_center &= vectors.any(axis=0)
        weight = has_center.astype(np.float32)
        if self.background_weight and centers.extent:
            weight[cropped == 0] = self.background_weight
        if mask is not None:
            weight[~mask[crop]] = 0
        return vectors, weight

    def loss(self, output: Any, target: Any, weight: Any) -> Any:
        """Squared length of the difference in units of `scale` voxels."""
        from keras import ops

        factors = ops.convert_to_tensor(self.component_factors(), dtype=output.dtype)
        difference = output - ops.cast(target, output.dtype) / self.scale
        return weighted_mean(ops.sum(factors * ops.square(difference), axis=-1), weight)

    @property
    def loss_unit(self) -> float:
        """Voxels whose square is 1 in the loss: `scale`; for unit vectors a usual radius, 5.5."""
        return 5.5 if self.unit else self.scale

    def component_factors(self) -> np.ndarray:
        """Factors of the three squared components, float64 (3,); 1 for cubic voxels."""
        if self.voxel_um is None:
            return np.ones(3)
        um = np.array(self.voxel_um)
        return (um / np.prod(um) ** (1 / 3)) ** 2

    def activation(self, output: np.ndarray) -> np.ndarray:
        """Vectors in voxels; unit vectors of length 1, or 0 where the output is 0."""
        if self.unit:
            return _directions(output.astype(np.float32, copy=False))
        return output.astype(np.float32, copy=False) * np.float32(self.scale)

    def stored_range(self, reach: int | None) -> tuple[float, float] | None:
        """One voxel more than what votes, for each component: a longer vector votes neither before nor afterwards."""
        if self.unit:
            return -1.0, 1.0
        return None if reach is None else (-(reach + 1.0), reach + 1.0)

    def mirrored(self, prediction: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """See `Head.mirrored`: components along mirrored axes change their sign."""
        flipped, valid = super().mirrored(prediction, axes)
        signs = np.ones((3, 1, 1, 1), np.float32)
        signs[list(axes)] = -1
        return flipped * signs, valid

    @property
    def vote_thresholds(self) -> tuple[float, ...]:
        """Vote thresholds to choose from on validation data.

        Those of nuclei whose mean radius is `scale` voxels; where the scale is 1 (as published) and says
        nothing, of radius 5.5. Use `vote_threshold_grid` for others.

        Raises:
            InputError: Unit vectors do not vote.
        """
        self.require_votes()
        return self.vote_thresholds_after(passes=2)

    def vote_thresholds_after(self, passes: int) -> tuple[float, ...]:
        """`vote_thresholds` of votes that were smoothed in so many passes."""
        self.require_votes()
        return vote_threshold_grid(self.radius, passes)

    @property
    def radius(self) -> float:
        """Mean radius of a nucleus, voxels, as far as is known: `scale`; a usual one, 5.5, where that says nothing."""
        return self.scale if self.scale > 1 else 5.5

    @property
    def vote_passes(self) -> tuple[int, ...]:
        """Smoothing passes to choose from: 2, and more for nuclei above the usual size, whose votes scatter further."""
        spread = min(MOST_PASSES, round(2 * (self.radius / 5.5) ** 2))
        return (2,) if spread <= 2 else (2, spread)

    def peak_thresholds_after(self, passes: int) -> tuple[float, ...]:
        """Vote thresholds of peaks to choose from, where voxels are grouped by vectors: the lower of those of seeds."""
        return self.vote_thresholds_after(passes)[:5]

    @property
    def group_distances(self) -> tuple[int, ...]:
        """How far from a peak a vector may end, voxels, to choose from: half to all of a mean radius."""
        return tuple(dict.fromkeys(max(1, round(part * self.radius)) for part in (0.5, 0.75, 1.0)))

    @property
    def default_vote_threshold(self) -> float:
        """Vote threshold when nothing was selected: from the middle of `vote_thresholds`."""
        return self.default_vote_threshold_after(passes=2)

    def default_vote_threshold_after(self, passes: int) -> float:
        """`default_vote_threshold` of votes that were smoothed in so many passes."""
        return self.vote_thresholds_after(passes)[3]

    def votes(
        self,
        prediction: np.ndarray,
        foreground: np.ndarray | None,
        reach: float | None = None,
        passes: int = 2,
    ) -> np.ndarray:
        """Smoothed votes of a prediction (3, z, y, x), int64 (z, y, x), 64 ** passes times too large.

        See `nucseg.instances.votes.vote_map` and `smooth_votes` for the arguments.

        Raises:
            InputError: Unit vectors do not vote.
        """
        self.require_votes()
        return smooth_votes(vote_map(prediction, foreground, reach), passes)

    def seeds_from_votes(
        self,
        prediction: np.ndarray,
        foreground: np.ndarray | None,
        threshold: float,
        reach: float | None = None,
        passes: int = 2,
    ) -> np.ndarray:
        """Where the smoothed votes exceed a threshold, bool (z, y, x).

        Args:
            prediction: Vectors in voxels, float32 (3, z, y, x).
            foreground: The voxels that vote, bool (z, y, x); None: all.
            threshold: Votes per voxel, after smoothing.
            reach: Longest vector that votes, voxels; None: any.
            passes: Binomial smoothing passes; 2 are a standard deviation of 1 voxel.

        Raises:
            InputError: Unit vectors do not vote.
        """
        return votes_above(self.votes(prediction, foreground, reach, passes), threshold, passes)

    def require_votes(self) -> None:
        """See that these vectors vote.

        Raises:
            InputError: They are unit vectors.
        """
        if self.unit:
            raise InputError(
                "seeds from votes",
                expected="center vectors with their length: a unit vector does not say where the centre is",
                received="CenterVectors(unit=True)",
                remedy="use seeds of the main head, or train without unit=True",
            )


def _directions(vectors: np.ndarray) -> np.ndarray:
    """Vectors (3, ...) divided by their lengths, float32; 0 stays 0."""
    largest = np.abs(vectors).max(axis=0)
    vectors = vectors / np.where(largest > 0, largest, 1)  # first, so that squares stay within float32
    z, y, x = vectors
    length = np.sqrt(z * z + y * y + x * x)
    return vectors / np.where(length > 0, length, 1)


def vote_threshold_grid(radius: float, passes: int = 2) -> tuple[float, ...]:
    """Vote thresholds to choose from, for nuclei of a given mean radius.

    If all voxels of a nucleus voted for one voxel, the smoothed peak would be `peak`, their number times the
    centre weight of the binomial kernel. Real votes scatter, so the useful thresholds are fractions of it.

    Args:
        radius: Mean radius of a nucleus, voxels.
        passes: Binomial smoothing passes.

    Returns:
        Eight thresholds, ascending, at least 0.5 votes each.
    """
    kernel = np.array([1.0])
    for _ in range(passes):
        kernel = np.convolve(kernel, [0.25, 0.5, 0.25])
    peak = 4 / 3 * np.pi * radius**3 * kernel.max() ** 3
    fractions = (0.04, 0.08, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0)
    return tuple(max(0.5, float(f"{fraction * peak:.2g}")) for fraction in fractions)
