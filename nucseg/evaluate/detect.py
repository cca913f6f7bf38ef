"""Points from whole predictions in memory, as selection needs them: one decoding, or a whole grid at once."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from nucseg.heads.scenario import PointDecoding, Scenario
from nucseg.instances.detection import local_maxima


def points(prediction: np.ndarray, scenario: Scenario, decoding: PointDecoding) -> np.ndarray:
    """The points of a whole prediction in memory; what the blockwise `Detect` equals.

    Score them with `nucseg.evaluate.matching.detection`.

    Args:
        prediction: (channels, z, y, x), after the activation.
        scenario: Its heads.
        decoding: How to decode.

    Returns:
        float64 (n, 3), z, y, x index coordinates, in z,y,x order.

    Raises:
        InputError: The scenario has no such source of points, or the prediction other channels.
    """
    return points_of_all(prediction, scenario, [decoding])[0]


def points_of_all(
    prediction: np.ndarray, scenario: Scenario, decodings: Sequence[PointDecoding]
) -> list[np.ndarray]:
    """As `points`, for many decodings; what they have in common is computed once.

    A map of scores serves all thresholds and windows, and its maxima in one window serve all thresholds: whether
    a voxel is the largest of its window does not depend on the threshold.

    Args:
        prediction: (channels, z, y, x), after the activation.
        scenario: Its heads.
        decodings: For example `scenario.point_decodings(reach)`.

    Returns:
        For each decoding what `points` returns.
    """
    maps: dict[PointDecoding, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, decoding in enumerate(decodings):
        alike = decoding.model_copy(update={"threshold": 0.0, "distance": 1})
        maps[alike][decoding.distance].append(index)
    found: dict[int, np.ndarray] = {}
    for alike, windows in maps.items():
        scores = scenario.score_map(prediction, alike)
        for distance, members in windows.items():
            lowest = min(decodings[index].threshold for index in members)
            peaks = local_maxima(scores, lowest, distance)
            for index in members:
                above = peaks.scores > peaks.scores.dtype.type(decodings[index].threshold)
                found[index] = peaks.points[above].astype(np.float64)
    return [found[index] for index in range(len(decodings))]
