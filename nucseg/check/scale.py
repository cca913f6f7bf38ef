"""Whether the voxel size can be true."""

from nucseg.check.finding import Finding, finding
from nucseg.volume import Volume

SMALLEST_UM, LARGEST_UM = 0.01, 20.0
MOST_ANISOTROPIC = 20.0


def check_scale(volume: Volume) -> list[Finding]:
    """Findings `no_scale`, `odd_scale` and `anisotropy`."""
    if volume.scale_um is None:
        return [
            finding(
                "no_scale",
                "warning",
                expected="a voxel size in the file",
                received="none",
                remedy="give it with `nucseg convert IN OUT --scale-um Z Y X`, or sizes and rotations are in voxels",
            )
        ]
    findings = []
    sizes = " x ".join(f"{size:.4g}" for size in volume.scale_um)
    if not all(SMALLEST_UM <= size <= LARGEST_UM for size in volume.scale_um):
        findings.append(
            finding(
                "odd_scale",
                "error",
                expected=f"voxels of {SMALLEST_UM:g} to {LARGEST_UM:g} um a side",
                received=f"{sizes} um (z, y, x)",
                remedy="the unit is likely wrong (nm or mm for um); correct it with `nucseg convert --scale-um`",
            )
        )
    ratio = max(volume.scale_um) / min(volume.scale_um)
    if ratio > MOST_ANISOTROPIC:
        findings.append(
            finding(
                "anisotropy",
                "error",
                expected=f"voxels at most {MOST_ANISOTROPIC:g} times longer along one axis than along another",
                received=f"{ratio:.3g} times ({sizes} um)",
                remedy="the z step is likely in another unit; correct it with `nucseg convert --scale-um`",
            )
        )
    return findings


def check_label_scale(volume: Volume, labels: Volume) -> list[Finding]:
    """Findings `labels_shape` and `labels_scale`: labels must lie on the image's own voxels."""
    findings = []
    if labels.shape != volume.shape:
        swapped = sorted(labels.shape) == sorted(volume.shape)
        findings.append(
            finding(
                "labels_shape",
                "error",
                expected=f"labels of the image's shape {volume.shape}",
                received=str(labels.shape),
                remedy="the labels' axes are in another order: transpose them to z, y, x"
                if swapped
                else "give the labels of this image, at its full resolution",
            )
        )
    if volume.scale_um and labels.scale_um:
        ratios = [a / b for a, b in zip(volume.scale_um, labels.scale_um, strict=True)]
        if any(abs(ratio - 1) > 0.01 for ratio in ratios):
            findings.append(
                finding(
                    "labels_scale",
                    "warning",
                    expected=f"labels with the image's voxel size {volume.scale_um} um",
                    received=f"{labels.scale_um} um",
                    remedy="one of the two is wrong; correct it with `nucseg convert --scale-um`",
                )
            )
    return findings
