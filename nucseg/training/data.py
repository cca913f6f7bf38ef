"""The training volumes, checked, and what their labels say about the nuclei."""

import dataclasses
import logging
import math
from typing import NamedTuple

import numpy as np

from nucseg.errors import InputError
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.scenario import Scenario
from nucseg.instances.centroids import center_vectors, centroids
from nucseg.network.unet import UNet, preset_fields
from nucseg.training.config import Data, LabelledVolume, TrainConfig
from nucseg.volume import Volume, open_labels, open_volume

logger = logging.getLogger(__name__)

Float3 = tuple[float, float, float]
SCALE_TOLERANCE = 0.05
"""Voxel sizes of training volumes may differ by this share."""


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
        volumes: Image and labels of each training volume.
        datasets: For each volume what `VolumeSource` calls its labels.
        scenario: With the scale of its center vectors filled in.
        network: With the volumes' channels.
        scale_um: Voxel size of the training volumes; None if unknown.
        nucleus_um: Largest diameter of a nucleus, in voxels if the voxel size is unknown.
    """

    volumes: tuple[Volume, ...]
    datasets: tuple[str, ...]
    scenario: Scenario
    network: UNet
    scale_um: Float3 | None
    nucleus_um: float

    @property
    def margin(self) -> tuple[int, int, int]:
        """Voxels around a patch that hold every nucleus of the patch whole."""
        z, y, x = (math.ceil(self.nucleus_um / um) for um in self.scale_um or (1.0, 1.0, 1.0))
        return z, y, x


def prepare(config: TrainConfig) -> Prepared:
    """Open and check the training volumes, and fill in what was left to them.

    Raises:
        InputError: A volume is missing or cannot be used, labels are empty or of another shape, or volumes
            differ in channels or voxel size.
    """
    opened = [_open(config.data, volume) for volume in config.data.train]
    images = tuple(image for image, _, _ in opened)
    scale_um = _common_scale(images)
    network = _with_channels(config.network, images)
    network.training_input_shape(config.patch.output)
    nuclei = measure([labels for _, labels, _ in opened], scale_um)
    logger.info("%d training nuclei, the largest %.3g um long", nuclei.number, nuclei.diameter_um)
    return Prepared(
        images,
        tuple(dataset for _, _, dataset in opened),
        _with_scale(config.scenario, nuclei.radius, scale_um, published=_is_published(network)),
        network,
        scale_um,
        config.data.nucleus_um or nuclei.diameter_um,
    )


def measure(labels: list[Volume], scale_um: Float3 | None) -> Nuclei:
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


def _open(data: Data, volume: LabelledVolume) -> tuple[Volume, Volume, str]:
    image = open_volume(volume.raw, channel=data.channel)
    if data.scale_um is not None:
        image = dataclasses.replace(image, scale_um=data.scale_um)
    if volume.labels is None:
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
    return image, labels, dataset


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


def _with_scale(scenario: Scenario, radius: float, scale_um: Float3 | None, published: bool) -> Scenario:
    """The scenario with the scale and the voxel size of its center vectors, where they are not given."""

    def filled(head: CenterVectors) -> CenterVectors:
        if head.unit:
            return head
        changes: dict[str, object] = {}
        if "scale" not in head.model_fields_set and not published:
            changes["scale"] = float(f"{max(radius, 1.0):.3g}")
        if "voxel_um" not in head.model_fields_set and scale_um is not None:
            changes["voxel_um"] = scale_um
        return head.model_copy(update=changes)

    return Scenario([filled(h) if isinstance(h, CenterVectors) else h for h in scenario.heads])


def _all_centroids(volume: Volume) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _farthest(volume: Volume, ids: np.ndarray, centers: np.ndarray, um: np.ndarray) -> float:
    """Longest squared distance of a voxel from its nucleus's centre, um**2."""
    longest = 0.0
    for begin, shape in volume.blocks():
        vectors = center_vectors(volume.read(begin, shape), ids, centers - np.array(begin))
        squares = sum(np.square(vectors[axis] * np.float32(um[axis])) for axis in range(3))
        longest = max(longest, float(np.max(squares)))
    return longest
