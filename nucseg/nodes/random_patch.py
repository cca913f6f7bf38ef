"""Choose where in a volume the next training patch lies."""

from itertools import product
from typing import Any

import gunpowder as gp
import numpy as np

from nucseg.errors import InputError

CELL = 64
"""Side of the boxes in which annotated voxels are counted, voxels: about a chunk of an OME-Zarr."""


class RandomPatch(gp.BatchFilter):
    """Move each request to a random place such that its output patch lies inside the volume.

    The output patch is the box of shape `patch` in the middle of the request, what a valid network predicts.
    Its place is drawn uniformly among all that fit. What the request wants around it (the network's context,
    the margin of the labels, the reach of a rotation) may leave the volume and is zero there: background in
    labels, the low end of the normalised intensities in raw. A `Deform` downstream keeps the middle; the
    corners of a patch that it turns may leave the volume too.

    `gp.RandomLocation` asks that whole requests lie inside what is provided, which keeps patches away from
    the volume's border or, behind a `gp.Pad`, lets them fall outside. It stays usable: all nodes of nucseg
    are plain gunpowder nodes.

    With a mask, places follow the annotation: an annotated voxel is drawn, each as probable as the others, and
    then one of the patches that hold it and fit. Uniform places would seldom meet the little that is annotated
    of a large volume, and such a patch teaches nothing. Outside the volume the mask is 1: nothing is there, and that
    is known. A mask that is nowhere 0 changes nothing, neither places nor targets.

    Args:
        patch: Shape of the output patch, voxels.
        labels: With `min_foreground`, the labels that are looked at.
        min_foreground: Fraction of the output patch that must carry a label, 0 to 1; places with less are
            drawn again. A third of all places in a volume may hold no nucleus at all.
        mask: An array that is 0 where nothing is annotated. It is read once in `setup`.
        follow_mask: Whether places follow the mask. False for one that is known to be nowhere 0: it need not be
            read.
        tries: How often a place is drawn before the request fails.

    Raises:
        InputError: The patch does not fit in the volume, nothing is annotated, or no place with enough
            foreground was found.
    """

    def __init__(
        self,
        patch: tuple[int, int, int],
        *,
        labels: gp.ArrayKey | None = None,
        min_foreground: float = 0.0,
        mask: gp.ArrayKey | None = None,
        follow_mask: bool = True,
        tries: int = 100,
    ) -> None:
        if min_foreground > 0 and labels is None:
            raise InputError(
                "RandomPatch(min_foreground)",
                expected="the key of the labels that tell foreground",
                received="no labels",
                remedy="pass labels=LABELS too",
            )
        self.patch = gp.Coordinate(patch)
        self.labels = labels
        self.min_foreground = min_foreground
        self.mask = mask
        self.follow_mask = follow_mask
        self.tries = tries
        self._cells: list[gp.Roi] = []

    def setup(self) -> None:
        """Take off the bounds: any request can be served."""
        rois = [spec.roi for spec in self.spec.array_specs.values() if spec.roi is not None]
        if not rois or any(roi != rois[0] or roi.unbounded for roi in rois):
            raise InputError(
                "RandomPatch",
                expected="arrays of one bounded volume upstream",
                received=f"rois {', '.join(map(str, rois))}",
                remedy="put it directly after the source",
            )
        self.volume = rois[0].copy()
        for size, extent in zip(self.patch, self.volume.shape, strict=True):
            if size > extent:
                raise InputError(
                    "RandomPatch(patch)",
                    expected=f"at most the volume's shape {tuple(self.volume.shape)}",
                    received=f"{tuple(self.patch)}",
                    remedy="take a smaller output patch",
                )
        self._cells = []
        if self.mask is not None and self.follow_mask:
            self._count(self.mask)
        for key, spec in list(self.spec.array_specs.items()):
            if spec.roi is not None:
                unbounded = spec.copy()
                unbounded.roi.shape = gp.Coordinate((None,) * unbounded.roi.dims)
                self.updates(key, unbounded)

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        """Draw a place, read what of the request is inside the volume, fill the rest: masks with 1, others with 0."""
        if request.graph_specs:
            raise InputError(
                "RandomPatch",
                expected="a request for arrays",
                received=f"one for {', '.join(map(str, request.graph_specs))}",
                remedy="use gp.RandomLocation for points",
            )
        rng = np.random.default_rng(request.random_seed)
        total = request.get_total_roi()
        patch = gp.Roi(total.begin + (total.shape - self.patch) / 2, self.patch)
        shift = self._draw(rng, patch, request)
        wanted = {
            key: spec.roi.shift(shift) for key, spec in request.array_specs.items() if spec.roi is not None
        }
        upstream = request.copy()
        for key, roi in wanted.items():
            inside = roi.intersect(self.volume)
            upstream[key].roi = inside if not inside.empty else gp.Roi(self.volume.begin, (1, 1, 1))
        batch = self.get_upstream_provider().request_batch(upstream)
        for key, roi in wanted.items():
            batch.arrays[key] = _padded(batch[key], roi, request[key].roi, int(key == self.mask))
        return batch

    def _draw(self, rng: np.random.Generator, patch: Any, request: gp.BatchRequest) -> gp.Coordinate:
        room = self.volume.shape - self.patch
        for _ in range(self.tries):
            if self._cells:
                place = self._around_annotated(rng, request.random_seed)
            else:
                place = self.volume.begin + gp.Coordinate(rng.integers(0, np.array(room) + 1))
            if self.min_foreground <= 0 or self._foreground(place, request) >= self.min_foreground:
                return place - patch.begin
        raise InputError(
            "RandomPatch(min_foreground)",
            expected=f"places with {self.min_foreground:.1%} foreground",
            received=f"none in {self.tries} tries",
            remedy="lower min_foreground, or check the labels",
        )

    def _count(self, mask: gp.ArrayKey) -> None:
        """Count the annotated voxels in each cell of a grid over the volume; no cells where all voxels are."""
        steps = [range(b, e, CELL) for b, e in zip(self.volume.begin, self.volume.end, strict=True)]
        cells = [gp.Roi(begin, (CELL,) * 3).intersect(self.volume) for begin in product(*steps)]
        counts = np.array([np.count_nonzero(self._look(mask, cell, 0)) for cell in cells])
        if not counts.any():
            raise InputError(
                f"RandomPatch: {mask}",
                expected="a mask that is not 0 where the volume is annotated",
                received="0 everywhere",
                remedy="check the mask, or leave this volume out",
            )
        if counts.sum() == self.volume.size:
            return
        self._cells = [cells[i] for i in np.flatnonzero(counts)]
        self._shares = np.cumsum(counts[counts > 0]) / counts.sum()

    def _around_annotated(self, rng: np.random.Generator, seed: int) -> gp.Coordinate:
        cell = self._cells[int(np.searchsorted(self._shares, rng.random(), side="right"))]
        inside = np.argwhere(self._look(self.mask, cell, seed))
        voxel = np.array(cell.begin) + inside[rng.integers(len(inside))]
        patch = np.array(self.patch)
        first = np.maximum(voxel - patch + 1, self.volume.begin)
        last = np.minimum(voxel, np.array(self.volume.end) - patch)
        return gp.Coordinate(rng.integers(first, last + 1))

    def _foreground(self, place: gp.Coordinate, request: gp.BatchRequest) -> float:
        return float(np.mean(self._look(self.labels, gp.Roi(place, self.patch), request.random_seed) != 0))

    def _look(self, key: gp.ArrayKey, roi: gp.Roi, seed: int) -> np.ndarray:
        look = gp.BatchRequest(random_seed=seed)
        look[key] = gp.ArraySpec(roi=roi)
        return self.get_upstream_provider().request_batch(look)[key].data


def _padded(array: gp.Array, roi: gp.Roi, as_roi: gp.Roi, outside: int) -> gp.Array:
    """The array over `roi`, `outside` where it has no data, announced as `as_roi`."""
    spec = array.spec.copy()
    spec.roi = as_roi.copy()
    attrs = dict(array.attrs)
    if "balls" in attrs:
        attrs["balls"] = attrs["balls"].shifted(as_roi.begin - roi.begin)
    if array.spec.roi == roi:
        return gp.Array(array.data, spec, attrs)
    shape = tuple(roi.shape)
    data = np.full((*array.data.shape[:-3], *shape), outside, array.data.dtype)
    common = array.spec.roi.intersect(roi)
    if not common.empty:
        inside = (common - array.spec.roi.begin).to_slices()
        data[..., *(common - roi.begin).to_slices()] = array.data[..., *inside]
    return gp.Array(data, spec, attrs)
