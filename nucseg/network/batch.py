"""Between gunpowder's batches and what Keras trains on: keys, shapes, checks."""

import gunpowder as gp
import numpy as np

from nucseg.errors import InputError, NucsegError
from nucseg.heads.scenario import Scenario

Keys = dict[str, gp.ArrayKey]
"""An array key for each head, by the head's name."""


def keys_of(scenario: Scenario, given: Keys | None, kind: str) -> Keys:
    """A key for each head: those given, or NAME_KIND as `AddTargets` has them.

    Args:
        scenario: The heads.
        given: Keys by the heads' names; None: the names of `AddTargets`.
        kind: TARGET or WEIGHT.

    Raises:
        InputError: A head has none, or there is one without a head.
    """
    names = [head.name for head in scenario.heads]
    if given is None:
        return {name: gp.ArrayKey(f"{name.upper()}_{kind}") for name in names}
    if set(given) != set(names):
        raise InputError(
            f"{kind.lower()} keys",
            expected=f"one for each head: {', '.join(names)}",
            received=", ".join(given) or "none",
            remedy="name each head of the scenario",
        )
    return {name: given[name] for name in names}


def arrays_of(batch: gp.Batch, keys: Keys, dims: int) -> dict[str, np.ndarray]:
    """The arrays of a batch by the heads' names, with a batch axis if there was no `gp.Stack`.

    Args:
        batch: What came through the pipeline.
        keys: Of targets or weights.
        dims: Axes of one patch: 4 for targets (t, z, y, x), 3 for weights (z, y, x).
    """
    found = {name: batch[key].data for name, key in keys.items()}
    return {name: data if data.ndim == dims + 1 else data[None] for name, data in found.items()}


def network_input(
    batch: gp.Batch, raw: gp.ArrayKey, channels: int, weight: gp.ArrayKey, iteration: int
) -> np.ndarray:
    """Raw of a batch as the network takes it.

    Args:
        batch: What came through the pipeline.
        raw: Key of the raw image.
        channels: What the network takes.
        weight: Key of an array (z, y, x), which shows whether there is a batch axis.
        iteration: Of the training step, for the message.

    Returns:
        float32 (batch, z, y, x, channels), contiguous.

    Raises:
        InputError: Another number of channels.
        NucsegError: Voxels are NaN or infinite.
    """
    data = batch[raw].data if batch[weight].data.ndim == 4 else batch[raw].data[None]
    data = data[:, None] if data.ndim == 4 else data
    if data.ndim != 5 or data.shape[1] != channels:
        raise InputError(
            f"raw image {raw}",
            expected=f"{channels} channel(s)",
            received=f"a batch of shape {batch[raw].data.shape}",
            remedy="set input_channels of the network to the volumes' channels",
        )
    x = np.ascontiguousarray(np.moveaxis(data, 1, -1), dtype=np.float32)
    if not np.isfinite(x).all():  # some convolution kernels turn NaN into 0, the loss need not show it
        raise NucsegError(
            f"the raw image of iteration {iteration} has voxels that are NaN or infinite: find them with "
            "`nucseg check` and replace them"
        )
    return x
