"""What a check reports."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Finding(BaseModel):
    """One observation about a volume or its labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    """Short name that scripts can rely on, e.g. "slivers"."""
    severity: Literal["error", "warning", "info"]
    """error: training or segmenting this is in vain; warning: look at it; info: good to know."""
    message: str
    """What was expected, what was found, what to do."""
    where: str = ""
    """Channel, label ids or voxel coordinates (z, y, x); empty if it is about the whole volume."""


def finding(
    code: str,
    severity: Literal["error", "warning", "info"],
    *,
    expected: str,
    received: str,
    remedy: str,
    where: str = "",
) -> Finding:
    """A finding whose message has the form of nucseg's errors."""
    message = f"expected {expected}; received {received}; {remedy}"
    return Finding(code=code, severity=severity, message=message, where=where)


def some(values: list[int], most: int = 8) -> str:
    """The first few of many numbers."""
    return ", ".join(map(str, values[:most])) + (
        f", ... ({len(values)} in all)" if len(values) > most else ""
    )
