"""Change contrast and brightness linearly."""

import gunpowder as gp
import numpy as np

from nucseg.nodes.array_augment import ArrayAugment


class ScaleShift(ArrayAugment):
    """Scale intensities about their mean in the patch, and shift them; nothing is clipped.

    Args:
        array: The array to change; each channel has its own mean, all share the factor and the shift.
        scale: Interval of the factor.
        shift: Interval of what is added, in normalised intensities.
        p: Probability that it is changed.
    """

    def __init__(
        self,
        array: gp.ArrayKey,
        scale: tuple[float, float] = (0.9, 1.1),
        shift: tuple[float, float] = (-0.1, 0.1),
        *,
        p: float = 1.0,
    ) -> None:
        super().__init__(array, p=p)
        self.scale = self._interval("scale", scale, least=0.0)
        self.shift = self._interval("shift", shift, least=None)

    def augment(self, data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`mean + scale * (data - mean) + shift`."""
        scale, shift = rng.uniform(*self.scale), rng.uniform(*self.shift)
        mean = data.mean(axis=(-3, -2, -1), keepdims=True, dtype=np.float64)
        data *= scale
        data += ((1 - scale) * mean + shift).astype(data.dtype)
        return data
