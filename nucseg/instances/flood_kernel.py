"""The kernel of the seeded flood; `nucseg.instances.watershed` is its public face.

The order is that of `mahotas.cwatershed`: a priority queue of (surface value, insertion number), seeds
inserted in raster order, neighbours visited in raster order, a voxel labelled when it is pushed, raw surface
values. Three things make it fast and change no label:

- Components of the foreground cannot influence each other, so each is flooded by itself with a small queue.
- A voxel that has no unlabelled neighbour when it is labelled is not pushed: it could label nothing.
- Value and insertion number are one unsigned integer, so that one comparison orders the queue.
"""

import numpy as np
from numba import njit

UNKNOWN = np.uint64(0xFFFFFFFFFFFFFFFF)
"""The label of what may come from outside the region; never the id of a seed."""

_VISITED = np.uint8(64)


@njit(cache=True, nogil=True)
def foreground_links(foreground: np.ndarray) -> np.ndarray:
    """For each foreground voxel which of its neighbours are foreground: bits 0 to 5 = -z, -y, -x, +x, +y, +z.

    Background voxels have no link and, other than foreground voxels, are marked as visited.
    """
    depth, height, width = foreground.shape
    links = np.zeros((depth, height, width), np.uint8)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if not foreground[z, y, x]:
                    links[z, y, x] = _VISITED
                    continue
                bits = 0
                if z > 0 and foreground[z - 1, y, x]:
                    bits |= 1
                if y > 0 and foreground[z, y - 1, x]:
                    bits |= 2
                if x > 0 and foreground[z, y, x - 1]:
                    bits |= 4
                if x + 1 < width and foreground[z, y, x + 1]:
                    bits |= 8
                if y + 1 < height and foreground[z, y + 1, x]:
                    bits |= 16
                if z + 1 < depth and foreground[z + 1, y, x]:
                    bits |= 32
                links[z, y, x] = bits
    return links


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
def _has_open_neighbour(links: np.ndarray, labels: np.ndarray, offsets: np.ndarray, place: int) -> bool:
    bits = links[place]
    for k in range(6):  # noqa: SIM110 (numba compiles the loop)
        if bits & (1 << k) and labels[place + offsets[k]] == 0:
            return True
    return False


@njit(cache=True, nogil=True)
def flood_components(
    bits: np.ndarray, labels: np.ndarray, links: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> bool:
    """Flood every component of the foreground that has a voxel in the box [begin, end).

    Args:
        bits: Bits of the float32 surface, uint32 (z, y, x).
        labels: Seeds, uint64 (z, y, x), UNKNOWN for what goes first; overwritten with the result.
        links: What `foreground_links` returned; marks visited voxels.
        begin: First voxel of the box, int64 (3,).
        end: Behind its last voxel, int64 (3,).

    Returns:
        False when the surface holds a NaN in one of these components; the labels are then worthless.
    """
    depth, height, width = labels.shape
    size = depth * height * width
    offsets = np.array([-height * width, -width, -1, 1, width, height * width])
    flat_bits, flat_labels, flat_links = bits.ravel(), labels.ravel(), links.ravel()
    stack = np.empty(4096, np.int64)
    keys = np.empty(4096, np.uint64)
    places = np.empty(4096, np.int64)
    for z in range(begin[0], end[0]):
        for y in range(begin[1], end[1]):
            for x in range(begin[2], end[2]):
                start = (z * height + y) * width + x
                if flat_links[start] & _VISITED:
                    continue
                # walk over the component and put its seeds into the queue
                heap = 0
                top = 1
                stack[0] = start
                flat_links[start] |= _VISITED
                while top > 0:
                    top -= 1
                    place = stack[top]
                    if (flat_bits[place] & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
                        return False
                    if top + 6 > stack.size:
                        stack = np.concatenate((stack, np.empty(stack.size, np.int64)))
                    open_neighbour = False
                    link = flat_links[place]
                    for k in range(6):
                        if link & (1 << k):
                            other = place + offsets[k]
                            open_neighbour |= flat_labels[other] == 0
                            if not flat_links[other] & _VISITED:
                                flat_links[other] |= _VISITED
                                stack[top] = other
                                top += 1
                    label = flat_labels[place]
                    if label != 0 and open_neighbour:
                        if heap == keys.size:
                            keys = np.concatenate((keys, np.empty(heap, np.uint64)))
                            places = np.concatenate((places, np.empty(heap, np.int64)))
                        insertion = place if label == UNKNOWN else size + place
                        _sift_up(keys, places, heap, _key(flat_bits[place], insertion), place)
                        heap += 1
                # flood it
                insertion = 2 * size
                while heap > 0:
                    place = places[0]
                    _remove_first(keys, places, heap)
                    heap -= 1
                    label = flat_labels[place]
                    link = flat_links[place]
                    for k in range(6):
                        if link & (1 << k):
                            other = place + offsets[k]
                            if flat_labels[other] == 0:
                                flat_labels[other] = label
                                if _has_open_neighbour(flat_links, flat_labels, offsets, other):
                                    if heap == keys.size:
                                        keys = np.concatenate((keys, np.empty(heap, np.uint64)))
                                        places = np.concatenate((places, np.empty(heap, np.int64)))
                                    _sift_up(keys, places, heap, _key(flat_bits[other], insertion), other)
                                    heap += 1
                                insertion += 1
    return True
