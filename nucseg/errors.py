"""What nucseg raises for a user to read."""

import re
from collections.abc import Mapping
from typing import Any


class NucsegError(Exception):
    """Base of all errors raised on purpose by nucseg; its message is written for the user."""


class InputError(NucsegError, ValueError):
    """Input, a setting or a path that cannot be used as it is.

    The message has one form everywhere: what it is about, what was expected, what was received, what to do.

    Args:
        what: The thing that is wrong, by the name the user knows it by (a path, an option, a field).
        expected: What would have been right.
        received: What was there instead.
        remedy: What to do about it.
    """

    def __init__(self, what: str, *, expected: str, received: str, remedy: str) -> None:
        self.what, self.expected, self.received, self.remedy = what, expected, received, remedy
        super().__init__(f"{what}: expected {expected}; received {received}; {remedy}")

    def within(self, place: str) -> "InputError":
        """The same error, told of a place, such as the file that it is in."""
        return InputError(
            f"{place}: {self.what}", expected=self.expected, received=self.received, remedy=self.remedy
        )

    def __reduce__(self) -> tuple:
        """Errors cross process borders: rebuild from the four parts, not from the joined message."""
        return _rebuild, (type(self), self.what, self.expected, self.received, self.remedy)


class BlocksFailed(NucsegError):
    """A blockwise run that ended with blocks undone; names them and says where their logs are.

    Args:
        message: For the user: the first blocks, why, and where the logs are.
        blocks: How many blocks the task has.
        skipped: How many an earlier run had done.
        undone: Each block that is not done, as `[z0:z1, y0:y1, x0:x1]`.
    """

    def __init__(self, message: str, *, blocks: int, skipped: int, undone: list[str]) -> None:
        self.blocks, self.skipped, self.undone = blocks, skipped, undone
        super().__init__(message)

    def to_json(self) -> dict[str, object]:
        """What `--json` prints of a run that failed in part."""
        return {
            "blocks": self.blocks,
            "skipped": self.skipped,
            "failed": len(self.undone),
            "failed_blocks": self.undone,
        }


def own_cause(error: BaseException) -> NucsegError | None:
    """The error of ours that another library, such as gunpowder, wrapped in its own; None where there is none."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        if isinstance(found, NucsegError):
            return found
        seen.add(id(found))
        found = found.__cause__ or found.__context__
    return None


def expected_of(problem: Mapping[str, Any]) -> str:
    """What would have been right, from a problem that pydantic found in a setting.

    Args:
        problem: One of `ValidationError.errors()`. A validator of our own says in its `ValueError` what is expected.
    """
    said: str = problem["msg"]
    if problem["type"] == "missing":
        return "a value"
    if problem["type"] == "extra_forbidden":
        return "no such key"
    said = said.removeprefix("Value error, ").removeprefix("Input should be ")
    said = re.sub(r"^\w+ should have ", "", said).replace(" after validation", "")
    said = re.sub(r"^String should match pattern ", "text that matches the pattern ", said)
    said = re.sub(r"^(greater|less) than ", r"a number \1 than ", said)
    return said.split(", unable to parse")[0]


def short(value: Any, most: int = 80) -> str:
    """A value as a message shows it: its `repr`, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def _rebuild(kind: type[InputError], what: str, expected: str, received: str, remedy: str) -> InputError:
    return kind(what, expected=expected, received=received, remedy=remedy)
