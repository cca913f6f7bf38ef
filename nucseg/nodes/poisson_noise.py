"""Add the noise of counting photons."""

import gunpowder as gp
import numpy as np

from nucseg.nodes.array_augment import ArrayAugment


class PoissonNoise(ArrayAugment):
    """Replace intensities by photon counts of the same mean: noise that grows with the root of the signal.

    Values at or below 0, the dark end of the normalisation, have no photons and stay.

    Args:
        array: The array to change.
        photons: Interval of the number of photons at intensity 1, uniform in the logarithm. Fewer photons are
            more noise: the standard deviation at intensity 1 is 1 / sqrt(photons).
        p: Probability that it is changed.
    """

    def __init__(
        self, array: gp.ArrayKey, photons: tuple[float, float] = (30.0, 300.0), *, p: float = 1.0
    ) -> None:
        super().__init__(array, p=p)
        self.photons = self._interval("photons", photons, least=1e-3)

    def augment(self, data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`Poisson(photons * data) / photons` where data is positive."""
        photons = float(np.exp(rng.uniform(*np.log(self.photons))))
        counts = rng.poisson(np.maximum(data, 0) * photons).astype(data.dtype)
        counts /= photons
        return counts + np.minimum(data, 0)
