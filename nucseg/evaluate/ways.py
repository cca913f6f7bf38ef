"""The ways from a prediction to something that is scored, for a selection to try.

A way has candidates, which are frozen pydantic models such as `Decoding`: each is one choice of all thresholds.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ValidationError

from nucseg.errors import InputError
from nucseg.evaluate.grid import score_decodings
from nucseg.evaluate.scores import Scores
from nucseg.evaluate.select import GOALS, Goal
from nucseg.evaluate.truth import Truth
from nucseg.heads.center_vectors import vote_threshold_grid
from nucseg.heads.scenario import Decoding, Scenario


class Way(ABC):
    """One way from a prediction to a score."""

    name: ClassVar[str]
    """Names the way in tables."""
    model: ClassVar[type[BaseModel]]
    """The class of its candidates."""
    goals: ClassVar[frozenset[Goal]]
    """What its scores can be selected for."""

    @abstractmethod
    def candidates(self, scenario: Scenario, reach: int) -> Sequence[BaseModel]:
        """The grid that is tried by default; empty for a scenario that cannot be decoded this way.

        Args:
            scenario: The heads of the prediction.
            reach: The largest diameter of a true nucleus, voxels.
        """

    @abstractmethod
    def product(
        self, choices: dict[str, list[Any]], scenario: Scenario, reach: int, source: str
    ) -> Sequence[BaseModel]:
        """Every combination of some fields' values; the other fields are as in the default grid.

        Args:
            choices: Values by field.
            scenario: The heads of the prediction.
            reach: The largest diameter of a true nucleus, voxels.
            source: Where the values came from, for errors.

        Raises:
            InputError: A field that there is not, or a value that it cannot have.
        """

    @abstractmethod
    def seeds(self, candidate: Any) -> str:
        """The kind of seeds (or points) of a candidate; the best of each kind is kept."""

    @abstractmethod
    def scores(
        self,
        prediction: np.ndarray,
        truth: Truth,
        scenario: Scenario,
        candidates: Sequence[Any],
        *,
        min_size: int = 0,
        threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> list[Scores]:
        """Score the candidates, see `nucseg.evaluate.grid.score_decodings` for the arguments."""


class Instances(Way):
    """Seeds, watershed, and the instances' centres of mass as detections."""

    name = "instances"
    model = Decoding
    goals = frozenset(GOALS)

    def candidates(self, scenario: Scenario, reach: int) -> list[Decoding]:
        """The scenario's own grid."""
        return scenario.decodings(reach=reach) if any(head.is_main for head in scenario.heads) else []

    def product(
        self, choices: dict[str, list[Any]], scenario: Scenario, reach: int, source: str
    ) -> list[Decoding]:
        """Every combination; without `seeds`, both kinds as far as the scenario has them."""
        check_fields(Decoding, choices, source)
        kinds = choices.get("seeds", ["main", "votes"] if scenario.auxiliary else ["main"])
        if "seed_threshold" in choices and len(kinds) > 1:
            raise InputError(
                f"{source}, key seed_threshold",
                expected="thresholds of one kind of seeds",
                received="thresholds for main and votes alike",
                remedy='name one kind (seeds = "main"); write a table [[grid]] for each',
            )
        decodings: list[Decoding] = []
        for kind in kinds:
            for passes in choices.get("vote_passes", [2]) if kind == "votes" else [2]:
                fields = {
                    "seed_threshold": _seed_thresholds(scenario, kind, passes, source),
                    "foreground_threshold": scenario.main.foreground_thresholds,
                    "dilate": [scenario.main.default_dilate],
                    **choices,
                    "seeds": [kind],
                    "vote_passes": [passes],
                    "reach": choices.get("reach", [reach]) if kind == "votes" else [0],
                }
                decodings += combinations(Decoding, fields, source)
        return list(dict.fromkeys(decodings))

    def seeds(self, candidate: Decoding) -> str:
        """`main` or `votes`."""
        return candidate.seeds

    def scores(
        self,
        prediction: np.ndarray,
        truth: Truth,
        scenario: Scenario,
        candidates: Sequence[Decoding],
        *,
        min_size: int = 0,
        threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> list[Scores]:
        """AP at all thresholds and detection AP."""
        options: dict[str, Any] = {"min_size": min_size, "threads": threads, "progress": progress}
        return score_decodings(prediction, truth, scenario, candidates, **options)


WAYS: tuple[Way, ...] = (Instances(),)
"""The ways that a selection tries unless it is given others."""


def way_of(candidate: BaseModel, ways: Iterable[Way] = WAYS) -> Way:
    """The way that a candidate belongs to.

    Raises:
        InputError: None of these ways.
    """
    for way in ways:
        if type(candidate) is way.model:
            return way
    raise InputError(
        "candidate",
        expected=f"one of {', '.join(way.model.__name__ for way in ways)}",
        received=type(candidate).__name__,
        remedy="select with the way (ways=...) that these candidates belong to",
    )


def check_fields(model: type[BaseModel], choices: dict[str, list[Any]], source: str) -> None:
    """See that a grid names fields of a candidate only, each with at least one value.

    Raises:
        InputError: It does not.
    """
    for name, values in choices.items():
        if name not in model.model_fields:
            near = get_close_matches(name, model.model_fields, n=1, cutoff=0.5)
            raise InputError(
                f"{source}, key {name}",
                expected=f"one of {', '.join(model.model_fields)}",
                received=repr(name),
                remedy=f"did you mean {near[0]!r}?" if near else "remove it, or correct its name",
            )
        if not values:
            raise InputError(
                f"{source}, key {name}",
                expected="at least one value",
                received="an empty list",
                remedy="give a value, or leave the key out",
            )


def combinations[Candidate: BaseModel](
    model: type[Candidate], fields: Mapping[str, Iterable[Any]], source: str
) -> list[Candidate]:
    """A candidate for every combination of the fields' values, the last field varying fastest.

    Raises:
        InputError: A value that a field cannot have.
    """
    found = []
    for values in itertools.product(*fields.values()):
        try:
            found.append(model.model_validate(dict(zip(fields, values, strict=True))))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"{source}, key {where}" if where else source,
                expected=first["msg"].removeprefix("Value error, "),
                received=repr(first["input"]),
                remedy="correct it",
            ) from error
    return found


def _seed_thresholds(scenario: Scenario, kind: Any, passes: Any, source: str) -> Sequence[float]:
    if kind != "votes":
        return scenario.main.seed_thresholds
    vectors = scenario.auxiliary
    if vectors is None:
        raise InputError(
            f"{source}, key seeds",
            expected="main: the scenario has no center vectors",
            received="votes",
            remedy="use seeds of the main head, or train a scenario such as three_label_cpv",
        )
    if passes == 2 or not isinstance(passes, int) or not 0 <= passes <= 6:
        return vectors.vote_thresholds
    return vote_threshold_grid(vectors.scale if vectors.scale > 1 else 5.5, passes)
