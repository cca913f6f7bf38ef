"""What the sources upstream of a node know about the size of voxels."""

import gunpowder as gp
import numpy as np

from nucseg.errors import InputError

Scale = tuple[float, float, float]


def upstream_scale_um(node: gp.BatchProvider) -> Scale:
    """The voxel size of the sources upstream, z, y, x in um.

    Sources without one (gunpowder's own, or files that do not say) count as isotropic.

    Raises:
        InputError: The sources differ, so that no single transformation is right for all of them.
    """
    found: list[Scale] = []
    pending = list(node.get_upstream_providers())
    while pending:
        provider = pending.pop()
        scale = getattr(provider, "scale_um", None)
        if scale is not None:
            z, y, x = map(float, scale)
            found.append((z, y, x))
        pending.extend(provider.get_upstream_providers())
    for other in found[1:]:
        if not np.allclose(found[0], other, rtol=0.01):
            raise InputError(
                "the volumes' voxel sizes",
                expected=f"one size for all, such as {found[0]} um",
                received=f"also {other} um",
                remedy="bring the volumes to one voxel size, or pass scale_um to the node",
            )
    return found[0] if found else (1.0, 1.0, 1.0)


def exchangeable_axes(scale_um: Scale) -> list[set[int]]:
    """Sets of axes with the same voxel size (to 1 %)."""
    groups: list[set[int]] = []
    for axis, size in enumerate(scale_um):
        for group in groups:
            if np.isclose(size, scale_um[min(group)], rtol=0.01):
                group.add(axis)
                break
        else:
            groups.append({axis})
    return groups
