"""Points of a scenario: score maps against their definition, context, grids, and what does not fit together."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from nucseg.blockwise.decoding import choose_points
from nucseg.errors import InputError
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.gaussian_centers import GaussianCenters
from nucseg.heads.points import default_distance
from nucseg.heads.scenario import PointDecoding, Scenario
from nucseg.heads.three_label import ThreeLabel
from nucseg.instances.detection import local_maxima
from nucseg.instances.votes import vote_map

GAUSS_CPV = Scenario([GaussianCenters(), CenterVectors(scale=4)])
VOTES = {"source": "votes", "threshold": 0.6, "distance": 2, "reach": 4}


def random_map(scenario, shape=(30, 34, 60), seed=0):
    """Smooth channels; vectors with many halves, some longer than any reach."""
    rng = np.random.default_rng(seed)
    maps = ndimage.gaussian_filter(rng.standard_normal((scenario.channels, *shape)), (0, 1.2, 1.2, 1.2))
    maps = maps / maps.std()
    if "cpv" in scenario.slices():
        vectors = scenario.slices()["cpv"]
        maps[vectors] = np.round(4 * maps[vectors]) / 2
    return maps.astype(np.float32)


@pytest.mark.parametrize(
    ("heads", "voters"),
    [
        ([GaussianCenters(), CenterVectors()], lambda maps: maps[0] > 0.3),
        ([CenterVectors(), GaussianCenters()], lambda maps: maps[3] > 0.3),
        ([ThreeLabel(), CenterVectors()], lambda maps: 1 - maps[0] > 0.3),
        ([GaussianCenters(), ThreeLabel(), CenterVectors()], lambda maps: 1 - maps[1] > 0.3),
    ],
)
@pytest.mark.parametrize("votes_from", ["foreground", "all"])
def test_votes_of_the_foreground_and_of_all(heads, voters, votes_from):
    scenario = Scenario(heads)
    maps = random_map(scenario)
    vectors = maps[scenario.slices()["cpv"]]
    threshold = {"foreground_threshold": 0.3} if votes_from == "foreground" else {}
    decoding = PointDecoding(votes_from=votes_from, **threshold, **VOTES)
    foreground = voters(maps) if votes_from == "foreground" else np.ones(maps.shape[1:], bool)
    votes = vote_map(vectors, foreground, reach=4).astype(float)
    for axis in (0, 1, 2) * 2:  # two passes
        votes = ndimage.convolve1d(votes, [0.25, 0.5, 0.25], axis=axis, mode="constant")
    found = scenario.score_map(maps, decoding)
    assert found.dtype == np.float64
    assert found.max() > 1
    np.testing.assert_allclose(found, votes, atol=1e-12)
    assert np.array_equal(found * 64**2, np.rint(found * 64**2))


def test_peaks_are_the_head_s_own_channel():
    scenario = Scenario([CenterVectors(), GaussianCenters()])
    maps = random_map(scenario)
    found = scenario.score_map(maps, PointDecoding(threshold=0.3, distance=2))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, maps[3])


@pytest.mark.parametrize(
    ("decoding", "context"),
    [
        (PointDecoding(threshold=0.2, distance=3), 3),
        (PointDecoding(foreground_threshold=0.1, **VOTES), 2 + 4 + 2),
        (PointDecoding(foreground_threshold=0.1, vote_passes=0, **VOTES), 2 + 4),
    ],
)
def test_points_inside_the_context_are_those_of_the_whole(decoding, context):
    maps = random_map(GAUSS_CPV)
    assert GAUSS_CPV.point_context(decoding) == context
    core = (slice(9, 21), slice(10, 24), slice(9, 51))
    read = tuple(slice(c.start - context, c.stop + context) for c in core)
    whole = local_maxima(GAUSS_CPV.score_map(maps, decoding), decoding.threshold, decoding.distance, core)
    part = local_maxima(
        GAUSS_CPV.score_map(maps[(slice(None), *read)], decoding),
        decoding.threshold,
        decoding.distance,
        tuple(slice(context, context + c.stop - c.start) for c in core),
    )
    assert len(whole.points) > 3
    np.testing.assert_array_equal(part.points + [r.start for r in read], whole.points)
    np.testing.assert_array_equal(part.scores, whole.scores)


def test_which_scenarios_detect():
    assert Scenario.named("gauss").point_sources == ("peaks",)
    assert GAUSS_CPV.point_sources == ("peaks", "votes")
    assert Scenario.named("three_label_cpv").point_sources == ("votes",)
    assert Scenario([CenterVectors()]).point_sources == ("votes",)
    for scenario in (Scenario.named("three_label"), Scenario([CenterVectors(unit=True)])):
        assert not scenario.can_detect
        assert scenario.point_decodings(reach=12) == []
        with pytest.raises(InputError):
            scenario.default_point_decoding(reach=12)


def test_of_center_vectors_alone_all_voxels_vote():
    scenario, beside = (
        Scenario([CenterVectors(scale=4)]),
        Scenario([CenterVectors(scale=4), GaussianCenters()]),
    )
    scenario.check_decodes()
    maps = random_map(beside)
    default = scenario.default_point_decoding(reach=9)
    assert (default.source, default.votes_from, default.foreground_threshold) == ("votes", "all", None)
    every = PointDecoding(votes_from="all", **VOTES)
    found = scenario.score_map(maps[:3], every)
    assert found.max() > 1
    np.testing.assert_array_equal(found, beside.score_map(maps, every))
    grid = scenario.point_decodings(reach=9)
    assert len(grid) == len(set(grid)) == 10 * 8
    assert {(d.votes_from, d.foreground_threshold) for d in grid} == {("all", None)}
    assert not scenario.can_segment
    assert scenario.point_decodings() == []
    for changes in ({"votes_from": "foreground"}, {"votes_from": "all"}):
        with pytest.raises(InputError, match=r"alone do not say what is foreground.*--votes-from all"):
            scenario.score_map(maps[:3], PointDecoding(foreground_threshold=0.5, **changes, **VOTES))
    with pytest.raises(InputError, match=r"a foreground threshold of 0\.5"):
        choose_points(scenario, None, known_reach=9, foreground_threshold=0.5)
    assert choose_points(scenario, None, known_reach=9, distance=5) == default.model_copy(
        update={"distance": 5}
    )


def test_heads_that_decode_to_nothing_are_told():
    with pytest.raises(InputError, match=r"do not say how far the centre is; .*without unit"):
        Scenario([CenterVectors(unit=True)]).check_decodes()
    for scenario in (Scenario([ThreeLabel(), CenterVectors(unit=True)]), Scenario.named("gauss")):
        scenario.check_decodes()
    with pytest.raises(InputError, match="a unit vector does not say where"):
        Scenario([ThreeLabel(), CenterVectors(unit=True)]).check_source("votes")
    assert Scenario([ThreeLabel(), CenterVectors(unit=True)]).point_decodings(reach=9) == []


def test_two_heads_that_detect_are_one_too_many():
    class OtherCenters(GaussianCenters):
        @property
        def name(self):
            return "other"

    with pytest.raises(ValidationError, match="at most one head that detects, not "):
        Scenario([GaussianCenters(), OtherCenters()])


def test_grid_and_defaults():
    peaks = Scenario.named("gauss").point_decodings()
    assert len(peaks) == len(set(peaks)) == 10 * 10
    assert {decoding.distance for decoding in peaks} == set(range(2, 12))
    assert {0.25, 0.3, 0.35} < {decoding.threshold for decoding in peaks}
    assert GAUSS_CPV.point_decodings() == peaks
    both = GAUSS_CPV.point_decodings(reach=12)
    votes = [decoding for decoding in both if decoding.source == "votes"]
    assert both[: len(peaks)] == peaks
    assert len(votes) == len(set(votes)) == 8 * 10 * 4
    assert {decoding.reach for decoding in votes} == {12}
    for scenario in (Scenario.named("gauss"), GAUSS_CPV, Scenario.named("three_label_cpv")):
        assert scenario.default_point_decoding(reach=12) in scenario.point_decodings(reach=12)
    assert GAUSS_CPV.default_votes(12) in both
    with pytest.raises(InputError, match="diameter"):
        Scenario.named("three_label_cpv").default_point_decoding()


def test_default_window_grows_with_the_nuclei():
    assert [default_distance(reach) for reach in (None, 3, 12, 18, 28, 300)] == [3, 2, 2, 3, 5, 11]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"source": "votes", "threshold": 1, "distance": 2, "foreground_threshold": 0.5}, "reach"),
        ({"source": "votes", "threshold": 1, "distance": 2, "reach": 9}, "foreground_threshold"),
        ({"threshold": 1, "distance": 0}, "greater than or equal to 1"),
        ({"threshold": float("nan"), "distance": 2}, "finite"),
        ({"threshold": 1, "distance": 2, "dilate": 1}, "Extra inputs"),
        ({"source": "instances", "threshold": 1, "distance": 2}, "peaks"),
    ],
)
def test_decodings_that_make_no_sense(fields, says):
    with pytest.raises(ValidationError, match=says):
        PointDecoding(**fields)


def test_what_does_not_fit_is_told():
    votes = PointDecoding(foreground_threshold=0.5, **VOTES)
    with pytest.raises(InputError, match="expected peaks or the centres of instances; received votes"):
        Scenario.named("gauss").score_map(np.zeros((1, 3, 3, 3), np.float32), votes)
    peaks = PointDecoding(threshold=0.3, distance=2)
    with pytest.raises(InputError, match="expected the centres of instances; received peaks"):
        Scenario.named("three_label").score_map(np.zeros((3, 3, 3, 3), np.float32), peaks)
    with pytest.raises(InputError, match=r"\(4, z, y, x\)"):
        GAUSS_CPV.score_map(np.zeros((1, 3, 3, 3), np.float32), peaks)
