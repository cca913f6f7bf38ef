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

from nucseg.errors import InputError, expected_of, short
from nucseg.evaluate.detect import points_of_all
from nucseg.evaluate.grid import score_decodings
from nucseg.evaluate.matching import detection
from nucseg.evaluate.scores import Scores
from nucseg.evaluate.select import GOALS, Goal
from nucseg.evaluate.truth import Truth
from nucseg.heads.scenario import Decoding, PointDecoding, Scenario
from nucseg.instances.votes import MOST_PASSES


class Way(ABC):
    """One way from a prediction to a score."""

    name: ClassVar[str]
    """Names the way in tables."""
    key: ClassVar[str]
    """Its place in `selected.json`, under which the best candidate of the selected checkpoint stands."""
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
        """The kind of seeds (or points) of a candidate; the best of each kind is kept. No two ways share one."""

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
        """Score the candidates, see `nucseg.evaluate.grid.score_decodings` for the arguments.

        What is not annotated (`Truth.annotated`) is neither right nor wrong, see `nucseg.match`.
        """


_ONLY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("vote_passes", "votes_from", "reach"), ("votes", "vectors")),
    **dict.fromkeys(("distance", "within"), ("vectors",)),
}
"""Fields of `Decoding` that only these kinds of seeds have."""


class Instances(Way):
    """Seeds and watershed, or grouping by vectors, and the instances' centres of mass as detections."""

    name = "instances"
    key = "decoding"
    model = Decoding
    goals = frozenset(GOALS)

    def candidates(self, scenario: Scenario, reach: int) -> list[Decoding]:
        """The scenario's own grid."""
        return scenario.decodings(reach=reach) if any(head.is_main for head in scenario.heads) else []

    def product(
        self, choices: dict[str, list[Any]], scenario: Scenario, reach: int, source: str
    ) -> list[Decoding]:
        """Every combination; without `seeds`, all kinds as far as the scenario has them."""
        check_fields(Decoding, choices, source)
        default = self.candidates(scenario, reach)
        kinds = choices.get("seeds") or list(dict.fromkeys(d.seeds for d in default))
        if "seed_threshold" in choices and len(kinds) > 1:
            raise InputError(
                f"{source}, key seed_threshold",
                expected="thresholds of one kind of seeds",
                received=f"thresholds for {' and '.join(map(str, kinds))} alike",
                remedy='name one kind (seeds = "main"); write a table [[grid]] for each',
            )
        decodings: list[Decoding] = []
        for kind in kinds:
            like = [decoding for decoding in default if decoding.seeds == kind]
            if not like:
                raise InputError(
                    f"{source}, key seeds",
                    expected=" or ".join(dict.fromkeys(d.seeds for d in default)) or "no grid of instances",
                    received=repr(kind),
                    remedy="correct it; votes need center vectors, a scenario such as three_label_cpv",
                )
            usual = {
                name: list(dict.fromkeys(getattr(d, name) for d in like)) for name in Decoding.model_fields
            }
            # what only other kinds have makes no difference to this one
            own = {k: v for k, v in choices.items() if kind in _ONLY.get(k, (kind,))}
            for passes in own.get("vote_passes", usual["vote_passes"]):
                fields = {**usual, **own, "seeds": [kind], "vote_passes": [passes]}
                if kind != "main" and "seed_threshold" not in own:
                    fields["seed_threshold"] = list(_vote_thresholds(scenario, kind, passes))
                decodings += combinations(Decoding, fields, source)
        return list(dict.fromkeys(decodings))

    def seeds(self, candidate: Decoding) -> str:
        """`main`, `votes` or `vectors`."""
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


class Points(Way):
    """Maxima of a map of scores, without instances: what a head such as gauss, or votes, decode to."""

    name = "points"
    model = PointDecoding
    key = "points"
    goals: ClassVar[frozenset[Goal]] = frozenset({"detection"})

    def candidates(self, scenario: Scenario, reach: int) -> list[PointDecoding]:
        """The scenario's own grid; only of scenarios that make no instances, whose centres are points as well."""
        return [] if scenario.can_segment else scenario.point_decodings(reach)

    def product(
        self, choices: dict[str, list[Any]], scenario: Scenario, reach: int, source: str
    ) -> list[PointDecoding]:
        """Every combination of the grid's own values and those that are given."""
        check_fields(PointDecoding, choices, source)
        varied = [d.model_dump() for d in scenario.point_decodings(reach)]
        found = [
            decoding
            for fields in varied
            for decoding in combinations(PointDecoding, {k: [v] for k, v in fields.items()} | choices, source)
        ]
        return list(dict.fromkeys(found))

    def seeds(self, candidate: PointDecoding) -> str:
        """`main` for peaks of the head's own map, or `votes`."""
        return "votes" if candidate.source == "votes" else "main"

    def scores(
        self,
        prediction: np.ndarray,
        truth: Truth,
        scenario: Scenario,
        candidates: Sequence[PointDecoding],
        *,
        min_size: int = 0,
        threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> list[Scores]:
        """Detection AP; no AP at IoU thresholds."""
        found = []
        for done, points in enumerate(points_of_all(prediction, scenario, candidates), start=1):
            counts = detection(points, truth.labels, min_size, truth.annotated)
            n_true = counts.tp + counts.fn
            found.append(
                Scores({}, {}, {}, {}, n_true, counts.tp + counts.fp, counts, {"min_size": min_size})
            )
            if progress:
                progress(done)
        return found


WAYS: tuple[Way, ...] = (Instances(), Points())
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
                expected=expected_of(first),
                received=short(first["input"]),
                remedy="correct it",
            ) from error
    return found


def _vote_thresholds(scenario: Scenario, kind: str, passes: Any) -> Sequence[float]:
    """The thresholds of votes that are smoothed so; any where no smoothing is like that, which is told later."""
    vectors = scenario.auxiliary
    if vectors is None or passes not in range(MOST_PASSES + 1):
        return (1.0,)
    return (
        vectors.peak_thresholds_after(passes) if kind == "vectors" else vectors.vote_thresholds_after(passes)
    )
