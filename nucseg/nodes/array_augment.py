"""Base of augmentations that change the values of one array."""

import gunpowder as gp
import numpy as np

from nucseg.errors import InputError


class ArrayAugment(gp.BatchFilter):
    """Change the intensities of one array at random; a new augmentation is one method.

    >>> from nucseg import ArrayAugment
    >>> class Brightness(ArrayAugment):
    ...     def augment(self, data, rng):
    ...         return data + rng.uniform(-0.2, 0.2)

    The generator follows from the request's random seed, so the same request gives the same result. While
    `augment` runs, `self.scale_um` is the array's voxel size (z, y, x; 1, 1, 1 when unknown).
    `nucseg.testing.check_node` checks a node in one call.

    Args:
        array: The array to change; requests without it pass by.
        p: Probability that it is changed.

    Raises:
        InputError: `p` is no probability, the array is not provided upstream, or `augment` returned another
            shape or kind of numbers.
    """

    def __init__(self, array: gp.ArrayKey, *, p: float = 1.0) -> None:
        if not 0 <= p <= 1:
            raise InputError(
                f"{type(self).__name__}(p)",
                expected="a probability, 0 to 1",
                received=f"{p}",
                remedy="change it",
            )
        self.array = array
        self.p = p
        self.scale_um: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def augment(self, data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the changed array; to be written by subclasses.

        Args:
            data: (z, y, x), or (c, z, y, x) for several channels, normalised intensities; may
                be changed in place.
            rng: Where all randomness must come from.

        Returns:
            An array of the same shape and kind of numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define augment(data, rng)")

    def setup(self) -> None:
        """Announce the array unchanged in shape, place and type."""
        if self.array not in self.spec:
            raise InputError(
                type(self).__name__,
                expected=f"{self.array} to be provided upstream",
                received="a pipeline without it",
                remedy="check the keys of the source",
            )
        self.enable_autoskip()
        self.updates(self.array, self.spec[self.array])

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        """Ask for the array as it is requested, and seed the generator."""
        self._rng = np.random.default_rng(request.random_seed)
        needed = gp.BatchRequest()
        needed[self.array] = request[self.array].copy()
        return needed

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> gp.Batch:
        """Change the array with probability `p`."""
        out = gp.Batch()
        array = out[self.array] = batch[self.array]
        if self._rng.random() >= self.p:
            return out
        self.scale_um = array.attrs.get("scale_um") or (1.0, 1.0, 1.0)
        data = np.asarray(self.augment(array.data.copy(), self._rng))
        if data.shape != array.data.shape or data.dtype.kind != array.data.dtype.kind:
            raise InputError(
                f"{type(self).__name__}.augment",
                expected=f"an array like the one given, {array.data.dtype} {array.data.shape}",
                received=f"{data.dtype} {data.shape}",
                remedy="return what has the shape and kind of numbers of `data`",
            )
        out[self.array] = gp.Array(data.astype(array.data.dtype, copy=False), array.spec, array.attrs)
        return out

    def _interval(self, name: str, interval: tuple[float, float], least: float | None) -> tuple[float, float]:
        """An argument `(low, high)`, checked."""
        low, high = map(float, interval)
        if not (np.isfinite([low, high]).all() and low <= high and (least is None or low >= least)):
            bound = "" if least is None else f", {least:g} <= low"
            raise InputError(
                f"{type(self).__name__}({name})",
                expected=f"(low, high) with low <= high{bound}",
                received=f"{interval}",
                remedy="change it",
            )
        return low, high
