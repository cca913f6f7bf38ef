"""Add the noise of the camera."""

import gunpowder as gp
import numpy as np

from nucseg.nodes.array_augment import ArrayAugment


class GaussianNoise(ArrayAugment):
    """Add independent normal noise to every voxel: read-out noise, the same everywhere.

    Args:
        array: The array to change.
        sigma: Interval of the noise's standard deviation, in normalised intensities.
        p: Probability that it is changed.
    """

    def __init__(
        self, array: gp.ArrayKey, sigma: tuple[float, float] = (0.0, 0.1), *, p: float = 1.0
    ) -> None:
        super().__init__(array, p=p)
        self.sigma = self._interval("sigma", sigma, least=0.0)

    def augment(self, data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`data + sigma * normal`."""
        sigma = rng.uniform(*self.sigma)
        noise = rng.standard_normal(data.shape, dtype=np.float32)
        noise *= sigma
        return data + noise
