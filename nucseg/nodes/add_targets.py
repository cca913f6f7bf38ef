"""Compute a scenario's training targets from labels, on the fly."""

import gunpowder as gp
import numpy as np

from nucseg.errors import InputError
from nucseg.heads.base import Centers
from nucseg.heads.calls import calling, check_target
from nucseg.heads.scenario import Scenario
from nucseg.instances.centroids import centroids


def target_keys(scenario: Scenario) -> dict[str, gp.ArrayKey]:
    """Head name to the key of its target, `THREE_LABEL_TARGET` for the head `three_label`."""
    return {head.name: gp.ArrayKey(f"{head.name.upper()}_TARGET") for head in scenario.heads}


def weight_keys(scenario: Scenario) -> dict[str, gp.ArrayKey]:
    """Head name to the key of its loss weights, `THREE_LABEL_WEIGHT` for the head `three_label`."""
    return {head.name: gp.ArrayKey(f"{head.name.upper()}_WEIGHT") for head in scenario.heads}


class AddTargets(gp.BatchFilter):
    """Provide the targets and loss weights of a scenario's heads, computed from labels.

    Put it after everything that moves voxels (`Deform`, `gp.SimpleAugment`): vectors and distances cannot be
    rotated as images can. Targets are float32 (t, z, y, x), weights float32 (z, y, x); both are plain arrays
    that any training node takes, and `gp.Stack` stacks.

    A nucleus at the patch's border keeps its true centre: labels are requested with a margin and centres are
    taken there. A nucleus that reaches the face of the enlarged region too may continue beyond it; its centre
    is unknown, and its voxels get weight 0 where centres matter. The border of the acquired volume is no such
    face (there is only background behind it, or nothing is provided): the visible part counts. That holds with a mask
    too, which `RandomPatch` and `Deform` continue by 1 outside the volume: one that is 1 everywhere changes nothing.

    With a mask, what is not annotated is not known: weights are 0 there, and the centre of a nucleus that has one
    of its voxels there, or beside one of them (26 neighbours), is unknown too. Heads that need to know how far a
    nucleus reaches are not taught by the voxels beside it either: a nucleus may end there or go on.

    Where points alone are annotated (labels with `attrs["extent"]` False, as `PointLabels` gives them), weights of
    heads that need to know how far a nucleus reaches (`Head.needs_extent`) are 0; centres are those of the balls
    and known wherever the mask ends.

    Args:
        labels: Instance labels, 0 for background.
        scenario: Whose heads' targets are computed; only those requested are.
        targets: Head name to array key; default `target_keys(scenario)`.
        weights: Head name to array key; default `weight_keys(scenario)`.
        mask: An array that is 0 where nothing was annotated.
        margin: Voxels around the patch in which labels are looked at: one number or one an axis. At least the
            largest diameter of a nucleus, then no centre is unknown; for distance targets also their reach.
        scale_um: Voxel size z, y, x for targets in um; default what the labels' source says.

    Raises:
        InputError: The labels are not integers, or a head is missing among the given keys.
        HeadFailed: A head's `target` raised an error, or returned other shapes than it promises.
    """

    def __init__(
        self,
        labels: gp.ArrayKey,
        scenario: Scenario,
        *,
        targets: dict[str, gp.ArrayKey] | None = None,
        weights: dict[str, gp.ArrayKey] | None = None,
        mask: gp.ArrayKey | None = None,
        margin: int | tuple[int, int, int],
        scale_um: tuple[float, float, float] | None = None,
    ) -> None:
        self.labels = labels
        self.scenario = scenario
        self.targets = target_keys(scenario) if targets is None else dict(targets)
        self.weights = weight_keys(scenario) if weights is None else dict(weights)
        self.mask = mask
        self.margin = gp.Coordinate((margin,) * 3 if isinstance(margin, int) else margin)
        self.scale_um = scale_um
        names = {head.name for head in scenario.heads}
        for what, keys in (("targets", self.targets), ("weights", self.weights)):
            if set(keys) != names:
                raise InputError(
                    f"AddTargets({what})",
                    expected=f"a key for each head: {sorted(names)}",
                    received=f"{sorted(keys)}",
                    remedy="give each head of the scenario one array key",
                )
        if min(self.margin) < 0:
            raise InputError(
                "AddTargets(margin)",
                expected="0 or more voxels",
                received=f"{margin}",
                remedy="pass the largest diameter of a nucleus in voxels",
            )

    def setup(self) -> None:
        """Announce targets and weights wherever there are labels."""
        self.enable_autoskip()
        for key in filter(None, (self.labels, self.mask)):
            if key not in self.spec:
                raise InputError(
                    "AddTargets",
                    expected=f"{key} to be provided upstream",
                    received="a pipeline without it",
                    remedy="check the keys of the source",
                )
        self._bounds = {key: self.spec[key].roi.copy() for key in filter(None, (self.labels, self.mask))}
        spec = gp.ArraySpec(
            roi=self.spec[self.labels].roi,
            voxel_size=self.spec[self.labels].voxel_size,
            interpolatable=False,
            dtype=np.float32,
        )
        for key in (*self.targets.values(), *self.weights.values()):
            self.provides(key, spec)

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        """Ask for the labels (and mask) with their margin."""
        region = self._region(request)
        needed = gp.BatchRequest()
        for key, bounds in self._bounds.items():
            roi = region.grow(self.margin, self.margin)
            needed[key] = gp.ArraySpec(roi=roi if bounds.unbounded else roi.intersect(bounds))
        return needed

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> gp.Batch:
        """Find the centres, compute the targets that were asked for."""
        array = batch[self.labels]
        labels = array.data
        if labels.dtype.kind not in "iu" or labels.ndim != 3:
            raise InputError(
                f"AddTargets: {self.labels}",
                expected="integer labels (z, y, x)",
                received=f"{labels.dtype} {labels.shape}",
                remedy="give instance labels, one number a nucleus",
            )
        region = self._region(request)
        crop = (region - array.spec.roi.begin).to_slices()
        mask = None
        if self.mask is not None:
            inside = batch[self.mask]
            mask = np.zeros(labels.shape, bool)
            place = (inside.spec.roi - array.spec.roi.begin).to_slices()
            mask[place] = inside.data != 0
        extent = bool(array.attrs.get("extent", True))
        beside = None if mask is None else _near(~mask)
        centers = self._centers(labels, array.spec.roi, extent, beside)
        scale_um = self.scale_um or array.attrs.get("scale_um")
        out = gp.Batch()
        for head in self.scenario.heads:
            keys = (self.targets[head.name], self.weights[head.name])
            if not any(key in request for key in keys):
                continue
            counted = ~beside if head.needs_extent and beside is not None else mask
            with calling(head, "target"):
                target, weight = head.target(labels, crop, scale_um, centers, counted)
            check_target(head, target, weight, tuple(region.shape))
            if head.needs_extent and not extent:
                weight = np.zeros_like(weight)
            for key, data in zip(keys, (target, weight), strict=True):
                spec = self.spec[key].copy()
                spec.roi = region
                whole = gp.Array(data, spec, dict(array.attrs))
                if key in request:
                    out[key] = whole.crop(request[key].roi)
        return out

    def _region(self, request: gp.BatchRequest) -> gp.Roi:
        region = None
        for key in (*self.targets.values(), *self.weights.values()):
            if key in request:
                roi = request[key].roi
                region = roi if region is None else region.union(roi)
        return region

    def _centers(self, labels: np.ndarray, roi: gp.Roi, extent: bool, beside: np.ndarray | None) -> Centers:
        found = centroids(labels)
        cut = [np.zeros(0, np.uint64)]
        bounds = self._bounds[self.labels]
        for axis in range(3):
            for face, border in ((0, bounds.begin), (-1, bounds.end)):
                end = roi.begin if face == 0 else roi.end
                if bounds.unbounded or end[axis] != border[axis]:
                    cut.append(np.unique(labels.take(face, axis=axis)).astype(np.uint64))
        if extent and beside is not None:
            cut.append(np.unique(labels[beside]).astype(np.uint64))
        known = ~np.isin(found.ids, np.concatenate(cut))
        return Centers(ids=found.ids, centers=found.centers, known=known, extent=extent)


def _near(voxels: np.ndarray) -> np.ndarray:
    """These voxels of a bool array (z, y, x) and their 26 neighbours."""
    near = voxels.copy()
    if voxels.any():
        for axis in range(3):  # along one axis after the other: the cube's 26 neighbours
            before = near.copy()
            here, back = np.moveaxis(near, axis, 0), np.moveaxis(before, axis, 0)
            here[1:] |= back[:-1]
            here[:-1] |= back[1:]
    return near
