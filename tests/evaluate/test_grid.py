"""Scores of a grid are those of each decoding by itself, whatever is shared."""

import itertools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from nucseg.errors import InputError
from nucseg.evaluate.grid import instances, score_decodings
from nucseg.evaluate.matching import match
from nucseg.evaluate.truth import Truth
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.instances.centroids import center_vectors, centroids

SHAPE = (13, 22, 31)
SCENARIO = Scenario.named("three_label_cpv")


def truth_of(seed, dtype=np.uint16):
    """Blobs, numbered with gaps."""
    rng = np.random.default_rng(seed)
    height = gaussian_filter(rng.standard_normal(SHAPE), 1.7)

    labels = label(height > 0.02)[0]
    return np.where(labels > 0, 3 * labels + 100, 0).astype(dtype)


def prediction_of(truth, seed):
    """Probabilities and vectors of the truth, blurred and noisy; rounded, so that heights tie."""
    rng = np.random.default_rng(seed)
    inside = gaussian_filter((truth > 0).astype(np.float32), 1.0) + rng.normal(0, 0.12, SHAPE)
    inside = np.round(np.clip(inside, 0, 1), 2)
    found = centroids(truth)
    vectors = center_vectors(truth, found.ids, found.centers) + rng.normal(0, 0.8, (3, *SHAPE))
    return np.concatenate([[1 - inside, inside**2, inside - inside**2], vectors]).astype(np.float32)


def grid():
    """A grid whose members share surface, foreground, votes and floods in all ways."""
    main = [
        Decoding(seed_threshold=t, foreground_threshold=f, dilate=d, min_size=s)
        for t, f, d, s in itertools.product((0.4, 0.7, 2.0), (0.3, 0.6), (0, 1, 2), (0, 12))
    ]
    votes = [
        Decoding(
            seeds="votes",
            seed_threshold=t,
            foreground_threshold=f,
            reach=r,
            vote_passes=p,
            votes_from=v,
            dilate=d,
        )
        for t, f, (r, p), v, d in itertools.product(
            (0.5, 2.0), (0.6, 0.3), ((3, 0), (9, 2), (3, 2)), ("foreground", "all"), (0, 1)
        )
    ]
    vectors = [
        Decoding(
            seeds="vectors",
            seed_threshold=t,
            foreground_threshold=f,
            reach=9,
            distance=n,
            within=w,
            dilate=d,
            min_size=s,
        )
        for t, f, n, w, (d, s) in itertools.product(
            (0.5, 2.0), (0.3, 0.6), (1, 2), (0, 3), ((0, 0), (1, 0), (0, 12))
        )
    ]
    return [*main[::2], *votes, *vectors, *main[1::2]]


@pytest.mark.parametrize(("min_size", "threads", "dtype"), [(0, 1, np.uint16), (15, 3, np.int64)])
def test_every_score_is_that_of_segmenting_and_matching(min_size, threads, dtype):
    truth = truth_of(1, dtype)
    prediction, seen = prediction_of(truth, 2), []
    found = score_decodings(
        prediction, Truth(truth), SCENARIO, grid(), min_size=min_size, threads=threads, progress=seen.append
    )
    for decoding, scores in zip(grid(), found, strict=True):
        assert scores == match(truth, instances(prediction, SCENARIO, decoding), min_size=min_size), decoding
    assert sum(seen) == len(grid())
    assert len({scores.detection for scores in found}) > 10, "decodings that all score the same test nothing"


def test_truth_counts_its_objects():
    labels = truth_of(4)
    truth = Truth(labels)
    ids, sizes = np.unique(labels[labels > 0], return_counts=True)
    np.testing.assert_array_equal(truth.ids, ids)
    np.testing.assert_array_equal(truth.sizes, sizes)
    np.testing.assert_array_equal(np.concatenate([[0], truth.ids])[truth.index], labels)
    assert len(truth) == len(ids)


def test_an_empty_truth_and_an_empty_prediction_are_scored_too():
    nothing = np.zeros(SHAPE, np.uint8)
    prediction = prediction_of(truth_of(1), 2)
    never = Decoding(seed_threshold=2.0, foreground_threshold=0.5)
    some = Decoding(seed_threshold=0.5, foreground_threshold=0.5)
    for labels, decoding in ((nothing, never), (nothing, some), (truth_of(1), never)):
        (found,) = score_decodings(prediction, Truth(labels), SCENARIO, [decoding])
        assert found == match(labels, instances(prediction, SCENARIO, decoding))


def test_a_decoding_with_fields_of_its_own_is_decoded_by_itself():
    class Own(Decoding):
        twist: int = 3

    truth = truth_of(1)
    prediction = prediction_of(truth, 2)
    decodings = [
        Decoding(seed_threshold=0.5, foreground_threshold=0.5),
        Own(seed_threshold=0.7, foreground_threshold=0.5),
    ]
    found = score_decodings(prediction, Truth(truth), SCENARIO, decodings)
    assert found == [match(truth, instances(prediction, SCENARIO, d)) for d in decodings]


def test_what_does_not_fit_is_told():
    truth, main = Truth(truth_of(1)), Scenario.named("three_label")
    prediction = prediction_of(truth.labels, 2)
    decoding = Decoding(seed_threshold=0.5, foreground_threshold=0.5)
    votes = Decoding(seeds="votes", seed_threshold=0.5, foreground_threshold=0.5, reach=4)
    with pytest.raises(InputError, match="the truth's shape"):
        score_decodings(prediction[:, 1:], truth, SCENARIO, [decoding])
    with pytest.raises(InputError, match="channels first"):
        score_decodings(prediction, truth, main, [decoding])
    vectors = Decoding(seeds="vectors", seed_threshold=0.5, foreground_threshold=0.5, reach=4)
    for other in (votes, vectors):
        with pytest.raises(InputError, match="center vectors"):
            score_decodings(prediction[:3], truth, main, [decoding, other])
    prediction[1, truth.labels > 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        score_decodings(prediction, truth, SCENARIO, [decoding])
