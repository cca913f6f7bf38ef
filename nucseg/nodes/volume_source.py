"""Read training data: raw and labels of one volume, as a gunpowder source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gunpowder as gp
import numpy as np

from nucseg.annotation import Voxels
from nucseg.errors import InputError
from nucseg.point_labels import PointLabels
from nucseg.storage.normalization import Normalization, zero_and_one
from nucseg.volume import Volume, open_labels, open_volume

IN_MEMORY_BYTES = 512 * 2**20
"""Volumes whose arrays together are smaller than this are kept in memory unless told otherwise."""


class VolumeSource(gp.BatchProvider):
    """Provide arrays of one volume; the source of nucseg's training and prediction pipelines.

    Rois are in voxels (gunpowder's voxel size is always 1, 1, 1), the volume begins at the origin. The voxel
    size in um travels as `array.attrs["scale_um"]` (`None` when the file does not say). Labels that do not show
    how far nuclei reach carry `array.attrs["extent"] = False`; those of `PointLabels` also `array.attrs["balls"]`,
    what `Deform` moves.

    >>> import gunpowder as gp
    >>> from nucseg.nodes.volume_source import VolumeSource
    >>> RAW, LABELS = gp.ArrayKey("RAW"), gp.ArrayKey("LABELS")
    >>> source = VolumeSource("worm.zarr", {RAW: "image", LABELS: "labels/nuclei"})

    Args:
        volume: A path that `nucseg.open_volume` reads, or an opened volume.
        datasets: What each array key stands for: `"image"`, the raw intensities of `volume`; `"labels/NAME"`,
            one of an OME-Zarr's label images; the path of another label file of the same shape (a label
            TIFF that lies beside a raw TIFF); or voxels made where they are read: `PointLabels`,
            `AnnotatedLabels`, `AnnotationMask`.
        normalize: Percentiles of the whole volume that become 0 and 1 in the image, or `Values` that do; it is then
            float32, and values outside are not clipped. `None` gives the stored values as float32.
        in_memory: Whether to read everything once in `setup` (forked workers share it). `None` decides by
            size: below 512 MiB.

    Raises:
        InputError: A file cannot be used, or raw and labels differ in shape.
    """

    def __init__(
        self,
        volume: str | Path | Volume,
        datasets: Mapping[gp.ArrayKey, str | Voxels],
        *,
        normalize: Normalization = (1.0, 99.8),
        in_memory: bool | None = None,
    ) -> None:
        if not datasets:
            raise InputError(
                "VolumeSource",
                expected="at least one dataset, such as {RAW: 'image'}",
                received="none",
                remedy="name what each array key stands for",
            )
        self.volume = open_volume(volume) if isinstance(volume, str | Path) else volume
        self.datasets = dict(datasets)
        self.normalize = normalize
        self.in_memory = in_memory
        self.scale_um = self.volume.scale_um
        self._volumes: dict[gp.ArrayKey, Volume | Voxels] = {}
        self._cache: dict[gp.ArrayKey, np.ndarray] = {}
        self._range = (0.0, 1.0)

    def setup(self) -> None:
        """Open the datasets, find the intensity range and announce what there is."""
        self._volumes = {key: self._open(name) for key, name in self.datasets.items()}
        for key, volume in self._volumes.items():
            if volume.shape != self.volume.shape:
                name = self.datasets[key]
                raise InputError(
                    f"{name if isinstance(name, str) else name.path} of {self.volume.path}",
                    expected=f"the image's shape {self.volume.shape}",
                    received=f"{volume.shape}",
                    remedy="give labels that were made for this image",
                )
        if "image" in self.datasets.values():
            self._range = zero_and_one(self.volume, self.normalize) or (0.0, 1.0)
        roi = gp.Roi((0, 0, 0), self.volume.shape)
        for key in self._volumes:
            raw = self._is_image(key)
            self.provides(
                key,
                gp.ArraySpec(
                    roi=roi,
                    voxel_size=(1, 1, 1),
                    interpolatable=raw,
                    dtype=np.dtype(np.float32) if raw else self._volumes[key].dtype,
                ),
            )
        keep = self.in_memory
        if keep is None:
            keep = self._bytes() < IN_MEMORY_BYTES
        if keep:
            self._cache = {key: self._read(key, (0, 0, 0), self.volume.shape) for key in self._stored()}

    def teardown(self) -> None:
        """Let go of the arrays."""
        self._volumes, self._cache = {}, {}

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        """Read what was requested; every batch owns its data."""
        batch = gp.Batch()
        for key, requested in request.array_specs.items():
            begin, shape = tuple(requested.roi.begin), tuple(requested.roi.shape)
            if key in self._cache:
                data = self._cache[key][..., *requested.roi.to_slices()].copy()
            else:
                data = self._read(key, begin, shape)
            spec = self.spec[key].copy()
            spec.roi = requested.roi.copy()
            attrs: dict[str, Any] = {"scale_um": self.scale_um}
            if not getattr(self._volumes[key], "extent", True):
                attrs["extent"] = False
            if isinstance(volume := self._volumes[key], PointLabels):
                attrs["balls"] = volume.near(begin, shape)
            batch[key] = gp.Array(data, spec, attrs)
        return batch

    def _open(self, name: str | Voxels) -> Volume | Voxels:
        if not isinstance(name, str):
            return name
        if name == "image":
            return self.volume
        if name.startswith("labels/") and Path(self.volume.path).is_dir():
            return open_labels(self.volume.path, name.removeprefix("labels/"))
        return open_labels(name)

    def _is_image(self, key: gp.ArrayKey) -> bool:
        return self.datasets[key] == "image"

    def _stored(self) -> list[gp.ArrayKey]:
        return [key for key, volume in self._volumes.items() if getattr(volume, "stored", True)]

    def _bytes(self) -> int:
        voxels = int(np.prod(self.volume.shape, dtype=np.int64))
        return sum(
            voxels * max(1, self._volumes[key].channels) * self.spec[key].dtype.itemsize
            for key in self._stored()
        )

    def _read(self, key: gp.ArrayKey, begin: tuple, shape: tuple) -> np.ndarray:
        data = self._volumes[key].read(begin, shape)
        if not self._is_image(key):
            return np.ascontiguousarray(data)
        low, high = self._range
        image = data.astype(np.float32)
        if (low, high) != (0.0, 1.0):
            image -= np.float32(low)
            image *= np.float32(1.0 / (high - low))
        return image
