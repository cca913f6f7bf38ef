"""Small named label volumes that the tests share: each function names one situation that code gets wrong."""

import numpy as np


def empty(shape: tuple[int, int, int] = (6, 7, 8)) -> np.ndarray:
    """Background only."""
    return np.zeros(shape, np.uint32)


def single_voxel() -> np.ndarray:
    """One nucleus of one voxel: its centre is that voxel, it is all boundary."""
    labels = empty((5, 6, 7))
    labels[2, 3, 4] = 9
    return labels


def touching_pair() -> np.ndarray:
    """Two boxes of 4 x 4 x 4 voxels that share a face, in a non-cubic volume."""
    labels = empty((8, 9, 14))
    labels[2:6, 3:7, 2:6] = 1
    labels[2:6, 3:7, 6:10] = 2
    return labels


def on_face() -> np.ndarray:
    """A nucleus cut by the volume's low z face."""
    labels = empty((8, 10, 10))
    labels[0:3, 3:7, 3:8] = 4
    return labels


def on_edge() -> np.ndarray:
    """A nucleus cut by the low z and the high x face."""
    labels = empty((8, 10, 10))
    labels[0:3, 3:7, 7:10] = 5
    return labels


def on_corner() -> np.ndarray:
    """A nucleus in the last corner."""
    labels = empty((8, 9, 10))
    labels[5:8, 6:9, 6:10] = 6
    return labels


def spanning() -> np.ndarray:
    """One nucleus that spans the whole volume along x, and one beside it."""
    labels = empty((8, 9, 24))
    labels[2:5, 2:6, :] = 1
    labels[5:7, 2:6, 3:9] = 2
    return labels


def full() -> np.ndarray:
    """No background at all: two labels fill the volume."""
    labels = np.full((6, 6, 9), 3, np.uint32)
    labels[:, :, 5:] = 8
    return labels


def same_label_twice() -> np.ndarray:
    """Two components under one label, as a bad annotation has it."""
    labels = empty((6, 8, 12))
    labels[2:4, 2:5, 1:4] = 3
    labels[2:4, 2:5, 8:11] = 3
    return labels


def huge_ids() -> np.ndarray:
    """Ids as linear indices of a huge volume: beyond 32 bits, and beyond what a float64 holds exactly."""
    labels = touching_pair().astype(np.uint64)
    labels[labels == 1] = 10**12 + 1
    labels[labels == 2] = 2**63 + 3
    labels[0, 0, 0] = 2**63 + 2
    return labels


def anisotropic() -> np.ndarray:
    """A physical ball of 1.2 um radius at voxels of `ANISOTROPIC_UM`: flat in z."""
    return ellipsoids((9, 24, 22), [((4.0, 11.5, 10.0), tuple(1.2 / um for um in ANISOTROPIC_UM))])


ANISOTROPIC_UM = (0.5, 0.15, 0.15)


def thin_slab() -> np.ndarray:
    """A volume one voxel thick in z, with three nuclei."""
    labels = empty((1, 12, 20))
    labels[0, 1:6, 1:7] = 1
    labels[0, 3:9, 7:12] = 2
    labels[0, 8:12, 14:20] = 3
    return labels


def ellipsoids(
    shape: tuple[int, int, int], nuclei: list[tuple[tuple[float, ...], tuple[float, ...]]]
) -> np.ndarray:
    """Ellipsoids given as (centre, radii), z,y,x in voxels, numbered from 1; the first keeps a voxel."""
    labels = empty(shape)
    for number, (center, radii) in enumerate(nuclei, start=1):
        begin = [max(0, int(np.floor(c - r))) for c, r in zip(center, radii, strict=True)]
        end = [min(n, int(np.ceil(c + r)) + 1) for c, r, n in zip(center, radii, shape, strict=True)]
        if any(b >= e for b, e in zip(begin, end, strict=True)):
            continue
        grid = np.ogrid[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))]
        inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, center, radii, strict=True)) <= 1
        part = labels[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))]
        part[inside & (part == 0)] = number
    return labels


def crowded(
    seed: int = 0, shape: tuple[int, int, int] = (24, 28, 32), nuclei: int = 25, radius: float = 4.0
) -> np.ndarray:
    """Random ellipsoids, many touching, many cut by the volume's border."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(0, shape, (nuclei, 3))
    radii = radius * rng.uniform(0.6, 1.4, (nuclei, 3))
    return ellipsoids(shape, list(zip(map(tuple, centers), map(tuple, radii), strict=True)))


ALL = {
    case.__name__: case
    for case in (
        empty,
        single_voxel,
        touching_pair,
        on_face,
        on_edge,
        on_corner,
        spanning,
        full,
        same_label_twice,
        huge_ids,
        anisotropic,
        thin_slab,
        crowded,
    )
}
"""Every case by name: `@pytest.mark.parametrize("name", cases.ALL)`."""


def known_prediction(labels: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A three_label_cpv prediction (6, z, y, x) as a good network would make it from these labels.

    Args:
        labels: Integer array (z, y, x).
        noise: Standard deviation added to the logits and, in voxels, to the vectors.
        seed: Of the noise.
    """
    from nucseg.heads.three_label import three_classes
    from nucseg.instances.centroids import center_vectors, centroids

    rng = np.random.default_rng(seed)
    classes = three_classes(labels)
    logits = 4.0 * (np.arange(3)[:, None, None, None] == classes) + noise * rng.normal(
        size=(3, *labels.shape)
    )
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    found = centroids(labels)
    vectors = center_vectors(labels, found.ids, found.centers)
    vectors = vectors + noise * rng.normal(size=vectors.shape)
    return np.concatenate([probabilities, vectors]).astype(np.float32)
