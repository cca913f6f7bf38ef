"""Which intensities become 0 and 1 for the network."""

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from nucseg.storage.volume import Volume


class Values(BaseModel):
    """The same intensities in every volume, where percentiles would mislead.

    A volume's own percentiles make volumes from different days alike. They fail where its content decides them: a part
    of an image with a bright fibre in it is scaled otherwise than the part beside it. Volumes that were taken with the
    same settings can keep their intensities: `normalize = {values = [0, 120]}`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[float, float]
    """What becomes 0 and what becomes 1; voxels beyond are not clipped."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        low, high = self.values
        if not low < high:
            raise ValueError(f"a first value below the second, not {low:g} and {high:g}")
        return self


Normalization = tuple[float, float] | Values | None
"""Percentiles of each volume, or fixed values; None: intensities are taken as they are."""


def zero_and_one(volume: Volume, normalize: Normalization) -> tuple[float, float] | None:
    """The intensities of a volume that become 0 and 1; None where they stay as they are.

    Raises:
        InputError: The volume has no such percentiles, see `Volume.intensity_range`.
    """
    if normalize is None:
        return None
    if isinstance(normalize, Values):
        return normalize.values
    return volume.intensity_range(*normalize)
