"""Centres of nuclei: from the authors' tables, checked against the labels, or from the labels."""

from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np

import nucseg as ns
from nucseg import InputError
from nucseg.instances.centroids import centroids

INSIDE = 0.9
"""Share of centres that must lie in their own nucleus."""


class Centers(NamedTuple):
    """Centres by nucleus.

    Attributes:
        ids: Labels, (n,).
        names: The nuclei's names, empty where there are none, (n,).
        points: z, y, x in index coordinates, (n, 3).
        shift: Median of the points minus the centres of mass in the labels, z, y, x, voxels.
    """

    ids: np.ndarray
    names: np.ndarray
    points: np.ndarray
    shift: tuple[float, float, float]


def centers_from_labels(labels: np.ndarray) -> Centers:
    """Centre of mass of each nucleus."""
    found = centroids(labels)
    return Centers(found.ids, np.full(len(found.ids), ""), found.centers, (0.0, 0.0, 0.0))


def read_centers(path: Path, labels: np.ndarray) -> Centers:
    """Read a table of centres and see that it belongs to these labels.

    Args:
        path: A `.txt` of the authors: a line for each nucleus, `label name x y z` and maybe radii, with blanks
            between, no header. Or a `.csv` with columns id, z, y, x, and maybe name.
        labels: The instances, (z, y, x).

    Raises:
        InputError: A line cannot be read, labels and table are not of the same nuclei, or the centres do not lie in
            their nuclei; if they would in another order of the axes, the message says in which.
    """
    ids, names, points = _csv(path) if path.suffix.lower() == ".csv" else _text(path)
    found = centroids(labels)
    unique, counts = np.unique(ids, return_counts=True)
    problems = [
        f"{what}: {', '.join(map(str, values[:20].tolist()))}{' ...' if len(values) > 20 else ''}"
        for what, values in (
            ("ids twice", unique[counts > 1]),
            ("centres without a label", np.setdiff1d(ids, found.ids)),
            ("labels without a centre", np.setdiff1d(found.ids, ids)),
        )
        if len(values)
    ]
    if problems:
        raise InputError(
            str(path),
            expected=f"one line for each of the {len(found.ids)} labels",
            received=f"{len(ids)} lines; {'; '.join(problems)}",
            remedy="correct the table, or take the centres of mass of the labels: --centers labels",
        )
    share = _inside(ids, points, labels)
    if share < INSIDE:
        fits = [
            ", ".join("zyx"[axis] for axis in order)
            for order in permutations(range(3))
            if _inside(ids, points[:, list(order)], labels) >= INSIDE
        ]
        hint = f"; they do with {' or '.join(fits)} in place of z, y, x" if fits else ""
        raise InputError(
            str(path),
            expected=f"centres of which {INSIDE:.0%} lie in their own nucleus",
            received=f"{share:.0%}{hint}",
            remedy="check that table and labels belong together, and --axes; or --centers labels",
        )
    order = np.argsort(ids)
    ids, names, points = ids[order], names[order], points[order]
    z, y, x = np.median(points - found.centers, axis=0)
    return Centers(ids, names, points, (float(z), float(y), float(x)))


def _inside(ids: np.ndarray, points: np.ndarray, labels: np.ndarray) -> float:
    """Share of the points whose nearest voxel carries their label."""
    nearest = np.rint(points).astype(np.int64)
    there = ((nearest >= 0) & (nearest < labels.shape)).all(axis=1)
    hits = labels[tuple(nearest[there].T)] == ids[there]
    return float(hits.sum()) / max(1, len(ids))


def _text(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids, names, points = [], [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            ids.append(int(float(fields[0])))
            names.append(fields[1])
            points.append([float(value) for value in reversed(fields[2:5])])
            if (
                len(points[-1]) != 3
                or not np.isfinite(points[-1]).all()
                or ids[-1] != float(fields[0])
                or ids[-1] < 1
            ):
                raise ValueError
        except (ValueError, IndexError, OverflowError):
            raise InputError(
                f"{path}, line {number}",
                expected="label, name, x, y, z with blanks between, the label a whole number from 1",
                received=line[:80],
                remedy="correct the line, or take the centres of mass of the labels: --centers labels",
            ) from None
    return np.array(ids, np.uint64), np.array(names, str), np.array(points, np.float64).reshape(-1, 3)


def _csv(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points, table = ns.read_points(path), ns.read_table(path)
    if "id" not in table:
        raise InputError(
            str(path),
            expected="columns id, z, y, x",
            received=f"columns {', '.join(table)}",
            remedy="add the label of each nucleus as id",
        )
    names = np.array([str(name) for name in table["name"]]) if "name" in table else np.full(len(points), "")
    return table["id"].astype(np.uint64), names, points
