"""Targets after moving voxels: the centre vectors against true centres that are moved analytically."""

import gunpowder as gp
import numpy as np
import pytest
from cases import crowded, ellipsoids, huge_ids, on_corner, on_face
from node_cases import LABELS, MASK, PLACES, RAW, affine, ask, mean_positions, request, source

from nucseg.errors import InputError
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.scenario import Scenario
from nucseg.heads.three_label import ThreeLabel
from nucseg.nodes.add_targets import AddTargets, target_keys, weight_keys
from nucseg.nodes.deform import Deform
from nucseg.nodes.random_patch import RandomPatch

SCENARIO = Scenario.named("three_label_cpv")
TARGETS, WEIGHTS = target_keys(SCENARIO), weight_keys(SCENARIO)
VECTORS, VECTOR_WEIGHT = TARGETS["cpv"], WEIGHTS["cpv"]
STILL = {"rotation_deg": 0, "jitter": 0, "mirror": False, "transpose": False}


def nuclei(shape=(40, 44, 48)):
    """Well separated ellipsoids of different radii, none cut by the border."""
    rng = np.random.default_rng(1)
    grid = [(z, y, x) for z in (9, 20, 31) for y in (9, 21, 33) for x in (9, 20, 31, 40)]
    places = [(tuple(np.array(g) + rng.uniform(-1, 1, 3)), tuple(rng.uniform(3, 5, 3))) for g in grid]
    return ellipsoids(shape, places)


def reference(labels, where, begin):
    """Each voxel's vector to its nucleus's true centre, voxel by voxel.

    `where` tells which place of the volume each voxel of the patch shows, an affine function of the voxel.
    The centre of mass in the undeformed volume is moved by its inverse.
    """
    matrix, offset = affine(where, begin)
    centers = {i: np.linalg.solve(matrix, c - offset) for i, c in mean_positions(labels).items()}
    vectors = np.zeros((3, *where.shape[1:]))
    inside = np.zeros(where.shape[1:], bool)
    for voxel in np.ndindex(inside.shape):
        at = tuple(int(np.floor(p + 0.5)) for p in where[(slice(None), *voxel)])
        nucleus = int(labels[at])
        if nucleus:
            vectors[(slice(None), *voxel)] = centers[nucleus] - (np.array(begin) + voxel)
            inside[voxel] = True
    return vectors, inside


def check(pipeline, labels, box, seed, atol):
    """Compare one request's vectors with the reference; returns the linear part of the transformation."""
    out = ask(pipeline, {PLACES: box, VECTORS: box, VECTOR_WEIGHT: box}, seed)
    vectors, inside = reference(labels, out[PLACES], box[0])
    assert out[VECTORS].dtype == np.float32
    assert out[VECTORS].shape == (3, *box[1])
    assert out[VECTOR_WEIGHT].dtype == np.float32
    assert out[VECTOR_WEIGHT].shape == tuple(box[1])
    assert inside.mean() > 0.1
    np.testing.assert_array_equal(out[VECTOR_WEIGHT] > 0, inside)
    np.testing.assert_allclose(out[VECTORS][:, inside], vectors[:, inside], atol=atol)
    assert not out[VECTORS][:, ~inside].any()
    return affine(out[PLACES], box[0])[0]


def orientation(matrix):
    order = tuple(int(i) for i in np.abs(matrix).argmax(axis=1))
    return order, tuple(bool(matrix[:, axis].sum() < 0) for axis in range(3))


def test_identity():
    labels = nuclei()
    with gp.build(
        source(labels) + Deform([RAW, PLACES], LABELS, **STILL) + AddTargets(LABELS, SCENARIO, margin=12)
    ) as pipeline:
        matrix = check(pipeline, labels, ((14, 15, 16), (8, 9, 10)), 0, atol=1e-5)
    np.testing.assert_allclose(matrix, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 8, 8), (6, 9, 8)])
@pytest.mark.parametrize("by", ["Deform", "SimpleAugment"])
def test_mirrors_and_transposes(by, shape):
    """8 mirrors and 6 transposes, cubic and not, by our node and by gunpowder's."""
    labels = nuclei((44, 44, 44))
    mover = Deform([RAW, PLACES], LABELS, rotation_deg=0, jitter=0) if by == "Deform" else gp.SimpleAugment()
    seen = set()
    with gp.build(
        source(labels) + gp.Pad(LABELS, None) + mover + AddTargets(LABELS, SCENARIO, margin=12)
    ) as pipeline:
        for seed in range(40):
            seen.add(orientation(check(pipeline, labels, ((18, 17, 19), shape), seed, atol=1e-5)))
    assert {order for order, _ in seen} == {(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}
    assert len({flips for _, flips in seen}) == 8


@pytest.mark.parametrize("scale_um", [(1, 1, 1), (0.3, 0.2, 0.2)])
def test_rotation(scale_um):
    """Resampling moves a nucleus's centre of mass by a fraction of a voxel against the exact rotation."""
    labels = nuclei((60, 60, 60))
    node = Deform([RAW, PLACES], LABELS, rotation_deg=45, rotate="all", jitter=0, mirror=True, transpose=True)
    with gp.build(
        source(labels, scale_um=scale_um) + node + AddTargets(LABELS, SCENARIO, margin=13)
    ) as pipeline:
        for seed in range(4):
            check(pipeline, labels, ((15, 17, 16), (11, 10, 12)), seed, atol=0.35)


def test_elastic_against_a_big_deformed_region():
    """The target's centres are those of the whole deformed nuclei, and those that may go on are masked."""
    labels = nuclei((60, 60, 60))
    node = Deform([RAW, PLACES], LABELS, rotation_deg=30, jitter=1.5, spacing=8)
    box, margin = ((16, 16, 16), (14, 13, 12)), 9
    enlarged = (tuple(b - margin for b in box[0]), tuple(n + 2 * margin for n in box[1]))
    big = ((-4, -4, -4), (52, 52, 52))
    masked = 0
    with gp.build(source(labels) + node + AddTargets(LABELS, SCENARIO, margin=margin)) as pipeline:
        for seed in range(4):
            both = ask(pipeline, {LABELS: big, VECTORS: box, VECTOR_WEIGHT: box}, seed)
            whole = both[LABELS]
            centers = {i: c + big[0] for i, c in mean_positions(whole).items()}
            part = tuple(slice(b - o, b - o + n) for b, n, o in zip(*box, big[0], strict=True))
            region = tuple(slice(b - o, b - o + n) for b, n, o in zip(*enlarged, big[0], strict=True))
            seen = whole[region]
            faces = [seen[0], seen[-1], seen[:, 0], seen[:, -1], seen[:, :, 0], seen[:, :, -1]]
            cut = {int(i) for face in faces for i in np.unique(face)}
            for voxel in np.ndindex(box[1]):
                nucleus = int(whole[part][voxel])
                known = nucleus > 0 and nucleus not in cut
                assert (both[VECTOR_WEIGHT][voxel] > 0) == known
                masked += nucleus > 0 and not known
                expected = centers[nucleus] - (np.array(box[0]) + voxel) if known else 0
                np.testing.assert_allclose(both[VECTORS][(slice(None), *voxel)], expected, atol=1e-3)
    assert masked > 0


def test_a_nucleus_cut_by_the_patch_keeps_its_true_centre():
    labels = ellipsoids((30, 30, 30), [((15.0, 15.0, 15.0), (6.0, 6.0, 6.0))])
    box = ((11, 11, 17), (8, 8, 8))
    with gp.build(source(labels) + AddTargets(LABELS, SCENARIO, margin=14)) as pipeline:
        out = ask(pipeline, {VECTORS: box, VECTOR_WEIGHT: box})
    at = (4, 4, 1)  # voxel (15, 15, 18): the centre lies outside the patch
    np.testing.assert_allclose(out[VECTORS][(slice(None), *at)], (0, 0, -3), atol=1e-6)
    assert out[VECTOR_WEIGHT][at] == 1


def test_a_missing_centre_is_masked_and_not_zero():
    """With too small a margin the nucleus reaches the enlarged region's face; its neighbour is still taught."""
    labels = ellipsoids(
        (30, 30, 40), [((15.0, 15.0, 11.0), (4.0, 4.0, 7.0)), ((15.0, 15.0, 21.0), (3.0, 3.0, 2.5))]
    )
    box = ((10, 10, 14), (11, 11, 11))
    with gp.build(source(labels) + AddTargets(LABELS, SCENARIO, margin=3)) as pipeline:
        out = ask(pipeline, {LABELS: box, VECTORS: box, VECTOR_WEIGHT: box})
    cut, whole = out[LABELS] == 1, out[LABELS] == 2
    assert cut.any()
    assert whole.any()
    assert not out[VECTOR_WEIGHT][cut].any()
    assert out[VECTOR_WEIGHT][whole].all()
    with gp.build(source(labels) + AddTargets(LABELS, SCENARIO, margin=11)) as pipeline:
        assert ask(pipeline, {VECTORS: box, VECTOR_WEIGHT: box})[VECTOR_WEIGHT][cut].all()


@pytest.mark.parametrize("case", [on_face, on_corner])
@pytest.mark.parametrize("padded", [False, True])
def test_a_nucleus_cut_by_the_volume_uses_its_visible_part(case, padded):
    labels = case()
    shape = labels.shape
    pipeline = source(labels)
    if padded:
        pipeline += gp.Pad(LABELS, (5, 5, 5))
    with gp.build(pipeline + AddTargets(LABELS, SCENARIO, margin=3)) as pipeline:
        box = ((0, 0, 0), shape)
        out = ask(pipeline, {VECTORS: box, VECTOR_WEIGHT: box})
    (center,) = mean_positions(labels).values()
    inside = labels > 0
    assert out[VECTOR_WEIGHT][inside].all()
    expected = center[:, None] - np.argwhere(inside).T
    np.testing.assert_allclose(out[VECTORS][:, inside], expected, atol=1e-5)


def test_patches_at_the_volumes_border_know_all_centres():
    """In the usual pipeline nothing is masked when the margin is the largest diameter."""
    labels = crowded(3, (30, 30, 30), radius=3.0)
    pipeline = source(labels) + RandomPatch((10, 10, 10)) + Deform([RAW, PLACES], LABELS)
    with gp.build(pipeline + AddTargets(LABELS, SCENARIO, margin=16)) as pipeline:
        for seed in range(20):
            box = ((10, 10, 10), (10, 10, 10))
            out = ask(pipeline, {LABELS: box, VECTOR_WEIGHT: box}, seed)
            np.testing.assert_array_equal(out[VECTOR_WEIGHT] > 0, out[LABELS] > 0)


def test_huge_ids():
    labels = huge_ids()
    with gp.build(source(labels) + AddTargets(LABELS, SCENARIO, margin=8)) as pipeline:
        box = ((1, 1, 1), (6, 7, 12))
        out = ask(pipeline, {VECTORS: box, VECTOR_WEIGHT: box})
    inside = labels[1:7, 1:8, 1:13] > 0
    np.testing.assert_array_equal(out[VECTOR_WEIGHT] > 0, inside)
    centers = mean_positions(labels)
    at = (2, 4, 4)
    np.testing.assert_allclose(out[VECTORS][:, 1, 3, 3], centers[int(labels[at])] - at, atol=1e-5)


def test_mask_takes_weight_from_what_was_not_annotated():
    labels = nuclei()
    mask = np.zeros(labels.shape, np.uint8)
    mask[:, :, :20] = 1
    node = AddTargets(LABELS, SCENARIO, mask=MASK, margin=12)
    box = ((10, 10, 12), (16, 16, 16))
    with gp.build(masked_source(labels, mask) + node) as pipeline:
        out = ask(pipeline, {key: box for key in (*WEIGHTS.values(), LABELS)})
    for weight in WEIGHTS.values():
        assert out[weight][:, :, :8].any()
        assert not out[weight][:, :, 8:].any()


def masked_source(labels, mask):
    made = source(labels)
    made.arrays[MASK] = mask
    return made


def test_heads_get_labels_margin_and_voxel_size_as_they_asked():
    """What a head sees: the enlarged labels, where the wanted part lies, the voxel size, all centres."""
    calls = []

    class Spy(ThreeLabel):
        def target(self, labels, crop, scale_um, centers, mask=None):
            calls.append((labels, crop, scale_um, centers, mask))
            return super().target(labels, crop, scale_um, centers, mask)

    labels = nuclei()
    scenario = Scenario(heads=(Spy(),))
    keys = target_keys(scenario)
    with gp.build(
        source(labels, scale_um=(0.5, 0.2, 0.1)) + AddTargets(LABELS, scenario, margin=(2, 3, 4))
    ) as pipeline:
        ask(pipeline, {keys["spy"]: ((10, 10, 10), (6, 7, 8))})
    ((seen, crop, scale_um, centers, mask),) = calls
    np.testing.assert_array_equal(seen, labels[8:18, 7:20, 6:22])
    assert crop == (slice(2, 8), slice(3, 10), slice(4, 12))
    assert scale_um == (0.5, 0.2, 0.1)
    assert mask is None
    assert set(centers.ids) == set(np.unique(seen)) - {0}


def test_only_requested_targets_are_computed_at_their_own_rois():
    labels = nuclei()
    with gp.build(source(labels) + AddTargets(LABELS, SCENARIO, margin=6)) as pipeline:
        small, large = ((12, 12, 12), (4, 4, 4)), ((10, 10, 10), (9, 9, 9))
        batch = pipeline.request_batch(request({VECTORS: large, VECTOR_WEIGHT: small}))
        assert set(batch.arrays) == {VECTORS, VECTOR_WEIGHT}
        alone = ask(pipeline, {VECTORS: small})[VECTORS]
        untouched = ask(pipeline, {LABELS: small})[LABELS]
    np.testing.assert_array_equal(batch[VECTORS].data[:, 2:6, 2:6, 2:6], alone)
    assert batch[VECTOR_WEIGHT].data.shape == (4, 4, 4)
    np.testing.assert_array_equal(untouched, labels[12:16, 12:16, 12:16])


def test_keys_of_ones_own():
    mine = {"three_label": gp.ArrayKey("A"), "cpv": gp.ArrayKey("B")}
    weights = {"three_label": gp.ArrayKey("C"), "cpv": gp.ArrayKey("D")}
    box = ((10, 10, 10), (5, 5, 5))
    with gp.build(
        source(nuclei()) + AddTargets(LABELS, SCENARIO, targets=mine, weights=weights, margin=4)
    ) as pipeline:
        out = ask(pipeline, {key: box for key in (*mine.values(), *weights.values())})
    assert out[mine["three_label"]].shape == (1, 5, 5, 5)
    assert out[mine["cpv"]].shape == (3, 5, 5, 5)
    with pytest.raises(InputError, match="a key for each head"):
        AddTargets(LABELS, SCENARIO, targets={"three_label": gp.ArrayKey("A")}, margin=4)


@pytest.mark.parametrize("samples", [1, 3])
def test_samples_of_a_stacked_batch_differ_and_follow_from_the_seed(samples):
    labels = crowded(1, (40, 40, 40))
    pipeline = (
        source(labels) + RandomPatch((12, 12, 12)) + Deform([RAW, PLACES], LABELS)
        + AddTargets(LABELS, SCENARIO, margin=10) + gp.Stack(samples)
    )  # fmt: skip
    rois = {
        RAW: ((0, 0, 0), (20, 20, 20)),
        VECTORS: ((4, 4, 4), (12, 12, 12)),
        VECTOR_WEIGHT: ((4, 4, 4), (12, 12, 12)),
    }
    with gp.build(pipeline):
        first, again = ask(pipeline, rois, 8), ask(pipeline, rois, 8)
    assert first[RAW].shape == (samples, 20, 20, 20)
    assert first[VECTORS].shape == (samples, 3, 12, 12, 12)
    for key in rois:
        np.testing.assert_array_equal(first[key], again[key])
    for i in range(samples):
        for j in range(i):
            assert not np.array_equal(first[RAW][i], first[RAW][j])


def test_vector_loss_in_um_is_the_heads_business():
    """Vectors stay in voxels whatever the voxel size."""
    labels = ellipsoids((20, 30, 30), [((10.0, 15.0, 15.0), (3.0, 8.0, 8.0))])
    scenario = Scenario(heads=(ThreeLabel(), CenterVectors(scale=4.0, voxel_um=(0.5, 0.2, 0.2))))
    key = target_keys(scenario)["cpv"]
    with gp.build(
        source(labels, scale_um=(0.5, 0.2, 0.2)) + AddTargets(LABELS, scenario, margin=4)
    ) as pipeline:
        vectors = ask(pipeline, {key: ((0, 0, 0), (20, 30, 30))})[key]
    np.testing.assert_allclose(vectors[:, 8, 12, 19], (2, 3, -4), atol=1e-5)


def test_labels_that_are_not_integers_are_refused():
    pipeline = source(nuclei()) + AddTargets(RAW, SCENARIO, margin=2)
    with gp.build(pipeline), pytest.raises(gp.PipelineRequestError, match="integer labels"):
        ask(pipeline, {VECTORS: ((10, 10, 10), (4, 4, 4))})


def test_missing_labels_and_negative_margin_are_refused():
    with pytest.raises(InputError, match="largest diameter"):
        AddTargets(LABELS, SCENARIO, margin=-1)
    pipeline = source(nuclei()) + AddTargets(gp.ArrayKey("NOWHERE"), SCENARIO, margin=2)
    with pytest.raises(gp.PipelineSetupError) as error, gp.build(pipeline):
        pass
    assert "NOWHERE" in str(error.value.__cause__)
