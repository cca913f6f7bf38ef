"""Contract checks for parts that a lab adds: one call checks a whole head or node.

>>> from nucseg.testing import check_head
>>> from nucseg.heads.three_label import ThreeLabel
>>> check_head(ThreeLabel())
"""

from importlib import import_module
from typing import Any

_HOME = {"check_head": "head", "check_node": "node"}

__all__ = ["check_head", "check_node"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nucseg.testing' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
