"""What a check says about a part that breaks its contract."""

from typing import Any

from nucseg.errors import NucsegError


class ContractBroken(NucsegError):
    """A part does not keep a promise that the rest of nucseg relies on."""


def require(holds: Any, part: object, promise: str, found: Any) -> None:
    """Raise `ContractBroken` with the promise and what was found, unless it holds."""
    if not holds:
        raise ContractBroken(f"{type(part).__name__}: {promise}; found {found}")
