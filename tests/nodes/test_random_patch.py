import gunpowder as gp
import numpy as np
import pytest
from node_cases import LABELS, PLACES, RAW, ask, source

from nucseg.errors import InputError
from nucseg.nodes.deform import Deform
from nucseg.nodes.random_patch import RandomPatch

SHAPE = (10, 12, 15)
ROIS = {PLACES: ((0, 0, 0), (12, 12, 12)), LABELS: ((4, 4, 4), (4, 4, 4))}


def test_the_patch_is_inside_and_every_place_is_drawn_equally_often():
    labels = np.ones(SHAPE, np.uint32)
    count = np.zeros((7, 9, 12), int)
    with gp.build(source(labels) + RandomPatch((4, 4, 4))) as pipeline:
        for seed in range(400):
            data = ask(pipeline, ROIS, seed)
            assert data[LABELS].all(), "the output patch must lie inside the volume"
            count[tuple(data[PLACES][:, 4, 4, 4].astype(int))] += 1
    for axis in range(3):
        along = count.sum(axis=tuple({0, 1, 2} - {axis}))
        expected = 400 / len(along)
        assert ((along - expected) ** 2 / expected).sum() < 3 * len(along), f"axis {axis}: {along}"


def test_what_lies_outside_is_zero():
    labels = np.ones(SHAPE, np.uint32)
    inside = 0
    with gp.build(source(labels) + RandomPatch((4, 4, 4))) as pipeline:
        for seed in range(20):
            data = ask(
                pipeline, {LABELS: ((-4, -4, -4), (12, 12, 12)), PLACES: ((-4, -4, -4), (12, 12, 12))}, seed
            )
            where, here = data[PLACES], data[LABELS]
            corner = where[:, 4, 4, 4].astype(int) - 4
            for voxel in np.ndindex(here.shape):
                at = corner + voxel
                within = bool((at >= 0).all() and (at < SHAPE).all())
                assert here[voxel] == within
                if within:
                    np.testing.assert_array_equal(where[(slice(None), *voxel)], at)
                inside += within
    assert 0 < inside < 20 * 12**3


@pytest.mark.parametrize("context", [7, 8])
@pytest.mark.parametrize("size", [5, 6])
def test_behind_a_deformation_the_output_patch_is_the_middle(size, context):
    """`Deform` asks for more than the patch, around the same middle: mirrored patches stay inside exactly."""
    labels = np.ones((size, size + 1, size + 3), np.uint32)
    node = Deform(PLACES, LABELS, rotation_deg=0, jitter=0)
    rois = {LABELS: ((context,) * 3, (size,) * 3), PLACES: ((0, 0, 0), (size + 2 * context,) * 3)}
    with gp.build(source(labels) + RandomPatch((size,) * 3) + node) as pipeline:
        for seed in range(12):
            assert ask(pipeline, rois, seed)[LABELS].all()


def test_a_request_larger_than_the_volume_is_padded():
    labels = np.ones(SHAPE, np.uint32)
    with gp.build(source(labels) + RandomPatch(SHAPE)) as pipeline:
        data = ask(pipeline, {LABELS: ((0, 0, 0), (20, 22, 25))})[LABELS]
    np.testing.assert_array_equal(data, np.pad(labels, 5))


def test_min_foreground_finds_the_nucleus():
    labels = np.zeros((20, 20, 20), np.uint32)
    labels[3:9, 12:18, 5:11] = 1
    node = RandomPatch((6, 6, 6), labels=LABELS, min_foreground=0.1, tries=1000)
    with gp.build(source(labels) + node) as pipeline:
        for seed in range(20):
            assert ask(pipeline, {LABELS: ((3, 3, 3), (6, 6, 6))}, seed)[LABELS].mean() >= 0.1


def test_min_foreground_that_is_nowhere_fails_with_a_reason():
    node = RandomPatch((6, 6, 6), labels=LABELS, min_foreground=0.5, tries=5)
    pipeline = source(np.zeros(SHAPE, np.uint32)) + node
    with gp.build(pipeline), pytest.raises(gp.PipelineRequestError, match="none in 5 tries"):
        ask(pipeline, {LABELS: ((0, 0, 0), (6, 6, 6))}, 1)


def test_a_patch_larger_than_the_volume_is_refused():
    pipeline = source(np.ones(SHAPE, np.uint32)) + RandomPatch((11, 4, 4))
    with pytest.raises(gp.PipelineSetupError) as error, gp.build(pipeline):
        pass
    assert isinstance(error.value.__cause__, InputError)


def test_min_foreground_without_labels_is_refused():
    with pytest.raises(InputError, match="labels=LABELS"):
        RandomPatch((4, 4, 4), min_foreground=0.1)


def test_gunpowders_own_pad_and_random_location_compose_too():
    """Padding the labels by their margin keeps the output patch inside; raw is padded without end."""
    labels = np.ones(SHAPE, np.uint32)
    pipeline = (
        source(labels)
        + gp.Pad(RAW, None)
        + gp.Pad(PLACES, None)
        + gp.Pad(LABELS, (3, 3, 3))
        + gp.RandomLocation()
    )
    with gp.build(pipeline):
        for seed in range(30):
            data = ask(pipeline, {RAW: ((0, 0, 0), (12, 12, 12)), LABELS: ((1, 1, 1), (10, 10, 10))}, seed)
            assert data[LABELS][3:-3, 3:-3, 3:-3].all()


def test_points_are_refused_rather_than_left_behind():
    points = gp.GraphKey("POINTS")
    with gp.build(source(np.ones(SHAPE, np.uint32)) + RandomPatch((4, 4, 4))) as pipeline:
        wanted = gp.BatchRequest({LABELS: gp.ArraySpec(roi=gp.Roi((0, 0, 0), (4, 4, 4)))})
        wanted[points] = gp.GraphSpec(roi=gp.Roi((0, 0, 0), (4, 4, 4)))
        node = pipeline.output
        with pytest.raises(InputError, match=r"POINTS.*gp\.RandomLocation"):
            node.provide(wanted)
