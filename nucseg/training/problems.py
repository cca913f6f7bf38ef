"""Reading a configuration; its errors in one line with a remedy."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from nucseg.errors import InputError, expected_of, short


def read_toml(path: str | Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        InputError: It cannot be read, or is none.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            str(path), expected="a TOML file", received=str(error), remedy="correct the path or the file"
        ) from error


def validated[Model: BaseModel](model: type[Model], values: dict[str, Any], source: str | Path) -> Model:
    """A configuration of these values.

    Args:
        model: Its class.
        values: As a TOML has them.
        source: Where they came from, for errors.

    Raises:
        InputError: A key is misspelt (the nearest right one is named) or a value is wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explain(model, error, str(source)) from error


def explain(model: type[BaseModel], error: ValidationError, source: str) -> InputError:
    """The first problem of a configuration as an `InputError`; a misspelt key before one that is missing for it.

    Args:
        model: What was validated.
        error: What pydantic found.
        source: Where the values came from, such as the path of a TOML.
    """
    problems = error.errors()
    # Of a value that may be of several kinds each kind complains: one that says more than "another type" goes first.
    ranked = ("extra_forbidden", "value_error")
    problem = next((p for kind in ranked for p in problems if p["type"] == kind), problems[0])
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause.within(source)
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        valid = _fields(model, problem["loc"][:-1])
        name = str(problem["loc"][-1])
        near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
        return InputError(
            f"{source}, key {where}",
            expected=f"one of {', '.join(valid)}" if valid else "no such key",
            received=repr(name),
            remedy=f"did you mean {near[0]!r}?" if near else "remove it, or correct its name",
        )
    if problem["type"] == "missing":
        return InputError(
            f"{source}, key {where}",
            expected="a value",
            received="none",
            remedy="add it to the configuration",
        )
    return InputError(
        f"{source}, key {where}" if where else source,
        expected=expected_of(problem),
        received=short(problem["input"]),
        remedy="correct it",
    )


def _fields(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the (nested) model at a place; empty where it cannot be told."""
    here: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        if not (isinstance(here, type) and issubclass(here, BaseModel)) or part not in here.model_fields:
            return []
        here = _model_in(here.model_fields[part].annotation)
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return []
    extra = ["preset"] if "feature_maps" in here.model_fields else []
    return [*extra, *here.model_fields]


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_model_in, get_args(annotation)) if m is not None), None)
