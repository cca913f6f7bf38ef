"""Scores of many decodings of one prediction: what they have in common is computed once.

The result is that of segmenting and scoring with each decoding by itself (`nucseg.evaluate.select.instances`, then
`match`), to the last bit. Shared are: the surface and the order of its heights, the foreground of a threshold, the
votes of a foreground, the flood of a set of seeds (for all dilations and minimum sizes), the true objects' sizes.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import cc3d
import numpy as np

from nucseg.errors import InputError
from nucseg.evaluate.matching import THRESHOLDS, counted_objects, labels_hit, match, score
from nucseg.evaluate.overlap import Contingency
from nucseg.evaluate.scores import Scores
from nucseg.evaluate.sums import Sums, sums_of
from nucseg.evaluate.truth import Truth
from nucseg.heads.decoding import Decoding
from nucseg.heads.scenario import Scenario
from nucseg.instances.centroids import centroids
from nucseg.instances.detection import local_maxima
from nucseg.instances.expand import expand_labels
from nucseg.instances.grouping import group_by_vectors
from nucseg.instances.ranked_flood import RankedSurface
from nucseg.instances.seeds import label_seeds
from nucseg.instances.votes import votes_above
from nucseg.instances.watershed import flood

_SHARED = (
    "seeds",
    "seed_threshold",
    "foreground_threshold",
    "vote_passes",
    "votes_from",
    "reach",
    "distance",
    "within",
    "dilate",
    "min_size",
)
"""Fields of `Decoding` that are understood here; a decoding with any other field set is decoded by itself."""

_Jobs = list[tuple[int, Decoding]]


def instances(prediction: np.ndarray, scenario: Scenario, decoding: Decoding) -> np.ndarray:
    """The instances of a whole prediction in memory; what the blockwise segmentation equals.

    Args:
        prediction: (channels, z, y, x), after the activation.
        scenario: Its heads.
        decoding: How to decode.

    Returns:
        uint64 (z, y, x); an id is the linear index of the seed's first voxel, or of the peak, + 1.
    """
    if decoding.seeds == "vectors":
        labels = scenario.group(prediction, decoding)
    else:
        surface, seeds, foreground = scenario.decode(prediction, decoding)
        labels = flood(surface, label_seeds(seeds), foreground)
    if decoding.dilate:
        labels = expand_labels(labels, decoding.dilate)
    if decoding.min_size > 1:
        found = centroids(labels)
        labels[np.isin(labels, found.ids[found.sizes < decoding.min_size])] = 0
    return labels


def score_decodings(
    prediction: np.ndarray,
    truth: Truth,
    scenario: Scenario,
    decodings: Sequence[Decoding],
    *,
    min_size: int = 0,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Scores]:
    """Score the segmentation that each decoding makes of a prediction.

    Memory: about 40 bytes a voxel, and 25 more a thread, besides the prediction.

    Args:
        prediction: (channels, z, y, x), after the activation.
        truth: Of the same volume; may be annotated in part.
        scenario: The heads that the prediction is of.
        decodings: Any number, of any order.
        min_size: Objects of fewer voxels are left out of the scores, see `nucseg.match`.
        threads: Floods at a time.
        progress: Called with the number of decodings that were just done.

    Returns:
        For each decoding its scores, without the single objects.

    Raises:
        InputError: The prediction's shape does not fit the truth or the scenario, or it does not decode so.
    """
    if prediction.shape[1:] != truth.labels.shape:
        raise InputError(
            "prediction",
            expected=f"the truth's shape {truth.labels.shape}",
            received=f"{prediction.shape[1:]}",
            remedy="compare the labels of the same volume, at the same resolution",
        )
    done: dict[int, Scores] = {}
    groups: dict[float, _Jobs] = defaultdict(list)
    for index, decoding in enumerate(decodings):
        if _understood(decoding):
            groups[decoding.foreground_threshold].append((index, decoding))
        else:
            labels = instances(prediction, scenario, decoding)
            scores = match(truth.labels, labels, min_size=min_size, annotated=truth.annotated)
            done[index] = _without_objects(scores)
            if progress:
                progress(1)
    if not groups:
        return [done[index] for index in range(len(decodings))]
    scenario.check_channels(prediction)
    for decoding in {d.seeds: d for jobs in groups.values() for _, d in jobs}.values():
        scenario.check_decoding(decoding)
    shared = _Shared(prediction, truth, scenario, list(groups), min_size)
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        for threshold, jobs in groups.items():
            for results in pool.map(lambda flood: flood(), shared.floods(threshold, jobs)):
                done.update(results)
                if progress:
                    progress(len(results))
    finally:
        pool.shutdown(cancel_futures=True)
    return [done[index] for index in range(len(decodings))]


class _Shared:
    """What all decodings of a prediction have in common."""

    def __init__(
        self,
        prediction: np.ndarray,
        truth: Truth,
        scenario: Scenario,
        thresholds: Sequence[float],
        min_size: int,
    ) -> None:
        self.scenario, self.truth, self.min_size = scenario, truth, min_size
        slices = scenario.slices()
        self.own = prediction[slices[scenario.main.name]]
        vectors = scenario.auxiliary
        self.vectors = None if vectors is None else prediction[slices[vectors.name]]
        region = np.zeros(truth.labels.shape, np.bool_)
        for threshold in thresholds:
            region |= scenario.main.foreground(self.own, threshold)
        self.surface = RankedSurface(scenario.main.surface(self.own), region)

    def floods(self, threshold: float, jobs: _Jobs) -> list[Callable[[], dict[int, Scores]]]:
        """One flood for each set of seeds; each returns the scores of the decodings that share it."""
        foreground = self.scenario.main.foreground(self.own, threshold)
        vectors = self.scenario.auxiliary
        groups: dict[tuple, _Jobs] = defaultdict(list)
        votes: dict[tuple, np.ndarray] = {}
        for index, decoding in jobs:
            way: tuple = ("main",)
            if decoding.seeds != "main":
                way = _way_of_votes(decoding)
                if way not in votes and self.vectors is not None and vectors is not None:
                    voters = foreground if decoding.votes_from == "foreground" else None
                    votes[way] = vectors.votes(self.vectors, voters, decoding.reach, decoding.vote_passes)
            grouped = (
                (decoding.distance, decoding.within) if decoding.seeds == "vectors" else (decoding.seeds,)
            )
            groups[*way, decoding.seed_threshold, *grouped].append((index, decoding))

        return [partial(self._flood, group, foreground, votes) for group in groups.values()]

    def _flood(
        self, group: _Jobs, foreground: np.ndarray, votes: dict[tuple, np.ndarray]
    ) -> dict[int, Scores]:
        """Flood from the seeds that the group's decodings have in common, or join the peaks that they have."""
        decoding = group[0][1]
        if decoding.seeds == "vectors":
            return self._join(group, foreground, votes[_way_of_votes(decoding)])
        if decoding.seeds == "votes":
            smoothed = votes[_way_of_votes(decoding)]
            seeds = votes_above(smoothed, decoding.seed_threshold, decoding.vote_passes)
        else:
            seeds = self.scenario.main.seeds(self.own, decoding.seed_threshold)
        components, count = cc3d.connected_components(
            np.ascontiguousarray(seeds & foreground),
            connectivity=6,
            return_N=True,
            binary_image=True,
            out_dtype=np.uint32,
        )
        return self._scores(self.surface.flood(components, foreground), int(count), group)

    def _join(self, group: _Jobs, foreground: np.ndarray, smoothed: np.ndarray) -> dict[int, Scores]:
        """Give voxels to the peaks that the group's decodings have in common."""
        decoding = group[0][1]
        if self.vectors is None:
            raise ValueError("check_decoding lets no such decoding through")
        threshold = decoding.seed_threshold * 64.0**decoding.vote_passes
        peaks = local_maxima(smoothed, threshold, decoding.distance)
        labels = group_by_vectors(self.vectors, foreground, peaks, decoding.within, decoding.reach)
        return self._scores(labels, len(peaks.points), group)

    def _scores(self, labels: np.ndarray, count: int, group: _Jobs) -> dict[int, Scores]:
        """Scores of the decodings that grow and sift the same labels, 1 to count."""
        sums: dict[int, Sums] = {}
        for _, decoding in group:
            if decoding.dilate not in sums:
                grown_labels = expand_labels(labels, decoding.dilate) if decoding.dilate else labels
                sums[decoding.dilate] = sums_of(grown_labels, count, self.truth.index)
        return {index: self._score(sums[d.dilate], d.min_size) for index, d in group}

    def _score(self, sums: Sums, least: int) -> Scores:
        kept = sums.sizes >= max(1, least)
        number = np.cumsum(kept) - 1
        true, predicted = np.divmod(sums.pairs.astype(np.int64) - 1, max(1, len(kept)))
        unknown = np.zeros(len(kept), np.int64)
        off = true == len(self.truth)
        unknown[predicted[off]] = sums.overlaps[off]
        shared = kept[predicted] & ~off
        pairs = np.stack([true[shared], number[predicted[shared]]], axis=1)
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        table = Contingency(
            self.truth.ids,
            self.truth.sizes,
            np.flatnonzero(kept).astype(np.uint64) + np.uint64(1),
            sums.sizes[kept],
            pairs[order],
            sums.overlaps[shared][order],
            unknown[kept],
        )
        counted = counted_objects(table, self.min_size).predicted
        sizes = table.predicted_sizes[counted]
        centers = sums.places[kept][counted] / (sizes[:, None] * np.array([1.0, 1.0, 2.0]))
        hits = labels_hit(centers, self.truth.labels, self.truth.annotated)
        return _without_objects(score(table, hits, THRESHOLDS, self.min_size, self.truth.cut))


def _way_of_votes(decoding: Decoding) -> tuple:
    return "votes", decoding.reach, decoding.vote_passes, decoding.votes_from


def _understood(decoding: Decoding) -> bool:
    return type(decoding) is Decoding and all(
        name in _SHARED or getattr(decoding, name) == field.get_default(call_default_factory=True)
        for name, field in Decoding.model_fields.items()
    )


def _without_objects(scores: Scores) -> Scores:
    return replace(scores, objects=None)
