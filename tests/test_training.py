"""Training from a configuration: what it may say, what it refuses, and that the same seed gives the same run."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nucseg.blockwise.launch import Local
from nucseg.blockwise.run import run
from nucseg.errors import InputError, NucsegError
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.scenario import Scenario
from nucseg.network.checkpoint import list_checkpoints
from nucseg.network.record import RunRecord
from nucseg.network.unet import unet
from nucseg.storage.normalization import Values
from nucseg.training import TrainConfig, train
from nucseg.training.data import measure, prepare
from nucseg.volume import create_image, create_labels, open_labels

SCALE = (0.2, 0.1, 0.1)
SHAPE = (24, 40, 40)

TOML = """
scenario = "three_label_cpv"
seed = 3
iterations = 4
workers = 0

[network]
preset = "tiny"
feature_maps = 3

[data]
train = ["a.zarr", {raw = "sub/b.zarr"}]
validation = ["c.zarr"]
normalize = false

[patch]
output = [12, 12, 12]

[augment]
gamma = [0.8, 1.2]
shift = false

[optimizer]
learning_rate = 1e-3
warmup = 0
schedule = "constant"
clipnorm = false
"""


THE_SCENARIO = 'scenario = "three_label_cpv"'
WRONG_HEADS = (
    (
        '{kind = "three_label", balanc = false}',
        r"toml: head three_label, key balanc: .*did you mean 'balance'\?",
    ),
    (
        '{kind = "center_vectors", scale = -1.0}',
        "head center_vectors, key scale: expected a number greater than 0; r",
    ),
    (
        '{kind = "center_vectors", unit = true, scale = 3.0}',
        "expected no scale and no voxel_um beside unit: .*; rec",
    ),
    ('{kin = "three_label"}', "heads: expected a kind for each head, .*received {'kin': 'three_label'}"),
    ('{kind = "tree_label"}', "head 'tree_label': expected a file of nucseg.heads"),
    ('"three_label", "affinities"', "expected at most one main head, not three_label, affinities; received"),
)
"""In a TOML; what is expected says what would be right."""


def spheres(shape=SHAPE, scale_um=SCALE, radius_um=0.45, seed=0, number=25):
    """Raw and labels of balls (in um) at random places; later ones give way."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint32)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) * scale_um
    for i, center in enumerate(rng.uniform(0, 1, (number, 3)) * shape * np.array(scale_um)):
        ball = ((grid - center) ** 2).sum(-1) < radius_um**2
        labels[ball & (labels == 0)] = i + 1
    raw = 100.0 * (labels > 0) + rng.normal(100, 10, shape)
    return raw.astype(np.uint16), labels


def write_volume(path, *, scale_um=SCALE, empty=False, channels=0, label_shape=None, **options):
    raw, labels = spheres(scale_um=scale_um or SCALE, **options)
    raw = np.stack([raw] * channels) if channels else raw
    axes = ("c", "z", "y", "x") if channels else ("z", "y", "x")
    image = create_image(path, shape=raw.shape, dtype=raw.dtype, scale_um=scale_um, axes=axes)
    image.write((0, 0, 0), raw)
    labels = np.zeros_like(labels) if empty else labels[tuple(slice(n) for n in label_shape or SHAPE)]
    create_labels(path, shape=labels.shape, scale_um=scale_um).write((0, 0, 0), labels)
    return str(path)


def config(path, **changes):
    settings = {
        "scenario": "three_label_cpv",
        "network": "tiny",
        "iterations": 4,
        "workers": 0,
        "data": {"train": [path]},
        "patch": {"output": (12, 12, 12)},
        "optimizer": {"warmup": 0, "schedule": "constant"},
        "checkpoint_every": 2,
        "tensorboard": False,
    }
    return TrainConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    return write_volume(tmp_path_factory.mktemp("volumes") / "a.zarr")


# --- the configuration -------------------------------------------------------------------------------------


def test_fixed_intensities_in_a_toml(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(TOML.replace("normalize = false", "normalize = {values = [0, 120]}"))
    read = TrainConfig.from_toml(path)
    assert read.data.normalize == Values(values=(0.0, 120.0))
    assert TrainConfig.model_validate(read.model_dump(mode="json")) == read
    path.write_text(TOML.replace("normalize = false", "normalize = {values = [120, 0]}"))
    with pytest.raises(InputError, match="expected a first value below the second, not 120 and 0; received"):
        TrainConfig.from_toml(path)


def test_a_toml_says_it_all(tmp_path):
    (tmp_path / "train.toml").write_text(TOML)
    read = TrainConfig.from_toml(tmp_path / "train.toml")
    assert read.scenario == Scenario.named("three_label_cpv")
    assert read.network == unet("tiny", feature_maps=3)
    assert [v.raw for v in read.data.train] == [str(tmp_path / "a.zarr"), str(tmp_path / "sub/b.zarr")]
    assert read.data.normalize is None
    assert read.augment.gamma == (0.8, 1.2)
    assert read.augment.shift is None
    assert read.optimizer.clipnorm is None
    assert read.patch.output == (12, 12, 12)
    # What run.json keeps of it can be read again.
    assert TrainConfig.model_validate(read.model_dump(mode="json")) == read


def test_heads_may_be_given_one_by_one(tmp_path):
    heads = '[[heads]]\nkind = "three_label"\n[[heads]]\nkind = "center_vectors"\nscale = 4.0\n'
    (tmp_path / "train.toml").write_text(heads + '[data]\ntrain = ["a.zarr"]\n')
    read = TrainConfig.from_toml(tmp_path / "train.toml")
    assert read.scenario.name == "three_label_cpv"
    assert read.scenario.auxiliary.scale == 4.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("iterations = 4", "iteration = 4", r"key iteration: .*did you mean 'iterations'\?"),
        ("learning_rate", "learning_rat", r"key optimizer\.learning_rat: .*did you mean 'learning_rate'\?"),
        ("feature_maps", "feature_map", r"key network\.feature_map: .*did you mean 'feature_maps'\?"),
        ("gamma", "gama", r"key augment\.gama: .*did you mean 'gamma'\?"),
        ('{raw = "sub/b.zarr"}', '{rw = "b"}', r"key data\.train\.1\.r"),
        ('preset = "tiny"', 'preset = "huge"', "expected paper or small or modern or tiny; received 'huge'"),
        ('"three_label_cpv"', '"three_labels"', "scenario 'three_labels'"),
        ("seed = 3", "seed = -3", r"key seed: expected .*greater than or equal to 0; received -3"),
        ("[data]", "[dat]", r"key dat: .*did you mean 'data'\?"),
        ("[data]", "[data", "expected a TOML file"),
        ("[12, 12, 12]", "[12, 12]", r"key patch\.output"),
        (
            "seed = 3",
            'seed = 3\nheads = [{kind = "three_label"}]',
            "expected a scenario or .* two ways to say one",
        ),
        *((THE_SCENARIO, f"heads = [{wrong}]", message) for wrong, message in WRONG_HEADS),
    ],
)
def test_mistakes_in_a_toml_are_named(tmp_path, old, new, message):
    assert old in TOML
    (tmp_path / "train.toml").write_text(TOML.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        TrainConfig.from_toml(tmp_path / "train.toml")
    assert "\n" not in str(caught.value)


def test_a_toml_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml"):
        TrainConfig.from_toml(tmp_path / "none.toml")


# --- the volumes -------------------------------------------------------------------------------------------


def test_sizes_are_measured_as_a_slow_reference_does(volume):
    labels = open_labels(volume).read()
    found = measure([open_labels(volume)], SCALE)
    farthest, radii, sizes = [], [], []
    for label in set(np.unique(labels)) - {0}:
        places = np.argwhere(labels == label)
        farthest.append(np.linalg.norm((places - places.mean(0)) * SCALE, axis=1).max())
        radii.append((3 * len(places) / (4 * np.pi)) ** (1 / 3))
        sizes.append(len(places))
    assert found.number == len(sizes)
    assert found.diameter_um == pytest.approx(2 * max(farthest), rel=1e-5)
    assert found.radius == pytest.approx(np.average(radii, weights=sizes))


def test_measuring_does_not_depend_on_blocks(tmp_path, volume):
    labels = open_labels(volume).read()
    split = create_labels(tmp_path / "split.zarr", shape=SHAPE, scale_um=SCALE, shards=(7, 16, 11))
    for begin, shape in split.blocks():
        split.write(begin, labels[tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))])
    whole, blocks = measure([open_labels(volume)], SCALE), measure([split], SCALE)
    np.testing.assert_allclose(whole, blocks, rtol=1e-6)


def test_what_the_volumes_decide_is_filled_in(volume):
    prepared = prepare(config(volume))
    vectors = prepared.scenario.auxiliary
    assert vectors.scale == pytest.approx(measure([open_labels(volume)], SCALE).radius, rel=5e-3)
    assert vectors.voxel_um == prepared.scale_um == SCALE
    assert prepared.margin == tuple(np.ceil(prepared.nucleus_um / np.array(SCALE)))
    given = Scenario(["three_label", {"kind": "center_vectors", "scale": 2.5}])
    assert prepare(config(volume, scenario=given)).scenario.auxiliary.scale == 2.5
    paper = {"network": "paper", "patch": {"output": (4, 4, 4)}}
    assert prepare(config(volume, **paper)).scenario.auxiliary.scale == 1.0
    distance = prepare(config(volume, scenario="sdt")).scenario.main.distance
    assert distance == pytest.approx(vectors.scale / 2, rel=0.01)
    assert prepare(config(volume, scenario="sdt", **paper)).scenario.main.distance == 9.0
    given = Scenario([{"kind": "signed_distance", "distance": 9.0}])
    assert prepare(config(volume, scenario=given)).scenario.main.distance == 9.0
    unit = [{"kind": "signed_distance", "distance": 5.0}, {"kind": "center_vectors", "unit": True}]
    assert prepare(config(volume, scenario={"heads": unit})).scenario == Scenario(unit)
    known = prepare(config(volume, data={"train": [volume], "nucleus_um": 1.4}))
    assert known.margin == (7, 14, 14)


def test_volumes_that_do_not_fit_are_refused(tmp_path, volume, caplog):
    def of(*volumes, **data):
        return prepare(config(volume, data={"train": volumes, **data}))

    with pytest.raises(InputError, match=r"nowhere\.zarr"):
        of(str(tmp_path / "nowhere.zarr"))
    with pytest.raises(InputError, match=r"empty\.zarr.*only background"):
        of(volume, write_volume(tmp_path / "empty.zarr", empty=True))
    with pytest.raises(InputError, match=r"short\.zarr.*expected the shape of"):
        of(write_volume(tmp_path / "short.zarr", label_shape=(24, 40, 30)))
    with pytest.raises(InputError, match=r"voxel size of .*coarse\.zarr.*within 5%"):
        of(volume, write_volume(tmp_path / "coarse.zarr", scale_um=(0.2, 0.11, 0.1)))
    two = write_volume(tmp_path / "two.zarr", channels=2)
    with pytest.raises(InputError, match="the same number of channels"):
        of(volume, two)
    with pytest.raises(InputError, match="labels"):
        of(volume, labels="cells")
    image = create_image(tmp_path / "bare.zarr", shape=SHAPE, dtype="uint16", scale_um=SCALE)
    tifffile.imwrite(tmp_path / "be.tif", np.ones(SHAPE, np.uint16))
    caplog.clear()
    for bare in (image.path, tmp_path / "be.tif"):
        told = rf"training volume {bare}: expected .*labels/nuclei inside.*give \{{raw = \.\.\., labels"
        with pytest.raises(InputError, match=told):
            of(str(bare))
    assert not caplog.records
    assert of(two).network.input_channels == 2
    with pytest.raises(InputError, match=r"network\.input_channels"):
        prepare(config(two, network={"preset": "tiny", "input_channels": 1}))
    with pytest.raises(InputError, match=r"output patch.*such as"):
        prepare(config(volume, patch={"output": (11, 12, 12)}))
    near = write_volume(tmp_path / "near.zarr", scale_um=(0.2, 0.104, 0.1))
    assert of(volume, near).scale_um == SCALE
    unknown = write_volume(tmp_path / "unknown.zarr", scale_um=None)
    with pytest.raises(InputError, match="received None um"):
        of(volume, unknown)
    assert of(volume, unknown, scale_um=(0.3, 0.1, 0.1)).scale_um == (0.3, 0.1, 0.1)
    assert of(unknown).scale_um is None
    assert "does not say its voxel size" in caplog.text


@pytest.mark.skipif("NUCSEG_DATA" not in os.environ, reason="NUCSEG_DATA names no folder of real volumes")
def test_a_real_volume_of_two_files():
    folder = Path(os.environ["NUCSEG_DATA"]) / "ovule_1135"
    volume = {"raw": str(folder / "raw.tif"), "labels": str(folder / "labels.tif")}
    scale_um = (0.235, 0.1, 0.1)
    prepared = prepare(config("", data={"train": [volume], "scale_um": scale_um}))
    assert prepared.scale_um == prepared.scenario.auxiliary.voxel_um == scale_um
    # Its 54 nuclei measure up to about 5 um, 52 of the fine voxels.
    assert prepared.margin == (23, 52, 52)
    assert prepared.scenario.auxiliary.scale == 11.8


# --- training ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight(volume, tmp_path_factory):
    """Four steps without a stop, batches made by one worker process."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    seen = []
    result = train(config(volume, workers=1), folder, progress=lambda *step: seen.append(step))
    return folder, result, seen


def test_a_run_leaves_what_prediction_needs(straight, volume):
    folder, result, seen = straight
    assert [iteration for iteration, _ in seen] == [1, 2, 3, 4]
    assert result.iteration == 4
    assert result.loss == pytest.approx(np.mean([loss for _, loss in seen]))
    assert 0 < result.seconds_per_iteration < 10
    assert [c.iteration for c in list_checkpoints(folder)] == [2, 4]
    record = RunRecord.read(folder)
    assert record.scale_um == SCALE
    assert record.normalize == (1.0, 99.8)
    assert record.nucleus_um == prepare(config(volume)).nucleus_um
    assert TrainConfig.model_validate(record.config) == config(volume, workers=1)
    assert {p.name for p in (folder / "snapshots").iterdir()} >= {"00000001.zarr", "00000004.zarr"}


def test_stopping_resuming_and_workers_change_nothing(straight, volume, tmp_path, caplog):
    folder, result, seen = straight
    steps = []
    options = {"resume": True, "progress": lambda *s: steps.append(s)}
    first = train(config(volume), tmp_path / "run", iterations=2, **options)
    assert first.iteration == 2
    assert f"nothing to resume in {tmp_path / 'run'}: starting from iteration 0" in caplog.text
    caplog.clear()
    resumed = train(config(volume, workers=2), tmp_path / "run", **options)
    # TensorFlow counts the retracings of the whole process, of other tests too, and warns of the fifth
    assert not [
        record for record in caplog.records if "triggered tf.function retracing" not in record.getMessage()
    ]
    assert steps == seen
    assert resumed.loss == result.loss
    weights = [list_checkpoints(f)[-1].state["weights_sha256"] for f in (folder, tmp_path / "run")]
    assert weights[0] == weights[1]


def test_another_seed_is_another_run_and_a_finished_one_stays(straight, volume, tmp_path):
    folder, result, seen = straight
    steps = []
    extra = [lambda raw: _Invert(raw)]
    other = config(volume, seed=9, patch={"output": (12, 12, 12), "batch": 2})
    train(other, tmp_path / "run", iterations=1, progress=lambda *s: steps.append(s), augment=extra)
    assert steps[0][1] != seen[0][1]
    assert _Invert.shapes == {(28, 28, 28)}
    again = train(config(volume), folder, resume=True)
    assert again.iteration == 4
    assert again.loss == result.loss
    with (folder / "losses.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4


def test_failures_are_nucsegs_own(straight, volume, tmp_path, caplog):
    with pytest.raises(InputError, match="folder of another training run"):
        train(config(volume), straight[0])
    assert not caplog.records
    with pytest.raises(InputError, match="a run of seed"):
        train(config(volume, seed=8), straight[0], iterations=9, resume=True)
    none = {"output": (12, 12, 12), "min_foreground": 0.99}
    with pytest.raises(NucsegError, match=r"99\.0% foreground"):
        train(config(volume, patch=none), tmp_path / "run")
    # A run that failed before its first step does not stand in the way.
    train(config(volume), tmp_path / "run", iterations=1)


def test_center_vectors_alone_find_points_and_unit_vectors_alone_are_refused(volume, tmp_path):
    trained = train(config(volume, scenario=Scenario([CenterVectors()])), tmp_path / "run", iterations=1)
    assert trained.iteration == 1
    found = run(volume, str(tmp_path / "o"), str(tmp_path / "run"), launcher=Local(workers=0))
    assert list(found.steps) == ["predict", "detect"]
    with pytest.raises(InputError, match=r"heads cpv: .* received unit vectors"):
        train(config(volume, scenario=Scenario([CenterVectors(unit=True)])), tmp_path / "unit")
    assert not (tmp_path / "unit").exists()


def test_a_missing_backend_is_told_first(volume, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "backend_that_is_not_there")
    with pytest.raises(InputError, match=r"received no module backend_that_is_not_there; pip install"):
        train(config(volume), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_foreign_folder_stays_as_it_is(volume, tmp_path):
    (tmp_path / "thesis.docx").write_text("all of it")
    for resume in (False, True):
        with pytest.raises(InputError, match="a folder with other content"):
            train(config(volume), tmp_path, resume=resume)
    with pytest.raises(InputError, match="a folder with other content"):
        RunRecord(scenario=Scenario.named("gauss"), network=unet("tiny")).begin(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def _Invert(raw):
    from nucseg.nodes.array_augment import ArrayAugment

    class Invert(ArrayAugment):
        def augment(self, data, rng):
            _Invert.shapes.add(data.shape)
            return 1 - data

    return Invert(raw)


_Invert.shapes = set()
