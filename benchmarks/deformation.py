"""The training deformation (rotation, elastic) against gunpowder's DeformAugment, 108^3 raw and 68^3 labels."""

from collections.abc import Iterator

import gunpowder as gp
import numpy as np

from benchmarks.comparison import Row, compare
from benchmarks.volumes import crowded
from nucseg.nodes.deform import Deform

RAW, LABELS = gp.ArrayKey("BENCH_RAW"), gp.ArrayKey("BENCH_LABELS")


class _Arrays(gp.BatchProvider):
    def setup(self) -> None:
        labels = crowded()
        roi = gp.Roi((0, 0, 0), labels.shape)
        voxel = gp.Coordinate(1, 1, 1)
        spec = {RAW: (labels > 0).astype(np.float32), LABELS: labels}
        self.arrays = {
            key: gp.Array(data, gp.ArraySpec(roi, voxel, key is RAW, dtype=data.dtype))
            for key, data in spec.items()
        }
        for key, array in self.arrays.items():
            self.provides(key, array.spec)

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        batch = gp.Batch()
        for key, spec in request.items():
            batch[key] = self.arrays[key].crop(spec.roi)
        return batch


def rows() -> Iterator[Row]:
    """One comparison: both deliver a rotated, elastically deformed patch with labels."""
    ours = _Arrays() + Deform(
        RAW, LABELS, rotation_deg=45, scale_um=(1.0, 1.0, 1.0), mirror=False, transpose=False
    )
    other = _Arrays() + gp.DeformAugment(
        control_point_spacing=gp.Coordinate(10, 10, 10),
        jitter_sigma=gp.Coordinate(1, 1, 1),
        subsample=4,
        spatial_dims=3,
    )
    request = gp.BatchRequest()
    request[RAW] = gp.ArraySpec(roi=gp.Roi((74,) * 3, (108,) * 3))
    request[LABELS] = gp.ArraySpec(roi=gp.Roi((94,) * 3, (68,) * 3))
    with gp.build(ours), gp.build(other):
        yield compare(
            "deform 108^3 raw, 68^3 labels",
            lambda: ours.request_batch(request.copy()),
            "gp.DeformAugment, subsample 4",
            lambda: other.request_batch(request.copy()),
            lambda a, b: (
                a[RAW].data.shape == b[RAW].data.shape and a[LABELS].data.shape == b[LABELS].data.shape
            ),
        )
