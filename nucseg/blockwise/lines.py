"""Records of blocks that stay on disk: what is held of a block is where its line is."""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nucseg.blockwise.grid import Grid, Shape
from nucseg.errors import NucsegError

BITS = 21
"""Of an index along one axis: 2 million blocks; three of them make a key of 63 bits."""
OPEN = 16
"""Files that are kept open."""

Line = dict[str, Any]


def read_lines(file: Path, containing: bytes = b"") -> Iterator[tuple[int, Line]]:
    """The lines of a file, one after the other, with the byte where each begins.

    A line that a killed worker left torn is no line.

    Args:
        file: One JSON object a line.
        containing: Lines without these bytes are passed over.
    """
    place = 0
    with file.open("rb") as stream:
        for text in stream:
            if containing in text:
                try:
                    line = json.loads(text)
                except ValueError:
                    pass
                else:
                    yield place, line
            place += len(text)


class Lines(Mapping[Shape, Line]):
    """One line a block, by the block's place in the grid; 24 bytes of memory each, a line is read when it is asked for.

    Args:
        files: Where lines are.
        places: Of each line key (`key_of`), number of its file, and byte; of several of one block the last counts.
    """

    def __init__(self, files: Sequence[Path], places: "Places") -> None:
        keys = np.frombuffer(places.keys, np.int64)
        order = np.argsort(keys, kind="stable")
        last = np.append(keys[order][1:] != keys[order][:-1], True)[: len(keys)]
        order = order[last]
        self._keys = keys[order]
        self._numbers = np.frombuffer(places.numbers, np.int64)[order]
        self._bytes = np.frombuffer(places.bytes, np.int64)[order]
        self._files = list(files)
        self._open: dict[int, BinaryIO] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Shape]:
        mask = (1 << BITS) - 1
        for key in self._keys:
            yield int(key) >> 2 * BITS, int(key) >> BITS & mask, int(key) & mask

    def __contains__(self, index: object) -> bool:
        return self._find(index) is not None

    def __getitem__(self, index: Shape) -> Line:
        place = self._find(index)
        if place is None:
            raise KeyError(index)
        return self._read(place)

    def by_file(self) -> Iterator[Line]:
        """All lines in the order in which they lie on disk: the fastest."""
        for place in np.lexsort((self._bytes, self._numbers)):
            yield self._read(int(place))

    def mark(self, mask: np.ndarray) -> None:
        """Set the places of all blocks in an array of the grid's shape to 1."""
        axis = (1 << BITS) - 1
        mask[self._keys >> 2 * BITS, self._keys >> BITS & axis, self._keys & axis] = 1

    def _find(self, index: Any) -> int | None:
        key = key_of(index)
        place = int(np.searchsorted(self._keys, key))
        return place if place < len(self._keys) and self._keys[place] == key else None

    def _read(self, place: int) -> Line:
        number = int(self._numbers[place])
        stream = self._open.pop(number, None) or self._files[number].open("rb")
        self._open[number] = stream  # the newest is the last
        if len(self._open) > OPEN:
            self._open.pop(next(iter(self._open))).close()
        stream.seek(int(self._bytes[place]))
        try:
            line: Line = json.loads(stream.readline())
            same = key_of(line["block"]) == self._keys[place]
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise NucsegError(f"{self._files[number]} was changed while it was read; do this again")
        return line

    def __del__(self) -> None:
        for stream in getattr(self, "_open", {}).values():
            stream.close()


class Places:
    """Where lines are, as they are found."""

    def __init__(self) -> None:
        self.keys, self.numbers, self.bytes = array("q"), array("q"), array("q")

    def add(self, index: Shape, number: int, place: int) -> None:
        """Note a line of a block: number of its file, and byte."""
        self.keys.append(key_of(index))
        self.numbers.append(number)
        self.bytes.append(place)


class InOrder(Sequence[Line]):
    """The lines of all blocks of a grid in the grid's order, each read when it is come to.

    Args:
        lines: One for each block.
        grid: The grid.
    """

    def __init__(self, lines: Mapping[Shape, Line], grid: Grid) -> None:
        self._lines, self._grid = lines, grid

    def __len__(self) -> int:
        return len(self._grid)

    def __iter__(self) -> Iterator[Line]:
        return (self._lines[block.index] for block in self._grid)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        z, y, x = (int(i) for i in np.unravel_index(place % len(self), self._grid.shape))
        return self._lines[z, y, x]


def key_of(index: Shape) -> int:
    """A block's place in the grid as one number; as places in z, y, x order, so are these."""
    z, y, x = index
    return z << 2 * BITS | y << BITS | x
