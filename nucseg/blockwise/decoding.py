"""Which scenario a prediction follows and how it is decoded: what it says, and what the user changes."""

import logging
from math import ceil, isfinite
from typing import Any, NamedTuple

import zarr

from nucseg.errors import InputError
from nucseg.heads.decoding import Seeds
from nucseg.heads.points import default_distance
from nucseg.heads.scenario import Decoding, PointDecoding, Scenario
from nucseg.storage import ome, remote

logger = logging.getLogger(__name__)

OF_VOTES = ("vote_passes", "votes_from")
"""Settings that seeds of the main head do not have."""
OF_VECTORS = ("distance", "within")
"""Settings that only grouping by vectors has."""

ATTRIBUTE = "nucseg"
"""Attribute of a prediction's zarr group that says how it was made."""


class Origin(NamedTuple):
    """What a prediction says about itself; None where it says nothing."""

    scenario: Scenario | None = None
    decoding: Decoding | None = None
    nucleus_um: float | None = None
    points: PointDecoding | None = None
    mirrors: str | None = None
    """The mirrored views that were averaged, see `nucseg.network.mirrors`."""


def write_origin(path: str, origin: Origin) -> None:
    """Note how a prediction was made in the attributes of its group."""
    said: dict[str, Any] = {
        "scenario": origin.scenario and origin.scenario.model_dump(mode="json"),
        "decoding": origin.decoding and origin.decoding.model_dump(mode="json"),
        "nucleus_um": origin.nucleus_um,
        "points": origin.points and origin.points.model_dump(mode="json"),
        "mirrors": origin.mirrors,
    }
    zarr.open_group(path, mode="r+", use_consolidated=False).attrs[ATTRIBUTE] = said


def read_origin(path: str) -> Origin:
    """What a prediction's group says; nothing for one made elsewhere."""
    if not remote.has_file(path, "zarr.json"):
        return Origin()
    said: Any = ome.open_node(path).attrs.get(ATTRIBUTE)
    if not isinstance(said, dict):
        return Origin()
    points = said.get("points")  # predictions of the first versions do not have it
    return Origin(
        said["scenario"] and Scenario.model_validate(said["scenario"]),
        said["decoding"] and Decoding.model_validate(said["decoding"]),
        said["nucleus_um"],
        points and PointDecoding.model_validate(points),
        said.get("mirrors"),
    )


def settled_scenario(path: str, named: Scenario | None, origin: Origin) -> Scenario:
    """The scenario that the user names, else the one that the prediction says it follows.

    Raises:
        InputError: Neither does.
    """
    scenario = named or origin.scenario
    if scenario is None:
        raise InputError(
            path,
            expected="the scenario that its channels follow",
            received="none, and the prediction does not say",
            remedy="name it (--head three_label)",
        )
    return scenario


def choose_decoding(
    scenario: Scenario,
    base: Decoding | None,
    *,
    seeds: Seeds | None = None,
    **changes: Any,
) -> Decoding:
    """A decoding with some of its fields changed.

    Args:
        scenario: The heads of the prediction.
        base: Selected on validation volumes; None starts from the defaults of the main head.
        seeds: `main`, `votes` or `vectors`; None as in `base`. Changing it takes that kind's defaults.
        changes: Other fields of `Decoding`; those that are None are left as they are. Another number of smoothing
            passes takes the default threshold of votes that are smoothed so, unless one is given.

    Raises:
        InputError: Votes without center vectors or without a reach; settings of votes for other seeds.
    """
    fields = (base or scenario.default_decoding()).model_dump()
    if seeds is not None and seeds != fields["seeds"]:
        fields |= {"seeds": seeds, "seed_threshold": scenario.main.default_seed_threshold}
        if seeds != "main":
            vectors = scenario.voting(seeds)
            fields["seed_threshold"] = vectors.default_vote_threshold
            fields["within"] = vectors.group_distances[1]
            fields["dilate"] = 0 if seeds == "vectors" else fields["dilate"]
    changes = {name: value for name, value in changes.items() if value is not None}
    kind = fields["seeds"]
    if kind == "main":
        _refuse(changes, OF_VOTES, "seeds of the main head", "take seeds from votes (--seeds votes)")
    if kind != "vectors":
        _refuse(changes, OF_VECTORS, f"seeds {kind}", "group by vectors (--seeds vectors)")
    passes = changes.get("vote_passes", fields["vote_passes"])
    if passes != fields["vote_passes"] and scenario.auxiliary is not None:
        fields["seed_threshold"] = scenario.auxiliary.default_vote_threshold_after(passes)
    fields |= changes
    if kind != "main" and not fields["reach"]:
        raise InputError(
            f"seeds from {kind}",
            expected="the largest diameter of a nucleus, which bounds how far a vector reaches",
            received="none",
            remedy="give it in micrometres (--nucleus-um)",
        )
    if kind == "vectors" and "distance" not in changes and (base is None or base.seeds != "vectors"):
        fields["distance"] = default_distance(fields["reach"])
    return Decoding(**fields)


def warn_of_defaults(
    points: PointDecoding | None, selected: Decoding | None, chosen: Decoding, **given: Any
) -> None:
    """Warn where a selection found a decoding to points only, and instances take thresholds that nobody chose.

    Args:
        points: The selected decoding to points, if there is one.
        selected: The selected decoding to instances, if there is one.
        chosen: What will be used.
        given: What the user says; a threshold that is None is not given.
    """
    names = ("seed_threshold", "foreground_threshold")
    unchosen = [name for name in names if given.get(name) is None]
    if points is None or selected is not None or not unchosen:
        return
    logger.warning(
        "the model was selected for points only (%s): its instances take the default %s; select again for instances "
        "(nucseg select RUN --for segmentation), give --seed-threshold and --foreground-threshold, or find points "
        "with nucseg detect",
        points.source,
        " and ".join(f"{name.replace('_', ' ')} {getattr(chosen, name):g}" for name in unchosen),
    )


def choose_points(
    scenario: Scenario,
    base: PointDecoding | None,
    *,
    source: str | None = None,
    reach: int | None = None,
    known_reach: int | None = None,
    **changes: Any,
) -> PointDecoding:
    """A decoding to points with some of its fields changed.

    Args:
        scenario: The heads of the prediction.
        base: Selected on validation volumes; None starts from the defaults of the heads.
        source: `peaks` or `votes`; None as in `base`. Changing it takes that source's defaults.
        reach: Largest diameter of a nucleus, voxels, instead of the selected one.
        known_reach: The same from the training data, where nothing else says it.
        changes: Other fields of `PointDecoding`; those that are None are left as they are. Another number of smoothing
            passes takes the default threshold of votes that are smoothed so, unless one is given.

    Raises:
        InputError: The heads give no such points; votes without a reach; a foreground threshold or settings of votes
            for peaks.
    """
    if source is not None:
        scenario.check_source(source)
    if base is None or source not in (None, base.source):
        known = reach or known_reach
        base = scenario.default_votes(known) if source == "votes" else scenario.default_point_decoding(known)
    changes = {name: value for name, value in changes.items() if value is not None}
    if base.source == "peaks":
        _refuse(changes, OF_VOTES, "peaks", "take points from votes (--source votes)")
    fields = base.model_dump()
    passes = changes.get("vote_passes", base.vote_passes)
    if passes != base.vote_passes and scenario.auxiliary is not None:
        fields["threshold"] = scenario.auxiliary.default_vote_threshold_after(passes)
    fields |= changes
    if base.source == "votes" and reach:
        fields["reach"] = reach
    if base.source == "peaks" and fields["foreground_threshold"] is not None:
        raise InputError(
            "foreground threshold",
            expected="none: it says which voxels vote, and these points are peaks",
            received=str(fields["foreground_threshold"]),
            remedy="leave it out, or take points from votes (--source votes)",
        )
    chosen = PointDecoding(**fields)
    scenario.check_points(chosen)
    return chosen


def _refuse(changes: dict[str, Any], names: tuple[str, ...], found: str, remedy: str) -> None:
    given = [name for name in names if name in changes]
    if given:
        raise InputError(
            ", ".join(given),
            expected=f"none: they are settings of {'votes' if names is OF_VOTES else 'vectors'}, and these are {found}",
            received=", ".join(str(changes[name]) for name in given),
            remedy=f"leave them out, or {remedy}",
        )


def diameter_voxels(nucleus_um: float, scale_um: tuple[float, float, float] | None) -> int:
    """A diameter in voxels along the axis with the finest voxels, rounded up.

    Raises:
        InputError: The voxel size is not known, or the diameter is not positive.
    """
    if not (nucleus_um > 0 and isfinite(nucleus_um)):
        raise InputError(
            "nucleus diameter",
            expected="a positive length in micrometres",
            received=f"{nucleus_um:g}",
            remedy="give the diameter of the largest nucleus (--nucleus-um)",
        )
    if scale_um is None:
        raise InputError(
            "nucleus diameter",
            expected="a volume whose voxel size is known",
            received=f"{nucleus_um:g} um, and no voxel size",
            remedy="set the voxel size with `nucseg convert IN OUT --scale-um Z Y X`",
        )
    return ceil(nucleus_um / min(scale_um))
