"""From a prediction to points, one a nucleus, without instances: `PointDecoding`, and the part of `Scenario` for it."""

from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from nucseg.errors import InputError
from nucseg.heads.base import Head
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.decoding import Voters
from nucseg.instances.votes import MOST_PASSES

PointSource = Literal["peaks", "votes"]

DISTANCES = tuple(range(2, 12))
"""Half windows of the non-maximum suppression to choose from, voxels."""


class PointDecoding(BaseModel):
    """How a prediction becomes points: maxima of a map of scores.

    Attributes:
        source: `peaks`: of the head that detects, such as gauss. `votes`: of the votes of the center vectors.
        threshold: Points have a larger score: height of the peak, or votes per voxel after smoothing.
        distance: Half the window of the non-maximum suppression, voxels: 2 * distance + 1 a side.
        foreground_threshold: Which voxels vote: that of the main head's foreground, or, without a main head, of
            the head that detects. Needed for votes from the foreground.
        vote_passes: Binomial smoothing passes of the vote map; 2 are a standard deviation of 1 voxel.
        votes_from: Which voxels vote: the `foreground`, or `all`, the only choice for center vectors without a head
            that has a foreground.
        reach: Longest vector that votes, voxels: about the largest diameter of a nucleus. Needed for votes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: PointSource = "peaks"
    threshold: float = Field(allow_inf_nan=False)
    distance: int = Field(ge=1)
    foreground_threshold: float | None = None
    vote_passes: int = Field(2, ge=0, le=MOST_PASSES)
    votes_from: Voters = "foreground"
    reach: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _votes_are_bounded(self) -> Self:
        if self.source == "votes" and self.reach == 0:
            raise ValueError("a reach for votes: the largest diameter of a nucleus, in voxels")
        if self.source == "votes" and self.votes_from == "foreground" and self.foreground_threshold is None:
            raise ValueError(
                "a foreground_threshold for votes from the foreground, which says which voxels vote"
            )
        return self


class PointDecoder(BaseModel):
    """What a `Scenario` knows about points."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: tuple[SerializeAsAny[Head], ...] = Field(min_length=1)

    @property
    def can_detect(self) -> bool:
        """Whether a prediction decodes to points without instances (whose centres are always points, too)."""
        return bool(self.point_sources)

    @property
    def point_sources(self) -> tuple[PointSource, ...]:
        """Where points can come from."""
        sources: list[PointSource] = ["peaks"] if self._detector else []
        return (*sources, "votes") if self._vectors and not self._vectors.unit else tuple(sources)

    def score_map(self, prediction: np.ndarray, decoding: PointDecoding) -> np.ndarray:
        """The map whose maxima are points.

        Args:
            prediction: What `Scenario.activation` returned, (channels, z, y, x).
            decoding: How to decode; its threshold and distance do not matter here.

        Returns:
            (z, y, x): the peaks, float32, or smoothed votes per voxel, float64, which are whole multiples of
            64 ** -vote_passes and exact.

        Raises:
            InputError: The scenario has no such source of points, or the prediction other channels.
        """
        self.check_points(decoding)
        channels = sum(head.channels for head in self.heads)
        if prediction.ndim != 4 or len(prediction) != channels:
            raise InputError(
                "prediction to find points in",
                expected=f"({channels}, z, y, x), channels first",
                received=f"{prediction.shape}",
                remedy="name the scenario that the prediction was made with",
            )
        if decoding.source == "peaks" and self._detector:
            return self._detector.peaks(self._own(prediction, self._detector))
        vectors, voters = self._vectors, self._voters
        if vectors is None:
            raise ValueError("check_points lets no such decoding through")
        foreground: np.ndarray | None = None
        if voters and decoding.votes_from == "foreground" and decoding.foreground_threshold is not None:
            foreground = voters.foreground(self._own(prediction, voters), decoding.foreground_threshold)
        votes = vectors.votes(
            self._own(prediction, vectors), foreground, decoding.reach, decoding.vote_passes
        )
        return votes / 64.0**decoding.vote_passes

    def point_context(self, decoding: PointDecoding) -> int:
        """Voxels around a region that its points depend on."""
        votes = decoding.reach + decoding.vote_passes if decoding.source == "votes" else 0
        return votes + decoding.distance

    def check_source(self, source: str) -> None:
        """Make sure that points can come from there.

        Raises:
            InputError: The heads give no such points.
        """
        if source == "votes" and self._vectors:
            self._vectors.require_votes()
        if source not in self.point_sources:
            raise InputError(
                f"points of {'_'.join(head.name for head in self.heads)}",
                expected=" or ".join((*self.point_sources, "the centres of instances")),
                received=source,
                remedy="peaks need a head such as gauss, votes need center vectors (cpv)",
            )

    def check_points(self, decoding: PointDecoding) -> None:
        """Make sure that a prediction can be decoded so.

        Raises:
            InputError: The heads give no such points, or a foreground is to vote and no head has one.
        """
        self.check_source(decoding.source)
        if decoding.source != "votes" or self._voters:
            return
        threshold = decoding.foreground_threshold
        if decoding.votes_from == "foreground" or threshold is not None:
            raise InputError(
                f"votes of {'_'.join(head.name for head in self.heads)}",
                expected="votes from all voxels: center vectors alone do not say what is foreground",
                received=f"votes from the {decoding.votes_from}"
                if threshold is None
                else f"a foreground threshold of {threshold:g}",
                remedy="leave the foreground threshold out and let all vote (--votes-from all), or train a head "
                "such as gauss or three_label beside them",
            )

    def default_point_decoding(self, reach: int | None = None) -> PointDecoding:
        """The decoding when nothing was selected: peaks where there are any, else votes.

        Args:
            reach: Largest diameter of a nucleus, voxels. None: unknown, and there are no votes.

        Raises:
            InputError: The heads decode to no points, or to votes only and there is no reach.
        """
        distance = default_distance(reach)
        if self._detector:
            threshold = self._detector.default_peak_threshold
            return PointDecoding(source="peaks", threshold=threshold, distance=distance)
        return self.default_votes(reach)

    def default_votes(self, reach: int | None) -> PointDecoding:
        """As `default_point_decoding`, from votes."""
        if self._vectors is None or not reach:
            raise InputError(
                f"points of {'_'.join(head.name for head in self.heads)}",
                expected="center vectors, and the largest diameter of a nucleus",
                received=f"heads {', '.join(head.name for head in self.heads)}, diameter {reach}",
                remedy="take a scenario such as gauss or three_label_cpv, and give the diameter (--nucleus-um)",
            )
        return PointDecoding(
            source="votes",
            threshold=self._vectors.default_vote_threshold,
            distance=default_distance(reach),
            foreground_threshold=self._voters.default_foreground_threshold if self._voters else None,
            votes_from="foreground" if self._voters else "all",
            reach=reach,
        )

    def point_decodings(self, reach: int | None = None) -> list[PointDecoding]:
        """The grid to select from on validation data: thresholds and windows of all sources of points.

        Args:
            reach: Largest diameter of a nucleus, voxels. None: no votes.
        """
        grid: list[PointDecoding] = []
        if self._detector:
            grid += [
                PointDecoding(source="peaks", threshold=threshold, distance=distance)
                for distance in DISTANCES
                for threshold in self._detector.peak_thresholds
            ]
        if self._vectors and not self._vectors.unit and reach:
            grid += [
                PointDecoding(
                    source="votes",
                    threshold=threshold,
                    distance=distance,
                    foreground_threshold=foreground,
                    vote_passes=passes,
                    votes_from="foreground" if self._voters else "all",
                    reach=reach,
                )
                for foreground in (self._voters.foreground_thresholds if self._voters else (None,))
                for distance in DISTANCES
                for passes in self._vectors.vote_passes
                for threshold in self._vectors.vote_thresholds_after(passes)
            ]
        return grid

    @property
    def _detector(self) -> Head | None:
        return next((head for head in self.heads if head.detects), None)

    @property
    def _vectors(self) -> CenterVectors | None:
        return next((head for head in self.heads if isinstance(head, CenterVectors)), None)

    @property
    def _voters(self) -> Head | None:
        """The head whose foreground votes: the main head, else the one that detects."""
        return next((head for head in self.heads if head.is_main), self._detector)

    def _own(self, prediction: np.ndarray, head: Head) -> np.ndarray:
        """The channels of one head."""
        begin = sum(other.channels for other in self.heads[: self.heads.index(head)])
        return prediction[begin : begin + head.channels]


def default_distance(reach: int | None) -> int:
    """Half a window: a sixth of the largest diameter of a nucleus (voxels), 2 to 11; 3 where it is unknown.

    Centres of crowded nuclei are much less than the largest diameter apart. On synthetic worms whose largest nucleus
    is 18 voxels long, the detection AP was .95 with 2 and 3, .92 with 4, .84 with 5.
    """
    return 3 if reach is None else min(max(round(reach / 6), DISTANCES[0]), DISTANCES[-1])
