"""A smooth transformation of a patch and its fused resampling.

A voxel `v` of the patch shows what lies at

    source(v) = center + matrix @ (v - center) + displacement(v)

where `displacement` is interpolated between control points. It is evaluated while resampling, line by line:
no field of the patch's size is ever stored. Positions are index coordinates in voxels: integers are the
middles of voxels.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

OVERSHOOT = 1.25**3
"""A Catmull-Rom interpolant leaves the range of its control values at most by this factor, in 3-D."""


@dataclass(frozen=True)
class Deformation:
    """A rotation (or any linear map) about a centre and an elastic displacement.

    Args:
        center: The fixed point of the linear part, z, y, x, voxels (a half between two voxels).
        matrix: (3, 3) linear part in voxel units, applied to offsets from the centre.
        control: (nz, ny, nx, 3) displacements at the control points, z, y, x components in voxels; `None`
            for a purely linear map. Between control points the displacement is Catmull-Rom interpolated, so
            it is continuous with its derivative and exact at the control points.
        origin: Position of control point 0, 0, 0.
        spacing: Distance of neighbouring control points along each axis, voxels.
    """

    center: np.ndarray
    matrix: np.ndarray
    control: np.ndarray | None = None
    origin: np.ndarray | None = None
    spacing: np.ndarray | None = None

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves."""
        return self.control is None and np.array_equal(self.matrix, np.eye(3))

    def source_box(self, begin: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The smallest box, symmetric about the centre, sure to hold all that a patch's voxels show.

        Args:
            begin: First voxel of the patch.
            shape: Its shape.

        Returns:
            Begin and shape of the box to read.
        """
        begin, shape = np.asarray(begin), np.asarray(shape)
        if self.is_identity:
            return begin, shape
        half = (shape - 1) / 2
        middle = self.matrix @ (begin + half - self.center)
        reach = np.abs(middle) + np.abs(self.matrix) @ half
        if self.control is not None:
            reach = reach + OVERSHOOT * np.abs(self.control).max(axis=(0, 1, 2))
        low = np.floor(self.center - reach).astype(np.int64)
        high = np.ceil(self.center + reach).astype(np.int64)
        return low, high - low + 1

    def source(self, positions: np.ndarray) -> np.ndarray:
        """What lies at positions of the patch: (n, 3) z, y, x in voxels for (n, 3), float64.

        Beyond the control points the displacement stays that of the outermost.
        """
        places = self.center + (positions - self.center) @ self.matrix.T
        control, origin, spacing = self.control, self.origin, self.spacing
        if control is None or origin is None or spacing is None:
            return places
        last = np.array(control.shape[:3]) - 3
        u = np.clip((positions - origin) / spacing, 1, np.nextafter(last + 1, 0))
        first = np.floor(u).astype(np.int64)
        (wz, wy, wx), (iz, iy, ix) = (
            (catmull_rom((u - first)[:, axis]) for axis in range(3)),
            (first[:, axis, None] + np.arange(-1, 3) for axis in range(3)),
        )
        taps = control[iz[:, :, None, None], iy[:, None, :, None], ix[:, None, None, :]]
        return places + np.einsum("na,nb,nc,nabck->nk", wz, wy, wx, taps)

    def shown_at(self, places: np.ndarray, tolerance: float = 1e-3) -> np.ndarray | None:
        """Where the patch shows given places: the inverse of `source`, by iteration.

        Args:
            places: (n, 3) z, y, x, voxels.
            tolerance: Largest distance of what is shown there from the place, voxels.

        Returns:
            Positions in the patch (n, 3), or None if the iteration does not end: the deformation is so strong that
            it folds space.
        """
        inverse = np.linalg.inv(self.matrix)
        positions = self.center + (places - self.center) @ inverse.T
        for _ in range(100):
            off = places - self.source(positions)
            if not len(off) or np.abs(off).max() < tolerance:
                return positions
            positions = positions + off @ inverse.T
        return None

    def resample(
        self,
        data: np.ndarray,
        data_begin: np.ndarray,
        begin: np.ndarray,
        shape: np.ndarray,
        *,
        interpolate: bool,
    ) -> np.ndarray:
        """What the voxels of a patch show.

        Args:
            data: (z, y, x) or (c, z, y, x) source voxels; everything outside counts as 0.
            data_begin: Position of its first voxel.
            begin: First voxel of the patch.
            shape: Shape of the patch.
            interpolate: Trilinear for intensities (floating point), otherwise the nearest voxel.

        Returns:
            The patch, of the data's dtype.
        """
        source = np.ascontiguousarray(data).reshape(-1, *data.shape[-3:])
        out = np.empty((source.shape[0], *map(int, shape)), data.dtype)
        control, origin, spacing = self.control, self.origin, self.spacing
        if control is None or origin is None or spacing is None:
            spacing = np.asarray(shape, np.float64)
            control, origin = np.zeros((4, 4, 4, 3)), begin - spacing
        taps = [
            _taps(int(n), float(b - o) / s, 1.0 / s)
            for n, b, o, s in zip(shape, begin, origin, spacing, strict=True)
        ]
        (iz, wz), (iy, wy), (ix, wx) = taps
        start = self.center + self.matrix @ (np.asarray(begin) - self.center) - np.asarray(data_begin)
        kernel = _linear if interpolate else _nearest
        kernel(source, out, self.matrix, start, np.ascontiguousarray(control), iz, wz, iy, wy, ix, wx)
        return out.reshape(*data.shape[:-3], *out.shape[1:])


def _taps(n: int, first: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """For n positions along an axis, in control-point units: the first of 4 control points, the weights."""
    u = first + step * np.arange(n)
    i = np.floor(u).astype(np.int64)
    return i - 1, catmull_rom(u - i)


def catmull_rom(t: np.ndarray) -> np.ndarray:
    """Weights (n, 4) of the control points at -1, 0, 1, 2 for positions (n,) between 0 and 1."""
    return np.stack(
        [
            t * (-0.5 + t * (1.0 - 0.5 * t)),
            1.0 + t * t * (-2.5 + 1.5 * t),
            t * (0.5 + t * (2.0 - 1.5 * t)),
            t * t * (-0.5 + 0.5 * t),
        ],
        axis=1,
    )


@njit(cache=True, nogil=True)
def _plane(control: np.ndarray, first: int, weights: np.ndarray, plane: np.ndarray) -> None:
    for b in range(control.shape[1]):
        for c in range(control.shape[2]):
            for k in range(3):
                total = 0.0
                for a in range(4):
                    total += weights[a] * control[first + a, b, c, k]
                plane[b, c, k] = total


@njit(cache=True, nogil=True)
def _positions(
    z: int, y: int, matrix: np.ndarray, start: np.ndarray, plane: np.ndarray, iy: np.ndarray, wy: np.ndarray,
    ix: np.ndarray, wx: np.ndarray, line: np.ndarray, places: np.ndarray,
) -> None:  # fmt: skip
    """Where the voxels of line (z, y) come from, into `places` (3, nx); `line` is scratch."""
    for k in range(3):
        for c in range(plane.shape[1]):
            total = 0.0
            for b in range(4):
                total += wy[y, b] * plane[iy[y] + b, c, k]
            line[k, c] = total
    for k in range(3):
        first = start[k] + matrix[k, 0] * z + matrix[k, 1] * y
        for x in range(ix.shape[0]):
            i = ix[x]
            moved = (
                wx[x, 0] * line[k, i] + wx[x, 1] * line[k, i + 1]
                + wx[x, 2] * line[k, i + 2] + wx[x, 3] * line[k, i + 3]
            )  # fmt: skip
            places[k, x] = first + matrix[k, 2] * x + moved


@njit(cache=True, nogil=True)
def _voxel(data: np.ndarray, z: int, y: int, x: int) -> float:
    if 0 <= z < data.shape[0] and 0 <= y < data.shape[1] and 0 <= x < data.shape[2]:
        return data[z, y, x]
    return data.dtype.type(0)


@njit(cache=True, nogil=True)
def _linear_line(data: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    nz, ny, nx = data.shape
    flat = data.reshape(nz * ny * nx)
    kind = data.dtype.type
    one, row, sheet = np.uint64(1), np.uint64(nx), np.uint64(ny * nx)  # unsigned: no wraparound is looked for
    for i in range(out.shape[0]):
        pz, py, px = places[0, i], places[1, i], places[2, i]
        floor_z, floor_y, floor_x = math.floor(pz), math.floor(py), math.floor(px)
        z, y, x = int(floor_z), int(floor_y), int(floor_x)
        fz, fy, fx = kind(pz - floor_z), kind(py - floor_y), kind(px - floor_x)
        if 0 <= z < nz - 1 and 0 <= y < ny - 1 and 0 <= x < nx - 1:
            j = np.uint64((z * ny + y) * nx + x)
            a, b, c, d = flat[j], flat[j + one], flat[j + row], flat[j + row + one]
            j += sheet
            e, f, g, h = flat[j], flat[j + one], flat[j + row], flat[j + row + one]
        else:
            a, b = _voxel(data, z, y, x), _voxel(data, z, y, x + 1)
            c, d = _voxel(data, z, y + 1, x), _voxel(data, z, y + 1, x + 1)
            e, f = _voxel(data, z + 1, y, x), _voxel(data, z + 1, y, x + 1)
            g, h = _voxel(data, z + 1, y + 1, x), _voxel(data, z + 1, y + 1, x + 1)
        a += fx * (b - a)
        c += fx * (d - c)
        e += fx * (f - e)
        g += fx * (h - g)
        a += fy * (c - a)
        e += fy * (g - e)
        out[i] = a + fz * (e - a)


@njit(cache=True, nogil=True)
def _nearest_line(data: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    nz, ny, nx = data.shape
    flat = data.reshape(nz * ny * nx)
    for i in range(out.shape[0]):
        z = math.floor(places[0, i] + 0.5)
        y = math.floor(places[1, i] + 0.5)
        x = math.floor(places[2, i] + 0.5)
        if 0 <= z < nz and 0 <= y < ny and 0 <= x < nx:
            out[i] = flat[np.uint64((z * ny + y) * nx + x)]
        else:
            out[i] = 0


@njit(cache=True, nogil=True)
def _linear(
    data: np.ndarray, out: np.ndarray, matrix: np.ndarray, start: np.ndarray, control: np.ndarray,
    iz: np.ndarray, wz: np.ndarray, iy: np.ndarray, wy: np.ndarray, ix: np.ndarray, wx: np.ndarray,
) -> None:  # fmt: skip
    plane = np.empty(control.shape[1:])
    line, places = np.empty((3, control.shape[2])), np.empty((3, out.shape[3]))
    for z in range(out.shape[1]):
        _plane(control, iz[z], wz[z], plane)
        for y in range(out.shape[2]):
            _positions(z, y, matrix, start, plane, iy, wy, ix, wx, line, places)
            for channel in range(out.shape[0]):
                _linear_line(data[channel], places, out[channel, z, y])


@njit(cache=True, nogil=True)
def _nearest(
    data: np.ndarray, out: np.ndarray, matrix: np.ndarray, start: np.ndarray, control: np.ndarray,
    iz: np.ndarray, wz: np.ndarray, iy: np.ndarray, wy: np.ndarray, ix: np.ndarray, wx: np.ndarray,
) -> None:  # fmt: skip
    plane = np.empty(control.shape[1:])
    line, places = np.empty((3, control.shape[2])), np.empty((3, out.shape[3]))
    for z in range(out.shape[1]):
        _plane(control, iz[z], wz[z], plane)
        for y in range(out.shape[2]):
            _positions(z, y, matrix, start, plane, iy, wy, ix, wx, line, places)
            for channel in range(out.shape[0]):
                _nearest_line(data[channel], places, out[channel, z, y])
