"""What a report finds in an image."""

import numpy as np
import pytest

from nucseg.annotation import AnnotationMask
from nucseg.errors import InputError
from nucseg.evaluate.matching import match
from nucseg.report.experiment import crowded_part
from nucseg.report.image import ReportImage
from nucseg.report.panels import panels
from nucseg.report.worst import worst_cases
from nucseg.volume import open_volume


def test_scores_are_those_of_match(image, scene):
    assert image.scores == match(scene.truth, scene.predicted)


def test_detections_are_those_that_are_counted(image, scene):
    found = image.detections()
    counts = image.scores.detection
    assert (len(found.found), len(found.false), len(found.missed)) == (counts.tp, counts.fp, counts.fn)
    assert len(found.found_true) == len(found.found)
    assert np.linalg.norm(found.found - found.found_true, axis=1).max() < 5
    for point, center in zip(found.found, found.found_true, strict=True):
        label = scene.truth[tuple(np.floor(point + 0.5).astype(int))]
        np.testing.assert_allclose(center, np.argwhere(scene.truth == label).mean(0))


def test_of_two_centres_in_a_nucleus_the_nearer_is_found():
    truth, predicted = np.zeros((2, 9, 9, 20), np.uint16)
    truth[2:7, 2:7, 2:18] = 5
    predicted[2:7, 2:7, 2:5] = 1
    predicted[2:7, 2:7, 7:15] = 2
    found = ReportImage("split", truth, truth, predicted).detections()
    assert found.found.tolist() == [[4, 4, 10.5]]
    assert found.false.tolist() == [[4, 4, 3]]
    assert not len(found.missed)


def test_objects_below_the_smallest_size_are_left_out(scene):
    image = ReportImage("sized", scene.raw, scene.truth, scene.predicted, min_size=150)
    counts = match(scene.truth, scene.predicted, min_size=150).detection
    found = image.detections()
    assert (len(found.found), len(found.false), len(found.missed)) == (counts.tp, counts.fp, counts.fn)


@pytest.fixture
def annotated(scene):
    """All but a slanted part of the scene, which cuts nuclei and holds the false positive."""
    _, y, x = np.indices(scene.truth.shape)
    return x + 0.7 * y < 80


@pytest.mark.parametrize("stored", [False, True])
def test_what_is_not_annotated_is_neither_right_nor_wrong(scene, annotated, stored, tmp_path):
    truth, mask = np.where(annotated, scene.truth.astype(np.int64), -1), annotated
    if stored:
        np.save(tmp_path / "truth.npy", truth)
        truth = open_volume(tmp_path / "truth.npy")
        mask = AnnotationMask(truth.shape, labels=truth, ignore_label=-1)
    image = ReportImage("part", scene.raw, truth, scene.predicted, scene.scale, annotated=mask)
    expected = match(scene.truth, scene.predicted, annotated=annotated)
    assert image.scores == expected != match(scene.truth, scene.predicted)
    counts, found = expected.detection, image.detections()
    assert (len(found.found), len(found.false), len(found.missed)) == (counts.tp, counts.fp, counts.fn)
    known = np.where(annotated, scene.truth, 0)
    np.testing.assert_array_equal(image.true_centers.ids, np.unique(known)[1:])
    np.testing.assert_array_equal(image.truth_source.read(), known)
    begin, shape = (-2, 30, 80), (9, 20, 15)
    padded = np.pad(known, ((2, 0), (0, 6), (0, 5)))
    np.testing.assert_array_equal(image.truth_source.read(begin, shape), padded[:9, 30:50, 80:95])
    assert str(scene.false) not in "".join(picture.title for picture in worst_cases(image, 50)[1])
    assert len(panels(image)) == 4
    close = crowded_part(image)
    axis, length = 2, scene.truth.shape[2] // 3
    assert close.shape[axis] == length
    places = [i for i in range(60) if np.array_equal(known[:, :, i : i + length], close.truth_source.read())]
    (start,) = places
    part = np.s_[:, :, start : start + length]
    assert close.scores == match(scene.truth[part], scene.predicted[part], annotated=annotated[part])


def test_shapes_must_agree(scene):
    with pytest.raises(InputError, match="one shape"):
        ReportImage("cut", scene.raw, scene.truth, scene.predicted[1:])


def test_worst_cases(image, scene):
    missed, false = worst_cases(image, 50)
    objects = image.scores.objects
    assert len(missed) == len(objects.false_negatives(0.5)) >= len(scene.missing)
    assert len(false) == len(objects.false_positives(0.5)) >= 1
    assert [p.title for p in missed[:3]] == sorted(
        (p.title for p in missed[:3]), key=lambda t: "not met" not in t
    )
    assert any(str(scene.false) in p.title for p in false)
    assert all(p.bar_percent and p.bar_text.endswith("µm") for p in missed)
    assert "µm³" in missed[0].caption
    few = worst_cases(image, 2)
    assert [len(cases) for cases in few] == [2, 2]
    perfect = ReportImage("perfect", scene.raw, scene.truth, scene.truth)
    assert worst_cases(perfect, 6) == ([], [])
