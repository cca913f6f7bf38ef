"""Open and check what a training learns from: images, and their labels or points, and masks."""

import dataclasses
import logging
from typing import NamedTuple

import numpy as np

from nucseg.annotation import AnnotatedLabels, AnnotationMask, annotated_points, open_mask
from nucseg.errors import InputError
from nucseg.heads.scenario import Scenario
from nucseg.point_labels import PointLabels, points_outside
from nucseg.training.config import Data, LabelledVolume
from nucseg.volume import Volume, check_labels_inside, open_labels, open_volume

logger = logging.getLogger(__name__)


class Annotated(NamedTuple):
    """A training volume and its annotation.

    Attributes:
        image: The raw image.
        labels: Its labels, or None where points are annotated.
        dataset: What `VolumeSource` calls the labels.
        points: (n, 3) z, y, x in voxels, or None where there are labels.
        table: Where the points are from.
        mask: What is annotated; None: all.
    """

    image: Volume
    labels: Volume | None = None
    dataset: str = ""
    points: np.ndarray | None = None
    table: str = ""
    mask: AnnotationMask | None = None

    @property
    def known_labels(self) -> Volume | AnnotatedLabels | None:
        """The labels, background where they are not annotated."""
        if self.labels is None or self.mask is None:
            return self.labels
        return AnnotatedLabels(self.labels, self.mask)

    def training_labels(self, mark_um: float) -> str | AnnotatedLabels | PointLabels:
        """What `VolumeSource` reads as labels.

        Args:
            mark_um: Radius of the balls around points.
        """
        if self.points is not None:
            made = PointLabels(
                self.points, self.image.shape, self.image.scale_um, radius_um=mark_um, path=self.table
            )
            if made.shared:
                logger.warning(
                    "%s: %d of %d points lie in the same voxel as another one and are not seen: remove what was "
                    "annotated twice",
                    *(self.table, made.shared, len(self.points)),
                )
            return made
        known = self.known_labels
        return known if isinstance(known, AnnotatedLabels) else self.dataset


def open_annotated(data: Data, volume: LabelledVolume) -> Annotated:
    """Open a training volume.

    Raises:
        InputError: A file is missing or cannot be used, shapes differ, nothing is annotated, there are no points
            or all lie outside the volume.
    """
    image = open_volume(volume.raw, channel=data.channel)
    if data.scale_um is not None:
        image = dataclasses.replace(image, scale_um=data.scale_um)
    mask = None if volume.mask is None else open_mask(image, volume.mask)
    if volume.points is not None:
        points, table = _inside(*annotated_points(image, volume.points), image)
        known = None if mask is None else _not_empty(AnnotationMask(image.shape, mask=mask))
        return Annotated(image, points=points, table=table, mask=known)
    if volume.labels is None:
        check_labels_inside(volume.raw, data.labels, "training volume")
        labels, dataset = open_labels(volume.raw, data.labels), f"labels/{data.labels}"
    else:
        labels, dataset = open_labels(volume.labels, data.labels), volume.labels
    if labels.shape != image.shape:
        raise InputError(
            f"labels {labels.path}",
            expected=f"the shape of {image.path}, {image.shape}",
            received=str(labels.shape),
            remedy="give the labels that belong to this image",
        )
    known = None
    if mask is not None or data.ignore_label is not None:
        known = _not_empty(
            AnnotationMask(image.shape, mask=mask, labels=labels, ignore_label=data.ignore_label)
        )
    return Annotated(image, labels, dataset, mask=known)


def check_heads(scenario: Scenario, volumes: list[Annotated]) -> None:
    """Refuse a training in which a head or a volume takes no part.

    Raises:
        InputError: There are points, but no head learns from them; or no labels, but a head needs them.
    """
    tables = [volume.table for volume in volumes if volume.points is not None]
    need = [head.name for head in scenario.heads if head.needs_extent]
    if tables and len(need) == len(scenario.heads):
        raise InputError(
            f"scenario {scenario.name} with the points {tables[0]}",
            expected="a head that learns from points alone, such as that of the scenario gauss",
            received=f"{', '.join(need)}, which must know how far each nucleus reaches",
            remedy="choose another scenario, or annotate labels",
        )
    if need and len(tables) == len(volumes):
        raise InputError(
            f"scenario {scenario.name} with points alone",
            expected=f"labels for {', '.join(need)}, which must know how far each nucleus reaches",
            received="no volume with labels",
            remedy="add a volume with labels, or choose heads that learn from points, such as the scenario gauss",
        )


def _inside(points: np.ndarray, table: str, image: Volume) -> tuple[np.ndarray, str]:
    """The points in the volume; those outside are counted in a warning."""
    if not len(points):
        raise InputError(
            f"points {table}",
            expected="at least one point",
            received="an empty table",
            remedy="annotate the centres of nuclei in this volume, or leave it out",
        )
    outside = points_outside(points, image.shape)
    if outside.all():
        raise InputError(
            f"points {table}",
            expected=f"points (z, y, x in voxels) inside the shape {image.shape} of {image.path}",
            received=f"all {len(points)} outside, e.g. {points[0].tolist()}",
            remedy="check the order of the axes, and that the unit is voxels, not micrometres",
        )
    if outside.any():
        logger.warning(
            "points %s: %d of %d lie outside the volume %s and are left out, e.g. %s: check the order of the axes, "
            "and that the unit is voxels",
            *(table, int(outside.sum()), len(points), image.path, points[outside][0].tolist()),
        )
    return points[~outside], table


def _not_empty(mask: AnnotationMask) -> AnnotationMask:
    voxels = mask.annotated()
    if not voxels:
        raise InputError(
            f"mask {mask.path}",
            expected="voxels that are not 0, where the volume is annotated",
            received="no annotated voxel",
            remedy="check the mask and data.ignore_label, or leave this volume out",
        )
    logger.info("%s: %.3g%% annotated", mask.path, 100 * voxels / np.prod(mask.shape, dtype=np.float64))
    return mask
