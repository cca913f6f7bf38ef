"""The classical floor: strong, reproducible, and low on crowded nuclei."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from nucseg.errors import InputError
from nucseg.evaluate.floor import (
    FloorParameters,
    otsu_threshold,
    threshold_watershed,
)
from nucseg.evaluate.floor_search import tune_threshold_watershed
from nucseg.evaluate.matching import match
from nucseg.synthetic import plan_worm, render_block


def worm(difficulty, shape=(44, 48, 80), nuclei=50, seed=1):
    return render_block(plan_worm(shape, nuclei, seed, difficulty=difficulty), (0, 0, 0), shape)


@pytest.fixture(scope="module")
def tuned():
    """Raw, truth and floor of a crowded worm."""
    raw, truth = worm("worm")
    return raw, truth, tune_threshold_watershed(raw, truth)


def test_tuned_parameters_give_the_labels_and_the_score(tuned):
    raw, truth, floor = tuned
    labels = threshold_watershed(raw, floor.parameters)
    np.testing.assert_array_equal(labels, floor.labels)
    assert labels.dtype == np.uint64
    assert match(truth, labels, (0.5,)).ap[0.5] == floor.ap_50
    assert floor.tried > 20


def test_separate_nuclei_are_no_challenge_but_crowded_ones_are(tuned):
    raw, truth = worm("easy")
    easy = tune_threshold_watershed(raw, truth)
    assert easy.ap_50 > 0.9
    assert 0.3 < tuned[2].ap_50 < easy.ap_50 - 0.1


def test_no_plain_setting_beats_the_tuned_one(tuned):
    """An independent, brute-force grid over the textbook method must stay below the tuned floor."""
    raw, truth, floor = tuned
    best = 0.0
    for sigma in (0.5, 1.0, 2.0):
        smooth = ndimage.gaussian_filter(raw.astype(np.float32), sigma)
        for level in (0.7, 0.85, 1.0, 1.2):
            mask = smooth > level * threshold_otsu(smooth)
            distance = ndimage.distance_transform_edt(mask)
            for field in (smooth, distance):
                for gap in (2, 3, 4):
                    peaks = (field == ndimage.maximum_filter(field, 2 * gap + 1)) & mask
                    labels = watershed(-field, ndimage.label(peaks)[0], mask=mask)
                    best = max(best, match(truth, labels, (0.5,)).ap[0.5])
    assert 0.3 < best < floor.ap_50 + 0.03


def test_parameters_apply_to_another_volume(tuned):
    raw, truth = worm("worm", seed=2)
    elsewhere = match(truth, threshold_watershed(raw, tuned[2].parameters), (0.5,)).ap[0.5]
    own = tune_threshold_watershed(raw, truth)
    assert 0.2 < elsewhere < own.ap_50 + 0.05


def test_lengths_follow_the_voxels():
    raw, truth = worm("easy")
    thin_raw, thin_truth = np.repeat(raw, 2, axis=0), np.repeat(truth, 2, axis=0)
    floor = tune_threshold_watershed(thin_raw, thin_truth, scale_um=(0.06, 0.12, 0.12))
    assert floor.parameters.stretch == (1.0, 2.0, 2.0)
    assert floor.ap_50 > 0.85


def test_two_bright_balls_are_two_objects():
    grid = np.indices((20, 20, 40))
    raw = np.full((20, 20, 40), 10.0)
    for x in (12, 25):
        raw[sum((g - c) ** 2 for g, c in zip(grid, (10, 10, x), strict=True)) <= 49] = 100.0
    for seeds in ("intensity", "distance"):
        parameters = FloorParameters(1.0, 1.0, 0.0, seeds, 2.0, 4, seeds)
        labels = threshold_watershed(raw, parameters)
        assert len(np.unique(labels)) == 3
        assert labels[10, 10, 10] != labels[10, 10, 27]
        assert labels[0, 0, 0] == 0


def test_otsu_is_otsu(tuned):
    image = ndimage.gaussian_filter(tuned[0].astype(np.float32), 1.0)
    assert otsu_threshold(image) == pytest.approx(threshold_otsu(image), rel=0.01)
    assert otsu_threshold(np.full((3, 3, 3), 7.0)) == 7.0


def test_bad_input_is_named():
    raw = np.zeros((8, 8, 8), np.uint16)
    with pytest.raises(InputError, match="one shape"):
        tune_threshold_watershed(raw, np.zeros((8, 8, 9), np.uint32))
    with pytest.raises(InputError, match="background only"):
        tune_threshold_watershed(raw, np.zeros((8, 8, 8), np.uint32))


def test_what_is_not_annotated_does_not_tune(tuned):
    raw, truth = (part[:, :, 12:52] for part in tuned[:2])
    annotated = np.indices(truth.shape)[2] < 22
    ignoring = np.where(annotated, truth.astype(np.int64), -1)
    floor = tune_threshold_watershed(raw, truth, annotated=annotated)
    assert floor.ap_50 == match(truth, floor.labels, (0.5,), annotated=annotated).ap[0.5]
    other = tune_threshold_watershed(raw, ignoring, annotated=annotated)
    assert (other.parameters, other.ap_50) == (floor.parameters, floor.ap_50)
    everywhere = tune_threshold_watershed(raw, np.where(annotated, truth, 0))
    assert everywhere.ap_50 < floor.ap_50, "nuclei that nobody annotated are no false positives"
    with pytest.raises(InputError, match="background only"):
        tune_threshold_watershed(raw, truth, annotated=truth == 0)
