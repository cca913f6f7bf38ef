"""Where to look: a mask, usually far coarser than the image, outside of which there is background."""

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import maximum_filter

from nucseg.blockwise.grid import Box, Shape
from nucseg.blockwise.records import identity
from nucseg.errors import InputError
from nucseg.storage.remote import absolute
from nucseg.volume import Volume, open_volume


class Mask(BaseModel):
    """Voxels of an image that are worth looking at: where a mask image is above a value.

    The mask covers the same space as the image with voxels that are whole multiples of the image's: a level of its
    pyramid (`Mask(path=IMAGE, level=3, above=120)`), or labels or a binary image of a tissue. Outside of it a
    prediction is background (`Head.background`), voxel by voxel, so that labels do not depend on the blocks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """An image or labels of one channel."""
    level: int = Field(0, ge=0)
    """Of its pyramid."""
    above: float = 0.0
    """Voxels with a higher value are inside; those that are no number are not."""
    grow: int = Field(0, ge=0)
    """Voxels of the mask by which the inside is grown on every side, corners included."""

    def resolved(self, volume: Volume) -> "Mask":
        """The mask with an absolute path.

        Raises:
            InputError: It has several channels, or does not cover the volume with whole multiples of its voxels.
        """
        OpenMask(self, volume)
        return self.model_copy(update={"path": absolute(self.path)})

    def identity(self) -> dict[str, Any]:
        """What tells its image from another at the same path."""
        return identity(self.path)


class OpenMask:
    """A mask opened for a volume.

    Args:
        mask: Which mask.
        volume: The image that it says where to look in.

    Raises:
        InputError: It has several channels, or does not cover the volume with whole multiples of its voxels.
    """

    def __init__(self, mask: Mask, volume: Volume) -> None:
        coarse = open_volume(mask.path, level=mask.level)
        if coarse.channels == 1:
            coarse = open_volume(mask.path, level=mask.level, channel=0)
        if coarse.channels:
            raise InputError(
                f"{mask.path}: mask",
                expected="one channel",
                received=f"{coarse.channels} channels",
                remedy="save the channel that shows the tissue as a volume of its own",
            )
        self.mask, self.coarse = mask, coarse
        self.factor = _factor(coarse, volume)

    def read(self, box: Box) -> np.ndarray:
        """Whether voxels are inside the mask, bool (z, y, x), the box's shape.

        Args:
            box: Voxels of the volume.
        """
        grow = self.mask.grow
        low = [b // f - grow for b, f in zip(box.begin, self.factor, strict=True)]
        high = [-(-e // f) + grow for e, f in zip(box.end, self.factor, strict=True)]
        size = [h - lo for h, lo in zip(high, low, strict=True)]
        data = self.coarse.read((low[0], low[1], low[2]), (size[0], size[1], size[2]))
        inside = data > self.mask.above
        if self.mask.above < 0:  # beyond the mask's border its reader gives zeros
            inside &= self._there(low, size)
        if grow:
            inside = maximum_filter(inside, size=2 * grow + 1, mode="constant", cval=0)
        z, y, x = (
            np.arange(b, e) // f - lo
            for b, e, f, lo in zip(box.begin, box.end, self.factor, low, strict=True)
        )
        return np.ascontiguousarray(inside[np.ix_(z, y, x)])

    def _there(self, low: list[int], size: list[int]) -> np.ndarray:
        z, y, x = (
            (np.arange(lo, lo + n) >= 0) & (np.arange(lo, lo + n) < length)
            for lo, n, length in zip(low, size, self.coarse.shape, strict=True)
        )
        return z[:, None, None] & y[:, None] & x


def _factor(coarse: Volume, volume: Volume) -> Shape:
    """Voxels z, y, x of the volume that one voxel of the mask covers."""
    sizes = [n // m if n % m == 0 else 0 for n, m in zip(volume.shape, coarse.shape, strict=True)]
    if coarse.scale_um is not None and volume.scale_um is not None:
        sizes = [round(c / v) for c, v in zip(coarse.scale_um, volume.scale_um, strict=True)]
    if any(f < 1 or -(-n // f) != m for f, n, m in zip(sizes, volume.shape, coarse.shape, strict=True)):
        raise InputError(
            f"{coarse.path}: mask",
            expected=f"an image of the space of {volume.shape} voxels of {_um(volume)}, with voxels that are whole "
            "multiples of these",
            received=f"{coarse.shape} voxels of {_um(coarse)}",
            remedy="take a level of the volume's own pyramid (`nucseg downsample`), or a mask of the volume's shape",
        )
    return sizes[0], sizes[1], sizes[2]


def _um(volume: Volume) -> str:
    return (
        "unknown size" if volume.scale_um is None else " x ".join(f"{s:g}" for s in volume.scale_um) + " um"
    )
