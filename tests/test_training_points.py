"""Training from points, from partly annotated volumes, and from both beside labels."""

from typing import ClassVar

import numpy as np
import pytest
from test_training import SCALE, SHAPE, config, spheres, write_volume

from nucseg.annotation import AnnotatedLabels, AnnotationMask
from nucseg.errors import InputError
from nucseg.heads.base import Head, weighted_mean
from nucseg.heads.scenario import Scenario
from nucseg.instances.centroids import centroids
from nucseg.network.checkpoint import list_checkpoints
from nucseg.network.record import RunRecord
from nucseg.point_labels import PointLabels
from nucseg.points import write_table
from nucseg.training import TrainConfig, train
from nucseg.training.data import measure, prepare
from nucseg.volume import create_image, create_labels, open_labels


class Spots(Head):
    """A lab's own head for points: a Gaussian of two voxels at each centre."""

    is_main: ClassVar[bool] = False
    needs_extent: ClassVar[bool] = False

    @property
    def channels(self):
        return 1

    def target(self, labels, crop, scale_um, centers, mask=None):
        grid = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in crop), indexing="ij"), -1)
        blobs = np.zeros(grid.shape[:3], np.float32)
        for center in centers.centers[centers.known]:
            blobs = np.maximum(blobs, np.exp(-((grid - center) ** 2).sum(-1) / 8).astype(np.float32))
        weight = np.ones(blobs.shape, np.float32) if mask is None else mask[crop].astype(np.float32)
        return blobs[None], weight

    def loss(self, output, target, weight):
        from keras import ops

        return weighted_mean(ops.mean(ops.square(output - ops.cast(target, output.dtype)), axis=-1), weight)


POINTS_ONLY = Scenario([Spots(), {"kind": "center_vectors"}])
MIXED = Scenario.named("three_label_cpv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """a.zarr has labels, tables/centers and a mask; bare.zarr the image alone; points.csv its nuclei."""
    folder = tmp_path_factory.mktemp("volumes")
    path = write_volume(folder / "a.zarr")
    raw, labels = spheres()
    found = centroids(labels)
    columns = {axis: found.centers[:, k] for k, axis in enumerate("zyx")}
    write_table(path, "centers", columns)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:, 4:36, 8:40] = 1
    create_labels(path, "seen", shape=SHAPE, dtype="uint8", scale_um=SCALE).write((0, 0, 0), mask)
    create_image(folder / "bare.zarr", shape=SHAPE, dtype=raw.dtype, scale_um=SCALE).write((0, 0, 0), raw)
    rows = "\n".join(",".join(f"{c:.3f}" for c in center) for center in found.centers)
    (folder / "points.csv").write_text("z,y,x\n" + rows + "\n")
    np.save(folder / "ignored.npy", np.where(mask > 0, labels.astype(np.int32), -1))
    np.save(folder / "mask.npy", mask > 0)
    return folder


def of(folder, *volumes, scenario=MIXED, more=None, **data):
    """A configuration; volumes are paths below the folder, `{key: path}` or `key=@name` for names."""
    train = [
        {k: v[1:] if v.startswith("@") else str(folder / v) for k, v in volume.items()}
        if isinstance(volume, dict)
        else str(folder / volume)
        for volume in volumes
    ]
    return config("", scenario=scenario, data={"train": train, **data}, **(more or {}))


BARE = {"raw": "bare.zarr", "points": "points.csv"}


# --- what the volumes decide -------------------------------------------------------------------------------


def test_points_alone_and_a_diameter(folder):
    prepared = prepare(of(folder, BARE, scenario=POINTS_ONLY, nucleus_um=1.2))
    (labels,) = prepared.datasets
    assert isinstance(labels, PointLabels)
    points = np.loadtxt(folder / "points.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(labels.points, points)
    assert labels.shape == SHAPE
    assert labels.scale_um == SCALE
    assert labels.radii_um.max() == pytest.approx(0.3)
    assert prepared.masks == ()
    assert prepared.margin == (6, 12, 12)
    assert prepared.nucleus_um == 1.2
    assert prepared.scenario.auxiliary.scale == pytest.approx(0.4 / np.prod(SCALE) ** (1 / 3), rel=5e-3)
    wide = prepare(of(folder, BARE, scenario=POINTS_ONLY, nucleus_um=1.2, mark_um=0.5))
    assert wide.datasets[0].radii_um.max() == pytest.approx(0.5)


def test_with_labels_beside_points_sizes_are_those_of_the_labels(folder):
    known = measure([open_labels(folder / "a.zarr")], SCALE)
    prepared = prepare(of(folder, BARE, "a.zarr"))
    assert prepared.nucleus_um == pytest.approx(known.diameter_um)
    assert prepared.scenario.auxiliary.scale == pytest.approx(known.radius, rel=5e-3)
    assert prepared.datasets[0].radii_um.max() == pytest.approx(known.diameter_um / 4)
    assert prepared.datasets[1] == "labels/nuclei"


@pytest.mark.parametrize(
    "volume",
    [
        {"raw": "a.zarr", "points": "a.zarr"},
        {"raw": "a.zarr", "points": "@centers"},
        {"raw": "bare.zarr", "points": "a.zarr/tables/centers.parquet"},
    ],
)
def test_points_may_lie_in_a_volumes_tables(folder, volume):
    (labels,) = prepare(of(folder, volume, scenario=POINTS_ONLY, nucleus_um=1.0)).datasets
    points = np.loadtxt(folder / "points.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(labels.points, points, atol=6e-4)


@pytest.mark.parametrize(
    ("volume", "data"),
    [
        ({"raw": "a.zarr", "mask": "@seen"}, {}),
        ({"raw": "a.zarr", "mask": "mask.npy"}, {}),
        ({"raw": "bare.zarr", "labels": "ignored.npy"}, {"ignore_label": -1}),
    ],
)
def test_masks_and_ignored_labels_say_the_same(folder, volume, data):
    """Nuclei are measured where they are annotated; a volume beside it is all annotated, and costs no memory."""
    prepared = prepare(of(folder, volume, {"raw": "a.zarr"}, **data))
    mask = np.load(folder / "mask.npy")
    labels = np.where(mask, open_labels(folder / "a.zarr").read(), 0)
    known, other = prepared.datasets
    assert isinstance(known, AnnotatedLabels)
    np.testing.assert_array_equal(known.read(), labels)
    np.testing.assert_array_equal(prepared.masks[0].read(), mask)
    assert prepared.masks[0].stored
    assert prepared.masks[1].read().all()
    if not data:
        assert other == "labels/nuclei"
        assert not prepared.masks[1].stored
    number = len(np.unique(labels)) - 1 + len(np.unique(open_labels(folder / "a.zarr").read())) - 1
    assert measure([known, open_labels(folder / "a.zarr")], SCALE).number == number


def test_what_does_not_fit_is_refused(folder, tmp_path, caplog):
    def refused(message, *volumes, **settings):
        with pytest.raises(InputError, match=message) as caught:
            prepare(of(folder, *volumes, **settings))
        assert "\n" not in str(caught.value)

    points = {"scenario": POINTS_ONLY, "nucleus_um": 1.0}
    refused(r"data\.nucleus_um: expected the largest diameter.*points\.csv", BARE, scenario=POINTS_ONLY)
    refused(
        r"scenario three_label with the points .*points\.csv.*such as.*gauss; received three_label",
        *(BARE, "a.zarr"),
        scenario=Scenario.named("three_label"),
    )
    refused("labels for three_label.*received no volume with labels", BARE, nucleus_um=1.0)
    refused(r"gone\.csv.*nothing of that name", {"raw": "bare.zarr", "points": "gone.csv"}, **points)
    (folder / "none.csv").write_text("z,y,x\n")
    refused(r"none\.csv.*at least one point", {"raw": "bare.zarr", "points": "none.csv"}, **points)
    (folder / "far.csv").write_text("z,y,x\n500,3,3\n3,3,99.5\n")
    refused(r"far\.csv.*all 2 outside.*micrometres", {"raw": "bare.zarr", "points": "far.csv"}, **points)
    refused(r"data\.mark_um: expected at most 0\.5", BARE, mark_um=0.6, **points)
    np.save(folder / "short.npy", np.ones((24, 40, 39), bool))
    refused(r"short\.npy.*the shape of .*a\.zarr", {"raw": "a.zarr", "mask": "short.npy"})
    np.save(folder / "nothing.npy", np.zeros(SHAPE, bool))
    refused(r"nothing\.npy.*no annotated voxel", {"raw": "a.zarr", "mask": "nothing.npy"})
    assert not caplog.records
    (folder / "some.csv").write_text("z,y,x\n500,3,3\n3,3,9.5\n3.2,3,9.5\n")
    prepared = prepare(of(folder, {"raw": "bare.zarr", "points": "some.csv"}, **points))
    np.testing.assert_array_equal(prepared.datasets[0].points, [(3, 3, 9.5), (3.2, 3, 9.5)])
    assert "1 of 3 lie outside the volume" in caplog.text
    assert "1 of 2 points lie in the same voxel" in caplog.text


def test_a_toml_of_points_and_masks(tmp_path):
    text = """
scenario = "three_label_cpv"
[data]
nucleus_um = 3.0
ignore_label = 65535
train = [
    {raw = "a.zarr", points = "p/points.csv"},
    {raw = "a.zarr", points = "centers", mask = "seen"},
    {raw = "a.zarr", labels = "l.tif", mask = "./m"},
]
"""
    (tmp_path / "t.toml").write_text(text)
    read = TrainConfig.from_toml(tmp_path / "t.toml")
    first, second, third = read.data.train
    assert first.points == str(tmp_path / "p/points.csv")
    assert (second.points, second.mask) == ("centers", "seen")
    assert third.mask == f"{tmp_path}/./m"
    assert TrainConfig.model_validate(read.model_dump(mode="json")) == read
    for old, new, message in [
        ('labels = "l.tif"', 'labels = "l.tif", points = "p"', "labels or points of a volume, not both"),
        ("65535", "0", "key data.ignore_label.*another label than 0, which is background"),
        ('mask = "seen"', 'masc = "seen"', "did you mean 'mask'"),
        ("nucleus_um", "mark_um = 0\nnucleus_um", "key data.mark_um.*greater than 0"),
    ]:
        assert old in text
        (tmp_path / "t.toml").write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=message):
            TrainConfig.from_toml(tmp_path / "t.toml")


# --- training ----------------------------------------------------------------------------------------------


def steps_of(settings, run, **options):
    steps = []
    train(settings, run, progress=lambda *step: steps.append(step), **options)
    return steps


def test_training_from_points_alone(folder, tmp_path):
    settings = of(folder, BARE, scenario=POINTS_ONLY, nucleus_um=0.9, more={"iterations": 12})
    settings = settings.model_copy(
        update={"patch": settings.patch.model_copy(update={"min_foreground": 0.02})}
    )
    steps = steps_of(settings, tmp_path / "run")
    assert np.isfinite([loss for _, loss in steps]).all()
    assert np.mean([loss for _, loss in steps[-4:]]) < steps[0][1]
    record = RunRecord.read(tmp_path / "run")
    assert record.nucleus_um == 0.9
    assert TrainConfig.model_validate(record.config) == settings


def test_mixed_training_resumes_with_the_same_batches(folder, tmp_path):
    """Labels, labels with a mask, and points, in one training; stopped, and with workers."""
    volumes = ["a.zarr", {"raw": "a.zarr", "mask": "@seen"}, BARE, {**BARE, "mask": "mask.npy"}]

    def settings(workers):
        return of(folder, *volumes, more={"workers": workers, "augment": {"deform": 1.0}})

    steps = steps_of(settings(1), tmp_path / "straight")
    parts = steps_of(settings(0), tmp_path / "parts", iterations=2)
    parts += steps_of(settings(2), tmp_path / "parts", resume=True)
    assert parts == steps
    weights = [list_checkpoints(tmp_path / f)[-1].state["weights_sha256"] for f in ("straight", "parts")]
    assert weights[0] == weights[1]


def test_batches_of_mixed_volumes(folder):
    """Which heads a batch teaches follows from its volume; the mask is everywhere the same key."""
    import gunpowder as gp

    from nucseg.nodes.add_targets import target_keys, weight_keys
    from nucseg.training.pipeline import MASK, batches

    settings = of(folder, BARE, {"raw": "a.zarr", "mask": "@seen"}, "a.zarr")
    prepared = prepare(settings)
    pipeline = batches(settings, prepared)
    weights, targets = weight_keys(prepared.scenario), target_keys(prepared.scenario)
    taught = set()
    with gp.build(pipeline):
        assert MASK in pipeline.spec
        for seed in range(12):
            request = gp.BatchRequest(random_seed=seed)
            for key in (*weights.values(), *targets.values()):
                request[key] = gp.ArraySpec(roi=gp.Roi((8, 8, 8), (12, 12, 12)))
            batch = pipeline.request_batch(request)
            three, cpv = (batch[weights[name]].data for name in ("three_label", "cpv"))
            assert batch[targets["three_label"]].data.shape == (1, 12, 12, 12)
            taught.add((bool(three.any()), bool(cpv.any())))
    assert (False, True) in taught
    assert (True, True) in taught


def test_without_masks_and_points_nothing_changes(folder):
    """No key, no node and no draw more than before: the batches of a seed are the old ones."""
    import gunpowder as gp

    from nucseg.nodes.add_targets import AddTargets, target_keys
    from nucseg.nodes.deform import Deform
    from nucseg.nodes.random_patch import RandomPatch
    from nucseg.nodes.scale_shift import ScaleShift
    from nucseg.nodes.volume_source import VolumeSource
    from nucseg.training.pipeline import LABELS, MASK, RAW, batches

    settings = of(folder, "a.zarr", "a.zarr")
    prepared = prepare(settings)
    assert prepared.masks == ()
    sources = tuple(
        VolumeSource(folder / "a.zarr", {RAW: "image", LABELS: "labels/nuclei"}) + RandomPatch((12, 12, 12))
        for _ in range(2)
    )
    plain = sources + gp.RandomProvider()
    plain += Deform(RAW, LABELS, p=0.25) + ScaleShift(RAW)
    plain += AddTargets(LABELS, prepared.scenario, margin=prepared.margin)
    key = target_keys(prepared.scenario)["cpv"]
    made = []
    for pipeline in (plain, batches(settings, prepared)):
        with gp.build(pipeline):
            assert MASK not in pipeline.spec
            request = gp.BatchRequest(random_seed=7)
            request[RAW] = gp.ArraySpec(roi=gp.Roi((0, 0, 0), (28, 28, 28)))
            request[key] = gp.ArraySpec(roi=gp.Roi((8, 8, 8), (12, 12, 12)))
            made.append(pipeline.request_batch(request))
    for name in (RAW, key):
        np.testing.assert_array_equal(made[0][name].data, made[1][name].data)


def test_a_volume_without_a_mask_beside_one_with_a_mask_is_taught_as_alone(folder):
    """A mask for one volume makes masks for all: those that are 1 everywhere change no target and no weight."""
    import gunpowder as gp

    from nucseg.nodes.add_targets import target_keys, weight_keys
    from nucseg.training.pipeline import batches

    settings = of(folder, "a.zarr")
    settings = settings.model_copy(update={"augment": settings.augment.model_copy(update={"deform": 1.0})})
    alone = prepare(settings)
    assert alone.masks == ()
    scenario = alone.scenario
    keys = (*target_keys(scenario).values(), *weight_keys(scenario).values())
    made = []
    for prepared in (alone, alone._replace(masks=(AnnotationMask(SHAPE),))):
        with gp.build(batches(settings, prepared)) as pipeline:
            for seed in range(4):
                request = gp.BatchRequest(random_seed=seed)
                for key in keys:
                    request[key] = gp.ArraySpec(roi=gp.Roi((0, 0, 0), settings.patch.output))
                batch = pipeline.request_batch(request)
                made.append({key: batch[key].data for key in keys})
    for first, second in zip(made[:4], made[4:], strict=True):
        for key in keys:
            np.testing.assert_array_equal(first[key], second[key], err_msg=f"{key}")
    assert all(patch[weight_keys(scenario)["cpv"]].any() for patch in made)


def test_a_full_mask_says_so():
    assert not AnnotationMask((4, 4, 4)).stored
