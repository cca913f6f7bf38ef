"""Drawing on RGB arrays: gray images, contours, discs, and the three views of a volume side by side."""

import base64
import io
from dataclasses import dataclass
from math import ceil, floor, log10

import numpy as np
from matplotlib.image import imsave

from nucseg.report.colors import Swatch

PIXELS = 1400
"""Longer side of the largest picture."""

_GAP = 6  # pixels between the views of a volume
_LARGEST_ZOOM = 6.0


@dataclass(frozen=True)
class Picture:
    """A picture for the page.

    Attributes:
        title: A few words.
        caption: What is seen.
        src: The PNG as a data URI.
        width: Pixels.
        height: Pixels.
        legend: What its colours mean.
        bar_percent: Length of the scale bar in percent of the width; None without a known voxel size.
        bar_text: Its length in words.
    """

    title: str
    caption: str
    src: str
    width: int
    height: int
    legend: tuple[Swatch, ...] = ()
    bar_percent: float | None = None
    bar_text: str = ""

    @property
    def wide(self) -> bool:
        """Whether it wants the full width of the page."""
        return self.width > 1.6 * self.height


class Layout:
    """The views along z, y and x of one volume in one picture, in proportion to the physical lengths.

    The view along z (y down, x right) is top left, the one along x (y down, z right) beside it, the one along
    y (z down, x right) below it.

    Args:
        shape: z, y, x in voxels.
        scale_um: Voxel size; None: cubic voxels.
        pixels: Longer side of the picture.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        scale_um: tuple[float, float, float] | None,
        pixels: int = PIXELS,
    ) -> None:
        self.scale_um = scale_um
        scale = np.array(scale_um or (1.0, 1.0, 1.0))
        proportion = scale / scale.min()
        length = np.array(shape) * proportion
        zoom = (pixels - _GAP) / (length[0] + max(length[1], length[2]))
        zoom = min(_LARGEST_ZOOM, zoom if zoom < 1 else floor(2 * zoom) / 2)
        self.zoom = proportion * zoom  # pixels a voxel
        self.size = tuple(max(1, round(n)) for n in length * zoom)  # pixels of z, y, x
        self.height = self.size[1] + _GAP + self.size[0]
        self.width = self.size[2] + _GAP + self.size[0]

    def enlarged(self, view: np.ndarray, axis: int) -> np.ndarray:
        """The view along `axis`, voxels to pixels by nearest neighbour; (rows, columns, ...)."""
        first, second = (i for i in range(3) if i != axis)
        rows = np.minimum(
            ((np.arange(self.size[first]) + 0.5) / self.zoom[first]).astype(int), view.shape[0] - 1
        )
        columns = np.minimum(
            ((np.arange(self.size[second]) + 0.5) / self.zoom[second]).astype(int), view.shape[1] - 1
        )
        return view[rows[:, None], columns]

    def pixels_of(self, points: np.ndarray, axis: int) -> np.ndarray:
        """Rows and columns float64 (n, 2) of points (n, 3) in the enlarged view along `axis`."""
        others = [i for i in range(3) if i != axis]
        return (points[:, others] + 0.5) * self.zoom[others]

    def joined(self, views: list[np.ndarray], paper: int = 255) -> np.ndarray:
        """One picture uint8 (height, width, 3) of the enlarged RGB views along z, y and x."""
        picture = np.full((self.height, self.width, 3), paper, np.uint8)
        z, y, x = (to_bytes(view) for view in views)
        picture[: self.size[1], : self.size[2]] = z
        picture[self.size[1] + _GAP :, : self.size[2]] = y
        picture[: self.size[1], self.size[2] + _GAP :] = x.swapaxes(0, 1)
        return picture

    def bar(self) -> tuple[float | None, str]:
        """Scale bar: percent of the picture's width, and its length in words."""
        if self.scale_um is None:
            return None, ""
        um_a_pixel = self.scale_um[2] / self.zoom[2]
        length = round_length(0.2 * self.size[2] * um_a_pixel)
        return 100 * length / um_a_pixel / self.width, f"{length:g} µm"


def round_length(longest: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... (and .5, .2, ...) that is not longer than `longest`."""
    power = 10.0 ** floor(log10(longest))
    return next(step * power for step in (5, 2, 1) if step * power <= longest * (1 + 1e-9))


def window(raw: list[np.ndarray], low: float = 1.0, high: float = 99.8) -> tuple[float, float]:
    """Intensities to show as black and white: percentiles over the finite pixels of all views."""
    values = np.concatenate([view[np.isfinite(view)].ravel() for view in raw])
    if not values.size:
        return 0.0, 1.0
    bottom, top = (float(v) for v in np.percentile(values, (low, high)))
    return (bottom, top) if top > bottom else (bottom, bottom + 1.0)


def gray(raw: np.ndarray, shown: tuple[float, float], gamma: float = 0.8) -> np.ndarray:
    """float32 (..., 1), 0 to 1."""
    raw = np.where(np.isfinite(raw), raw, shown[0]).astype(np.float32)
    return (np.clip((raw - shown[0]) / (shown[1] - shown[0]), 0, 1) ** gamma)[..., None]


def tinted(light: np.ndarray, color: np.ndarray, where: np.ndarray, strength: float = 0.75) -> np.ndarray:
    """RGB 0 to 255: gray `light`, and where told the colour, still modulated by the light.

    Args:
        light: float32 (rows, columns, 1), 0 to 1.
        color: 0 to 255, (3,) or (rows, columns, 3).
        where: bool (rows, columns).
        strength: 0: gray only, 1: colour only.
    """
    colored = (0.3 + 0.7 * light) * np.asarray(color, np.float32)
    mixed = (1 - strength) * 255 * light + strength * colored
    return np.where(where[..., None], mixed, 255 * np.broadcast_to(light, mixed.shape))


def contours(labels: np.ndarray, thickness: int = 1) -> np.ndarray:
    """Pixels of objects within `thickness` of another label, bool; the border of the picture is no contour."""
    edge = np.zeros(labels.shape, np.bool_)
    for step in range(1, thickness + 1):
        for axis in (0, 1):
            if labels.shape[axis] <= step:
                continue
            head = tuple(slice(None, -step) if i == axis else slice(None) for i in (0, 1))
            tail = tuple(slice(step, None) if i == axis else slice(None) for i in (0, 1))
            differs = labels[head] != labels[tail]
            edge[head] |= differs
            edge[tail] |= differs
    return edge & (labels != 0)


def disc_mask(shape: tuple[int, ...], points: np.ndarray, radius: float) -> np.ndarray:
    """Where a picture of `shape` is within `radius` pixels of any of the points (n, 2), bool."""
    mask = np.zeros(shape, np.bool_)
    reach = np.arange(-ceil(radius), ceil(radius) + 1)
    for row in reach:
        for column in reach:
            if row**2 + column**2 <= radius**2:
                at = np.floor(points).astype(int) + np.array([row, column])
                inside = ((at >= 0) & (at < shape)).all(axis=1)
                mask[tuple(at[inside].T)] = True
    return mask


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """uint8 of an RGB picture 0 to 255."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def data_uri(picture: np.ndarray) -> str:
    """The picture uint8 (height, width, 3) as a PNG that stands in the page itself."""
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(picture), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
