"""The group of an image whose levels are made: where their arrays lie, whether they can be added, deleting them."""

from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import zarr

from nucseg.blockwise.grid import Box
from nucseg.blockwise.labels import labels_records
from nucseg.blockwise.level import slices_of
from nucseg.blockwise.records import FOLDER, Records
from nucseg.blockwise.source import settled_prediction
from nucseg.errors import InputError
from nucseg.storage import pyramid


def check_group(group: Path, path: str) -> None:
    """See that levels can be added to an image, and that it is complete.

    Args:
        group: Its folder.
        path: As the user named it.

    Raises:
        InputError: It is no OME-Zarr image, its metadata gives no scale, or a run that writes it has blocks missing.
    """
    if not pyramid.is_image(group):
        raise InputError(
            path,
            expected="an OME-Zarr image, which levels can be added to",
            received="nothing of that name" if not group.exists() else "another kind of file or group",
            remedy="write it as OME-Zarr first: `nucseg convert IN OUT.zarr`",
        )
    pyramid.check_scales(group)
    settled_prediction(str(group), str(group))
    made = labels_records(group.parent.parent)
    if group.parts[-2:] == ("labels", "nuclei") and made.head() is not None and not made.complete():
        raise InputError(
            str(group),
            expected="complete labels",
            received="a segmentation with blocks missing",
            remedy="run `nucseg segment` again, which goes on where it stopped",
        )


def level_array(group: str | Path, level: int) -> Path:
    """The array of a level: as listed, else where it belongs."""
    listed = pyramid.level_paths(group)
    name = listed[level] if level < len(listed) else pyramid.new_level_path(group, level)
    return Path(group) / name


def claim_level(records: Records) -> None:
    """Mark a level as one that nucseg makes.

    Raises:
        InputError: The image cannot be written.
    """
    try:
        (Path(records.out) / FOLDER).mkdir(exist_ok=True)
        records.path.with_suffix(".lock").touch()
    except OSError as error:
        raise InputError(
            str(records.out),
            expected="an image that can be written: levels are added to it",
            received=error.strerror or str(error),
            remedy="change its permissions, or copy it: `nucseg convert IN OUT.zarr`",
        ) from None


def claimed(records: Records) -> bool:
    """Whether the level is one that nucseg makes, or has made."""
    return records.path.with_suffix(".lock").exists()


def forget_levels(group: Path) -> None:
    """Unlist and delete all levels but the finest, with their records."""
    made = [path.stem for path in (group / FOLDER).glob("downsample-*.lock")]
    paths = [group / path for path in pyramid.level_paths(group)[1:]]
    paths += [level_array(group, int(name.rpartition("-")[2])) for name in made]
    with ExitStack() as stack:
        for name in made:
            stack.enter_context(Records(group, name).held(alone=True))
        pyramid.keep_levels(group, 1)
        for name in made:
            Records(group, name).clear()
        for path in paths:
            rmtree(path, ignore_errors=True)


def write_box(target: zarr.Array, axes: str, box: Box, values: np.ndarray) -> None:
    """Write a part of a level.

    Args:
        target: The level's array.
        axes: Its axes, some order of z, y, x and perhaps c and others, of which the first is written.
        box: Which part.
        values: (c, z, y, x).
    """
    place = dict(zip("zyx", slices_of(box), strict=True))
    kept = [axis for axis in axes if axis in "czyx"]
    data = (
        values.transpose(["czyx".index(axis) for axis in kept])
        if "c" in kept
        else values[0].transpose(["zyx".index(axis) for axis in kept])
    )
    index: tuple[Any, ...] = tuple(place.get(axis, slice(None) if axis == "c" else 0) for axis in axes)
    target[index] = data
