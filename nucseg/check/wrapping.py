"""Whether intensities were cut to 8 or 16 bits, so that bright places begin again at 0."""

import numpy as np
from numba import njit

CUBE = 4
"""Side of the cubes that `Wrapping` looks at, in voxels."""


class Wrapping:
    """Two signs that values were taken modulo 256 or 65536, counted part by part.

    Contours: where the image is smooth, it rises to the largest value and goes on from 0 (`count_contours`).
    Scrambled places: where it is steep or noisy, or was cut many times, cubes of neighbouring voxels hold all
    values alike, with neither a relation between neighbours nor a pile at one value, which clipping would leave
    (`collect_scrambled`). A volume that is so noisy that it fills its range everywhere looks the same.

    Args:
        modulus: 256 or 65536.
    """

    def __init__(self, modulus: int) -> None:
        self.modulus = modulus
        self.rising = self.falling = self.cubes = 0
        self.histogram = np.zeros(256, np.int64)
        self.products = np.zeros(2)

    def add(self, data: np.ndarray) -> None:
        """Count in one part (z, y, x) of the image, of values from 0 to `modulus` - 1."""
        part = np.ascontiguousarray(data, dtype=np.uint16)
        rising, falling = count_contours(part, self.modulus)
        self.rising, self.falling = self.rising + rising, self.falling + falling
        self.cubes += collect_scrambled(part, self.modulus, self.histogram, self.products)

    @property
    def contours(self) -> bool:
        """Whether steps of the wrapped kind outnumber the usual ones beyond chance (4 standard deviations)."""
        difference, both = self.rising - self.falling, self.rising + self.falling
        return self.rising >= 1.1 * self.falling and difference >= 4 * np.sqrt(max(both, 25))

    @property
    def scrambled(self) -> bool:
        """Whether at least 100 cubes hold all values alike and neighbours are unrelated."""
        if self.cubes < 100:
            return False
        shares = self.histogram / self.histogram.sum()
        eighths = shares.reshape(8, 32).sum(axis=1)
        flat = eighths.min() >= 0.07 and eighths.max() <= 0.2 and shares.max() <= 0.03
        return bool(flat and self.products[0] < 0.15 * self.products[1])


@njit(cache=True, nogil=True)
def collect_scrambled(data: np.ndarray, modulus: int, histogram: np.ndarray, products: np.ndarray) -> int:
    """Collect the cubes of 4 voxels a side whose standard deviation exceeds 0.21 of the modulus (uniform: 0.29).

    Args:
        data: (z, y, x) uint16.
        modulus: 256 or 65536.
        histogram: (256,) int64, gets the values in these cubes added, in steps of modulus / 256.
        products: (2,) float64, gets added the mean product of neighbours' deviations from the cube's mean, along
            y and x, and the variance.

    Returns:
        Number of such cubes.
    """
    nz, ny, nx = data.shape
    step, voxels, pairs = modulus // 256, CUBE**3, CUBE * CUBE * (CUBE - 1)
    found = 0
    for z in range(0, nz - CUBE + 1, CUBE):
        for y in range(0, ny - CUBE + 1, CUBE):
            for x in range(0, nx - CUBE + 1, CUBE):
                total, squares = 0.0, 0.0
                for index in range(voxels):
                    k, j, i = index // (CUBE * CUBE), index // CUBE % CUBE, index % CUBE
                    value = np.float64(data[z + k, y + j, x + i])
                    total += value
                    squares += value * value
                mean = total / voxels
                variance = squares / voxels - mean * mean
                if variance <= (0.21 * modulus) ** 2:
                    continue
                found += 1
                related = 0.0
                for index in range(voxels):
                    k, j, i = index // (CUBE * CUBE), index // CUBE % CUBE, index % CUBE
                    value = np.float64(data[z + k, y + j, x + i])
                    histogram[int(value) // step] += 1
                    if j + 1 < CUBE:
                        related += (value - mean) * (np.float64(data[z + k, y + j + 1, x + i]) - mean)
                    if i + 1 < CUBE:
                        related += (value - mean) * (np.float64(data[z + k, y + j, x + i + 1]) - mean)
                products[0] += related / (2 * pairs)
                products[1] += variance
    return found


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
