"""`Deform` against plain numpy and scipy: `PLACES` holds each voxel's own position, so that after a linear
resampling it tells exactly where every voxel of the result came from."""

import gunpowder as gp
import numpy as np
import pytest
from node_cases import LABELS, PLACES, RAW, affine, ask, nearest, source
from scipy.ndimage import map_coordinates

from nucseg.errors import InputError
from nucseg.nodes.deform import Deform
from nucseg.testing.node import MemorySource

STILL = {"rotation_deg": 0, "jitter": 0, "mirror": False, "transpose": False}


def random_labels(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 50, shape).astype(np.uint64)


def deform(**options):
    return Deform([RAW, PLACES], LABELS, **{**STILL, **options})


def raw_of(pipeline_source):
    return pipeline_source.arrays[RAW]


def test_identity_is_bitwise_equal():
    labels = random_labels((20, 22, 24))
    data = source(labels)
    with gp.build(data + deform()) as pipeline:
        out = ask(pipeline, {RAW: ((2, 3, 4), (8, 9, 10)), LABELS: ((0, 0, 0), (20, 22, 24))}, 5)
    np.testing.assert_array_equal(out[RAW], raw_of(data)[2:10, 3:12, 4:14])
    np.testing.assert_array_equal(out[LABELS], labels)


@pytest.mark.parametrize(
    ("raw_box", "orientations"),
    [(((7, 7, 7), (10, 10, 10)), 48), (((8, 9, 7), (8, 6, 11)), 20), (((4, 9, 8), (16, 7, 10)), 20)],
)
def test_mirrors_and_transposes_are_exact(raw_box, orientations):
    """Raw and labels of different boxes move together; cubic and not, even and odd."""
    labels = random_labels((28, 30, 32))
    data = source(labels)
    box = raw_box[0]
    rois = {
        RAW: raw_box,
        PLACES: raw_box,
        LABELS: (tuple(b - 2 for b in box), tuple(n + 4 for n in raw_box[1])),
    }
    seen = set()
    with gp.build(data + deform(mirror=True, transpose=True)) as pipeline:
        for seed in range(250 if orientations == 48 else 40):
            out = ask(pipeline, rois, seed)
            matrix, _ = affine(out[PLACES], box)
            np.testing.assert_allclose(np.abs(matrix).round(9).sum(axis=0), 1)
            order = tuple(
                int(i) for i in np.abs(matrix).argmax(axis=1)
            )  # source axis a is patch axis order[a]
            flips = tuple(bool(matrix[:, o].sum() < 0) for o in range(3))
            seen.add((order, flips))
            for key, whole in ((RAW, raw_of(data)), (LABELS, labels)):
                begin, shape = rois[key]
                corners = [
                    matrix @ np.array(c) + affine_offset(matrix, out[PLACES], box)
                    for c in (begin, np.array(begin) + shape - 1)
                ]
                low, high = np.minimum(*corners).round().astype(int), np.maximum(*corners).round().astype(int)
                cut = whole[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
                expected = np.flip(cut.transpose(np.argsort(order)), [a for a in range(3) if flips[a]])
                np.testing.assert_array_equal(out[key], expected)
    assert len(seen) >= orientations


def affine_offset(matrix, positions, begin):
    return positions[:, 0, 0, 0] - matrix @ np.array(begin)


def test_mirroring_a_cube_stays_in_place():
    """In index coordinates a mirrored voxel x shows `begin + end - 1 - x`: the box itself, not one beside it."""
    data = source(random_labels((10, 10, 10)))
    rois = {PLACES: ((0, 0, 0), (10, 10, 10))}
    with gp.build(data + deform(mirror=True, transpose=True)) as pipeline:
        for seed in range(30):
            where = ask(pipeline, rois, seed)[PLACES]
            assert where.min() == 0
            assert where.max() == 9
            assert {tuple(v) for v in where.reshape(3, -1).T} == set(np.ndindex(10, 10, 10))


@pytest.mark.parametrize(
    ("scale_um", "allowed"),
    [((1, 1, 1), 6), ((0.5, 0.2, 0.2), 2), ((0.122, 0.116, 0.116), 2), ((0.3, 0.2, 0.1), 1), (None, 6)],
)
def test_only_axes_with_equal_voxel_size_are_exchanged(scale_um, allowed):
    data = source(random_labels((16, 16, 16)), scale_um=scale_um)
    orders = set()
    with gp.build(data + deform(transpose=True)) as pipeline:
        for seed in range(60):
            matrix, _ = affine(ask(pipeline, {PLACES: ((4, 4, 4), (6, 6, 6))}, seed)[PLACES], (4, 4, 4))
            orders.add(tuple(int(i) for i in np.abs(matrix).argmax(axis=1)))
    assert len(orders) == allowed


@pytest.mark.parametrize("scale_um", [None, (0.5, 0.2, 0.2)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_elastic_and_rotation_against_scipy(seed, scale_um):
    """Raw equals `map_coordinates` of order 1, labels a loop over nearest voxels, at the positions of PLACES."""
    labels = random_labels((60, 60, 60))
    data = source(labels, scale_um=scale_um)
    rois = {
        RAW: ((20, 21, 22), (16, 14, 12)), PLACES: ((18, 20, 18), (20, 16, 20)), LABELS: ((22, 22, 20), (12, 12, 16)),
    }  # fmt: skip
    options = {"rotation_deg": 45, "jitter": 1.5, "spacing": 6, "mirror": True, "transpose": True}
    with gp.build(data + deform(**options)) as pipeline:
        out = ask(pipeline, rois, seed)
    where = out[PLACES]
    assert where.min() > 1, "the reference needs positions inside the volume"
    raw_part, labels_part = where[:, 2:18, 1:15, 4:16], where[:, 4:16, 2:14, 2:18]
    expected = map_coordinates(raw_of(data).astype(np.float64), raw_part, order=1)
    np.testing.assert_allclose(out[RAW], expected, atol=1e-5)
    expected = nearest(labels, labels_part)
    tie = (np.abs(labels_part - np.floor(labels_part) - 0.5) < 1e-6).any(axis=0)
    assert tie.mean() < 0.01
    np.testing.assert_array_equal(out[LABELS][~tie], expected[~tie])


def test_the_displacement_is_the_jitter_asked_for():
    """At the control points the displacement is normal with the given sigma; in between it is smooth."""
    data = source(random_labels((90, 90, 90)))
    box = ((20, 20, 20), (51, 51, 51))
    with gp.build(data + deform(jitter=(0.5, 1.0, 2.0), spacing=5)) as pipeline:
        moved = ask(pipeline, {PLACES: box}, 3)[PLACES] - np.stack(
            np.meshgrid(*[np.arange(20, 71)] * 3, indexing="ij")
        )
    # The control points lie at the patch's centre, 45, and every 5 voxels from it.
    points = moved[:, ::5, ::5, ::5].reshape(3, -1)
    np.testing.assert_allclose(points.std(axis=1), [0.5, 1.0, 2.0], rtol=0.1)
    assert np.abs(points.mean(axis=1)).max() < 0.2
    bend = np.abs(np.diff(moved, n=2, axis=3)).max(axis=(1, 2, 3))
    assert (bend < np.array([0.5, 1.0, 2.0])).all()


def test_coarser_axes_move_as_many_micrometres():
    data = source(random_labels((60, 90, 90)), scale_um=(0.4, 0.2, 0.2))
    box = ((15, 20, 20), (31, 51, 51))
    with gp.build(data + deform(jitter=1.0, spacing=6)) as pipeline:
        ramp = np.stack(np.meshgrid(np.arange(15, 46), np.arange(20, 71), np.arange(20, 71), indexing="ij"))
        moved = ask(pipeline, {PLACES: box}, 3)[PLACES] - ramp
    # Control points every 6 voxels in the plane, every 3 along z, from the centre (30, 45, 45).
    points = moved[:, ::3, 1::6, 1::6].reshape(3, -1)
    np.testing.assert_allclose(points.std(axis=1), [0.5, 1.0, 1.0], rtol=0.12)


@pytest.mark.parametrize("scale_um", [(1, 1, 1), (0.4, 0.2, 0.2), (0.3, 0.2, 0.1)])
def test_a_rotated_sphere_in_um_stays_a_sphere(scale_um):
    shape, um = (61, 91, 121), np.array(scale_um)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    center = np.array([30.0, 45.0, 60.0])
    away = np.linalg.norm((grid - center[:, None, None, None]) * um[:, None, None, None], axis=0)
    radius = 8 * um.min()
    ball = away < radius
    away = away[15:46, 30:61, 40:81]
    data = MemorySource({LABELS: ball.astype(np.uint32), PLACES: grid.astype(np.float64)}, scale_um=scale_um)
    turned = 0
    with gp.build(data + Deform(PLACES, LABELS, **{**STILL, "rotation_deg": 45}, rotate="all")) as pipeline:
        for seed in range(4):
            out = ask(
                pipeline, {PLACES: ((15, 30, 40), (31, 31, 41)), LABELS: ((15, 30, 40), (31, 31, 41))}, seed
            )
            matrix, _ = affine(out[PLACES], (15, 30, 40))
            in_um = matrix * um[:, None] / um[None, :]
            np.testing.assert_allclose(in_um @ in_um.T, np.eye(3), atol=1e-6)
            assert np.linalg.det(in_um) == pytest.approx(1)
            angle = np.rad2deg(np.arccos((np.trace(in_um) - 1) / 2))
            assert angle <= 45 + 1e-6
            turned += angle > 5
            # the nearest voxel is at most half a voxel's diagonal away
            assert out[LABELS][away < radius - np.linalg.norm(um) / 2].all()
            assert not out[LABELS][away > radius + np.linalg.norm(um) / 2].any()
    assert turned >= 2


@pytest.mark.parametrize(
    ("scale_um", "fixed"),
    [((0.5, 0.2, 0.2), [0]), ((0.2, 0.5, 0.2), [1]), ((0.3, 0.2, 0.1), [0, 1, 2]), ((0.2, 0.2, 0.2), [])],
)
def test_the_default_rotation_keeps_to_isotropic_planes(scale_um, fixed):
    data = source(random_labels((60, 60, 60)), scale_um=scale_um)
    with gp.build(data + deform(rotation_deg=45)) as pipeline:
        matrix, _ = affine(ask(pipeline, {PLACES: ((25, 25, 25), (9, 9, 9))}, 2)[PLACES], (25, 25, 25))
    for axis in range(3):
        unit = np.eye(3)[axis]
        assert np.allclose(matrix[axis], unit, atol=1e-6) == (axis in fixed)


def test_a_quarter_turn_is_a_rot90():
    labels = random_labels((30, 30, 30))
    data = source(labels, scale_um=(2, 1, 1))
    node = deform(rotation_deg=90)
    node._rotation = lambda rng: np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    box = ((10, 10, 10), (9, 11, 11))
    with gp.build(data + node) as pipeline:
        out = ask(pipeline, {LABELS: box, RAW: box}, 0)
    np.testing.assert_array_equal(out[LABELS], np.rot90(labels[10:19, 10:21, 10:21], -1, axes=(1, 2)))
    np.testing.assert_allclose(
        out[RAW], np.rot90(raw_of(data)[10:19, 10:21, 10:21], -1, axes=(1, 2)), atol=1e-6
    )


def test_outside_the_volume_is_zero():
    labels = np.ones((20, 20, 20), np.uint16)
    data = MemorySource({LABELS: labels, PLACES: np.ones((20, 20, 20))})
    node = Deform(PLACES, LABELS, rotation_deg=45, jitter=1, spacing=8)
    box = ((-8, -8, -8), (36, 36, 36))
    with gp.build(data + node) as pipeline:
        out = ask(pipeline, {LABELS: box, PLACES: box}, 7)
        far = ask(pipeline, {LABELS: ((200, 0, 0), (4, 4, 4))}, 7)[LABELS]
    assert 0.9 * 20**3 < out[LABELS].sum() < 1.1 * 20**3
    assert not out[LABELS][0].any()
    assert ((out[PLACES] > 0) | (out[LABELS] == 0)).all()
    assert not far.any()


def test_all_arrays_and_types_share_one_transformation():
    """Channels, a mask and labels of every integer width move as the uint64 labels do."""
    labels = random_labels((40, 40, 40)) % 200
    keys = {
        kind: gp.ArrayKey(f"LABELS_{kind}".upper())
        for kind in ("uint8", "uint16", "uint32", "int32", "int64")
    }
    mask = gp.ArrayKey("MASK")
    arrays = {LABELS: labels, mask: labels > 100, **{key: labels.astype(kind) for kind, key in keys.items()}}
    box = ((12, 12, 12), (14, 14, 14))
    with gp.build(MemorySource(arrays) + Deform([], list(arrays))) as pipeline:
        out = ask(pipeline, dict.fromkeys(arrays, box), 11)
    for kind, key in keys.items():
        assert out[key].dtype == kind
        np.testing.assert_array_equal(out[key], out[LABELS])
    assert out[mask].dtype == bool
    np.testing.assert_array_equal(out[mask], out[LABELS] > 100)


def test_the_result_depends_on_the_seed_only():
    with gp.build(
        source(random_labels((40, 40, 40))) + deform(rotation_deg=30, jitter=1, mirror=True)
    ) as pipeline:
        rois = {RAW: ((12, 12, 12), (12, 12, 12))}
        first, second, third = (ask(pipeline, rois, seed)[RAW] for seed in (4, 5, 4))
    np.testing.assert_array_equal(first, third)
    assert not np.array_equal(first, second)


def test_p_zero_still_mirrors():
    with gp.build(
        source(random_labels((20, 20, 20))) + deform(rotation_deg=45, jitter=2, mirror=True, p=0)
    ) as pipeline:
        rois = {PLACES: ((0, 0, 0), (20, 20, 20))}
        corners = {tuple(ask(pipeline, rois, seed)[PLACES][:, 0, 0, 0]) for seed in range(60)}
    assert corners == {(z, y, x) for z in (0, 19) for y in (0, 19) for x in (0, 19)}


def test_attributes_and_specs_stay():
    node = deform(rotation_deg=30)
    with gp.build(source(random_labels((20, 20, 20)), scale_um=(2, 1, 1)) + node) as pipeline:
        assert pipeline.spec[RAW].dtype == np.float32
        assert pipeline.spec[LABELS].roi.unbounded
        request = gp.BatchRequest({RAW: gp.ArraySpec(roi=gp.Roi((2, 2, 2), (5, 6, 7)))}, random_seed=1)
        batch = pipeline.request_batch(request)
    assert batch[RAW].attrs["scale_um"] == (2, 1, 1)
    assert batch[RAW].spec.roi == gp.Roi((2, 2, 2), (5, 6, 7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reuse": 0}, "reuse"), ({"p": 1.5}, "probability"), ({"rotation_deg": 200}, "180"),
        ({"rotate": "some"}, "isotropic"), ({"spacing": 0}, "spacing"), ({"jitter": -1}, "jitter"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Deform(RAW, LABELS, **options)


def test_volumes_of_different_voxel_size_are_refused():
    labels = random_labels((12, 12, 12))
    sources = tuple(source(labels, scale_um=um) + gp.RandomLocation() for um in ((1, 1, 1), (2, 1, 1)))
    with pytest.raises(gp.PipelineSetupError) as error, gp.build(sources + gp.RandomProvider() + deform()):
        pass
    assert "one size for all" in str(error.value.__cause__)


def test_an_array_it_was_not_told_about_is_refused():
    pipeline = source(random_labels((12, 12, 12))) + Deform(RAW, LABELS)
    with gp.build(pipeline), pytest.raises(gp.PipelineRequestError, match="a request for PLACES"):
        ask(pipeline, {PLACES: ((2, 2, 2), (4, 4, 4))}, 1)


def test_integer_raw_is_refused():
    pipeline = source(random_labels((12, 12, 12))) + Deform([RAW, LABELS])
    with gp.build(pipeline), pytest.raises(gp.PipelineRequestError, match="floating point intensities"):
        ask(pipeline, {LABELS: ((2, 2, 2), (4, 4, 4))}, 1)
