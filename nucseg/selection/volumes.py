"""The validation volumes of a selection: images with their true labels."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nucseg.annotation import AnnotatedLabels, AnnotationMask, annotation_of, is_name
from nucseg.blockwise.records import identity
from nucseg.errors import InputError
from nucseg.evaluate.select import largest_extent
from nucseg.network.model import TrainedModel
from nucseg.storage.formats import real_path
from nucseg.volume import Volume, open_labels, open_volume

Given = str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]
"""An OME-Zarr with labels inside, or an image and its labels."""
Masks = str | os.PathLike[str] | Sequence[str | os.PathLike[str] | None] | None
"""The name of a mask in all volumes, or for each volume its mask, by name or path, or None; None: no masks."""


class ValidationVolume(NamedTuple):
    """One image with its labels.

    Attributes:
        raw: Path of the image.
        labels: The labels.
        channel: Of the image; None: all.
        mask: What of the labels is annotated; None: all.
    """

    raw: str
    labels: Volume
    channel: int | None
    mask: AnnotationMask | None = None

    @property
    def key(self) -> str:
        """A name for files and tables: the image's own, and a hash of its path."""
        path = Path(self.raw).resolve()
        return f"{path.name.removesuffix('.zarr')}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"

    def identity(self) -> dict[str, Any]:
        """What tells these volumes from others at the same paths; of labels and mask every value (all are read)."""
        labels, annotated = self.truth(), self.annotated()
        values = hashlib.sha256(f"{labels.dtype.str} {labels.shape} ".encode())
        values.update(np.ascontiguousarray(labels))
        known: dict[str, Any] = {
            "raw": identity(self.raw),
            "labels": {"path": str(Path(self.labels.path).resolve()), "sha256": values.hexdigest()},
            "channel": self.channel,
        }
        if annotated is not None:
            mask = hashlib.sha256(np.packbits(annotated)).hexdigest()
            # scores that were kept before "border" stood here left out what the border of the annotation cuts
            known["annotated"] = {"sha256": mask, "border": "matched"}
        return known

    def truth(self) -> np.ndarray:
        """The labels, all in memory; background where nothing is annotated."""
        return (self.labels if self.mask is None else AnnotatedLabels(self.labels, self.mask)).read()

    def annotated(self) -> np.ndarray | None:
        """Where they are annotated, bool, all in memory; None: everywhere."""
        return None if self.mask is None else self.mask.read().astype(np.bool_)


def open_validation(
    volumes: Sequence[Given],
    model: TrainedModel,
    labels: str,
    channel: int | None,
    masks: Masks = None,
    ignore_label: int | None = None,
) -> list[ValidationVolume]:
    """Open and check validation volumes, or those that the run's configuration names.

    Args:
        volumes: Those given; none: `data.validation` of the run's configuration.
        model: The run's network at any of its checkpoints.
        labels: Name of the label image inside an OME-Zarr.
        channel: Of the images; None: as the run's configuration says, where an image has several.
        masks: What of each of `volumes` is annotated; those of the configuration bring their own.
        ignore_label: A label that means "not annotated here"; None: as the run's configuration says.

    Raises:
        InputError: There is no volume, one has no labels or labels of another shape, a mask does not fit or leaves
            nothing, or the model is for other channels.
    """
    config: dict[str, Any] = model.record.config or {}
    data: dict[str, Any] = config.get("data") or {}
    pairs: list[tuple[str, str | None]] = []
    own_masks = _mask_of_each(masks, len(volumes))
    for given in volumes:
        raw, own = given if isinstance(given, tuple) else (given, None)
        pairs.append((os.fspath(raw), None if own is None else os.fspath(own)))
    if not volumes:
        pairs = [(v["raw"], v.get("labels")) for v in data.get("validation") or ()]
        own_masks = [v.get("mask") for v in data.get("validation") or ()]
        labels = data.get("labels", labels)
    if not pairs:
        raise InputError(
            "validation volumes",
            expected="volumes with labels, or a run whose configuration names them (data.validation)",
            received="none",
            remedy="name volumes that the network was not trained on",
        )
    opened = [_open(raw, own, model, labels, channel, data.get("channel")) for raw, own in pairs]
    ignored = data.get("ignore_label") if ignore_label is None else ignore_label
    return [
        volume._replace(mask=annotation_of(volume.labels, mask, ignored, inside=volume.raw))
        for volume, mask in zip(opened, own_masks, strict=True)
    ]


def _mask_of_each(masks: Masks, count: int) -> list[str | None]:
    """The mask of each of `count` volumes; one that is given by its name serves all."""
    if masks is None:
        return [None] * count
    several = [masks] if isinstance(masks, str | os.PathLike) else list(masks)
    given = [None if mask is None else os.fspath(mask) for mask in several]
    if len(given) == 1 and count > 1 and given[0] is not None and is_name(given[0]):
        given *= count
    if len(given) != count:
        raise InputError(
            "masks",
            expected="a mask for each volume that is given, or the name of a label image inside all of them",
            received=f"{len(given)} for {count} volumes",
            remedy="give one a volume, in the volumes' order"
            if count
            else "write the masks of data.validation into the training configuration, or name the volumes",
        )
    return given


def trained_on(volumes: Sequence[ValidationVolume], config: dict[str, Any] | None) -> list[str]:
    """Which of the volumes a run's configuration names as training data; links and relative paths count as the same.

    Args:
        volumes: Opened ones.
        config: `RunRecord.config`.
    """
    data = (config or {}).get("data") or {}
    learned = {real_path(volume["raw"]) for volume in data.get("train") or ()}
    return [volume.raw for volume in volumes if real_path(volume.raw) in learned]


def reach_of(volumes: Sequence[ValidationVolume]) -> int:
    """The longest side of any true object, voxels, see `nucseg.evaluate.select.largest_extent`.

    Raises:
        InputError: No volume has a labelled object.
    """
    longest = max(largest_extent([volume.truth()]) for volume in volumes)
    if not longest:
        raise InputError(
            "validation volumes",
            expected="at least one with labelled nuclei",
            received=f"{len(volumes)} volumes, none with a label",
            remedy="give a validation volume with its labels",
        )
    return longest


def _open(
    raw: str,
    own: str | None,
    model: TrainedModel,
    name: str,
    channel: int | None,
    trained_channel: int | None,
) -> ValidationVolume:
    image = open_volume(raw)
    if channel is None and max(1, image.channels) != model.input_channels:
        channel = trained_channel
    if channel is not None:
        image = open_volume(raw, channel=channel)
    model.check_volume(image)
    labels = open_labels(own or raw, name)
    if own is None and Path(labels.path).resolve() == Path(image.path).resolve():
        raise InputError(
            raw,
            expected=f"an OME-Zarr with labels/{name} in it",
            received="a volume without labels",
            remedy=f"add them (nucseg convert {raw} OUT.zarr --labels FILE)",
        )
    if labels.shape != image.shape:
        raise InputError(
            f"labels {labels.path}",
            expected=f"the shape of {raw}, {image.shape}",
            received=str(labels.shape),
            remedy="give the labels that belong to this image",
        )
    return ValidationVolume(raw, labels, channel)
