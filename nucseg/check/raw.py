"""Mistakes in an image: not finite, empty, constant, wrapped, saturated."""

from math import prod

import numpy as np

from nucseg.check.finding import Finding, finding
from nucseg.check.sample import Box
from nucseg.check.wrapping import CUBE, Wrapping
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
    top = bright = 0
    wrapping = Wrapping(modulus)
    for box in boxes:
        data = channel.read(box.begin, box.shape)
        top += int(np.count_nonzero(data == most))
        bright += int(np.count_nonzero(data > (least + most) / 2))
        if steps:
            wrapping.add(data)
    findings = []
    if wrapping.contours or wrapping.scrambled:
        received = (
            f"{wrapping.rising} places where it rises to {modulus - 1} and goes on from 0, "
            f"{wrapping.falling} of the usual kind"
            if wrapping.contours
            else f"{wrapping.cubes} cubes of {CUBE} voxels a side with all values from 0 to {modulus - 1} at random"
        )
        findings.append(
            finding(
                "wrapped",
                "error",
                expected="brightness that falls to dark over grey, as blur makes it",
                received=received,
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
