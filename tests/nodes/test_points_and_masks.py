"""Targets where points alone, or only a part of a volume, are annotated."""

from typing import ClassVar

import gunpowder as gp
import numpy as np
import pytest
from cases import crowded
from node_cases import LABELS, MASK, RAW, ask, places, source

from nucseg.annotation import AnnotationMask
from nucseg.heads.affinities import Affinities
from nucseg.heads.base import Head
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.gaussian_centers import GaussianCenters
from nucseg.heads.scenario import Scenario
from nucseg.heads.signed_distance import SignedDistance
from nucseg.heads.three_label import ThreeLabel
from nucseg.nodes.add_targets import AddTargets, target_keys, weight_keys
from nucseg.nodes.deform import Deform
from nucseg.nodes.deformation import Deformation
from nucseg.nodes.random_patch import RandomPatch
from nucseg.nodes.volume_source import VolumeSource
from nucseg.point_labels import PointLabels
from nucseg.volume import open_volume

SHAPE = (60, 62, 64)


class Spy(Head):
    """Keeps what it was given; its target is 1 at the voxel of each known centre."""

    is_main: ClassVar[bool] = False
    needs_extent: ClassVar[bool] = False
    seen: ClassVar[list] = []

    @property
    def channels(self):
        return 1

    def target(self, labels, crop, scale_um, centers, mask=None):
        Spy.seen.append((labels, centers, mask))
        spots = np.zeros(labels.shape, np.float32)
        for center in centers.centers[centers.known]:
            spots[tuple(np.round(center).astype(int))] = 1
        weight = np.ones(labels.shape, np.float32) if mask is None else mask.astype(np.float32)
        return spots[crop][None], weight[crop]


SCENARIO = Scenario([ThreeLabel(), CenterVectors(background_weight=0.5), Spy()])
TARGETS, WEIGHTS = target_keys(SCENARIO), weight_keys(SCENARIO)
VECTORS, VECTOR_WEIGHT = TARGETS["cpv"], WEIGHTS["cpv"]


def points_of(shape=SHAPE, seed=0):
    grid = np.stack(np.meshgrid(*(np.arange(8, n - 4, 11) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    return grid + np.random.default_rng(seed).uniform(-1, 1, grid.shape)


def point_source(folder, points, radius_um, scale_um=(1.0, 1.0, 1.0), shape=SHAPE, in_memory=None):
    """RAW is where each voxel lies, read from a file as any image; LABELS are balls."""
    np.save(folder / "places.npy", places(shape))
    labels = PointLabels(points, shape, scale_um, radius_um=radius_um)
    return VolumeSource(
        folder / "places.npy", {RAW: "image", LABELS: labels}, normalize=None, in_memory=in_memory
    )


def arrives_at(point, where, begin):
    """The voxel position that shows a point of the volume: brute force over voxels, then one linear step."""
    distance = np.square(where - point[:, None, None, None]).sum(axis=0)
    at = np.array(np.unravel_index(distance.argmin(), distance.shape))
    if (at < 1).any() or (at > np.array(distance.shape) - 2).any():
        return None
    cube = np.stack(np.meshgrid(*(np.arange(a - 1, a + 2) for a in at), indexing="ij")).reshape(3, -1)
    shown = where[:, cube[0], cube[1], cube[2]]
    design = np.concatenate([cube, np.ones((1, 27))])
    solution = np.linalg.lstsq(design.T, shown.T, rcond=None)[0].T
    return np.linalg.solve(solution[:, :3], point - solution[:, 3]) + begin


def found_centers(out, box):
    """Position of each label's centre as the vectors say it: {label: position}; all voxels must agree."""
    centers = {}
    for label in set(np.unique(out[LABELS])) - {0}:
        voxels = np.argwhere(out[LABELS] == label)
        if out[VECTOR_WEIGHT][tuple(voxels[0])]:
            ends = np.array([out[VECTORS][:, *voxel] + voxel + box[0] for voxel in voxels])
            np.testing.assert_allclose(ends, np.broadcast_to(ends[0], ends.shape), atol=1e-4)
            centers[label] = ends[0]
    return centers


@pytest.mark.parametrize(
    ("scale_um", "radius_um", "least"),
    [((1.0, 1.0, 1.0), 4.0, 0.04), ((0.5, 0.2, 0.2), 1.1, 0.07)],
    ids=["cubic", "anisotropic"],
)
@pytest.mark.parametrize(("jitter", "in_memory"), [(0, True), (1, False)])
def test_points_are_deformed_at_sub_voxel_precision(tmp_path, scale_um, radius_um, least, jitter, in_memory):
    """The exact position is the point mapped by the inverse of rotation and elastic deformation."""
    points = points_of()
    pipeline = (
        point_source(tmp_path, points, radius_um, scale_um, in_memory=in_memory)
        + RandomPatch((12, 13, 14))
        + Deform(RAW, LABELS, rotation_deg=45, rotate="all", jitter=jitter, scale_um=scale_um)
        + AddTargets(LABELS, SCENARIO, margin=12)
    )
    box, around = ((16, 16, 16), (12, 13, 14)), ((10, 10, 10), (24, 25, 26))
    errors = []
    with gp.build(pipeline):
        for seed in range(14):
            out = ask(pipeline, {RAW: around, LABELS: box, VECTORS: box, VECTOR_WEIGHT: box}, seed)
            np.testing.assert_array_equal(out[VECTOR_WEIGHT] > 0, out[LABELS] > 0)
            for label, found in found_centers(out, box).items():
                expected = arrives_at(points[label - 1], out[RAW], np.array(around[0]))
                if expected is not None:
                    errors.append(np.abs(found - expected))
    assert len(errors) > 20
    assert np.mean(errors) < least
    assert np.quantile(errors, 0.95) < 2.5 * least
    assert np.max(errors) < 5 * least


@pytest.mark.parametrize("reuse", [1, 3])
def test_balls_stay_round_and_stay_the_same_for_every_orientation(tmp_path, reuse):
    """As many voxels as a ball has, anywhere in the patch; mirrored and transposed patches show the same ones."""
    points = points_of()
    pipeline = point_source(tmp_path, points, 3.0) + Deform(
        RAW, LABELS, rotation_deg=45, jitter=1.0, reuse=reuse
    )
    box = ((18, 18, 18), (24, 24, 24))
    sets = []
    with gp.build(pipeline):
        for seed in range(3):
            data = ask(pipeline, {LABELS: box, RAW: box}, seed)[LABELS]
            whole = set(np.unique(data[4:-4, 4:-4, 4:-4])) - {0}
            ids, sizes = np.unique(data, return_counts=True)
            assert [90 < n < 140 for i, n in zip(ids, sizes, strict=True) if i in whole].count(True) >= 1
            sets.append(dict(zip(ids.tolist(), sizes.tolist(), strict=True)))
    assert (sets[0] == sets[1] == sets[2]) == (reuse == 3)


def test_balls_that_another_node_moved_are_resampled_as_labels_are(tmp_path):
    """`SimpleAugment` mirrors the voxels and knows nothing of the points: the voxels are right."""
    points = points_of()
    labels = PointLabels(points, SHAPE, radius_um=3.0).read()
    box = ((20, 20, 20), (20, 20, 20))
    outs = []
    for made in (point_source(tmp_path, points, 3.0), source(labels)):
        pipeline = made + gp.SimpleAugment(transpose_only=[]) + Deform(RAW, LABELS, rotation_deg=30)
        with gp.build(pipeline):
            outs.append([ask(pipeline, {LABELS: box}, seed)[LABELS] for seed in range(6)])
    same = [np.array_equal(first, second) for first, second in zip(*outs, strict=True)]
    # Where nothing was mirrored the balls are made anew, otherwise resampled.
    assert any(same)
    for first, second in zip(*outs, strict=True):
        for i in set(np.unique(second[3:-3, 3:-3, 3:-3])) - {0}:
            off = np.argwhere(first == i).mean(axis=0) - np.argwhere(second == i).mean(axis=0)
            assert np.abs(off).max() < 1


def test_a_deformation_that_folds_space_is_resampled(tmp_path):
    points = points_of()
    labels = PointLabels(points, SHAPE, radius_um=3.0).read()
    box = ((20, 20, 20), (20, 20, 20))
    outs = []
    for made in (point_source(tmp_path, points, 3.0), source(labels)):
        with gp.build(made + Deform(RAW, LABELS, rotation_deg=0, spacing=2, jitter=6)) as pipeline:
            outs.append(ask(pipeline, {LABELS: box}, 1)[LABELS])
    np.testing.assert_array_equal(*outs)
    assert outs[0].any()


def test_only_balls_are_taught_and_only_to_heads_that_need_no_extent(tmp_path):
    Spy.seen.clear()
    box = ((10, 10, 10), (20, 21, 22))
    keys = (*TARGETS.values(), *WEIGHTS.values(), LABELS)
    nodes = Deform(RAW, LABELS, rotation_deg=20) + AddTargets(LABELS, SCENARIO, margin=9)
    with gp.build(point_source(tmp_path, points_of(), 3.0) + nodes) as pipeline:
        out = ask(pipeline, dict.fromkeys(keys, box), 3)
    balls = out[LABELS] > 0
    assert balls.any()
    assert out[TARGETS["three_label"]].shape == (1, 20, 21, 22)
    assert not out[WEIGHTS["three_label"]].any()
    np.testing.assert_array_equal(out[VECTOR_WEIGHT] == 1, balls)
    assert not out[VECTOR_WEIGHT][~balls].any()
    assert out[WEIGHTS["spy"]].all()
    ((_, centers, mask),) = Spy.seen
    assert centers.extent is False
    assert mask is None
    # The same ids as labels whose extent is known: everything is taught.
    labels = PointLabels(points_of(), SHAPE, radius_um=3.0).read()
    with gp.build(source(labels) + AddTargets(LABELS, SCENARIO, margin=9)) as pipeline:
        known = ask(pipeline, dict.fromkeys(keys, box))
    assert known[WEIGHTS["three_label"]].all()
    assert (known[VECTOR_WEIGHT][known[LABELS] == 0] == 0.5).all()
    assert Spy.seen[-1][1].extent is True


def touches(labels, mask, label):
    """Whether a nucleus has a voxel that is not annotated, or one beside it: a loop over its voxels."""
    for voxel in np.argwhere(labels == label):
        part = mask[tuple(slice(max(0, i - 1), i + 2) for i in voxel)]
        if not part.all():
            return True
    return False


@pytest.mark.parametrize("deformed", [False, True])
def test_a_nucleus_cut_by_the_mask_has_no_known_centre(deformed):
    labels = crowded(3, (40, 42, 44), nuclei=60, radius=3.0)
    mask = np.zeros(labels.shape, np.uint8)
    mask[4:38, 6:38, :33] = 1
    mask[20, 20, 20] = 0
    made = source(labels)
    made.arrays[MASK] = mask
    box, margin = ((12, 12, 12), (17, 18, 19)), 9
    enlarged = tuple(slice(b - margin, b + n + margin) for b, n in zip(*box, strict=True))
    big = ((0, 0, 0), (40, 42, 44))
    how = {} if deformed else {"rotation_deg": 0, "jitter": 0, "mirror": False, "transpose": False}
    node = AddTargets(LABELS, SCENARIO, mask=MASK, margin=margin)
    seen = set()
    with gp.build(made + Deform(RAW, LABELS, masks=MASK, **how) + node) as pipeline:
        for seed in range(3 if deformed else 1):
            rois = dict.fromkeys((*TARGETS.values(), *WEIGHTS.values()), box) | {LABELS: big, MASK: big}
            out = ask(pipeline, rois, seed)
            crop = tuple(slice(b, b + n) for b, n in zip(*box, strict=True))
            here, annotated = out[LABELS][crop], out[MASK][crop] > 0
            whole, all_annotated = out[LABELS][enlarged], out[MASK][enlarged] > 0
            faces = np.ones(whole.shape, bool)
            faces[1:-1, 1:-1, 1:-1] = False
            for label in set(np.unique(here)) - {0}:
                unknown = touches(whole, all_annotated, label) or label in whole[faces]
                weight = out[VECTOR_WEIGHT][here == label]
                assert (weight == (0 if unknown else 1)).all()
                seen.add(unknown)
            background = out[VECTOR_WEIGHT][here == 0]
            np.testing.assert_array_equal(background, 0.5 * annotated[here == 0])
            # A head of extents: not the voxels beside what is unknown either, nucleus or not.
            three = out[WEIGHTS["three_label"]]
            padded = np.pad(out[MASK], 1, constant_values=1)
            for voxel in np.ndindex(three.shape):
                z, y, x = (b + i + 1 for b, i in zip(box[0], voxel, strict=True))
                assert (three[voxel] > 0) == padded[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2].all()
            np.testing.assert_array_equal(out[WEIGHTS["spy"]] > 0, annotated)
    assert seen == {True, False}


def test_a_ball_beside_the_mask_keeps_its_centre(tmp_path):
    """Points are known wherever the mask ends; the ball's voxels outside the mask do not count."""
    points = np.array([(20.0, 20.0, 20.0), (20.0, 20.0, 32.0)])
    made = point_source(tmp_path, points, 3.0)
    np.save(tmp_path / "mask.npy", np.broadcast_to(np.arange(64) < 32, SHAPE))
    made.datasets[MASK] = AnnotationMask(SHAPE, mask=open_volume(tmp_path / "mask.npy"))
    box = ((12, 12, 12), (17, 17, 26))
    with gp.build(made + AddTargets(LABELS, SCENARIO, mask=MASK, margin=8)) as pipeline:
        out = ask(pipeline, {LABELS: box, VECTORS: box, VECTOR_WEIGHT: box})
    inside = np.arange(26)[None, None, :] + 12 < 32
    np.testing.assert_array_equal(out[VECTOR_WEIGHT] > 0, (out[LABELS] > 0) & inside)
    np.testing.assert_allclose(out[VECTORS][:, 8, 8, 18], (0, 0, 2), atol=1e-6)


def test_outside_the_volume_the_mask_is_one(tmp_path):
    """Where nothing was acquired nothing is unknown; inside, each voxel shows the mask of the label it shows."""
    shape = (20, 22, 24)
    np.save(tmp_path / "raw.npy", places(shape))
    np.save(tmp_path / "labels.npy", np.where(np.arange(24) < 9, 2, 1) * np.ones(shape, np.uint8))
    np.save(tmp_path / "mask.npy", np.where(np.arange(24) < 9, 0, 7) * np.ones(shape, np.uint8))
    mask = AnnotationMask(shape, mask=open_volume(tmp_path / "mask.npy"))
    datasets = {RAW: "image", LABELS: str(tmp_path / "labels.npy"), MASK: mask}
    box = ((0, 0, 0), (34, 34, 34))
    placed, moved = RandomPatch((8, 8, 8), mask=MASK), Deform(RAW, LABELS, masks=MASK)
    for nodes in (placed, moved, RandomPatch((8, 8, 8), mask=MASK) + Deform(RAW, LABELS, masks=MASK)):
        made = VolumeSource(tmp_path / "raw.npy", datasets, normalize=None)
        with gp.build(made + nodes) as pipeline:
            out = ask(pipeline, {MASK: box, LABELS: box}, 5)
        np.testing.assert_array_equal(out[MASK], out[LABELS] != 2)
        assert set(np.unique(out[LABELS])) == {0, 1, 2}


@pytest.mark.parametrize("nodes", ["still", "placed", "deformed"])
@pytest.mark.parametrize("points", [False, True])
def test_a_mask_of_ones_changes_nothing(tmp_path, nodes, points):
    """All heads' targets and weights, of patches that reach over the volume's faces, whole and turned."""
    heads = [SignedDistance(), Affinities(), GaussianCenters()]
    scenarios = [SCENARIO, *(Scenario([head]) for head in heads)]
    shape = (22, 24, 26)
    labels = crowded(3, shape, nuclei=40, radius=3.0)
    np.save(tmp_path / "ones.npy", np.ones(shape, np.uint8))
    stored = AnnotationMask(shape, mask=open_volume(tmp_path / "ones.npy"))
    box = ((0, 0, 0), shape) if nodes == "still" else ((12, 12, 12), (12, 14, 16))
    outs = []
    for mask in (None, stored, AnnotationMask(shape)):
        key = None if mask is None else MASK
        if points:
            made = point_source(tmp_path, points_of(shape), 3.0, shape=shape)
        else:
            np.save(tmp_path / "labels.npy", labels)
            made = point_source(tmp_path, points_of(shape), 3.0, shape=shape)
            made.datasets[LABELS] = str(tmp_path / "labels.npy")
        if mask is not None:
            made.datasets[MASK] = mask
        pipeline = made
        if nodes != "still":
            follow = mask is not None and mask.stored
            pipeline += RandomPatch(box[1], mask=key, follow_mask=follow)
        if nodes == "deformed":
            pipeline += Deform(RAW, LABELS, masks=key or (), rotation_deg=45, rotate="all", jitter=1)
        rois = {}
        for scenario in scenarios:
            pipeline += AddTargets(LABELS, scenario, mask=key, margin=8)
            rois |= dict.fromkeys((*target_keys(scenario).values(), *weight_keys(scenario).values()), box)
        with gp.build(pipeline):
            outs.append([ask(pipeline, rois, seed) for seed in range(4)])
    for seed, expected in enumerate(outs[0]):
        for key in rois:
            np.testing.assert_array_equal(outs[1][seed][key], expected[key], err_msg=f"{key}")
            np.testing.assert_array_equal(outs[2][seed][key], expected[key], err_msg=f"{key}")
        assert expected[VECTOR_WEIGHT].any()
        if not points:
            assert expected[WEIGHTS["three_label"]].all()


def test_places_follow_the_annotation():
    """Every annotated voxel is drawn equally often, then a patch that holds it: against all places one by one."""
    shape, patch = (10, 9, 70), (3, 4, 5)
    mask = np.zeros(shape, np.uint8)
    mask[2:5, 0:3, 1:4] = 1
    mask[9, 8, 60:70] = 1  # in another cell of the count, at the border
    probability = np.zeros(tuple(n - p + 1 for n, p in zip(shape, patch, strict=True)))
    for voxel in np.argwhere(mask):
        first = np.maximum(voxel - np.array(patch) + 1, 0)
        last = np.minimum(voxel, np.array(shape) - patch)
        part = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
        probability[part] += 1 / mask.sum() / np.prod(last - first + 1)
    assert probability.sum() == pytest.approx(1)
    made = source(mask.astype(np.uint32))
    made.arrays[MASK] = mask
    count = np.zeros(probability.shape, int)
    rois = {LABELS: ((0, 0, 0), patch), RAW: ((0, 0, 0), patch)}
    made.arrays[RAW] = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    with gp.build(made + RandomPatch(patch, mask=MASK)) as pipeline:
        for seed in range(1500):
            out = ask(pipeline, rois, seed)
            assert out[LABELS].any()
            count[np.unravel_index(int(out[RAW][0, 0, 0]), shape)] += 1
        again = ask(pipeline, rois, 1499)
    np.testing.assert_array_equal(again[RAW], out[RAW])
    assert not count[probability == 0].any()
    for axis in range(3):
        along = tuple({0, 1, 2} - {axis})
        expected, found = 1500 * probability.sum(axis=along), count.sum(axis=along)
        likely = expected > 5
        chi = ((found - expected) ** 2 / np.maximum(expected, 1e-9))[likely].sum()
        assert chi < 2.5 * likely.sum() + 8, f"axis {axis}: {found} {expected}"


def test_a_mask_of_nothing_is_refused():
    made = source(np.ones((8, 8, 8), np.uint32))
    made.arrays[MASK] = np.zeros((8, 8, 8), np.uint8)
    with pytest.raises(gp.PipelineSetupError) as error, gp.build(made + RandomPatch((4, 4, 4), mask=MASK)):
        pass
    assert "0 everywhere" in str(error.value.__cause__)


def test_min_foreground_looks_at_balls(tmp_path):
    points = points_of()
    share = 113 / 12**3  # of one ball of radius 3
    pipeline = point_source(tmp_path, points[:9], 3.0) + RandomPatch(
        (12, 12, 12), labels=LABELS, min_foreground=share / 2
    )
    with gp.build(pipeline):
        for seed in range(10):
            out = ask(pipeline, {LABELS: ((5, 5, 5), (12, 12, 12))}, seed)
            assert np.mean(out[LABELS] > 0) >= share / 2


@pytest.mark.parametrize("elastic", [False, True])
def test_where_a_deformation_shows_a_place(elastic):
    """`source` is what resampling shows of the places themselves, `shown_at` its inverse, also off the voxels."""
    rng = np.random.default_rng(3)
    matrix = np.array([[0.9, -0.3, 0.1], [0.25, 0.95, 0.2], [-0.1, 0.15, 1.05]])
    center, spacing = np.array([20.5, 19.5, 21.0]), np.array([6.0, 7.0, 5.0])
    control = rng.normal(size=(9, 9, 10, 3)) if elastic else None
    how = Deformation(center, matrix, control, center - 4 * spacing, spacing)
    begin, shape = np.array([14, 13, 15]), (13, 12, 11)
    shown = how.resample(places((44, 44, 44)), np.zeros(3), begin, shape, interpolate=True)
    voxels = begin + np.argwhere(np.ones(shape))
    np.testing.assert_allclose(how.source(voxels.astype(float)), shown.reshape(3, -1).T, atol=1e-9)
    positions = rng.uniform(begin, begin + shape, (50, 3))
    np.testing.assert_allclose(how.shown_at(how.source(positions)), positions, atol=5e-3)
    assert how.shown_at(np.zeros((0, 3))).shape == (0, 3)
