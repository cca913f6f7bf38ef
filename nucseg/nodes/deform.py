"""Deform raw and labels together: rotate, warp, mirror and transpose in one resampling."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import gunpowder as gp
import numpy as np
from scipy.spatial.transform import Rotation

from nucseg.errors import InputError
from nucseg.nodes.deformation import Deformation
from nucseg.nodes.mirror import Mirror, all_flips, all_orders
from nucseg.nodes.scale import Scale, exchangeable_axes, upstream_scale_um
from nucseg.point_labels import Balls

Patch = dict[gp.ArrayKey, tuple[np.ndarray, gp.Roi, dict]]
"""What one deformation made of each array: voxels, the box they fill, attributes."""


class Deform(gp.BatchFilter):
    """Rotate, deform, mirror and transpose all arrays of a request by one random transformation.

    Raw is resampled trilinearly, labels by the nearest voxel, each once. Targets are computed after it, from
    the deformed labels. Rotation and elastic deformation happen in um: a sphere stays a sphere whatever the
    voxel size. All rois of a request share the transformation; what it wants upstream is a box around the
    request's middle, as large as needed. Outside of what is provided upstream, raw and labels are 0, masks 1. Balls
    around annotated points (`PointLabels`) are not resampled: the points are moved, exactly, and the balls made anew.

    With `reuse=k` one deformed patch serves k consecutive batches, each with its own mirroring and
    transposition: deforming is the dearest step and 48 orientations of a patch differ. Batches `g * k` to
    `g * k + k - 1` share the patch, whose place and deformation follow from the seed of the first of them.
    `nucseg.PreCache` announces each batch by `begin_batch`; without it every request counts as a batch. In a
    batch stacked from several samples, each sample has a patch of its own.

    Args:
        raw: Arrays of intensities, floating point.
        labels: Arrays to be resampled by the nearest voxel: labels.
        masks: Arrays that are 0 where nothing is annotated; resampled by the nearest voxel to 0 and 1. Outside of the
            acquired volume they are 1: nothing is there, and that is known.
        rotation_deg: Largest angle of the rotation, degrees, drawn uniformly from both signs.
        rotate: `"isotropic"` rotates about any axis if the voxels are cubes and otherwise in the plane of the
            two axes with the same voxel size, if there are such; `"all"` about any axis whatever the voxels.
        spacing: Distance of the elastic deformation's control points in voxels of the finest axis (along
            coarser axes fewer voxels, as many um), or one number an axis.
        jitter: Standard deviation of each control point's displacement in voxels of the finest axis, or one
            number an axis; 0 for no elastic deformation.
        mirror: Mirror each axis in half of the patches.
        transpose: Transpose axes that have the same voxel size.
        reuse: How many batches one deformed patch serves.
        p: Probability of rotation and elastic deformation; mirroring and transposition always happen.
        scale_um: Voxel size z, y, x; by default that of the sources upstream.

    Raises:
        InputError: An argument is out of range, or an array is requested that it was not told about.
    """

    def __init__(
        self,
        raw: gp.ArrayKey | Sequence[gp.ArrayKey],
        labels: gp.ArrayKey | Sequence[gp.ArrayKey] = (),
        *,
        masks: gp.ArrayKey | Sequence[gp.ArrayKey] = (),
        rotation_deg: float = 45.0,
        rotate: Literal["isotropic", "all"] = "isotropic",
        spacing: float | Sequence[float] = 10.0,
        jitter: float | Sequence[float] = 1.0,
        mirror: bool = True,
        transpose: bool = True,
        reuse: int = 1,
        p: float = 1.0,
        scale_um: Scale | None = None,
    ) -> None:
        self.raw = _keys(raw)
        self.labels = _keys(labels)
        self.masks = _keys(masks)
        self.rotation_deg, self.rotate = float(rotation_deg), rotate
        self.spacing, self.jitter = spacing, jitter
        self.mirror, self.transpose = mirror, transpose
        self.reuse, self.p = reuse, p
        self._given_scale = scale_um
        _require(reuse >= 1, "reuse", "a positive number of batches", reuse)
        _require(0 <= p <= 1, "p", "a probability, 0 to 1", p)
        _require(0 <= rotation_deg <= 180, "rotation_deg", "an angle of 0 to 180 degrees", rotation_deg)
        _require(rotate in ("isotropic", "all"), "rotate", "'isotropic' or 'all'", rotate)
        _require(np.min(spacing) >= 1, "spacing", "at least 1 voxel", spacing)
        _require(np.min(jitter) >= 0, "jitter", "0 or more voxels", jitter)
        self._index: int | None = None
        self._requests = 0
        self._kept: list[tuple[dict, Patch, gp.Batch]] = []
        self._turn = 0

    def setup(self) -> None:
        """Learn the voxel size; announce arrays without bounds."""
        self.voxel_um = np.array(self._given_scale or upstream_scale_um(self))
        self._groups = exchangeable_axes(tuple(self.voxel_um))
        self._upstream = {}
        for key in (*self.raw, *self.labels, *self.masks):
            if key not in self.spec:
                raise InputError(
                    "Deform",
                    expected="arrays that are provided upstream",
                    received=f"{key}",
                    remedy="check the keys of the source",
                )
            spec = self.spec[key].copy()
            self._upstream[key] = spec.roi.copy()
            spec.roi.shape = gp.Coordinate((None,) * 3)
            self.updates(key, spec)
        self._kept, self._index, self._requests = [], None, 0

    def begin_batch(self, index: int) -> None:
        """Say that the requests that follow belong to batch `index` of the run; see `reuse`."""
        self._index = index
        self._turn = 0
        if index % self.reuse == 0:
            self._kept = []

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        """Deform a patch from upstream, or orient the one at hand anew."""
        rois = self._rois(request)
        if self._index is None:
            self.begin_batch(self._requests)
            self._index = None
            self._requests += 1
        rng = np.random.default_rng(request.random_seed)
        mirrors = self._mirrors(request.get_total_roi(), rng)
        turn, self._turn = self._turn, self._turn + 1
        if turn < len(self._kept) and self._kept[turn][0] == rois:
            _, patch, rest = self._kept[turn]
        else:
            boxes = {key: _union([m.box(roi) for m in mirrors]) for key, roi in rois.items()}
            patch, rest = self._deformed(request, boxes, rng)
            if turn == len(self._kept) and self.reuse > 1:
                self._kept.append((rois, patch, rest))
        batch = gp.Batch()
        batch.profiling_stats.merge_with(rest.profiling_stats)
        for key, array in rest.items():
            batch[key] = array
        for key, roi in rois.items():
            data, box, attrs = patch[key]
            inside = (mirrors[0].box(roi) - box.begin).to_slices()
            # The batch owns its data: the patch may serve again.
            own = np.array(mirrors[0].view(data[..., *inside]), order="C", copy=True)
            provided = self.spec[key]
            spec = gp.ArraySpec(roi, provided.voxel_size, provided.interpolatable, dtype=data.dtype)
            batch[key] = gp.Array(own, spec, dict(attrs))
        return batch

    def _rois(self, request: gp.BatchRequest) -> dict[gp.ArrayKey, gp.Roi]:
        known = {*self.raw, *self.labels, *self.masks}
        for key, spec in request.items():
            if spec.roi is not None and key not in known:
                raise InputError(
                    "Deform",
                    expected="every requested array among raw, labels or masks",
                    received=f"a request for {key}",
                    remedy="add it to raw (interpolated), to labels (nearest voxel) or to masks",
                )
        return {key: spec.roi.copy() for key, spec in request.array_specs.items() if spec.roi is not None}

    def _mirrors(self, total: Any, rng: np.random.Generator) -> list[Mirror]:
        """This batch's orientation, followed by those that other batches of the patch may have."""
        flips = all_flips(self.mirror)
        orders = all_orders(self._groups if self.transpose else [{0}, {1}, {2}])
        flip, order = flips[rng.integers(len(flips))], orders[rng.integers(len(orders))]
        begin, shape = tuple(total.begin), tuple(total.shape)
        mirrors = [Mirror(begin, shape, flip, order)]
        if self.reuse > 1:
            mirrors += [Mirror(begin, shape, f, o) for f in flips for o in orders]
        return mirrors

    def _deformed(
        self, request: gp.BatchRequest, boxes: dict[gp.ArrayKey, gp.Roi], rng: np.random.Generator
    ) -> tuple[Patch, gp.Batch]:
        deformation = self._draw(_union(list(boxes.values())), request.get_total_roi(), rng)
        upstream = request.copy()
        for key, box in boxes.items():
            begin, shape = deformation.source_box(np.array(box.begin), np.array(box.shape))
            upstream[key].roi = _clipped(gp.Roi(begin, shape), self._upstream[key])
        batch = self.get_upstream_provider().request_batch(upstream)
        patch = {key: self._resampled(batch[key], key, box, deformation) for key, box in boxes.items()}
        for key in boxes:
            del batch[key]
        return patch, batch

    def _draw(self, extent: gp.Roi, total: gp.Roi, rng: np.random.Generator) -> Deformation:
        center = (np.array(total.begin) + np.array(total.end) - 1) / 2
        matrix, control, origin = np.eye(3), None, None
        spacing = self._per_axis(self.spacing)
        if rng.random() < self.p:
            turn = self._rotation(rng)
            if turn is not None:
                matrix = turn * self.voxel_um[None, :] / self.voxel_um[:, None]
            jitter = self._per_axis(self.jitter)
            if np.any(jitter > 0):
                half = np.maximum(np.array(extent.end) - 1 - center, center - np.array(extent.begin))
                points = np.ceil(half / spacing).astype(int) + 2
                origin = center - points * spacing
                control = rng.normal(size=(*(2 * points + 1), 3)) * jitter
        return Deformation(center, matrix, control, origin, spacing)

    def _rotation(self, rng: np.random.Generator) -> np.ndarray | None:
        """A rotation in um; `None` if nothing is to be rotated."""
        angle = math.radians(rng.uniform(-self.rotation_deg, self.rotation_deg))
        direction = rng.normal(size=3)
        if self.rotate == "isotropic" and len(self._groups) > 1:
            plane = max(self._groups, key=len)
            if len(plane) < 2:
                return None
            direction = np.array([float(axis not in plane) for axis in range(3)])
        if angle == 0:
            return None
        return Rotation.from_rotvec(angle * direction / np.linalg.norm(direction)).as_matrix()

    def _per_axis(self, value: float | Sequence[float]) -> np.ndarray:
        if np.ndim(value) == 0:
            return np.asarray(value) * self.voxel_um.min() / self.voxel_um
        return np.asarray(value, np.float64)

    def _resampled(
        self, array: gp.Array, key: gp.ArrayKey, box: gp.Roi, how: Deformation
    ) -> tuple[np.ndarray, gp.Roi, dict]:
        interpolate = key in self.raw
        if interpolate and array.data.dtype.kind != "f":
            raise InputError(
                f"Deform: {key}",
                expected="floating point intensities",
                received=f"{array.data.dtype}",
                remedy="normalise them upstream (VolumeSource does, or gp.Normalize), or list it as labels",
            )
        data = array.data
        attrs = {name: value for name, value in array.attrs.items() if name != "balls"}
        if not (how.is_identity and array.spec.roi == box):
            begin = np.array(array.spec.roi.begin)
            balls = self._moved_balls(array, how)
            if balls is not None:
                return balls.stamp(tuple(box.begin), tuple(box.shape)).astype(data.dtype), box, attrs
            if key in self.masks:
                data = (data == 0).astype(data.dtype)  # outside becomes 0, which is 1 again below
            data = how.resample(
                data, begin, np.array(box.begin), np.array(box.shape), interpolate=interpolate
            )
            if key in self.masks:
                data = (data == 0).astype(data.dtype)
        return data, box, attrs

    def _moved_balls(self, array: gp.Array, how: Deformation) -> Balls | None:
        """Balls around the points where the patch shows them.

        None where there are none, where a node upstream has moved the voxels without them, or where a deformation
        folds space so that a point is nowhere or at several places.
        """
        balls: Balls | None = array.attrs.get("balls")
        if balls is None or not balls.match(array.data, tuple(array.spec.roi.begin)):
            return None
        points = how.shown_at(balls.points)
        return None if points is None else balls.moved(points)


def _keys(keys: gp.ArrayKey | Sequence[gp.ArrayKey]) -> tuple[gp.ArrayKey, ...]:
    return (keys,) if isinstance(keys, gp.ArrayKey) else tuple(keys)


def _require(right: Any, what: str, expected: str, received: object) -> None:
    if not right:
        raise InputError(f"Deform({what})", expected=expected, received=f"{received!r}", remedy="change it")


def _union(rois: list[gp.Roi]) -> gp.Roi:
    union = rois[0]
    for roi in rois[1:]:
        union = union.union(roi)
    return union


def _clipped(roi: gp.Roi, bounds: gp.Roi) -> gp.Roi:
    """The part of the roi that is provided upstream, one voxel of it if there is none."""
    if bounds.unbounded:
        return roi
    inside = roi.intersect(bounds)
    return inside if not inside.empty else gp.Roi(bounds.begin, (1, 1, 1))
