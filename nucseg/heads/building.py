"""A head from what a configuration says of it; a mistake is told by the head's own fields."""

from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from nucseg.errors import InputError, expected_of, short
from nucseg.heads.base import Head, head_class


def head_of(value: Any) -> Head:
    """The head that a configuration names.

    Args:
        value: A head, a kind, or a table with `kind` and the head's own fields.

    Raises:
        InputError: No such kind, a field that the head does not have, or a value that it cannot have.
    """
    if isinstance(value, Head):
        return value
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise InputError(
            "heads",
            expected="a kind for each head, such as kind = 'three_label'",
            received=short(value),
            remedy="name the kind of every head",
        )
    kind = head_class(value["kind"])
    try:
        return kind.model_validate({name: field for name, field in value.items() if name != "kind"})
    except ValidationError as error:
        raise _explained(kind, error) from error


def _explained(kind: type[Head], error: ValidationError) -> InputError:
    """The first problem of a head's fields; one that there is not before a wrong value."""
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part) for part in problem["loc"])
    what = f"head {kind.kind}, key {where}" if where else f"head {kind.kind}"
    if problem["type"] != "extra_forbidden":
        return InputError(
            what, expected=expected_of(problem), received=short(problem["input"]), remedy="correct it"
        )
    near = get_close_matches(where, kind.model_fields, n=1, cutoff=0.5)
    return InputError(
        what,
        expected=f"one of {', '.join(kind.model_fields)}",
        received=repr(where),
        remedy=f"did you mean {near[0]!r}?" if near else "remove it, or correct its name",
    )
