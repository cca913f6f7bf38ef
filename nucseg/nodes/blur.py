"""Blur as a worse microscope would."""

import gunpowder as gp
import numpy as np
from scipy.ndimage import gaussian_filter

from nucseg.errors import InputError
from nucseg.nodes.array_augment import ArrayAugment


class Blur(ArrayAugment):
    """Convolve with a Gaussian of random width, as wide in um along each axis, or wider along z.

    Args:
        array: The array to change; channels are blurred alike.
        sigma: Interval of the standard deviation in voxels of the finest axis; along coarser axes it is fewer
            voxels, as many um.
        axial: How many times wider it is along z than in the plane: a microscope's point spread function is 2
            to 4 times as long as it is wide.
        p: Probability that it is changed.
    """

    def __init__(
        self,
        array: gp.ArrayKey,
        sigma: tuple[float, float] = (0.0, 1.0),
        *,
        axial: float = 1.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(array, p=p)
        self.sigma = self._interval("sigma", sigma, least=0.0)
        if axial <= 0:
            raise InputError(
                "Blur(axial)", expected="a positive factor", received=f"{axial}", remedy="change it"
            )
        self.axial = axial

    def augment(self, data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Separable Gaussian; the patch goes on beyond its faces with the value there."""
        voxel_um = np.array(self.scale_um)
        sigma = rng.uniform(*self.sigma) * voxel_um.min() / voxel_um
        sigma[0] *= self.axial
        return gaussian_filter(data, (*(0.0,) * (data.ndim - 3), *sigma), mode="nearest")
