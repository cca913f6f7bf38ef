"""Looking for the mistakes in a volume and its labels that cost labs most, before anything is trained."""

from pathlib import Path

from nucseg.check.alignment import check_alignment
from nucseg.check.finding import Finding
from nucseg.check.instances import check_instances
from nucseg.check.raw import check_raw
from nucseg.check.sample import boxes, sampling
from nucseg.check.scale import check_label_scale, check_scale
from nucseg.storage import ome
from nucseg.volume import find_labels, open_volume

__all__ = ["Finding", "check_volume"]


def check_volume(path: str | Path, labels: str | Path | None = None) -> list[Finding]:
    """Findings about an image and its labels, the worst first.

    A volume of at most 2**26 voxels (406 a side) is looked at whole, a larger one at 8 boxes of at most 256
    voxels a side, regularly chosen; the finding `sampled` then names them, and nuclei that a box cuts count
    neither as slivers nor as fragments.

    Codes of the image: `not_finite`, `empty`, `constant`, `wrapped`, `saturated`, `no_scale`, `odd_scale`,
    `anisotropy`. Of the labels: `labels_shape`, `labels_scale`, `empty_labels`, `negative_ids`, `background`,
    `semantic`, `fragments`, `slivers`, `narrow_dtype`, `nucleus_size`, `shifted`, `mirrored`, `border`.

    Args:
        path: Any volume that `nucseg.open_volume` reads; each channel is looked at.
        labels: Name of a label image below it, or a label file. If None, `labels/nuclei` below it where there
            is one.

    Raises:
        InputError: If the image or the labels cannot be opened, or the labels are not of an integer dtype.
    """
    volume = open_volume(path)
    if labels is None and ome.is_zarr(path) and "nuclei" in ome.label_names(str(path)):
        labels = "nuclei"
    instances = None if labels is None else find_labels(path, labels)
    chosen = boxes(volume.shape)
    findings = [*check_scale(volume), *sampling(volume.shape, chosen)]
    channels = [open_volume(path, channel=index) for index in range(max(volume.channels, 1))]
    for channel in channels:
        findings += check_raw(channel, chosen, several=len(channels) > 1)
    if instances is not None:
        found, largest_box = check_instances(instances, volume.scale_um or instances.scale_um)
        findings += [*check_label_scale(volume, instances), *found]
        if instances.shape == volume.shape and largest_box is not None:
            findings += check_alignment(channels, instances, largest_box)
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])
