"""The training volumes, checked, and what their labels say about the nuclei."""

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nucseg.annotation import AnnotatedLabels, AnnotationMask, Voxels
from nucseg.errors import InputError
from nucseg.heads.base import Head
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.scenario import Scenario
from nucseg.heads.signed_distance import SignedDistance
from nucseg.instances.centroids import center_vectors, centroids
from nucseg.network.unet import UNet, preset_fields
from nucseg.training.config import TrainConfig
from nucseg.training.volumes import Annotated, check_heads, open_annotated
from nucseg.volume import Volume

logger = logging.getLogger(__name__)

Float3 = tuple[float, float, float]
SCALE_TOLERANCE = 0.05
"""Voxel sizes of training volumes may differ by this share."""
MARK = 1 / 4
"""Radius of the ball around a point as a share of the largest diameter of a nucleus, unless it is given."""
MEAN_RADIUS = 1 / 3
"""Mean radius of nuclei as a share of the diameter of the largest, where there are no labels to measure it in."""


class Nuclei(NamedTuple):
    """What the labels of the training volumes say.

    Attributes:
        number: How many nuclei.
        diameter_um: Of the largest: twice the longest distance of a voxel from its nucleus's centre. No
            rotation makes a nucleus longer.
        radius: Mean radius in voxels of the same volume as the real ones but cubic: that of a sphere of the
            nucleus's volume, averaged over all voxels of nuclei, so that slivers at borders count little.
    """

    number: int
    diameter_um: float
    radius: float


class Prepared(NamedTuple):
    """A configuration with all that the volumes decide.

    Attributes:
        volumes: The image of each training volume.
        datasets: For each volume what `VolumeSource` reads its labels from.
        scenario: With the scale of its center vectors filled in.
        network: With the volumes' channels.
        scale_um: Voxel size of the training volumes; None if unknown.
        nucleus_um: Largest diameter of a nucleus, in voxels if the voxel size is unknown.
        masks: For each volume what of it is annotated; empty if all of all volumes is.
    """

    volumes: tuple[Volume, ...]
    datasets: tuple[str | Voxels, ...]
    scenario: Scenario
    network: UNet
    scale_um: Float3 | None
    nucleus_um: float
    masks: tuple[AnnotationMask, ...] = ()

    @property
    def margin(self) -> tuple[int, int, int]:
        """Voxels around a patch that hold every nucleus of the patch whole."""
        z, y, x = (math.ceil(self.nucleus_um / um) for um in self.scale_um or (1.0, 1.0, 1.0))
        return z, y, x


def prepare(config: TrainConfig) -> Prepared:
    """Open and check the training volumes, and fill in what was left to them.

    Raises:
        InputError: No head decodes to anything, a volume is missing or cannot be used, labels are empty or of
            another shape, points or masks do not fit, heads need labels where there are only points, or volumes
            differ in channels or voxel size.
    """
    config.scenario.check_decodes()
    opened = [open_annotated(config.data, volume) for volume in config.data.train]
    check_heads(config.scenario, opened)
    images = tuple(volume.image for volume in opened)
    scale_um = _common_scale(images)
    network = _with_channels(config.network, images)
    network.training_input_shape(config.patch.output)
    nuclei = _nuclei(opened, scale_um, config.data.nucleus_um)
    logger.info("%d training nuclei, the largest %.3g um long", nuclei.number, nuclei.diameter_um)
    nucleus_um = config.data.nucleus_um or nuclei.diameter_um
    mark_um = _mark(config.data.mark_um, nucleus_um)
    masked = any(volume.mask is not None for volume in opened)
    return Prepared(
        images,
        tuple(volume.training_labels(mark_um) for volume in opened),
        _with_radius(config.scenario, nuclei.radius, scale_um, published=_is_published(network)),
        network,
        scale_um,
        nucleus_um,
        tuple(volume.mask or AnnotationMask(volume.image.shape) for volume in opened) if masked else (),
    )


def measure(labels: Sequence[Volume | AnnotatedLabels], scale_um: Float3 | None) -> Nuclei:
    """Number and sizes of the nuclei, block by block.

    Raises:
        InputError: A volume has no labelled voxel.
    """
    um = np.array(scale_um or (1.0, 1.0, 1.0))
    sizes: list[np.ndarray] = []
    longest: list[float] = []
    for volume in labels:
        ids, centers, voxels = _all_centroids(volume)
        if not len(ids):
            raise InputError(
                f"labels {volume.path}",
                expected="instances: every voxel of a nucleus carries its number",
                received="only background",
                remedy="give the labels that belong to this volume (data.labels)",
            )
        sizes.append(voxels)
        longest.append(2 * math.sqrt(_farthest(volume, ids, centers, um)))
    size = np.concatenate(sizes)
    radius = np.cbrt(3 * size / (4 * np.pi))
    mean = float(np.average(radius, weights=size))
    typical = 2 * mean * float(np.prod(um)) ** (1 / 3)
    if max(longest) > 4 * typical:
        logger.warning(
            "the longest label measures %.3g um, a typical one %.3g: if it is no nucleus, mend the labels or set "
            "data.nucleus_um",
            *(max(longest), typical),
        )
    return Nuclei(len(size), max(longest), mean)


def _nuclei(opened: list[Annotated], scale_um: Float3 | None, nucleus_um: float | None) -> Nuclei:
    """Sizes as measured in the labels, or, where points alone are annotated, after the given diameter."""
    labels = [known for volume in opened if (known := volume.known_labels) is not None]
    if labels:
        return measure(labels, scale_um)
    tables = [volume for volume in opened if volume.points is not None]
    if nucleus_um is None:
        raise InputError(
            "data.nucleus_um",
            expected="the largest diameter of a nucleus in um (voxels if the voxel size is unknown)",
            received=f"none, and points alone ({tables[0].table}), which do not show how large nuclei are",
            remedy="measure the largest nucleus and set it, such as nucleus_um = 5.0",
        )
    voxel_um = float(np.prod(scale_um or (1.0, 1.0, 1.0))) ** (1 / 3)
    number = sum(len(volume.points) for volume in tables if volume.points is not None)
    return Nuclei(number, nucleus_um, MEAN_RADIUS * nucleus_um / voxel_um)


def _mark(mark_um: float | None, nucleus_um: float) -> float:
    if mark_um is not None and 2 * mark_um > nucleus_um:
        raise InputError(
            "data.mark_um",
            expected=f"at most {nucleus_um / 2:.3g}, the radius of the largest nucleus",
            received=f"{mark_um:g}",
            remedy="give about half the radius of a nucleus, or correct data.nucleus_um",
        )
    return mark_um or MARK * nucleus_um


def _common_scale(images: tuple[Volume, ...]) -> Float3 | None:
    first = images[0]
    if first.scale_um is None:
        logger.warning("%s does not say its voxel size: voxels are taken as cubes of 1 um", first.path)
    for other in images[1:]:
        have, want = other.scale_um, first.scale_um
        if have is None and want is None:
            continue
        if have is None or want is None or not np.allclose(have, want, rtol=SCALE_TOLERANCE, atol=0):
            raise InputError(
                f"voxel size of {other.path}",
                expected=f"that of {first.path}, {want} um, within {SCALE_TOLERANCE:.0%}",
                received=f"{have} um",
                remedy="resample the volumes to one voxel size, or set data.scale_um if the files are wrong",
            )
    return first.scale_um


def _with_channels(network: UNet, images: tuple[Volume, ...]) -> UNet:
    channels = {max(image.channels, 1): image.path for image in images}
    if len(channels) > 1:
        raise InputError(
            "training volumes",
            expected="the same number of channels in all",
            received=", ".join(f"{count} in {path}" for count, path in channels.items()),
            remedy="choose one channel with data.channel",
        )
    found = next(iter(channels))
    if "input_channels" in network.model_fields_set and network.input_channels != found:
        raise InputError(
            "network.input_channels",
            expected=f"{found}, the channels of {images[0].path}",
            received=str(network.input_channels),
            remedy="remove it from the configuration, or choose one channel with data.channel",
        )
    return network.model_copy(update={"input_channels": found})


def _is_published(network: UNet) -> bool:
    """Whether it is the published network, which learns vectors in voxels."""
    return all(getattr(network, name) == value for name, value in preset_fields("paper").items())


def _with_radius(scenario: Scenario, radius: float, scale_um: Float3 | None, published: bool) -> Scenario:
    """The scenario with what follows from the size of nuclei and voxels, where it is not given.

    The vectors' scale is the mean radius, the distance at which a signed distance saturates half of it: a third of
    the published 9 voxels for nuclei of the published size. Both are as published for the published network.
    """

    def filled(head: Head) -> Head:
        if isinstance(head, SignedDistance) and "distance" not in head.model_fields_set and not published:
            return head.model_copy(update={"distance": float(f"{max(radius / 2, 1.0):.3g}")})
        if not isinstance(head, CenterVectors) or head.unit:
            return head
        changes: dict[str, object] = {}
        if "scale" not in head.model_fields_set and not published:
            changes["scale"] = float(f"{max(radius, 1.0):.3g}")
        if "voxel_um" not in head.model_fields_set and scale_um is not None:
            changes["voxel_um"] = scale_um
        return head.model_copy(update=changes)

    return Scenario([filled(head) for head in scenario.heads])


def _all_centroids(volume: Volume | AnnotatedLabels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids, sums, sizes = [np.zeros(0, np.uint64)], [np.zeros((0, 3))], [np.zeros(0, np.int64)]
    for begin, shape in volume.blocks():
        part = centroids(volume.read(begin, shape))
        ids.append(part.ids)
        sizes.append(part.sizes)
        sums.append((part.centers + np.array(begin)) * part.sizes[:, None])
    names, index = np.unique(np.concatenate(ids), return_inverse=True)
    total, voxels = np.zeros((len(names), 3)), np.zeros(len(names), np.int64)
    np.add.at(total, index, np.concatenate(sums))
    np.add.at(voxels, index, np.concatenate(sizes))
    return names, total / np.maximum(voxels, 1)[:, None], voxels


def _farthest(
    volume: Volume | AnnotatedLabels, ids: np.ndarray, centers: np.ndarray, um: np.ndarray
) -> float:
    """Longest squared distance of a voxel from its nucleus's centre, um**2."""
    longest = 0.0
    for begin, shape in volume.blocks():
        vectors = center_vectors(volume.read(begin, shape), ids, centers - np.array(begin))
        squares = sum(np.square(vectors[axis] * np.float32(um[axis])) for axis in range(3))
        longest = max(longest, float(np.max(squares)))
    return longest
