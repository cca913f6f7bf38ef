"""`check_node`: the whole contract of an augmentation node in one call."""

from collections.abc import Callable, Mapping

import gunpowder as gp
import numpy as np


class MemorySource(gp.BatchProvider):
    """Provide numpy arrays whose first voxel is at the origin; voxel size 1, 1, 1.

    Args:
        arrays: Key to (z, y, x) or (c, z, y, x) array. Floating point ones count as interpolatable.
        scale_um: Voxel size in um that the arrays carry in `attrs["scale_um"]`.
        copy: Whether batches own their data. Without, a node that changes data in place changes `arrays`.
    """

    def __init__(
        self,
        arrays: Mapping[gp.ArrayKey, np.ndarray],
        *,
        scale_um: tuple[float, float, float] | None = None,
        copy: bool = True,
    ) -> None:
        self.arrays = dict(arrays)
        self.scale_um = scale_um
        self.copy = copy

    def setup(self) -> None:
        """Announce the arrays."""
        for key, data in self.arrays.items():
            roi = gp.Roi((0, 0, 0), data.shape[-3:])
            self.provides(
                key,
                gp.ArraySpec(
                    roi=roi, voxel_size=(1, 1, 1), interpolatable=data.dtype.kind == "f", dtype=data.dtype
                ),
            )

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        """Cut out what was requested."""
        batch = gp.Batch()
        for key, requested in request.array_specs.items():
            spec = self.spec[key].copy()
            spec.roi = requested.roi.copy()
            data = self.arrays[key][..., *requested.roi.to_slices()]
            batch[key] = gp.Array(data.copy() if self.copy else data, spec, {"scale_um": self.scale_um})
        return batch


def check_node(
    factory: Callable[[gp.ArrayKey], gp.BatchProvider],
    *,
    random: bool = True,
    dtype: type = np.float32,
    shape: tuple[int, int, int] = (18, 20, 22),
) -> None:
    """Check that a node augments one array as nodes in a training pipeline must.

    Announced and delivered: the array's roi, voxel size, type and attributes stay, at any place and for any
    number of channels. Reproducible: the result depends on the request's random seed and nothing else, and
    differs between seeds. Contained: other arrays, and the data upstream, are not touched. Values: what is
    finite stays finite, negative intensities included.

    >>> from nucseg import Gamma
    >>> from nucseg.testing import check_node
    >>> check_node(lambda key: Gamma(key))

    Args:
        factory: Makes the node for an array key. It must always act (`p=1`).
        random: Whether different seeds must give different results.
        dtype: Type of the intensities.
        shape: Shape of the volume that is read from, at least 8 voxels a side.

    Raises:
        AssertionError: The node breaks the contract; the message says how.
    """
    for channels in ((), (2,)):
        _check(factory, random, dtype, shape, channels)


def _check(
    factory: Callable[[gp.ArrayKey], gp.BatchProvider],
    random: bool,
    dtype: type,
    shape: tuple[int, int, int],
    channels: tuple[int, ...],
) -> None:
    raw, labels = gp.ArrayKey("CHECK_NODE_RAW"), gp.ArrayKey("CHECK_NODE_LABELS")
    rng = np.random.default_rng(0)
    arrays = {
        raw: rng.normal(0.4, 0.4, (*channels, *shape)).astype(dtype),
        labels: rng.integers(0, 5, shape).astype(np.uint64),
    }
    before = {key: data.copy() for key, data in arrays.items()}
    node = factory(raw)
    name = type(node).__name__
    source = MemorySource(arrays, scale_um=(0.5, 0.2, 0.2), copy=False)
    pipeline = source + node
    whole, part = gp.Roi((0, 0, 0), shape), gp.Roi((2, 1, 3), tuple(n - 4 for n in shape))

    def ask(roi: gp.Roi, seed: int, *keys: gp.ArrayKey) -> gp.Batch:
        request = gp.BatchRequest(random_seed=seed)
        for key in keys:
            request[key] = gp.ArraySpec(roi=roi)
        return pipeline.request_batch(request)

    with gp.build(pipeline):
        for key in arrays:
            announced, expected = pipeline.spec[key], source.spec[key]
            _require(announced.voxel_size == expected.voxel_size, f"{name} changes the voxel size of {key}")
            _require(announced.dtype == expected.dtype, f"{name} announces another dtype of {key}")
            _require(
                announced.roi.unbounded or announced.roi.contains(part), f"{name} announces less than it got"
            )
        for roi in (whole, part):
            batch = ask(roi, 1, raw, labels)
            array = batch[raw]
            wanted = (*channels, *roi.shape)
            _require(array.spec.roi == roi, f"{name} delivers roi {array.spec.roi} instead of {roi}")
            _require(array.data.shape == wanted, f"{name} makes {array.data.shape} of {wanted}")
            _require(array.data.dtype == dtype, f"{name} makes {array.data.dtype} of {np.dtype(dtype)}")
            _require(array.attrs.get("scale_um") == (0.5, 0.2, 0.2), f"{name} loses attrs['scale_um']")
            _require(bool(np.isfinite(array.data).all()), f"{name} makes finite values NaN or infinite")
            _require(
                np.array_equal(batch[labels].data, before[labels][roi.to_slices()]),
                f"{name} changes an array that it was not given",
            )
            again, other = ask(roi, 1, raw)[raw].data, ask(roi, 2, raw)[raw].data
            _require(np.array_equal(array.data, again), f"{name}: one seed, two results")
            _require(not random or not np.array_equal(array.data, other), f"{name} ignores the seed")
            _require(
                np.array_equal(again, ask(roi, 1, raw)[raw].data), f"{name} remembers an earlier request"
            )
        only = ask(part, 1, labels)
        _require(np.array_equal(only[labels].data, before[labels][part.to_slices()]), f"{name} needs {raw}")
        for key, data in arrays.items():
            _require(np.array_equal(data, before[key]), f"{name} changes upstream's {key} in place")


def _require(right: bool, otherwise: str) -> None:
    if not right:
        raise AssertionError(otherwise)
