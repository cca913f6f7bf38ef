"""Calls of a head's methods in training: what goes wrong in one is told by the head's name and the method's."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from nucseg.errors import NucsegError
from nucseg.heads.base import Head


class HeadFailed(NucsegError):
    """A head's method raised an error or returned something else than it promises; its cause is that error."""


@contextmanager
def calling(head: Head, method: str) -> Iterator[None]:
    """What happens inside is a call of this method of this head.

    Raises:
        HeadFailed: Anything went wrong that nucseg does not raise on purpose.
    """
    try:
        yield
    except NucsegError:
        raise
    except NotImplementedError as error:
        if str(error):
            raise _failed(head, method, f"raised NotImplementedError: {error}") from error
        raise _failed(head, method, "is not written") from error
    except Exception as error:
        raise _failed(head, method, f"raised {type(error).__name__}: {error}") from error


def check_target(head: Head, target: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]) -> None:
    """See that a target and its weights have the shapes that training needs.

    Args:
        head: Which made them.
        target: What `Head.target` returned first.
        weight: And second.
        shape: Of the crop, z, y, x.

    Raises:
        HeadFailed: They have others.
    """
    wanted, received = ((head.target_channels, *shape), shape), (np.shape(target), np.shape(weight))
    if received != wanted:
        raise _failed(
            head,
            "target",
            f"returned a target of shape {received[0]} and a weight of shape {received[1]}, not {wanted[0]} and "
            f"{wanted[1]}",
        )


def _failed(head: Head, method: str, how: str) -> HeadFailed:
    kind = type(head)
    return HeadFailed(
        f"head {kind.__name__} (in {kind.__module__}): its method `{method}` {how}; correct the head "
        f"(nucseg.testing.check_head tests all that a head must do; --debug shows the traceback)"
    )
