"""Keys, sources and slow references that the tests of the nodes share."""

import gunpowder as gp
import numpy as np

from nucseg.testing.node import MemorySource

RAW, LABELS, PLACES, MASK = (gp.ArrayKey(name) for name in ("RAW", "LABELS", "PLACES", "MASK"))


def places(shape):
    """(3, z, y, x): each voxel's own position. Resampled linearly, it tells where a voxel came from."""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float64)


def source(labels, *, seed=0, scale_um=None, **more):
    """RAW (random), LABELS and PLACES in memory."""
    raw = np.random.default_rng(seed).random(labels.shape, np.float32)
    return MemorySource({RAW: raw, LABELS: labels, PLACES: places(labels.shape), **more}, scale_um=scale_um)


def request(rois, seed=None):
    """A request from {key: (begin, shape)}."""
    made = gp.BatchRequest(random_seed=seed)
    for key, (begin, shape) in rois.items():
        made[key] = gp.ArraySpec(roi=gp.Roi(begin, shape))
    return made


def ask(pipeline, rois, seed=None):
    """The arrays' data, of a pipeline that is built."""
    batch = pipeline.request_batch(request(rois, seed))
    return {key: batch[key].data for key in rois}


def affine(positions, begin):
    """Matrix and offset such that `positions` (3, z, y, x) are `matrix @ voxel + offset`, exactly.

    Raises:
        AssertionError: They are not an affine function of the voxels.
    """
    shape = positions.shape[1:]
    voxels = places(shape).reshape(3, -1) + np.asarray(begin, float)[:, None]
    extended = np.concatenate([voxels, np.ones((1, voxels.shape[1]))])
    solution = np.linalg.lstsq(extended.T, positions.reshape(3, -1).T, rcond=None)[0].T
    np.testing.assert_allclose(solution @ extended, positions.reshape(3, -1), atol=1e-6)
    return solution[:, :3], solution[:, 3]


def nearest(data, positions):
    """Nearest voxel by a plain loop over voxels; 0 outside."""
    out = np.zeros(positions.shape[1:], data.dtype)
    for voxel in np.ndindex(out.shape):
        at = tuple(int(np.floor(p + 0.5)) for p in positions[(slice(None), *voxel)])
        if all(0 <= i < n for i, n in zip(at, data.shape, strict=True)):
            out[voxel] = data[at]
    return out


def mean_positions(labels):
    """Centre of mass of each label by numpy alone: {id: position}."""
    return {int(i): np.argwhere(labels == i).mean(axis=0) for i in np.unique(labels) if i}
