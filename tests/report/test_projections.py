"""Projections block by block against a loop over lines of sight."""

import itertools

import numpy as np
import pytest

from nucseg.report import projections
from nucseg.report.image import ReportImage
from nucseg.report.projections import BOTH, NONE, PREDICTION, TRUTH, States, project


def reference(image, axis):
    """What each line of sight along `axis` shows, voxel by voxel."""
    objects = image.scores.objects
    true, found = objects.true_positives(0.5)
    missed, false = objects.false_negatives(0.5), objects.false_positives(0.5)
    raw, truth, predicted = (np.moveaxis(v, axis, 0) for v in (image.raw, image.truth, image.predicted))
    shape = raw.shape[1:]
    kind, labels = np.zeros(shape, int), np.zeros(shape, np.uint64)
    false_map, missed_map = np.isin(predicted, false).any(0), np.isin(truth, missed).any(0)
    is_true, is_found = np.isin(truth, true), np.isin(predicted, found)
    for i, j in itertools.product(*map(range, shape)):
        line = [(-int(raw[k, i, j]), k) for k in range(raw.shape[0]) if is_true[k, i, j] or is_found[k, i, j]]
        if line:
            k = min(line)[1]
            both = is_true[k, i, j] and is_found[k, i, j]
            kind[i, j] = BOTH if both else TRUTH if is_true[k, i, j] else PREDICTION
            labels[i, j] = predicted[k, i, j] if is_found[k, i, j] else truth[k, i, j]
    return raw.max(0), kind, labels, false_map, missed_map, ((truth != 0) | (predicted != 0)).sum((1, 2))


@pytest.mark.parametrize("blocked", [False, True], ids=["whole", "blocks"])
def test_projections(image, blocked, monkeypatch):
    if blocked:
        monkeypatch.setattr(projections, "blocks_of", lambda _: blocks(image.shape, (7, 50, 13)))
    for axis, seen in enumerate(project(image)):
        raw, kind, labels, false, missed, planes = reference(image, axis)
        np.testing.assert_array_equal(seen.raw, raw)
        np.testing.assert_array_equal(seen.kind, kind)
        np.testing.assert_array_equal(seen.labels, labels)
        np.testing.assert_array_equal(seen.false_positive, false)
        np.testing.assert_array_equal(seen.false_negative, missed)
        np.testing.assert_array_equal(seen.planes, planes)
        assert {NONE, BOTH} <= set(np.unique(seen.kind))


def blocks(shape, step):
    for begin in itertools.product(*(range(0, n, s) for n, s in zip(shape, step, strict=True))):
        yield begin, tuple(min(s, n - b) for s, n, b in zip(step, shape, begin, strict=True))


def test_without_truth_every_instance_is_shown(image_without_truth):
    for axis, seen in enumerate(project(image_without_truth)):
        covered = (image_without_truth.predicted != 0).any(axis)
        np.testing.assert_array_equal(seen.kind == PREDICTION, covered)
        np.testing.assert_array_equal(seen.labels != 0, covered)
        assert not seen.false_positive.any()


def test_values_that_are_no_number_are_dark(scene):
    raw = scene.raw.astype(np.float32)
    raw[3:6] = np.nan
    raw[0, 0, 0] = np.inf
    image = ReportImage("broken", raw, None, scene.predicted)
    seen = project(image)[0]
    finite = np.where(np.isfinite(raw), raw, -np.inf)
    np.testing.assert_array_equal(seen.raw, finite.max(0))


def test_states_of_objects_that_are_not_counted(scene):
    image = ReportImage("sized", scene.raw, scene.truth, scene.predicted, min_size=150)
    small = [i for i in np.unique(scene.truth)[1:] if (scene.truth == i).sum() < 150]
    assert small
    states = States(image).true(scene.truth)
    assert not states[np.isin(scene.truth, small)].any()
    assert states[(scene.truth != 0) & ~np.isin(scene.truth, small)].all()
