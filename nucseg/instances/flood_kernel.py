"""The kernel of the seeded flood; `nucseg.instances.watershed` is its public face.

The order is that of `mahotas.cwatershed`: a priority queue of (surface value, insertion number), seeds
inserted in raster order, neighbours visited in raster order, a voxel labelled when it is pushed, raw surface
values. Four things make it fast and change no label:

- Components of the foreground cannot influence each other, so each is flooded by itself with a small queue.
- A voxel that has no unlabelled neighbour when it is labelled is not pushed: it could label nothing.
- One byte per voxel (`open_links`) says which neighbours are unlabelled foreground, so that the flood reads little.
- Value and insertion number are one unsigned integer, so that one comparison orders the queue.
"""

import numpy as np
from numba import njit

from nucseg.instances.label_table import slot_of, table_of

UNKNOWN = np.uint64(0xFFFFFFFFFFFFFFFF)
"""The label of what may come from outside the region; never the id of a seed."""

_CLOSED = np.uint8(128)
_ALL_LINKS = np.uint8(63)


@njit(cache=True, nogil=True)
def open_links(foreground: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each voxel which of its neighbours are open, that is foreground without a label.

    Args:
        foreground: bool (z, y, x).
        labels: uint64 (z, y, x).

    Returns:
        uint8 (z, y, x): bits 0 to 5 for the neighbours -z, -y, -x, +x, +y, +z; bit 7 is set where the voxel
        itself is not open. Background has no links.
    """
    depth, height, width = foreground.shape
    nothing = np.uint64(0)  # typed: numba compares uint64 with a plain 0 as floats
    is_open = np.zeros((depth + 2, height + 2, width + 2), np.uint8)
    for z in range(depth):
        for y in range(height):
            inside, label, row = foreground[z, y], labels[z, y], is_open[z + 1, y + 1, 1 : width + 1]
            for x in range(width):
                row[x] = np.uint8(inside[x] & (label[x] == nothing))
    links = np.empty((depth, height, width), np.uint8)
    for z in range(depth):
        for y in range(height):
            inside, row = foreground[z, y], links[z, y]
            here = is_open[z + 1, y + 1]
            below, above = is_open[z, y + 1, 1 : width + 1], is_open[z + 2, y + 1, 1 : width + 1]
            before, after = is_open[z + 1, y, 1 : width + 1], is_open[z + 1, y + 2, 1 : width + 1]
            for x in range(width):
                link = (
                    below[x] + 2 * before[x] + 4 * here[x] + 8 * here[x + 2] + 16 * after[x] + 32 * above[x]
                )
                row[x] = np.uint8(link * inside[x] + 128 * (here[x + 1] == 0))
    return links


@njit(cache=True, nogil=True)
def replace_seeds(
    labels: np.ndarray, foreground: np.ndarray, ids: np.ndarray, replacement: np.uint64
) -> None:
    """In place: seeds outside the foreground become 0, and those with one of `ids` (uint64) the replacement."""
    depth, height, width = labels.shape
    keys, _ = table_of(ids)
    nothing = np.uint64(0)
    for z in range(depth):
        for y in range(height):
            row, inside = labels[z, y], foreground[z, y]
            for x in range(width):
                label = row[x]
                if label != nothing:
                    if not inside[x]:
                        row[x] = nothing
                    elif ids.size > 0 and keys[slot_of(keys, label)] == label:
                        row[x] = replacement


@njit(cache=True, nogil=True)
def take_unknown(labels: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """In place: UNKNOWN becomes 0. Returns its count in the box [begin, end) and its bounding box, int64 (7,)."""
    depth, height, width = labels.shape
    found = np.array([0, depth, height, width, 0, 0, 0])
    nothing = np.uint64(0)
    for z in range(depth):
        for y in range(height):
            row = labels[z, y]
            counts = begin[0] <= z < end[0] and begin[1] <= y < end[1]
            for x in range(width):
                if row[x] == UNKNOWN:
                    row[x] = nothing
                    if counts and begin[2] <= x < end[2]:
                        found[0] += 1
                        found[1], found[4] = min(found[1], z), max(found[4], z + 1)
                        found[2], found[5] = min(found[2], y), max(found[5], y + 1)
                        found[3], found[6] = min(found[3], x), max(found[6], x + 1)
    return found


@njit(cache=True, nogil=True, inline="always")
def _key(bits: np.uint32, insertion: int) -> np.uint64:
    """(value, insertion number) as one integer with the same order; `bits` are those of a float32."""
    if bits == np.uint32(0x80000000):  # -0.0 is equal to 0.0
        bits = np.uint32(0)
    if bits & np.uint32(0x80000000):
        ordered = np.uint64(~bits & np.uint32(0xFFFFFFFF))
    else:
        ordered = np.uint64(bits | np.uint32(0x80000000))
    return (ordered << np.uint64(32)) | np.uint64(insertion)


@njit(cache=True, nogil=True)
def _sift_up(keys: np.ndarray, places: np.ndarray, size: int, key: np.uint64, place: int) -> None:
    """Insert into a 4-ary heap of `size` entries."""
    hole = size
    while hole > 0:
        parent = (hole - 1) >> 2
        if keys[parent] <= key:
            break
        keys[hole] = keys[parent]
        places[hole] = places[parent]
        hole = parent
    keys[hole] = key
    places[hole] = place


@njit(cache=True, nogil=True)
def _remove_first(keys: np.ndarray, places: np.ndarray, size: int) -> None:
    """Remove the first of `size` entries of a 4-ary heap."""
    last = size - 1
    key, place = keys[last], places[last]
    hole = 0
    while True:
        child = 4 * hole + 1
        if child >= last:
            break
        best = child
        for other in range(child + 1, min(child + 4, last)):
            if keys[other] < keys[best]:
                best = other
        if keys[best] >= key:
            break
        keys[hole] = keys[best]
        places[hole] = places[best]
        hole = best
    keys[hole] = key
    places[hole] = place


@njit(cache=True, nogil=True)
def _group_seeds(
    labels: np.ndarray, links: np.ndarray, components: np.ndarray, firsts: np.ndarray
) -> np.ndarray:
    """Places of the labelled voxels with an open neighbour, by component, in raster order within each.

    Those of component c are `places[firsts[c] : firsts[c + 1]]`. `firsts`, int64 (components + 2,) as the background
    is component 0, comes in as zeros and is filled.
    """
    nothing = np.uint64(0)
    for place in range(labels.size):
        if (links[place] & _ALL_LINKS) != 0 and labels[place] != nothing:
            firsts[components[place] + 1] += 1
    for component in range(1, firsts.size):
        firsts[component] += firsts[component - 1]
    places = np.empty(firsts[-1], np.int64)
    filled = firsts.copy()
    for place in range(labels.size):
        if (links[place] & _ALL_LINKS) != 0 and labels[place] != nothing:
            component = components[place]
            places[filled[component]] = place
            filled[component] += 1
    return places


@njit(cache=True, nogil=True)
def _reached(components: np.ndarray, count: int, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Which components have a voxel in the box [begin, end), bool (count + 1,)."""
    reached = np.zeros(count + 1, np.bool_)
    for z in range(begin[0], end[0]):
        for y in range(begin[1], end[1]):
            row = components[z, y]
            for x in range(begin[2], end[2]):
                reached[row[x]] = True
    reached[0] = False
    return reached


@njit(cache=True, nogil=True)
def _finite_order(bits: np.ndarray, components: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether no wanted component has a NaN, of which float32 `bits` are given."""
    for place in range(bits.size):
        if (bits[place] & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) and wanted[components[place]]:
            return False
    return True


@njit(cache=True, nogil=True)
def flood_components(
    bits: np.ndarray,
    labels: np.ndarray,
    links: np.ndarray,
    components: np.ndarray,
    count: int,
    begin: np.ndarray,
    end: np.ndarray,
) -> bool:
    """Flood every component of the foreground that has a voxel in the box [begin, end).

    Args:
        bits: Bits of the float32 surface, uint32 (z, y, x).
        labels: Seeds, uint64 (z, y, x), UNKNOWN for what goes first; overwritten with the result.
        links: What `open_links` returned; overwritten.
        components: 6-connected components of the foreground, numbered from 1 (z, y, x).
        count: Their number.
        begin: First voxel of the box, int64 (3,).
        end: Behind its last voxel, int64 (3,).

    Returns:
        False when the surface holds a NaN in one of these components; nothing is flooded then.
    """
    size = labels.size
    wanted = _reached(components, count, begin, end)
    if not _finite_order(bits.ravel(), components.ravel(), wanted):
        return False
    firsts = np.zeros(count + 2, np.int64)
    seeds = _group_seeds(labels.ravel(), links.ravel(), components.ravel(), firsts)
    offsets = np.array([-labels.shape[1] * labels.shape[2], -labels.shape[2], -1, 0, 0, 0])
    offsets[3:] = -offsets[2::-1]
    keys = np.empty(4096, np.uint64)
    places = np.empty(4096, np.int64)
    flat_bits, flat_labels = bits.ravel(), labels.ravel()
    for component in range(1, count + 1):
        first, last = firsts[component], firsts[component + 1]
        if not wanted[component] or first == last:
            continue
        while keys.size < last - first + 6:
            keys, places = _longer(keys, places)
        for i in range(first, last):
            place = seeds[i]
            insertion = place if flat_labels[place] == UNKNOWN else size + place
            _sift_up(keys, places, i - first, _key(flat_bits[place], insertion), place)
        heap, inserted = last - first, 2 * size
        while heap > 0:
            heap, inserted = _drain(
                flat_bits, flat_labels, links.ravel(), offsets, keys, places, heap, inserted
            )
            if heap > 0:
                keys, places = _longer(keys, places)
    return True


@njit(cache=True, nogil=True)
def _longer(keys: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A queue of twice the capacity."""
    return np.concatenate((keys, np.empty_like(keys))), np.concatenate((places, np.empty_like(places)))


@njit(cache=True, nogil=True)
def _drain(
    bits: np.ndarray,
    labels: np.ndarray,
    links: np.ndarray,
    offsets: np.ndarray,
    keys: np.ndarray,
    places: np.ndarray,
    heap: int,
    inserted: int,
) -> tuple[int, int]:
    """Flood until the queue is empty or has no room for six more; returns its size and the insertion number."""
    while heap > 0 and heap + 6 <= keys.size:
        place = places[0]
        _remove_first(keys, places, heap)
        heap -= 1
        label = labels[place]
        todo = links[place]
        for k in range(6):
            if not todo & (1 << k):
                continue
            other = place + offsets[k]
            link = links[other]
            if link & _CLOSED:  # labelled since the link was made
                continue
            labels[other] = label
            links[other] = link | _CLOSED
            for j in range(6):
                if link & (1 << j):  # tell the open neighbours, for which this is the opposite direction
                    links[other + offsets[j]] &= np.uint8(255 - (1 << (5 - j)))
            if link & _ALL_LINKS:
                _sift_up(keys, places, heap, _key(bits[other], inserted), other)
                heap += 1
            inserted += 1
    return heap, inserted
