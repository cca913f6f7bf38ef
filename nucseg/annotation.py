"""What of a volume is annotated: masks, labels that mean "not annotated here", tables of points."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from nucseg.errors import InputError
from nucseg.points import read_points
from nucseg.storage import ome
from nucseg.storage.stored import Float3, Int3
from nucseg.volume import Volume, open_volume


class Voxels(Protocol):
    """What `VolumeSource` reads an array from: a `Volume`, or something that makes voxels where they are read.

    An attribute `extent` that is False says that labels do not show how far nuclei reach; one `stored` that is
    False says that nothing is read from a file.
    """

    @property
    def shape(self) -> Int3:
        """Voxels z, y, x."""

    @property
    def dtype(self) -> np.dtype:
        """Of what `read` returns."""

    @property
    def channels(self) -> int:
        """Number of channels; 0 without a channel axis."""

    @property
    def path(self) -> str:
        """Where it comes from, for messages."""

    def read(self, begin: Int3 = (0, 0, 0), shape: Int3 | None = None) -> np.ndarray:
        """A region, as `Volume.read`."""


class AnnotationMask:
    """Where a volume is annotated: 1, elsewhere 0; the mask that `AddTargets` and evaluation take.

    With neither labels nor mask all of the volume is annotated. What lies outside the volume is not.

    Args:
        shape: Of the volume, z, y, x, voxels.
        mask: 0 where nothing is annotated, of the volume's shape.
        labels: Labels of the volume's shape, in which `ignore_label` means "not annotated here".
        ignore_label: That label.

    Raises:
        InputError: Mask or labels are of another shape.
    """

    dtype = np.dtype(np.uint8)
    channels = 0

    def __init__(
        self,
        shape: Int3,
        *,
        mask: Volume | None = None,
        labels: Volume | None = None,
        ignore_label: int | None = None,
    ) -> None:
        self.shape = shape
        self.mask = mask
        self.labels = labels if ignore_label is not None else None
        self.ignore_label = ignore_label
        for part in filter(None, (self.mask, self.labels)):
            _require_shape(part, shape)

    @property
    def path(self) -> str:
        """Of what decides, for messages."""
        part = self.mask or self.labels
        return part.path if part is not None else "annotation mask"

    @property
    def stored(self) -> bool:
        """Whether anything is read from a file: False where all is annotated."""
        return self.mask is not None or self.labels is not None

    @property
    def write_unit(self) -> Int3:
        """The cheapest region (z, y, x) to read."""
        part = self.mask or self.labels
        return self.shape if part is None else part.write_unit

    def read(self, begin: Int3 = (0, 0, 0), shape: Int3 | None = None, fill: float = 0) -> np.ndarray:
        """The mask of a region, uint8 (z, y, x); `fill` outside the volume."""
        size = tuple(n - b for n, b in zip(self.shape, begin, strict=True)) if shape is None else tuple(shape)
        out = np.full(size, fill, self.dtype)
        inside = tuple(
            slice(max(0, -b), max(0, min(s, n - b))) for b, s, n in zip(begin, size, self.shape, strict=True)
        )
        known = out[inside]
        known[...] = 1
        if self.mask is not None:
            known[self.mask.read(begin, shape)[inside] == 0] = 0
        if self.labels is not None:
            known[self.labels.read(begin, shape)[inside] == self.ignore_label] = 0
        return out

    def annotated(self) -> int:
        """Number of annotated voxels, counted block by block."""
        part = self.mask or self.labels
        if part is None:
            return int(np.prod(self.shape, dtype=np.int64))
        return sum(int(np.count_nonzero(self.read(*block))) for block in part.blocks())


class AnnotatedLabels:
    """Labels of a volume where they are annotated, background elsewhere.

    Args:
        labels: Instance labels.
        mask: Where they count.

    Raises:
        InputError: The shapes differ.
    """

    channels = 0

    def __init__(self, labels: Volume, mask: AnnotationMask) -> None:
        _require_shape(labels, mask.shape)
        self.labels, self.mask = labels, mask

    @property
    def path(self) -> str:
        """Of the labels."""
        return self.labels.path

    @property
    def shape(self) -> Int3:
        """Voxels z, y, x."""
        return self.labels.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the labels."""
        return self.labels.dtype

    @property
    def scale_um(self) -> Float3 | None:
        """Voxel size of the labels, um."""
        return self.labels.scale_um

    def blocks(self) -> Iterator[tuple[Int3, Int3]]:
        """As `Volume.blocks`."""
        return self.labels.blocks()

    @property
    def write_unit(self) -> Int3:
        """Of the labels."""
        return self.labels.write_unit

    def read(self, begin: Int3 = (0, 0, 0), shape: Int3 | None = None, fill: float = 0) -> np.ndarray:
        """As `Volume.read`."""
        data = self.labels.read(begin, shape, fill)
        data[self.mask.read(begin, shape, 1) == 0] = 0
        return data


def open_mask(image: Volume, mask: str | Path, inside: str | Path | None = None) -> Volume:
    """Open the mask of a volume, which is 0 or False where nothing is annotated.

    Args:
        image: The volume, or its labels.
        mask: Path of an array or file of the image's shape, or the name of a label image inside an OME-Zarr.
        inside: That OME-Zarr; None: the image.

    Raises:
        InputError: It cannot be opened, is not of the image's shape, or neither integer nor boolean.
    """
    text, folder = os.fspath(mask), os.fspath(image.path if inside is None else inside)
    if is_name(text):
        names = ome.label_names(folder) if ome.is_zarr(folder) else []
        if text not in names:
            raise InputError(
                f"mask {text!r}",
                expected=f"a label image inside {folder}: {', '.join(names)}"
                if names
                else f"a label image inside {folder}, or the path of a mask",
                received="no such label image",
                remedy=f"correct the name, or give a path (./{text} if it is one)",
            )
        text = os.path.join(folder, "labels", text)
    found = open_volume(text)
    if found.channels == 1:
        found = open_volume(text, channel=0)
    if found.channels or found.dtype.kind not in "bui":
        raise InputError(
            f"mask {text}",
            expected="one integer or boolean a voxel, 0 where nothing is annotated",
            received=f"dtype {found.dtype}" + (f", {found.channels} channels" if found.channels else ""),
            remedy="save the mask as uint8 or bool",
        )
    _require_shape(found, image.shape, image.path)
    return found


def annotation_of(
    labels: Volume,
    mask: str | Path | None = None,
    ignore_label: int | None = None,
    *,
    inside: str | Path | None = None,
) -> AnnotationMask | None:
    """What is annotated of labels that are to be scored.

    Args:
        labels: The labels.
        mask: As `open_mask` takes it; None: there is none.
        ignore_label: The label that means "not annotated here"; None: there is none.
        inside: The OME-Zarr in which a mask that is given by its name lies.

    Returns:
        The mask; None where all voxels are annotated.

    Raises:
        InputError: The mask cannot be opened or is of another shape, no voxel is annotated, or the label that means
            "not annotated here" is that of the background.
    """
    if ignore_label == 0:
        raise InputError(
            "ignore label",
            expected="another label than 0, which is background",
            received="0",
            remedy="give a mask if background is not annotated",
        )
    opened = None if mask is None else open_mask(labels, mask, inside)
    known = AnnotationMask(labels.shape, mask=opened, labels=labels, ignore_label=ignore_label)
    if not known.stored:
        return None
    voxels, total = known.annotated(), int(np.prod(labels.shape, dtype=np.int64))
    if not voxels:
        raise InputError(
            f"mask {known.path}",
            expected="voxels that are not 0, where the volume is annotated",
            received="no annotated voxel",
            remedy="check the mask and the ignore label, or leave this volume out",
        )
    return known if voxels < total else None


def annotated_points(image: Volume, points: str | Path) -> tuple[np.ndarray, str]:
    """Read the centres that are annotated in a volume.

    Args:
        image: The volume.
        points: Path of a table that `read_points` reads; an OME-Zarr, whose `tables/centers` is meant; or the
            name of a table inside the OME-Zarr `image`. Of a table that is there as `.csv` and `.parquet` the
            `.csv`, which people edit, is read.

    Returns:
        (n, 3) positions z, y, x in voxels, float64, and the path of the table.

    Raises:
        InputError: There is no such table, or it cannot be read.
    """
    text = os.fspath(points)
    if is_name(text):
        path = _table(image.path, text)
    elif os.path.isdir(text):
        path = _table(text, "centers")
    else:
        path = text
    return read_points(path), path


def _table(folder: str, name: str) -> str:
    tables = Path(folder) / "tables"
    for suffix in (".csv", ".parquet"):
        if (tables / f"{name}{suffix}").is_file():
            return str(tables / f"{name}{suffix}")
    names = sorted(
        {path.stem for path in tables.glob("*.csv")} | {path.stem for path in tables.glob("*.parquet")}
    )
    raise InputError(
        f"points {name!r} of {folder}",
        expected=f"one of its tables: {', '.join(names)}" if names else "a table tables/NAME.csv below it",
        received="no such table",
        remedy="correct the name, or give the path of a table; `nucseg convert --points` puts one there",
    )


def is_name(text: str) -> bool:
    """Whether a mask or table of points is given by its name inside the image: without a slash, dot or colon."""
    return bool(text) and not any(mark in text for mark in "/\\.:")


def _require_shape(part: Volume, shape: Int3, of: str = "the image") -> None:
    if part.shape != shape:
        raise InputError(
            part.path,
            expected=f"the shape of {of}, {shape}",
            received=f"{part.shape}",
            remedy="give what was made for this image",
        )
