"""One level of a pyramid: what it is made from, its factor, chunks, shards and blocks, the digest of its values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np

from nucseg.blockwise.grid import Box, Shape, chunk_shape
from nucseg.instances.digest import block_digest

SIDE = 256
"""Levels are added while the largest side of the last one is not below this; a worker reads boxes of that side."""
ANISOTROPY = 1.5
"""An axis whose voxels are more than so many times as long as the shortest is not reduced."""


def default_factor(shape: Shape, scale_um: tuple[float, float, float] | None) -> Shape:
    """Voxels z, y, x that become one: 2, but 1 along axes that are one voxel long, or whose voxels are long already.

    Args:
        shape: Voxels z, y, x.
        scale_um: Voxel size; None: as long along each axis.
    """
    sizes = scale_um or (1.0, 1.0, 1.0)
    shortest = min((s for s, n in zip(sizes, shape, strict=True) if n > 1), default=min(sizes))
    return triple(2 if n > 1 and s <= ANISOTROPY * shortest else 1 for s, n in zip(sizes, shape, strict=True))


def values_digest(values: np.ndarray, begin: Shape, volume: Shape) -> str:
    """`instances.block_digest` of the bits of any numbers, so that it does not depend on the block's shape.

    Args:
        values: (c, z, y, x).
        begin: Where the block begins in the level, voxels z, y, x.
        volume: Shape of the level, voxels z, y, x. Channels count as if they lay one behind the other along z.

    Returns:
        32 hexadecimal digits.
    """
    if values.dtype.kind == "f":
        values = values + values.dtype.type(0)  # -0 is 0: a chunk of zeros is not stored and loses the sign
    bits = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).view(f"u{values.dtype.itemsize}")
    high = low = 0
    for channel, plain in enumerate(bits):
        z, y, x = begin
        digest = block_digest(plain, (z + channel * volume[0], y, x), (len(bits) * volume[0], *volume[1:]))
        high, low = (high + (digest >> 64)) % 2**64, (low + digest) % 2**64
    return f"{high:016x}{low:016x}"


def shortened(factor: Shape, shape: Shape) -> Shape:
    """The factor, 1 along axes that are one voxel long: their voxel stays where it is."""
    return triple(f if n > 1 else 1 for f, n in zip(factor, shape, strict=True))


def piece_shape(factor: Shape) -> Shape:
    """Voxels of a level that are made at a time."""
    return triple(max(1, SIDE // f) for f in factor)


@dataclass(frozen=True)
class Layout:
    """How a level is stored and cut into blocks, voxels z, y, x."""

    chunk: Shape
    shard: Shape | None
    """None: there are none, chunks are written."""
    block: Shape
    """The shard, or several chunks."""


def layout_of(shape: Shape, chunk: Shape, shard: Shape | None, block: Shape | None) -> Layout:
    """Chunks and shards of a level: those of the finest level, as far as it is as large.

    Args:
        shape: Of the level, voxels z, y, x.
        chunk: Of the finest level.
        shard: Of the finest level; None: it has none.
        block: Asked for; it becomes the shard, or where there are none is rounded up to whole chunks. None: the shard,
            or about a cube of 256 voxels.
    """
    parts = triple(min(c, n) for c, n in zip(chunk, shape, strict=True))
    covered = triple(-(-n // c) * c for n, c in zip(shape, parts, strict=True))
    if shard is None:
        wanted = block or _several(parts, covered)
        whole = triple(min(-(-b // c) * c, n) for b, c, n in zip(wanted, parts, covered, strict=True))
        return Layout(parts, None, whole)
    whole = triple(min(b, n) for b, n in zip(block or shard, covered, strict=True))
    divisors = chunk_shape(whole)
    parts = triple(c if b % c == 0 else d for c, b, d in zip(parts, whole, divisors, strict=True))
    return Layout(parts, whole, whole)


def _several(chunk: Shape, covered: Shape) -> Shape:
    """Whole chunks, together about as large as a cube of 256 voxels."""
    counts = [min(max(1, SIDE // c), n // c) for c, n in zip(chunk, covered, strict=True)]
    while prod(c * k for c, k in zip(chunk, counts, strict=True)) > SIDE**3 and max(counts) > 1:
        largest = counts.index(max(counts))
        counts[largest] = -(-counts[largest] // 2)
    return triple(c * k for c, k in zip(chunk, counts, strict=True))


def zyx_of(axes: str, lengths: Sequence[int]) -> Shape:
    """Of lengths along all axes those along z, y, x."""
    return triple(lengths[axes.index(axis)] for axis in "zyx")


def slices_of(box: Box) -> tuple[slice, slice, slice]:
    """Where the box lies in an array of the whole."""
    z, y, x = (slice(b, e) for b, e in zip(box.begin, box.end, strict=True))
    return z, y, x


def triple(values: Iterable[int]) -> Shape:
    """Three numbers as a tuple."""
    z, y, x = values
    return z, y, x


def sum_of_levels(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """What `Downsample.blockwise` returns, from what `Task.blockwise` returned for each level."""
    seconds = sum(step["seconds"] for step in steps)
    keys = ("path", "shape", "scale_um", "digest")
    return {
        "levels": [{key: step[key] for key in keys} for step in steps],
        "digest": sha256(":".join(step["digest"] for step in steps).encode()).hexdigest()[:32],
        **{key: sum(step[key] for step in steps) for key in ("blocks", "skipped", "failed")},
        "seconds": seconds,
        "mvox_per_s": sum(step["mvox_per_s"] * step["seconds"] for step in steps) / seconds if steps else 0.0,
        "peak_memory_bytes": max((step["peak_memory_bytes"] for step in steps), default=0),
    }
