"""Change contrast by a power."""

import gunpowder as gp
import numpy as np

from nucseg.nodes.array_augment import ArrayAugment


class Gamma(ArrayAugment):
    """Raise intensities to a random power, which brightens (below 1) or darkens (above 1) the middle.

    0 and 1 stay where they are, and so do negative values: what lies below the low end of the normalisation.

    Args:
        array: The array to change.
        gamma: Interval of the power, drawn so that brightening and darkening are equally strong (uniform in
            the logarithm).
        p: Probability that it is changed.
    """

    def __init__(
        self, array: gp.ArrayKey, gamma: tuple[float, float] = (0.7, 1.4), *, p: float = 1.0
    ) -> None:
        super().__init__(array, p=p)
        self.gamma = self._interval("gamma", gamma, least=1e-3)

    def augment(self, data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`data ** gamma` where it is positive."""
        gamma = float(np.exp(rng.uniform(*np.log(self.gamma))))
        return np.power(data, gamma, out=data, where=data > 0)
