"""A digest of a label array's values that blocks can compute apart and add up.

The digest of a block is a sum, over its labelled voxels, of a hash of (linear index in the whole volume,
label). So it does not depend on the block's shape, and the sum over blocks that tile the volume does not
depend on their order or number. It is a checksum against damage and mistakes, not against an adversary.
"""

from collections.abc import Iterable
from hashlib import sha256

import numpy as np
from numba import njit

from nucseg.instances.centroids import label_array

_LANE = 2**64
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd


def block_digest(labels: np.ndarray, begin: tuple[int, int, int], volume_shape: tuple[int, int, int]) -> int:
    """Digest of one block.

    Args:
        labels: Integer array (z, y, x); the type does not matter, the values do.
        begin: Where the block begins in the whole volume, voxels z,y,x.
        volume_shape: Shape of the whole volume, voxels z,y,x.

    Returns:
        Two independent 64-bit sums in one integer below 2 ** 128; 0 for a block without labels.

    Raises:
        InputError: `labels` is not a three-dimensional integer array.
    """
    high, low = _sums(label_array(labels), np.array(begin, np.int64), np.array(volume_shape, np.int64))
    return int(high) * _LANE + int(low)


def array_digest(values: np.ndarray) -> str:
    """Digest of an array of any numbers: of its dtype, shape and values, not of how it lies in memory or on disk.

    Negative zeros count as zeros, because a chunk of zeros is not stored and comes back without their sign.

    Args:
        values: Any shape and numeric dtype.

    Returns:
        32 hexadecimal digits.
    """
    portable = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    if portable.dtype.kind == "f":
        portable = portable + portable.dtype.type(0)
    digest = sha256(f"{portable.dtype.str}:{'x'.join(map(str, portable.shape))}:".encode())
    digest.update(portable.reshape(-1).view(np.uint8))
    return digest.hexdigest()[:32]


def combine(digests: Iterable[int], volume_shape: tuple[int, int, int]) -> str:
    """Digest of a whole volume from those of the blocks that tile it.

    Args:
        digests: What `block_digest` returned for each block, in any order.
        volume_shape: Shape of the whole volume, voxels z,y,x.

    Returns:
        32 hexadecimal digits.
    """
    total = 0
    for digest in digests:
        total = add_digests(total, digest)
    shape = "x".join(str(int(n)) for n in volume_shape)
    return sha256(f"{shape}:{total:032x}".encode()).hexdigest()[:32]


def add_digests(one: int, other: int) -> int:
    """`block_digest` of two blocks together, from those of each; both are below 2 ** 128."""
    high = (one // _LANE + other // _LANE) % _LANE
    low = (one % _LANE + other % _LANE) % _LANE
    return high * _LANE + low


@njit(cache=True, nogil=True, inline="always")
def _mix(value: np.uint64) -> np.uint64:
    """Finalizer of SplitMix64 (Steele, Lea and Flood, 2014): a bijection that scatters all bits."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True, nogil=True)
def _sums(labels: np.ndarray, begin: np.ndarray, volume_shape: np.ndarray) -> tuple[np.uint64, np.uint64]:
    depth, height, width = labels.shape
    nothing = np.uint64(0)  # typed: numba compares uint64 with a plain 0 as floats
    high = low = nothing
    for z in range(depth):
        for y in range(height):
            first = ((begin[0] + z) * volume_shape[1] + begin[1] + y) * volume_shape[2] + begin[2]
            last_label = nothing
            salt = nothing
            for x in range(width):
                label = np.uint64(labels[z, y, x])
                if label == nothing:
                    continue
                if label != last_label:
                    last_label = label
                    salt = _mix(label + _GOLDEN)
                one = _mix((np.uint64(first + x) * _GOLDEN) ^ salt)
                low += one
                high += _mix(one + _GOLDEN)
    return high, low
