"""How heads turn: the target of mirrored labels is the mirrored target, for every head, shape and subset of axes."""

from itertools import product

import cases
import numpy as np
import pytest

from nucseg.heads.affinities import Affinities
from nucseg.heads.base import Centers
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.gaussian_centers import GaussianCenters
from nucseg.heads.scenario import Scenario
from nucseg.heads.signed_distance import SignedDistance
from nucseg.heads.three_label import ThreeLabel
from nucseg.instances.centroids import centroids

VIEWS = [tuple(a for a in range(3) if chosen[a]) for chosen in product((False, True), repeat=3)]
HEADS = [
    ThreeLabel(),
    SignedDistance(),
    Affinities(),
    GaussianCenters(),
    CenterVectors(),
    CenterVectors(unit=True),
]


def target_of(head, labels):
    found = centroids(labels)
    centers = Centers(found.ids, found.centers, np.ones(len(found.ids), bool))
    return head.target(labels, tuple(slice(0, n) for n in labels.shape), (0.4, 0.2, 0.3), centers)[0]


@pytest.mark.parametrize("cut", [(0, 0, 0), (1, 1, 1), (0, 1, 0)])
@pytest.mark.parametrize("axes", VIEWS, ids=lambda axes: "".join("zyx"[a] for a in axes) or "none")
@pytest.mark.parametrize(
    "head", HEADS, ids=lambda head: f"{head.name}{'_unit' * getattr(head, 'unit', False)}"
)
def test_the_target_of_mirrored_labels_is_the_mirrored_target(head, axes, cut):
    labels = cases.crowded(0)
    labels = labels[tuple(slice(0, n - c) for n, c in zip(labels.shape, cut, strict=True))]
    flipped = np.ascontiguousarray(np.flip(labels, axes))
    turned, valid = head.mirrored(target_of(head, flipped), axes)
    expected = target_of(head, labels)
    if isinstance(head, Affinities):
        assert valid.tolist() == [0 not in axes, 1 not in axes, 2 not in axes, True]
        for axis in axes:  # the affinity of the next voxel, which the last plane does not have
            inner, shifted = [slice(None)] * 3, [slice(None)] * 3
            inner[axis], shifted[axis] = slice(0, -1), slice(1, None)
            np.testing.assert_array_equal(turned[axis][tuple(inner)], expected[axis][tuple(shifted)])
            assert (turned[axis] != expected[axis]).any()
    else:
        assert valid.all()
    np.testing.assert_allclose(turned[valid], expected[valid], atol=1e-5)


def test_a_scenario_turns_the_channels_of_each_head():
    scenario = Scenario([CenterVectors(), Affinities(), GaussianCenters()])
    prediction = np.random.default_rng(0).random((8, 3, 4, 5), np.float32)
    turned, valid = scenario.mirrored(prediction, (0, 2))
    signs = np.array([-1, 1, -1, 1, 1, 1, 1, 1])[:, None, None, None]
    np.testing.assert_array_equal(turned, signs * prediction[:, ::-1, :, ::-1])
    assert valid.tolist() == [True, True, True, False, True, False, True, True]
    with pytest.raises(ValueError, match="channels"):
        scenario.mirrored(prediction[1:], (0,))
