"""Blocks: how a volume is cut for writing, and the boxes that are read around them."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from nucseg.errors import InputError

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """A box of voxels, z, y, x: `begin` is inside, `end` is not."""

    begin: Shape
    end: Shape

    @property
    def shape(self) -> Shape:
        """Voxels along z, y, x."""
        return _triple(e - b for b, e in zip(self.begin, self.end, strict=True))

    @property
    def voxels(self) -> int:
        """Number of voxels in the box."""
        return prod(self.shape)

    def grown(self, voxels: int, within: Shape) -> "Box":
        """The box with a margin on every side, clipped to a volume of shape `within`."""
        return Box(
            _triple(max(0, b - voxels) for b in self.begin),
            _triple(min(n, e + voxels) for e, n in zip(self.end, within, strict=True)),
        )

    def inside(self, outer: "Box") -> tuple[slice, slice, slice]:
        """Where this box lies in an array that holds the voxels of `outer`."""
        z, y, x = (slice(b - o, e - o) for b, e, o in zip(self.begin, self.end, outer.begin, strict=True))
        return z, y, x

    def __str__(self) -> str:
        return "[" + ", ".join(f"{b}:{e}" for b, e in zip(self.begin, self.end, strict=True)) + "]"


@dataclass(frozen=True)
class Block(Box):
    """One unit of work: the box that is written, clipped to the volume, and its place in the grid."""

    index: Shape


@dataclass(frozen=True)
class Grid:
    """A volume of shape `volume` cut into blocks of shape `block`; the last along an axis may be smaller."""

    volume: Shape
    block: Shape

    def __post_init__(self) -> None:
        if min(self.block) < 1:
            raise InputError(
                "block",
                expected="three positive numbers of voxels (z, y, x)",
                received=str(self.block),
                remedy="give a larger block, or none to have one chosen",
            )

    @property
    def shape(self) -> Shape:
        """Blocks along z, y, x."""
        return _triple(-(-n // b) for n, b in zip(self.volume, self.block, strict=True))

    def __len__(self) -> int:
        return prod(self.shape)

    def __iter__(self) -> Iterator[Block]:
        nz, ny, nx = self.shape
        return (self[z, y, x] for z in range(nz) for y in range(ny) for x in range(nx))

    def __getitem__(self, index: Shape) -> Block:
        begin = _triple(i * b for i, b in zip(index, self.block, strict=True))
        end = _triple(min(n, o + b) for n, o, b in zip(self.volume, begin, self.block, strict=True))
        return Block(begin, end, index)


def clipped(block: Shape, volume: Shape) -> Shape:
    """The block, no larger than the volume."""
    return _triple(min(b, n) for b, n in zip(block, volume, strict=True))


def default_block(volume: Shape) -> Shape:
    """256 voxels a side; 128 where that would leave a single block."""
    block = clipped((256, 256, 256), volume)
    return block if block != volume else clipped((128, 128, 128), volume)


def chunk_shape(shard: Shape) -> Shape:
    """Chunks inside a shard: along each axis the largest divisor from 16 to 64, else the whole shard.

    Chunks have to divide the shard; one voxel along an axis (all that a prime leaves) would be unusable.
    """
    return _triple(max((d for d in range(16, min(n, 64) + 1) if n % d == 0), default=n) for n in shard)


def _triple(values: "Iterator[int]") -> Shape:
    z, y, x = values
    return z, y, x
