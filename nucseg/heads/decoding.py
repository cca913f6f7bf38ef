"""`Decoding`: the choices between a prediction and its instances."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nucseg.instances.votes import MOST_PASSES

Seeds = Literal["main", "votes", "vectors"]
Voters = Literal["foreground", "all"]


class Decoding(BaseModel):
    """How a prediction becomes surface, seeds and foreground, and what is done with the instances.

    Attributes:
        seeds: `main`: from the main head. `votes`: from the votes of the center vectors. Both are flooded. `vectors`:
            no flood; each foreground voxel joins the peak of the votes that its vector points to, see
            `nucseg.instances.grouping`.
        seed_threshold: Of the main head's seeds, or votes per voxel.
        foreground_threshold: Of the main head's foreground.
        vote_passes: Binomial smoothing passes of the vote map; 2 are a standard deviation of 1 voxel.
        votes_from: Which voxels vote: the `foreground`, or `all`, so that a nucleus whose foreground is too small still
            has all its votes, and what the vectors of the background say counts, too.
        reach: Longest vector that votes, voxels: about the largest diameter of a nucleus. Needed for votes and vectors.
        distance: For vectors, half the window in which a peak is the highest, voxels.
        within: For vectors, how far from a peak a vector may end, voxels.
        dilate: Voxels to grow the instances by, without overwriting.
        min_size: Instances of fewer voxels are dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: Seeds = "main"
    seed_threshold: float
    foreground_threshold: float
    vote_passes: int = Field(2, ge=0, le=MOST_PASSES)
    votes_from: Voters = "foreground"
    reach: int = Field(0, ge=0)
    distance: int = Field(3, ge=1)
    within: int = Field(4, ge=0)
    dilate: int = Field(0, ge=0)
    min_size: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _votes_have_reach(self) -> Self:
        if self.seeds != "main" and self.reach == 0:
            raise ValueError(f"a reach for {self.seeds}: the largest diameter of a nucleus, in voxels")
        return self

    @property
    def context(self) -> int:
        """Voxels around a region that its seeds depend on or, where nothing is flooded, its instances."""
        if self.seeds == "main":
            return 0
        votes = self.reach + self.vote_passes
        return votes if self.seeds == "votes" else votes + self.reach + self.within + self.distance
