"""Mistakes in an image: not finite, empty, constant, wrapped, saturated."""

from math import prod

import numpy as np
from numba import njit

from nucseg.check.finding import Finding, finding
from nucseg.check.sample import Box
from nucseg.volume import Volume

SATURATED = 0.1
"""Share of the bright voxels (above the middle of the range) that may have the largest value."""


def check_raw(channel: Volume, boxes: list[Box], *, several: bool) -> list[Finding]:
    """Findings about one channel.

    Args:
        channel: Volume without a channel axis.
        boxes: Parts to look at.
        several: Whether the volume has more channels, so that findings name this one.
    """
    at = f"channel {channel.channel}" if several else ""
    whole = len(boxes) == 1
    least, most, bad, first = np.inf, -np.inf, 0, ""
    for box in boxes:
        data = channel.read(box.begin, box.shape)
        if data.dtype.kind == "f":
            finite = np.isfinite(data)
            missing = data.size - int(np.count_nonzero(finite))
            if missing and not first:
                place = np.unravel_index(int(np.argmin(finite)), data.shape)
                first = f"voxel {tuple(int(p) + b for p, b in zip(place, box.begin, strict=True))}"
            bad += missing
            data = data[finite]
        if data.size:
            least, most = min(least, float(data.min())), max(most, float(data.max()))
    findings = []
    if bad:
        findings.append(
            finding(
                "not_finite",
                "error",
                expected="finite intensities",
                received=f"{bad} voxels that are NaN or infinite",
                remedy="find the step that made them (often a division by a flat field); do not fill them blindly",
                where=", ".join(filter(None, (at, first))),
            )
        )
    if not least < most:
        if least > most:
            return findings  # no finite voxel at all: said above
        findings.append(
            finding(
                "empty" if least == 0 else "constant",
                "error" if whole else "warning",
                expected="intensities that vary",
                received=f"{least:g} in every voxel{'' if whole else ' that was looked at'}",
                remedy="check that this is the right file, channel and export",
                where=at,
            )
        )
        return findings
    return [*findings, *_range_findings(channel, boxes, least, most, at)]


def _range_findings(channel: Volume, boxes: list[Box], least: float, most: float, at: str) -> list[Finding]:
    modulus = 256 if most <= 255 else 65536
    steps = channel.dtype.kind in "iu" and least >= 0 and 0.9 * modulus <= most < modulus
    top = bright = rising = falling = 0
    for box in boxes:
        data = channel.read(box.begin, box.shape)
        top += int(np.count_nonzero(data == most))
        bright += int(np.count_nonzero(data > (least + most) / 2))
        if steps:
            counts = count_contours(data.astype(np.uint16), modulus)
            rising, falling = rising + counts[0], falling + counts[1]
    findings = []
    if is_wrapped(rising, falling):
        findings.append(
            finding(
                "wrapped",
                "error",
                expected=f"brightness that falls to dark over grey, as blur makes it (values up to {modulus - 1})",
                received=f"{rising} places where it rises to {modulus - 1} and goes on from 0, {falling} of the "
                "usual kind",
                remedy=f"values above {modulus - 1} were cut to {modulus.bit_length() - 1} bits; export again from "
                "the original with scaling, not with a change of type",
                where=at,
            )
        )
    if top >= 64 and top >= SATURATED * bright:
        findings.append(
            finding(
                "saturated",
                "warning",
                expected=f"less than {SATURATED:.0%} of the bright voxels at the largest value",
                received=f"{top / bright:.0%} at {most:g} ({top / sum(prod(b.shape) for b in boxes):.2%} of all)",
                remedy="record with less gain or exposure, or export without clipping; touching nuclei cannot be "
                "told apart there",
                where=at,
            )
        )
    return findings


def is_wrapped(rising: int, falling: int) -> bool:
    """Whether steps of the wrapped kind outnumber the usual ones beyond chance (4 standard deviations)."""
    return rising >= 1.1 * falling and rising - falling >= 4 * np.sqrt(max(rising + falling, 25))


@njit(cache=True, nogil=True)
def count_contours(data: np.ndarray, modulus: int) -> tuple[int, int]:
    """Count steps between bright and dark neighbours by what the image does on both sides of them.

    Six voxels in a row, three bright (above modulus / 2) and three dark, with a step of more than modulus / 2
    between them. Where intensities were taken modulo 256, they rise towards the step and go on rising from 0
    behind it; at the blurred edge of a bright object they fall on both sides. The two voxels at the step are
    left out of the comparison, because the selection of large steps alone makes them extreme: without any
    structure both counts are equal but for chance. Very noisy images, and contours that are not resolved
    (less than three voxels between 0 and modulus), give no difference and hence no alarm.

    Args:
        data: (z, y, x) uint16.
        modulus: 256 or 65536.

    Returns:
        Number of steps with rising, and with falling intensities on both sides, along all axes.
    """
    half = modulus // 2
    nz, ny, nx = data.shape
    rising, falling = 0, 0
    for dz, dy, dx in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        for z in range(2 * dz, nz - 3 * dz):
            for y in range(2 * dy, ny - 3 * dy):
                for x in range(2 * dx, nx - 3 * dx):
                    low, high = np.int64(data[z, y, x]), np.int64(data[z + dz, y + dy, x + dx])
                    if abs(high - low) <= half:
                        continue
                    a2 = np.int64(data[z - 2 * dz, y - 2 * dy, x - 2 * dx])
                    a1 = np.int64(data[z - dz, y - dy, x - dx])
                    b1 = np.int64(data[z + 2 * dz, y + 2 * dy, x + 2 * dx])
                    b2 = np.int64(data[z + 3 * dz, y + 3 * dy, x + 3 * dx])
                    if high < low:  # walk from the bright side
                        bright2, bright1, bright, dark, dark1, dark2 = a2, a1, low, high, b1, b2
                    else:
                        bright2, bright1, bright, dark, dark1, dark2 = b2, b1, high, low, a1, a2
                    if bright == modulus - 1 or dark == 0:  # clipped, not wrapped
                        continue
                    if min(bright1, bright2) <= half or max(dark1, dark2) >= half:
                        continue
                    if bright2 < bright1 and dark1 < dark2:
                        rising += 1
                    elif bright2 > bright1 and dark1 > dark2:
                        falling += 1
    return rising, falling
