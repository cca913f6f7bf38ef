"""The plan of a synthetic worm: where every nucleus lies and what it is like, before any voxel is drawn."""

import math
from dataclasses import dataclass

import numpy as np

from nucseg.errors import InputError
from nucseg.synthetic.body import Body, lay_body
from nucseg.synthetic.difficulty import (
    BODY_RADIUS_UM,
    HEAD_RADIUS_UM,
    Difficulty,
    difficulty_named,
)
from nucseg.synthetic.packing import own_shares, relax
from nucseg.synthetic.placement import (
    draw_ellipsoids,
    in_rows,
    in_volume,
    lay_head,
    mean_volume,
    move_to_gaps,
)

DEFAULT_SCALE_UM = (0.122, 0.116, 0.116)
CROWDED = 0.53
"""Most of the tube's volume that nuclei may fill."""
LOOSE = 0.6
"""Most of the tube's volume that nuclei with gaps around them may fill; in fuller ones the gaps shrink."""
ROUNDS, ATTEMPTS = 300, 6
"""How often neighbours push each other, and how often crushed nuclei are put elsewhere."""
SMALLEST_SHARE = 0.75
"""Least share of its ellipsoid that each nucleus must keep when its neighbours press into it."""
COARSEST_UM = 0.6
"""Largest voxel size at which every nucleus still has voxels."""


@dataclass(frozen=True)
class Plan:
    """All nuclei of a synthetic volume; `render_block` draws any part of it.

    Attributes:
        shape: Volume, voxels.
        scale_um: Voxel, um.
        seed: What everything random follows from.
        look: The difficulty's dials.
        body: The tube.
        centers_um: float64[n, 3], um; the nucleus of label `i + 1` is row `i`. Index 0 of the volume lies at
            0 um.
        axes_um: float64[n, 3, 3], columns are the semi-axes as vectors, um.
        brightness: float64[n].
        bumps: float64[n, 6], coefficients of the deviation from an ellipsoid, see `render`.
        nucleoli: float64[n, 4], centre (in units of the semi-axes) and radius (share of the mean radius) of
            the nucleolus.
    """

    shape: tuple[int, int, int]
    scale_um: tuple[float, float, float]
    seed: int
    look: Difficulty
    body: Body
    centers_um: np.ndarray
    axes_um: np.ndarray
    brightness: np.ndarray
    bumps: np.ndarray
    nucleoli: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        """float64[n, 3], centres in voxels (index coordinates), z, y, x."""
        return self.centers_um / np.asarray(self.scale_um)

    @property
    def voxels(self) -> np.ndarray:
        """float64[n], nominal number of voxels of each nucleus."""
        return 4.0 / 3.0 * math.pi * np.abs(np.linalg.det(self.axes_um)) / math.prod(self.scale_um)


def plan_worm(
    shape: tuple[int, int, int],
    nuclei: int,
    seed: int,
    scale_um: tuple[float, float, float] = DEFAULT_SCALE_UM,
    difficulty: str = "worm",
) -> Plan:
    """Place the nuclei of a worm.

    Args:
        shape: Volume, voxels, z, y, x.
        nuclei: How many.
        seed: The same seed gives the same worm.
        scale_um: Voxel, um. Nuclei and blur are physical: smaller voxels give larger nuclei in voxels.
        difficulty: `easy`, `worm` or `hard`.

    Raises:
        InputError: When the nuclei do not fit, the voxels are too coarse for them, or an argument makes no
            sense.
    """
    look = difficulty_named(difficulty)
    _check(shape, nuclei, seed, scale_um)
    rng = np.random.default_rng([seed, 1])
    body = _body(shape, scale_um, rng)
    along, tube, volume = _volumes(body, nuclei, look, shape)
    in_head = round(look.head_share * nuclei)
    in_body = nuclei - in_head
    axes_um = draw_ellipsoids(nuclei, in_head, body, rng)
    contact = min(look.contact, (LOOSE * tube / volume) ** (1.0 / 3.0))

    neck, hollow = lay_head(body, in_head * mean_volume(HEAD_RADIUS_UM) / look.head_packing, along)
    centers_um = np.concatenate(
        [in_volume(in_head, body, neck, hollow, along, rng), in_rows(in_body, body, neck, rng)]
    )
    near = np.lexsort((centers_um // (4.0 * BODY_RADIUS_UM)).T)  # neighbours lie close in memory, too
    centers_um, axes_um = centers_um[near], axes_um[near]
    forms = np.linalg.inv(axes_um @ axes_um.transpose(0, 2, 1))
    reaches = np.linalg.norm(axes_um, axis=2)
    longest = np.linalg.norm(axes_um, axis=1).max(axis=1)
    for _ in range(ATTEMPTS):
        relax(centers_um, forms, reaches, longest, contact, body.axis, body.across, body.dials, ROUNDS)
        crushed = own_shares(centers_um, forms, axes_um, _ball(160)) < SMALLEST_SHARE
        if not crushed.any():
            break
        move_to_gaps(centers_um, crushed, body, along, rng)
    else:
        _refuse(nuclei, int(0.97 * np.count_nonzero(~crushed)), shape)

    order = np.argsort(centers_um[:, body.axis], kind="stable")
    nucleoli = np.column_stack([rng.normal(0.0, 0.15, (nuclei, 3)), rng.uniform(0.32, 0.48, nuclei)])
    return Plan(
        shape=shape,
        scale_um=scale_um,
        seed=seed,
        look=look,
        body=body,
        centers_um=centers_um[order],
        axes_um=axes_um[order],
        brightness=np.exp(look.brightness_spread * rng.standard_normal(nuclei)),
        bumps=rng.normal(0.0, 0.09, (nuclei, 6)),
        nucleoli=nucleoli,
    )


def check_worm(
    shape: tuple[int, int, int],
    nuclei: int,
    seed: int,
    scale_um: tuple[float, float, float] = DEFAULT_SCALE_UM,
    difficulty: str = "worm",
) -> None:
    """See in no time that a worm can be planned, as far as that can be known without placing its nuclei.

    Args:
        shape: Volume, voxels, z, y, x.
        nuclei: How many.
        seed: Of the worm.
        scale_um: Voxel, um.
        difficulty: `easy`, `worm` or `hard`.

    Raises:
        InputError: When more nuclei are asked for than the worm's volume holds, the voxels are too coarse for them,
            or an argument makes no sense.
    """
    look = difficulty_named(difficulty)
    _check(shape, nuclei, seed, scale_um)
    _volumes(_body(shape, scale_um, np.random.default_rng([seed, 1])), nuclei, look, shape)


def _body(
    shape: tuple[int, int, int], scale_um: tuple[float, float, float], rng: np.random.Generator
) -> Body:
    body = lay_body((np.array(shape) - 1.0) * np.array(scale_um), rng)
    _check_width(body, shape)
    return body


def _volumes(
    body: Body, nuclei: int, look: Difficulty, shape: tuple[int, int, int]
) -> tuple[np.ndarray, float, float]:
    """Positions along the axis, the tube's volume, and that of the nuclei, um^3; refuses too many nuclei."""
    in_head = round(look.head_share * nuclei)
    along = np.linspace(body.start, body.end, 513)
    tube = float(np.trapezoid(body.area(along), along))
    volume = in_head * mean_volume(HEAD_RADIUS_UM) + (nuclei - in_head) * mean_volume(BODY_RADIUS_UM)
    if volume > CROWDED * tube:
        _refuse(nuclei, int(CROWDED * tube / (volume / nuclei)), shape)
    return along, tube, volume


def _check(shape: tuple[int, int, int], nuclei: int, seed: int, scale_um: tuple[float, float, float]) -> None:
    if len(shape) != 3 or min(shape) < 2:
        raise InputError(
            "shape",
            expected="three numbers of voxels, z y x, of at least 2",
            received=str(shape),
            remedy="choose a larger volume, as in 64 88 160",
        )
    if len(scale_um) != 3 or not all(0.0 < s <= COARSEST_UM for s in scale_um):
        raise InputError(
            "scale_um",
            expected=f"three voxel sizes of at most {COARSEST_UM} um (nuclei are about 1.3 um wide)",
            received=str(scale_um),
            remedy="choose smaller voxels",
        )
    if math.prod(scale_um) > 0.35**3:
        raise InputError(
            "scale_um",
            expected="voxels of at most 0.35 um on the geometric mean (nuclei are about 1.3 um wide)",
            received=str(scale_um),
            remedy="choose smaller voxels",
        )
    if nuclei < 1:
        raise InputError("nuclei", expected="at least 1", received=str(nuclei), remedy="ask for one or more")
    if not 0 <= seed < 2**63:
        raise InputError("seed", expected="0 to 2**63 - 1", received=str(seed), remedy="choose another")


def _check_width(body: Body, shape: tuple[int, int, int]) -> None:
    if min(body.half_widths) < 1.8 * BODY_RADIUS_UM:
        raise InputError(
            "shape",
            expected=f"a cross-section at least {3.9 * BODY_RADIUS_UM:.1f} um wide, so that nuclei fit",
            received=f"{shape} voxels",
            remedy="make the two shorter axes larger, or the voxels larger",
        )


def _refuse(nuclei: int, fit: int, shape: tuple[int, int, int]) -> None:
    raise InputError(
        "nuclei",
        expected=f"at most about {fit} in {shape[0]} x {shape[1]} x {shape[2]} voxels of this scale",
        received=str(nuclei),
        remedy="ask for fewer nuclei or a larger shape",
    )


def _ball(count: int) -> np.ndarray:
    """Points spread evenly over the unit ball, float64[count, 3]: a Fibonacci spiral of varied radius."""
    k = np.arange(count) + 0.5
    height = 1.0 - 2.0 * k / count
    angle = math.pi * (1.0 + math.sqrt(5.0)) * k
    ring = np.sqrt(1.0 - height**2)
    radius = ((k * 0.6180339887498949) % 1.0) ** (1.0 / 3.0)
    return radius[:, None] * np.column_stack([height, ring * np.cos(angle), ring * np.sin(angle)])
