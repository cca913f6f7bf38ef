"""What nucseg raises for a user to read."""


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


def _rebuild(kind: type[InputError], what: str, expected: str, received: str, remedy: str) -> InputError:
    return kind(what, expected=expected, received=received, remedy=remedy)
