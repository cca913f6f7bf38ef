"""Truth that is annotated in part: every way of scoring against plain loops over voxels."""

import itertools
import math

import numpy as np
import pytest
from click.testing import CliRunner
from evaluate.test_grid import SCENARIO, grid, prediction_of, truth_of
from evaluate.test_paths import Blocked
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter

import nucseg.evaluate.streaming as streaming
from nucseg.annotation import AnnotationMask
from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.evaluate import evaluate_paths
from nucseg.evaluate.detect import points as points_of
from nucseg.evaluate.grid import instances, score_decodings
from nucseg.evaluate.matching import detection, match
from nucseg.evaluate.paths import evaluate_points, evaluate_volumes
from nucseg.evaluate.select import select
from nucseg.evaluate.truth import Truth
from nucseg.evaluate.ways import Points
from nucseg.heads.scenario import PointDecoding
from nucseg.points import write_table
from nucseg.volume import create_labels, open_labels

SHAPE = (3, 4, 5)
volumes_ = hnp.arrays(np.uint8, SHAPE, elements=st.integers(0, 4))
masks_ = hnp.arrays(np.bool_, SHAPE)


class Slow:
    """The rules of `match`, voxel by voxel."""

    def __init__(self, truth, predicted, annotated, min_size):
        self.truth, self.annotated = truth, annotated
        true, places, known, both = {}, {}, {}, {}
        for at in np.ndindex(truth.shape):
            t, p = int(truth[at]), int(predicted[at])
            if p:
                places.setdefault(p, []).append(at)
            if not annotated[at]:
                continue
            if t:
                true[t] = true.get(t, 0) + 1
            if p:
                known[p] = known.get(p, 0) + 1
            if t and p:
                both[t, p] = both.get((t, p), 0) + 1
        self.large = {t for t, n in true.items() if n >= min_size}
        self.small = set(true) - self.large
        self.counted, self.if_matched = set(), set()
        for p, voxels in places.items():
            small = sum(both.get((t, p), 0) for t in self.small)
            out = len(voxels) - known.get(p, 0) + small
            if len(voxels) < min_size or small > len(voxels) / 2:
                continue
            (self.counted if out <= len(voxels) / 2 else self.if_matched).add(p)
        self.iou = {
            (t, p): n / (true[t] + known[p] - n)
            for (t, p), n in both.items()
            if t in self.large and p in self.counted | self.if_matched
        }
        self.cut = set()
        for at in np.ndindex(truth.shape):
            for axis, step in itertools.product(range(3), (-1, 1)):
                other = tuple(i + step * (a == axis) for a, i in enumerate(at))
                inside = all(0 <= i < n for i, n in zip(other, truth.shape, strict=True))
                if inside and annotated[at] and not annotated[other]:
                    self.cut.add(int(truth[at]))
        self.centers = [
            tuple(sum(voxel[axis] for voxel in places[p]) / len(places[p]) for axis in range(3))
            for p in self.counted
        ]

    def counts(self, threshold):
        """True positives, false positives and false negatives of the best of all assignments."""
        rows, columns = sorted(self.large), sorted(self.counted | self.if_matched)
        best = (0, 0.0, frozenset())
        for order in itertools.permutations(columns + [None] * len(rows), len(rows)):
            pairs = [pair for pair in zip(rows, order, strict=True) if self.iou.get(pair, 0) >= threshold]
            found = (len(pairs), sum(self.iou[pair] for pair in pairs))
            if found > best[:2]:
                best = (*found, frozenset(p for _, p in pairs))
        return best[0], len(self.counted - best[2]), len(self.large) - best[0]

    def detection(self, points):
        hit, false = set(), 0
        for point in points:
            at = tuple(math.floor(c + 0.5) for c in point)
            if any(i < 0 or i >= n for i, n in zip(at, self.truth.shape, strict=True)):
                false += 1
            elif self.annotated[at]:
                label = int(self.truth[at])
                if label in self.small:
                    continue
                if label in self.large and label not in hit:
                    hit.add(label)
                else:
                    false += 1
        return len(hit), false, len(self.large - self.cut - hit)


@settings(max_examples=80, deadline=None)
@given(volumes_, volumes_, masks_, st.sampled_from([0, 1, 3, 6]), st.sampled_from([0.1, 0.3, 0.5]))
def test_match_and_detection_are_those_of_the_plain_loops(truth, predicted, annotated, min_size, threshold):
    slow = Slow(truth, predicted, annotated, min_size)
    scores = match(truth, predicted, (threshold,), min_size, annotated)
    assert scores.objects.true_ids.tolist() == sorted(slow.large)
    assert scores.objects.predicted_ids.tolist() == sorted(slow.counted)
    best = [max([v for (t, _), v in slow.iou.items() if t == true], default=0) for true in sorted(slow.large)]
    assert scores.objects.best_iou.tolist() == best
    found = (scores.tp[threshold], scores.fp[threshold], scores.fn[threshold])
    assert found == slow.counts(threshold)
    assert scores.n_predicted == found[0] + found[1]
    assert scores.objects.cut.tolist() == sorted(slow.large & slow.cut)
    assert scores.detection[:3] == slow.detection(slow.centers)
    points = np.random.default_rng(int(truth.sum())).uniform(-1, 5, (12, 3))
    assert detection(points, truth, min_size, annotated)[:3] == slow.detection(points)


@settings(max_examples=30, deadline=None)
@given(volumes_, volumes_, masks_, st.sampled_from([0, 3]))
def test_what_is_said_where_nothing_is_annotated_does_not_matter(truth, predicted, annotated, min_size):
    ignoring = np.where(annotated, truth.astype(np.int16), -1)
    scores = match(truth, predicted, min_size=min_size, annotated=annotated)
    assert match(ignoring, predicted, min_size=min_size, annotated=annotated.astype(np.uint8)) == scores
    assert match(truth, predicted, annotated=np.ones(SHAPE, bool)) == match(truth, predicted)


def perfect_cases():
    """Balls that touch, under half a volume, a slanted mask, a mask of blobs, and one of single voxels."""
    rng, shape = np.random.default_rng(2), (16, 18, 30)
    grid, truth = np.indices(shape), np.zeros(shape, np.uint16)
    for number, center in enumerate(itertools.product((4, 11), (4, 13), (4, 11, 18, 25)), start=1):
        distance = sum((g - c - s) ** 2 for g, c, s in zip(grid, center, rng.uniform(-1, 1, 3), strict=True))
        truth[(distance <= rng.uniform(2, 4) ** 2) & (truth == 0)] = number
    half = grid[2] < 17
    yield truth, half
    yield truth, ~half
    for seed in range(6):
        yield truth, slanted(shape, seed)
        yield truth, gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2) > 0
        yield truth, np.random.default_rng(seed).random(shape) < 0.3


@pytest.mark.parametrize("min_size", [0, 12])
def test_a_perfect_prediction_scores_one_whatever_is_annotated(min_size):
    slivers = 0
    for truth, annotated in perfect_cases():
        predicted = np.where(truth > 0, 70 - truth.astype(np.int64), 0)
        scores = match(truth, predicted, min_size=min_size, annotated=annotated)
        sizes = np.bincount(truth[annotated], minlength=truth.max() + 1)[1:]
        assert scores.n_true == scores.n_predicted == np.count_nonzero(sizes >= max(1, min_size))
        assert set(scores.ap.values()) == {1.0}
        assert scores.detection_ap == 1.0
        table = np.array([np.argwhere(truth == label).mean(axis=0) for label in np.unique(truth)[1:]])
        assert detection(table, truth, min_size, annotated).ap == 1.0
        half = 2 * sizes < np.bincount(truth.ravel())[1:]
        slivers += np.count_nonzero(half & (sizes >= max(1, min_size)))
    assert slivers > 30


def test_beyond_the_border_nothing_is_excused():
    """The border cuts one nucleus in two; what is missed or invented on annotated ground counts."""
    truth, annotated = np.zeros((3, 6, 20), np.uint8), np.ones((3, 6, 20), bool)
    annotated[..., 10:] = False
    truth[:, 1:5, 8:16], truth[:, 1:5, 2:6] = 1, 2
    assert match(truth, truth, annotated=annotated).ap[0.9] == 1.0
    missed = match(truth, np.where(truth == 2, 2, 0), annotated=annotated)
    assert (missed.tp[0.5], missed.fp[0.5], missed.fn[0.5]) == (1, 0, 1)
    assert missed.detection == (1, 0, 0, 1.0), "its centre lies beyond the border"
    assert match(truth, np.where(truth == 1, 1, 0), annotated=annotated).detection[:3] == (0, 0, 1)
    shifted = np.roll(truth, 2, axis=2) * (np.roll(truth, 2, axis=2) == 1)  # nothing of it left of the border
    assert match(truth, shifted, annotated=annotated).n_predicted == 0
    invented = truth.copy()
    invented[:, 5, 3:12] = 3  # 21 of 27 voxels on annotated background
    scores = match(truth, invented, annotated=annotated)
    assert (scores.tp[0.5], scores.fp[0.5], scores.fn[0.5]) == (2, 1, 0)
    assert scores.detection[:3] == (1, 1, 0)


@pytest.mark.parametrize("unit", [(3, 4, 5), (2, 3, 2)])
@settings(max_examples=30, deadline=None)
@given(volumes_, volumes_, masks_, st.sampled_from([0, 3]))
def test_blocks_give_the_scores_of_the_whole(unit, truth, predicted, annotated, min_size):
    points = np.random.default_rng(int(predicted.sum())).uniform(-1, 5, (12, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "_LEAST_BLOCK", 1)
        patch.setattr(streaming, "_FOLD", 4)
        known = Blocked(annotated, (1, 3, 4))
        blocked = evaluate_volumes(
            Blocked(predicted, unit), Blocked(truth, (2, 2, 5)), min_size, annotated=known
        )
        by_points = evaluate_points(points, Blocked(truth, unit), min_size, annotated=known)
    whole = match(truth, predicted, min_size=min_size, annotated=annotated)
    assert blocked == whole
    for name in ("true_ids", "best_iou", "best_predicted", "predicted_ids", "cut"):
        np.testing.assert_array_equal(getattr(blocked.objects, name), getattr(whole.objects, name))
    assert by_points.detection == detection(points, truth, min_size, annotated)


def slanted(shape, seed):
    """A mask with a slanted border and holes."""
    z, y, x = np.indices(shape)
    noise = np.random.default_rng(seed).random(shape) < 0.02
    return (2 * z + y + 0.5 * x < 0.6 * (2 * shape[0] + shape[1] + 0.5 * shape[2])) & ~noise


@pytest.mark.parametrize(("min_size", "dtype"), [(0, np.uint16), (15, np.int64)])
def test_a_grid_gives_the_scores_of_each_decoding_by_itself(min_size, dtype):
    truth = truth_of(1, dtype)
    prediction, annotated = prediction_of(truth, 2), slanted(truth.shape, 3)
    known, decodings = Truth(truth, annotated), grid()[::3]
    found, changed = score_decodings(prediction, known, SCENARIO, decodings, min_size=min_size), 0
    for decoding, scores in zip(decodings, found, strict=True):
        labels = instances(prediction, SCENARIO, decoding)
        assert scores == match(truth, labels, min_size=min_size, annotated=annotated), decoding
        changed += scores != match(truth, labels, min_size=min_size)
    assert 3 * changed > len(decodings), "a mask that changes nothing tests nothing"
    decoding = PointDecoding(source="votes", threshold=0.5, reach=6, distance=1, foreground_threshold=0.5)
    (scores,) = Points().scores(prediction, known, SCENARIO, [decoding], min_size=min_size)
    expected = detection(points_of(prediction, SCENARIO, decoding), truth, min_size, annotated)
    assert scores.detection == expected


def test_truth_counts_what_is_annotated():
    labels = truth_of(4)
    annotated = slanted(labels.shape, 5)
    truth = Truth(labels, annotated)
    ids, sizes = np.unique(labels[annotated & (labels > 0)], return_counts=True)
    np.testing.assert_array_equal(truth.ids, ids)
    np.testing.assert_array_equal(truth.sizes, sizes)
    last = np.concatenate([[0], ids, [10**6]])[truth.index]
    np.testing.assert_array_equal(last, np.where(annotated, labels.astype(int), 10**6))


def test_selection_looks_at_what_is_annotated():
    truth = truth_of(1)
    prediction, annotated = prediction_of(truth, 2), slanted(truth.shape, 3)
    decodings = grid()[:12]
    volumes = [(prediction, truth), (prediction, truth)]
    selection = select(volumes, SCENARIO, decodings, annotated=[annotated, None])
    for decoding, row in zip(decodings, selection.table, strict=True):
        labels = instances(prediction, SCENARIO, decoding)
        both = match(truth, labels, annotated=annotated).av_ap, match(truth, labels).av_ap
        assert row["score"] == pytest.approx(np.mean(both), abs=1e-12)
    with pytest.raises(InputError, match="none with a label"):
        select(volumes[:1], SCENARIO, decodings, annotated=[truth == 0])
    with pytest.raises(InputError, match="each of 2 volumes"):
        select(volumes, SCENARIO, decodings, annotated=[annotated])


def test_masks_that_do_not_fit_are_refused():
    truth = truth_of(1)
    for wrong in (np.ones(truth.shape[1:], bool), np.ones(truth.shape)):
        with pytest.raises(InputError, match="annotated: expected bool of the truth's shape"):
            match(truth, truth, annotated=wrong)
    with pytest.raises(InputError, match="mask that was made for this truth"):
        evaluate_volumes(
            Blocked(truth, (4, 4, 4)), Blocked(truth, (4, 4, 4)), annotated=AnnotationMask(SHAPE)
        )


@pytest.fixture
def halves(tmp_path):
    """Labels of which no object crosses the plane x = 20, their mask, and the annotated half by itself."""
    rng = np.random.default_rng(8)
    truth = np.zeros((14, 18, 40), np.int32)
    places = itertools.product((3, 10), (4, 13), (4, 14, 25, 35))
    for number, center in enumerate(rng.permutation(list(places)), start=1):
        grid = np.indices(truth.shape)
        distance = sum((g - c) ** 2 for g, c in zip(grid, center, strict=True))
        truth[distance <= rng.uniform(1.5, 3.3) ** 2] = number
    predicted = np.roll(truth, (1, 0), axis=(1, 2)).astype(np.uint32)
    predicted[predicted == predicted[predicted > 0].min()] = 0
    predicted[6:9, 8:10, 18:20] = 90
    annotated = np.zeros(truth.shape, np.uint8)
    annotated[:, :, :20] = 1
    stored = create_labels(tmp_path / "t.zarr", shape=truth.shape, dtype="int32", scale_um=None)
    stored.write((0, 0, 0), truth)
    create_labels(tmp_path / "t.zarr", "seen", shape=truth.shape, dtype="uint8", scale_um=None).write(
        (0, 0, 0), annotated
    )
    np.save(tmp_path / "mask.npy", annotated.astype(bool))
    np.save(tmp_path / "ignoring.npy", np.where(annotated, truth, -1))
    np.save(tmp_path / "p.npy", predicted)
    np.save(tmp_path / "t_half.npy", truth[:, :, :20])
    np.save(tmp_path / "p_half.npy", predicted[:, :, :20])
    return tmp_path


def told(*arguments):
    result = CliRunner().invoke(cli, ["evaluate", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_half_a_volume_scores_as_that_half_cut_out(halves, tmp_path):
    cropped = told(halves / "p_half.npy", halves / "t_half.npy", "--min-size", 9)
    assert cropped != told(halves / "p.npy", halves / "t.zarr", "--min-size", 9)
    truth = halves / "t.zarr"
    for way in (
        (truth, "--mask", "seen"),
        (truth, "--mask", halves / "mask.npy"),
        (halves / "ignoring.npy", "--ignore-label", -1),
        (halves / "ignoring.npy", "--ignore-label", -1, "--mask", halves / "mask.npy"),
    ):
        assert told(halves / "p.npy", *way, "--min-size", 9) == cropped
    points = np.random.default_rng(3).uniform(0, (13, 17, 39), (60, 3))
    table = write_table(tmp_path, "found", dict(zip("zyx", points.T, strict=True)))
    left = write_table(tmp_path, "left", dict(zip("zyx", points[points[:, 2] < 19.5].T, strict=True)))
    assert told(table, truth, "--mask", "seen") == told(left, halves / "t_half.npy")


def test_what_cannot_be_scored_is_refused(halves):
    truth = open_labels(halves / "t.zarr").read()
    np.save(halves / "none.npy", np.zeros(truth.shape, bool))
    np.save(halves / "background.npy", truth == 0)
    np.save(halves / "short.npy", truth[1:] == 0)
    for options, says in (
        ({"mask": halves / "none.npy"}, "no annotated voxel"),
        ({"mask": halves / "background.npy"}, "0 in every voxel that is annotated"),
        ({"mask": halves / "short.npy"}, "expected the shape of"),
        ({"mask": "sen"}, "nuclei, seen; received no such label image"),
        ({"ignore_label": 0}, "another label than 0"),
    ):
        with pytest.raises(InputError, match=says):
            evaluate_paths(halves / "p.npy", halves / "t.zarr", **options)
