"""StarDist-3D as one more row: what follows from the volumes, what it is fed, and a cell."""

import json

import numpy as np
import pytest

from nucseg.errors import InputError
from nucseg.evaluate.matching import match
from nucseg.experiment import ExperimentConfig, run_experiment
from nucseg.experiment.config import StarDistSettings
from nucseg.experiment.stardist import Augmenter, shape_for
from nucseg.training.config import Augment
from nucseg.volume import open_labels

pytest.importorskip("stardist")
pytestmark = pytest.mark.xdist_group("tensorflow")

OFF = {"scale": (1.0, 1.0), "shift": (0.0, 0.0)}


def boxes(*shape):
    labels = np.zeros((20, 40, 60), np.int32)
    for i in range(3):
        labels[1 : 1 + shape[0], 1 : 1 + shape[1], 20 * i : 20 * i + shape[2]] = i + 1
    return labels


def test_grid_rays_and_patch_follow_the_nuclei():
    found = shape_for([boxes(4, 12, 8)], StarDistSettings(), smallest=(20, 40, 60))
    assert found.extent == (4, 12, 8)
    assert found.anisotropy == (3, 1, 1.5)
    assert found.grid == (1, 2, 2)
    assert found.patch == (20, 40, 56)  # multiples of grid times 4
    given = shape_for(
        [boxes(4, 12, 8)], StarDistSettings(grid=(1, 1, 1), patch=(8, 8, 8)), smallest=(9, 9, 9)
    )
    assert (given.grid, given.patch) == ((1, 1, 1), (8, 8, 8))
    with pytest.raises(InputError, match="smallest patch"):
        shape_for([boxes(4, 12, 8)], StarDistSettings(), smallest=(20, 7, 60))


def test_the_augmenter_moves_raw_and_labels_alike_and_reaches_all_symmetries():
    labels = np.arange(27).reshape(3, 3, 3)
    augmenter = Augmenter(Augment(**OFF), None, seed=3)
    seen = set()
    for _ in range(2000):
        raw, moved = augmenter(labels.astype(np.float32), labels)
        np.testing.assert_allclose(raw, moved, atol=1e-4)
        seen.add(moved.tobytes())
    every = {
        np.ascontiguousarray(labels.transpose(order)[z, y, x]).tobytes()
        for order in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
        for z in (slice(None), slice(None, None, -1))
        for y in (slice(None), slice(None, None, -1))
        for x in (slice(None), slice(None, None, -1))
    }
    assert seen == every


@pytest.mark.parametrize(
    ("shape", "scale"), [((3, 4, 4), None), ((4, 4, 4), (0.3, 0.1, 0.1)), ((4, 4, 4), (0.122, 0.116, 0.116))]
)
def test_only_equal_axes_change_places(shape, scale):
    augmenter = Augmenter(Augment(mirror=False, **OFF), scale, seed=1)
    labels = np.arange(np.prod(shape)).reshape(shape)
    found = {augmenter(labels.astype(np.float32), labels)[1].tobytes() for _ in range(60)}
    assert found == {labels.tobytes(), np.ascontiguousarray(labels.transpose(0, 2, 1)).tobytes()}


def test_contrast_is_about_the_mean_as_in_training():
    raw = np.random.default_rng(0).normal(3, 1, (4, 4, 4)).astype(np.float32)
    augment = Augment(mirror=False, transpose=False, scale=(1.5, 1.5), shift=(0.25, 0.25))
    changed, _ = Augmenter(augment, None, seed=0)(raw, np.zeros(raw.shape, int))
    np.testing.assert_allclose(changed, (raw - raw.mean()) * 1.5 + raw.mean() + 0.25, rtol=1e-5)


def small_matrix(**changes):
    return ExperimentConfig.model_validate(
        {
            "seeds": [1],
            "threads": 1,
            "datasets": [
                {
                    "name": "worm",
                    "synthetic": {
                        "difficulty": "easy",
                        "shape": (32, 40, 48),
                        "nuclei": 15,
                        "train": [1],
                        "validation": [2],
                        "test": [3],
                    },
                }
            ],
            "stardist": {
                "seconds": 60,
                "epochs": 1,
                "steps_per_epoch": 12,
                "rays": 16,
                "filters": 4,
                "depth": 1,
                "patch": (16, 24, 24),
                "learning_rate": 0.003,
                "nms_thresholds": [0.3],
                "threshold_steps": 2,
                **changes,
            },
        }
    )


def test_training_ends_when_the_validation_loss_no_longer_falls(tmp_path):
    """With steps of no length it never falls: one epoch to know it, two of patience."""
    config = small_matrix(learning_rate=1e-30, epochs=9, steps_per_epoch=2, patience=2)
    found = run_experiment(config, tmp_path / "out", parallel=0)
    assert found["failed"] == []
    assert found["rows"][0]["iterations"] == 3 * 2


def test_a_cell(tmp_path):
    config = small_matrix()
    found = run_experiment(config, tmp_path / "out", parallel=0)
    assert found["failed"] == []
    assert [(r["scenario"], r["seeds"], r["for"]) for r in found["rows"]] == [
        ("stardist", "main", "segmentation"),
        ("stardist", "main", "detection"),
    ]
    row = found["rows"][0]
    assert row["iterations"] == 12
    assert 0 < row["trained_s"] < 60
    assert set(row["decoding"]) == {"prob_threshold", "nms_threshold"}
    truth = open_labels(tmp_path / "out" / "volumes" / "easy_32x40x48_15nuclei_seed3.zarr").read()
    kept = open_labels(tmp_path / "out" / "worm" / "stardist" / "1" / "instances" / "0", "main").read()
    assert match(truth, kept).ap[0.3] == row["ap"]["0.3"]
    assert [t["scenario"] for t in found["tables"]["segmentation"]] == ["stardist"]
    assert json.loads((tmp_path / "out" / "experiment.json").read_text())["rows"] == found["rows"]
