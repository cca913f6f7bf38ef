"""`PointLabels`: a table of points as a label volume of small balls, made where it is read."""

from typing import NamedTuple, Self

import numpy as np
from numba import njit
from scipy.spatial import cKDTree

from nucseg.errors import InputError

Int3 = tuple[int, int, int]
Float3 = tuple[float, float, float]

APART = 0.49
"""Largest radius of a ball as a share of the distance to the nearest other point: less than half."""


class Balls(NamedTuple):
    """Balls that stand for points, and how they become labels.

    A voxel belongs to a ball if its middle is at most the ball's radius from the point, in um, and along no axis
    farther than the ball's reach. The voxel nearest to a point is always its own; where several points share one,
    it is the nearest point's.

    Attributes:
        points: (n, 3) z, y, x, voxels, float64.
        labels: (n,) positive integers.
        radii_um: (n,).
        reach: (n, 3) most distance of a voxel along each axis, voxels.
        um: Voxel size, (3,).
    """

    points: np.ndarray
    labels: np.ndarray
    radii_um: np.ndarray
    reach: np.ndarray
    um: np.ndarray

    def shifted(self, by: np.ndarray) -> Self:
        """The same balls in coordinates that differ by an offset (3,), voxels."""
        return self._replace(points=self.points + np.asarray(by))

    def moved(self, points: np.ndarray) -> "Balls":
        """Round balls around other points (n, 3), still apart from each other."""
        radii = _apart(points * self.um, self.radii_um)
        return self._replace(points=points, radii_um=radii, reach=radii[:, None] / self.um)

    def stamp(self, begin: np.ndarray | Int3, shape: np.ndarray | Int3) -> np.ndarray:
        """Labels of a region that begins at a voxel, uint32; 0 where there is no ball."""
        out = np.zeros(tuple(int(n) for n in shape), np.uint32)
        low = np.array([int(b) for b in begin], np.int64)
        _stamp(out, low, self.um, self.points, self.reach, self.radii_um**2, self.labels)
        voxels, owns = self.own_voxels()
        voxels = voxels - low
        inside = owns & ((voxels >= 0) & (voxels < out.shape)).all(axis=1)
        out[tuple(voxels[inside].T)] = self.labels[inside]
        return out

    def own_voxels(self) -> tuple[np.ndarray, np.ndarray]:
        """The voxel nearest to each point, (n, 3), and whether it is the point's own, bool (n,)."""
        voxels = np.floor(self.points + 0.5).astype(np.int64)
        return voxels, _nearest_wins(voxels, np.sum(((self.points - voxels) * self.um) ** 2, axis=1))

    def match(self, data: np.ndarray, begin: np.ndarray | Int3) -> bool:
        """Whether an array of labels that begins at a voxel shows these balls: each point's own voxel tells."""
        voxels, owns = self.own_voxels()
        voxels = voxels - np.asarray(begin)
        inside = owns & ((voxels >= 0) & (voxels < data.shape)).all(axis=1)
        return bool((data[tuple(voxels[inside].T)] == self.labels[inside]).all())


class PointLabels:
    """Labels where only centres are annotated: each point is a small ball with a number of its own.

    All that works on instance labels works on the balls. Their centres of mass are the points at sub-voxel
    precision: along an axis 0.03 voxels off on average and 0.2 at most for a radius of 3 voxels, 0.08 and 0.4 for
    a radius of 1. `Deform` moves the points themselves and makes the balls anew, so that this holds behind it,
    too. How far the nuclei reach is not known: see `extent`.

    The radius of a ball is the smaller of `radius_um` and 0.49 times the distance to the nearest other point, so
    balls never overlap. At the volume's border a ball is cut at the opposite side as much as by the border: its
    centre of mass stays within a quarter of a voxel of the point (half of one for a point in the outer half of
    the outermost voxel). A point has at least the voxel nearest to it; see `Balls`.

    Nothing is stored but the points: `read` makes the balls that reach into the region, so a volume of any size
    costs nothing. It serves as a dataset of `VolumeSource`.

    >>> points = PointLabels(np.array([[4.0, 5.0, 6.0]]), shape=(9, 9, 9), scale_um=(0.2, 0.1, 0.1), radius_um=0.2)
    >>> int((points.read() == 1).sum())
    15

    Args:
        points: (n, 3) positions z, y, x in voxels; the middle of the first voxel is 0.
        shape: Of the volume, z, y, x, voxels.
        scale_um: Voxel size z, y, x; None: cubes of 1 um.
        radius_um: Radius of the balls.
        path: Where the points came from, for messages.

    Attributes:
        points: As given, (n, 3) float64. Point i has the label i + 1.
        radii_um: Radius of each ball, (n,).
        shared: How many points share their nearest voxel with a nearer one, and may have no voxel at all.
        extent: False: the labels do not say how far a nucleus reaches. `AddTargets` trains only heads that need
            not know it.
        stored: False: nothing is read from a file, so that keeping it in memory saves nothing.
        dtype: Of the labels, uint32.
        channels: 0, as a label volume has none.

    Raises:
        InputError: The points are not (n, 3) finite numbers inside the volume, or the radius is not positive.
    """

    extent = False
    stored = False
    dtype = np.dtype(np.uint32)
    channels = 0

    def __init__(
        self,
        points: np.ndarray,
        shape: Int3,
        scale_um: Float3 | None = None,
        *,
        radius_um: float,
        path: str = "points",
    ) -> None:
        self.points = np.array(points, np.float64)
        self.shape: Int3 = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.scale_um = scale_um
        self.path = path
        self._check(radius_um)
        um = np.array(scale_um or (1.0, 1.0, 1.0), np.float64)
        self.radii_um = _apart(self.points * um, np.full(len(self.points), float(radius_um)))
        # A point exactly on the far face belongs to the last voxel, not to the one behind it.
        points = np.minimum(self.points, np.nextafter(np.array(self.shape) - 0.5, 0))
        face = np.minimum(points + 0.5, np.array(self.shape) - 0.5 - points)
        reach = np.minimum(self.radii_um[:, None] / um, face)
        # In order along the longest axis, so that a region finds its points by bisection.
        self._axis = int(np.argmax(self.shape))
        order = np.argsort(points[:, self._axis], kind="stable")
        labels = np.arange(1, len(points) + 1, dtype=np.uint32)
        self._balls = Balls(points[order], labels[order], self.radii_um[order], reach[order], um)
        self._margin = reach.max(axis=0, initial=0.0) + 1.0
        self.shared = int(np.sum(~self._balls.own_voxels()[1]))

    def near(self, begin: Int3, shape: Int3) -> Balls:
        """The balls that a region may show.

        Args:
            begin: First voxel (z, y, x).
            shape: Number of voxels (z, y, x).
        """
        low, high = np.array(begin) - self._margin, np.array(begin) + np.array(shape) + self._margin
        along = self._balls.points[:, self._axis]
        first, last = np.searchsorted(along, (low[self._axis], high[self._axis]))
        points = self._balls.points[first:last]
        # In the order of the table again: what is made of the balls does not depend on the longest axis.
        kept = first + np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
        kept = kept[np.argsort(self._balls.labels[kept])]
        balls = self._balls
        return Balls(
            balls.points[kept], balls.labels[kept], balls.radii_um[kept], balls.reach[kept], balls.um
        )

    def read(self, begin: Int3 = (0, 0, 0), shape: Int3 | None = None) -> np.ndarray:
        """Labels of a region, which may reach beyond the volume.

        Args:
            begin: First voxel (z, y, x).
            shape: Number of voxels (z, y, x); to the volume's end if None.

        Returns:
            uint32 (z, y, x); 0 where there is no ball.
        """
        size = tuple(n - int(b) for n, b in zip(self.shape, begin, strict=True)) if shape is None else shape
        return self.near(begin, (size[0], size[1], size[2])).stamp(begin, (size[0], size[1], size[2]))

    def filled(self, diameter_um: float) -> float:
        """Share of a nucleus that its ball fills, the mean over all points; at most 1.

        Args:
            diameter_um: Diameter of a nucleus.
        """
        if not len(self.points):
            return 1.0
        return float(np.mean(np.minimum((2 * self.radii_um / diameter_um) ** 3, 1.0)))

    def _check(self, radius_um: float) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 3 or not np.isfinite(self.points).all():
            raise InputError(
                self.path,
                expected="finite positions z, y, x, one a row",
                received=f"an array of shape {self.points.shape}",
                remedy="pass what `nucseg.read_points` returns",
            )
        outside = points_outside(self.points, self.shape)
        if outside.any():
            raise InputError(
                self.path,
                expected=f"points (z, y, x in voxels) inside the shape {self.shape}",
                received=f"{int(outside.sum())} of {len(outside)} outside, e.g. {self.points[outside][0].tolist()}",
                remedy="check the order of the axes, and that the unit is voxels, not micrometres",
            )
        if not (np.isfinite(radius_um) and radius_um > 0):
            raise InputError(
                "PointLabels(radius_um)",
                expected="a positive length",
                received=f"{radius_um}",
                remedy="pass about half the mean radius of a nucleus",
            )


def points_outside(points: np.ndarray, shape: Int3) -> np.ndarray:
    """Which points (n, 3), z, y, x in voxels, lie in no voxel of a volume: bool (n,)."""
    return ((points < -0.5) | (points > np.array(shape) - 0.5)).any(axis=1)


def _apart(places_um: np.ndarray, radii_um: np.ndarray) -> np.ndarray:
    """The radii, smaller where another place (n, 3) is near."""
    if len(places_um) < 2:
        return radii_um
    distances, _ = cKDTree(places_um).query(places_um, k=2)
    return np.minimum(radii_um, APART * distances[:, 1])


def _nearest_wins(voxels: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Of the points that share a voxel the one with the smallest square, else the first: bool (n,)."""
    wins = np.zeros(len(voxels), np.bool_)
    if len(voxels):
        order = np.lexsort((squares, *voxels.T[::-1]))
        ordered = voxels[order]
        wins[order] = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    return wins


@njit(cache=True, nogil=True)
def _stamp(
    out: np.ndarray, begin: np.ndarray, um: np.ndarray, points: np.ndarray, reach: np.ndarray,
    squares: np.ndarray, labels: np.ndarray,
) -> None:  # fmt: skip
    """Paint balls, which nowhere overlap."""
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for i in range(points.shape[0]):
        for k in range(3):
            low[k] = max(0, np.int64(np.ceil(points[i, k] - reach[i, k])) - begin[k])
            high[k] = min(out.shape[k], np.int64(np.floor(points[i, k] + reach[i, k])) + 1 - begin[k])
        for z in range(low[0], high[0]):
            zz = ((z + begin[0] - points[i, 0]) * um[0]) ** 2
            for y in range(low[1], high[1]):
                zy = zz + ((y + begin[1] - points[i, 1]) * um[1]) ** 2
                for x in range(low[2], high[2]):
                    if zy + ((x + begin[2] - points[i, 2]) * um[2]) ** 2 <= squares[i]:
                        out[z, y, x] = labels[i]
