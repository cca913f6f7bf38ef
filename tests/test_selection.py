"""Selection over the checkpoints of a run: equal to the plain loops, resumed where it stopped, used afterwards."""

import json
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import BaseModel, ConfigDict
from scipy.ndimage import gaussian_filter

import nucseg as ns
from nucseg.blockwise.launch import Local
from nucseg.blockwise.predict import Predict
from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.evaluate.matching import detection, match
from nucseg.evaluate.scores import Scores
from nucseg.evaluate.select import instances
from nucseg.evaluate.ways import WAYS, Way
from nucseg.heads.scenario import Decoding, Scenario
from nucseg.points import read_table
from nucseg.selection import select_run
from nucseg.selection.grid_file import read_grid
from nucseg.volume import create_image, create_labels, open_labels, open_volume

pytestmark = pytest.mark.xdist_group("tensorflow")

SHAPE, SCALE = (18, 22, 26), (0.2, 0.1, 0.1)
TRUE_CHECKPOINT = 20
TRUE = Decoding(seed_threshold=0.343, foreground_threshold=0.667)
GRID = [
    Decoding(seed_threshold=0.336, foreground_threshold=0.667),
    TRUE,
    Decoding(seed_threshold=0.343, foreground_threshold=0.668, dilate=1),
    Decoding(seeds="votes", seed_threshold=0.5, foreground_threshold=0.667, reach=6),
    Decoding(seeds="votes", seed_threshold=0.6, foreground_threshold=0.668, reach=6, vote_passes=1),
]


def make_run(folder, scenario, checkpoints, **record):
    """A run folder of a tiny network that was never trained: other random weights in each checkpoint."""
    import keras

    from nucseg.network.checkpoint import save_checkpoint
    from nucseg.network.record import RunRecord
    from nucseg.network.unet import unet

    folder.mkdir(parents=True)
    network = unet("tiny", initializer="glorot_uniform")  # the thresholds below are of its untrained outputs
    RunRecord(scenario=scenario, network=network, scale_um=SCALE, nucleus_um=0.6, **record).write(folder)
    for iteration in checkpoints:
        model = network.build(scenario.channels, seed=iteration // 5)
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        save_checkpoint(folder, iteration, model, optimizer, loss=1.0)
    return folder


def make_image(path, seed):
    data = 1000 * gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 1.5)
    create_image(path, shape=SHAPE, dtype="float32", scale_um=SCALE, shards=SHAPE).write(
        (0, 0, 0), data.astype(np.float32)
    )
    return path


def add_labels(path, labels):
    create_labels(path, shape=SHAPE, dtype="uint32", scale_um=SCALE, shards=SHAPE).write(
        (0, 0, 0), labels.astype(np.uint32)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two checkpoints, and two volumes whose truth is what one of them gives with one decoding."""
    base = tmp_path_factory.mktemp("selection")
    run = make_run(base / "run", Scenario.named("three_label_cpv"), [10, TRUE_CHECKPOINT])
    volumes, predictions = [], {}
    for seed in (1, 2):
        volume = make_image(base / f"v{seed}.zarr", seed)
        for checkpoint in (10, TRUE_CHECKPOINT):
            out = base / f"prediction-{seed}-{checkpoint}"
            Predict(
                volume=str(volume), out=str(out), model=str(run), checkpoint=checkpoint, encoding="float32"
            ).blockwise(Local(workers=0))
            predictions[seed - 1, checkpoint] = open_volume(out / "prediction").read()
        truth = instances(predictions[seed - 1, TRUE_CHECKPOINT], Scenario.named("three_label_cpv"), TRUE)
        add_labels(volume, np.unique(truth, return_inverse=True)[1].reshape(SHAPE))
        volumes.append(volume)
    return run, volumes, predictions


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run without any selection."""
    shutil.copytree(made[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def predicted(monkeypatch):
    """Counts blocks that are predicted."""
    seen = []
    process = Predict.process
    monkeypatch.setattr(Predict, "process", lambda task, block: seen.append(1) or process(task, block))
    return seen


def test_the_grid_is_that_of_the_plain_loops(made, run, predicted):
    _, volumes, predictions = made
    seen = []
    selection = select_run(
        run,
        volumes,
        "segmentation,detection",
        grid=GRID,
        min_size=3,
        progress=lambda done, of: seen.append((done, of)),
    )
    scenario = Scenario.named("three_label_cpv")
    truths = [open_labels(volume).read() for volume in volumes]
    rows = []
    for checkpoint in (10, TRUE_CHECKPOINT):
        for decoding in GRID:
            of_volumes = [
                match(truth, instances(predictions[i, checkpoint], scenario, decoding), min_size=3)
                for i, truth in enumerate(truths)
            ]
            rows.append((checkpoint, decoding, of_volumes))
    assert [(row.checkpoint, row.candidate) for row in selection.rows] == [row[:2] for row in rows]
    for row, (_, _, of_volumes) in zip(selection.rows, rows, strict=True):
        assert row.scores == Scores.mean(of_volumes)

    assert (selection.checkpoint, selection.decoding) == (TRUE_CHECKPOINT, TRUE)
    assert selection.score == selection.scores.av_ap == 1.0
    assert selection.goal == "segmentation"
    assert set(selection.best) == {(g, s) for g in ("segmentation", "detection") for s in ("main", "votes")}
    for (goal, seeds), choice in selection.best.items():
        fit = [Scores.mean(s) for _, d, s in rows if d.seeds == seeds]
        value = max(s.av_ap if goal == "segmentation" else s.detection_ap for s in fit)
        assert (choice.scores.av_ap if goal == "segmentation" else choice.scores.detection_ap) == value
    assert set(selection.decodings) == {"main", "votes"}
    assert selection.predicted == 4 == len(predicted)
    assert seen[-1] == (20, 20)
    assert not list((run / "selection").glob("*/*/prediction")), "predictions are gone once they are scored"

    table = read_table(selection.table)
    assert len(table["checkpoint"]) == len(rows)
    for name, values in {
        "checkpoint": [row[0] for row in rows],
        "seeds": [row[1].seeds for row in rows],
        "seed_threshold": [row[1].seed_threshold for row in rows],
        "reach": [row[1].reach for row in rows],
        "score": [Scores.mean(row[2]).av_ap for row in rows],
        "ap.7": [Scores.mean(row[2]).ap[0.7] for row in rows],
        "detection_ap": [Scores.mean(row[2]).detection_ap for row in rows],
        "n_true": [sum(s.n_true for s in row[2]) for row in rows],
    }.items():
        assert list(table[name]) == pytest.approx(values) if name != "seeds" else list(table[name]) == values
    assert {f"ap.{i}" for i in range(1, 10)} <= set(table)
    parquet = read_table(selection.table.with_suffix(".parquet"))
    assert list(parquet["av_ap"]) == pytest.approx(list(table["av_ap"]))
    single = read_table(selection.volumes_table)
    assert list(single["av_ap"]) == pytest.approx([s.av_ap for row in rows for s in row[2]])
    assert [name[:2] for name in single["volume"][:2]] == ["v1", "v2"]


def test_the_same_call_does_nothing_again_and_a_larger_grid_only_what_is_missing(
    made, run, predicted, monkeypatch
):
    volumes = made[1]
    first = select_run(run, volumes, grid=GRID[:2], keep_predictions=True)
    assert first.predicted == 4 == len(predicted)
    scored = []
    scores = WAYS[0].scores
    monkeypatch.setattr(
        type(WAYS[0]),
        "scores",
        lambda way, p, t, s, candidates, **o: scored.extend(candidates) or scores(p, t, s, candidates, **o),
    )
    again = select_run(run, volumes, grid=GRID[:2])
    assert (again.predicted, scored) == (0, [])
    assert [row.scores for row in again.rows] == [row.scores for row in first.rows]
    more = select_run(run, volumes, grid=GRID)
    assert (more.predicted, len(predicted)) == (0, 4), "the predictions were kept"
    assert scored == 4 * GRID[2:]
    assert len(list((run / "selection").glob("*/*/prediction"))) == 4, "who asked to keep them still has them"


def test_an_interrupted_selection_goes_on(made, run, predicted, monkeypatch):
    volumes = made[1]
    scores, calls = WAYS[0].scores, []

    def interrupted(way, *arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return scores(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(WAYS[0]), "scores", interrupted)
        with pytest.raises(KeyboardInterrupt):
            select_run(run, volumes, grid=GRID)
    assert len(predicted) == 2
    assert not (run / "selected.json").exists()
    selection = select_run(run, volumes, grid=GRID)
    assert len(predicted) == 4, "what was predicted before is not predicted again"
    assert selection.predicted == 2
    assert (selection.checkpoint, selection.decoding) == (TRUE_CHECKPOINT, TRUE)
    assert not list((run / "selection").glob("*/*/prediction"))


def test_other_weights_and_other_labels_are_scored_anew(made, run, predicted, tmp_path):
    volume = tmp_path / "v.zarr"
    shutil.copytree(made[1][0], volume)
    select_run(run, [volume], grid=GRID[:1], checkpoints=[10], keep_predictions=True)
    checkpoints = run / "checkpoints"
    shutil.rmtree(checkpoints / "00000010")
    shutil.copytree(checkpoints / "00000020", checkpoints / "00000010")
    changed = select_run(run, [volume], grid=GRID[:2], checkpoints=[10])
    assert len(predicted) == 2
    assert changed.score == 1.0
    labels = open_labels(volume).read()
    shutil.rmtree(volume / "labels")
    add_labels(volume, np.where(labels > 1, labels, 0))
    assert select_run(run, [volume], grid=GRID[:2], checkpoints=[10]).scores.n_true < changed.scores.n_true


def test_labels_and_images_that_are_edited_in_place_are_scored_anew(made, run, predicted, tmp_path):
    volume = tmp_path / "v.zarr"
    shutil.copytree(made[1][0], volume)
    options = {"grid": GRID[:2], "checkpoints": [TRUE_CHECKPOINT], "keep_predictions": True}
    first = select_run(run, [volume], **options)
    labels, array = open_labels(volume).read(), open_labels(volume)
    before = {p: p.stat() for p in (volume / "labels").rglob("*") if p.is_file()}
    array.write((0, 0, 0), np.where(labels > 1, labels, 0).astype(array.dtype))
    for path, stat in before.items():  # as a copy that keeps times
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    edited = select_run(run, [volume], **options)
    assert edited.scores.n_true == first.scores.n_true - 1
    assert (edited.predicted, len(predicted)) == (0, 1), "the image is the same"
    image = open_volume(volume)
    image.write((0, 0, 0), image.read()[::-1].copy())
    assert select_run(run, [volume], **options).predicted == 1


def test_what_was_selected_is_used_afterwards(made, run, tmp_path):
    volume = made[1][0]
    select_run(run, made[1], grid=GRID)
    result = ns.run(str(volume), str(tmp_path / "out"), model=str(run), launcher=Local(workers=0))
    assert match(open_labels(volume).read(), open_labels(tmp_path / "out").read()).ap[0.9] == 1.0
    assert result.nuclei == len(np.unique(open_labels(volume).read())) - 1
    model = ns.TrainedModel.load(run)
    assert (model.checkpoint.iteration, model.decoding) == (TRUE_CHECKPOINT, TRUE)
    assert "Selected on validation" in ns.report_folder(run).read_text(encoding="utf-8")


def test_what_was_selected_with_mirrors_is_used_with_them(made, run, predicted, tmp_path):
    volume, scenario = made[1][0], Scenario.named("three_label_cpv")
    out = tmp_path / "by-hand"
    Predict(
        volume=str(volume),
        out=str(out),
        model=str(run),
        checkpoint=TRUE_CHECKPOINT,
        mirrors="x",
        encoding="float32",
    ).blockwise(Local(workers=0))
    prediction = open_volume(out / "prediction").read()
    predicted.clear()
    options = {"grid": GRID, "checkpoints": [TRUE_CHECKPOINT]}
    plain = select_run(run, [volume], **options)
    assert json.loads((run / "selected.json").read_text())["mirrors"] == plain.mirrors == "none"
    selection = select_run(run, [volume], **options, mirrors=("x",))
    truth = open_labels(volume).read()
    for row, decoding in zip(selection.rows, GRID, strict=True):
        assert row.scores == Scores.mean([match(truth, instances(prediction, scenario, decoding))])
    assert plain.score == 1.0 > selection.score
    assert len(predicted) == 2
    assert select_run(run, [volume], **options).predicted == 0, "the scores of both settings are kept"
    again = select_run(run, [volume], **options, mirrors="x")
    assert (again.predicted, again.to_json()["mirrors"]) == (0, "x")
    assert json.loads((run / "selected.json").read_text())["mirrors"] == "x"

    assert ns.TrainedModel.load(run).mirrors == "x"
    assert ns.TrainedModel.load(run, 10).mirrors == "none", "nothing was selected for this one"
    here = {"model": str(run), "launcher": Local(workers=0), "keep": ("predictions",)}
    ns.run(str(volume), str(tmp_path / "out"), encoding="float32", **here)
    np.testing.assert_array_equal(open_volume(tmp_path / "out" / "prediction").read(), prediction)
    ns.run(str(volume), str(tmp_path / "none"), mirrors="none", encoding="float32", **here)
    found = open_volume(tmp_path / "none" / "prediction").read()
    np.testing.assert_array_equal(found, made[2][0, TRUE_CHECKPOINT])
    image = np.random.default_rng(0).random((20, 20, 22), np.float32)
    model = ns.TrainedModel.load(run)
    np.testing.assert_array_equal(model.predict(image), model.predict(image, "x"))
    assert not np.allclose(model.predict(image), model.predict(image, "none"), atol=1e-4)
    (run / "selected.json").write_text((run / "selected.json").read_text().replace('"x"', '"w"'))
    with pytest.raises(InputError, match=r"selected\.json.*delete it and select again"):
        ns.TrainedModel.load(run)


def test_volumes_of_the_configuration_pairs_and_the_default_grid(made, tmp_path):
    volumes = made[1]
    data = {"validation": [{"raw": str(v), "labels": None} for v in volumes], "labels": "nuclei"}
    run = make_run(tmp_path / "r", Scenario.named("three_label"), [5], config={"data": data})
    selection = select_run(run)
    scenario = Scenario.named("three_label")
    assert [row.candidate for row in selection.rows] == scenario.decodings()
    assert selection.rows[0].scores.n_true == sum(len(np.unique(open_labels(v).read())) - 1 for v in volumes)
    np.save(tmp_path / "labels.npy", open_labels(volumes[0]).read())
    pair = select_run(run, [(volumes[0], tmp_path / "labels.npy")], grid=GRID[:1])
    alone = select_run(run, [volumes[0]], grid=GRID[:1])
    assert pair.scores == alone.scores


class Peaks(Way):
    """A way that makes no instances: points where votes are many."""

    name = "peaks"
    key = "peaks"
    goals = frozenset({"detection"})

    class model(BaseModel):
        model_config = ConfigDict(frozen=True)

        threshold: float

    def candidates(self, scenario, reach):
        return [self.model(threshold=t) for t in (0.5, 2.0, 50.0)]

    def product(self, choices, scenario, reach, source):
        raise AssertionError

    def seeds(self, candidate):
        return "points"

    def points(self, prediction, candidate):
        votes = ns.CenterVectors().votes(prediction[-3:], np.ones(prediction.shape[1:], bool), 6, 0)
        return np.argwhere(votes > candidate.threshold)

    def scores(self, prediction, truth, scenario, candidates, *, min_size=0, threads=1, progress=None):
        found = [detection(self.points(prediction, c), truth.labels, min_size) for c in candidates]
        if progress:
            progress(len(found))
        return [Scores({}, {}, {}, {}, len(truth), f.tp + f.fp, f, {}) for f in found]


def test_a_scenario_without_instances_is_selected_by_detection(made, tmp_path):
    run = make_run(tmp_path / "r", Scenario([ns.CenterVectors(unit=True)]), [5])
    with pytest.raises(InputError, match="at least one decoding"):
        select_run(run, made[1])
    with pytest.raises(InputError, match="detection: no way of the grid makes instances"):
        select_run(run, made[1], ways=[*WAYS, Peaks()])
    selection = select_run(run, made[1], "detection", ways=[*WAYS, Peaks()])
    assert selection.decoding is None
    assert set(selection.best) == {("detection", "points")}
    assert selection.score == max(row.scores.detection_ap for row in selection.rows)
    assert selection.candidate == selection.best["detection", "points"].candidate
    selected = json.loads((run / "selected.json").read_text())
    assert (selected["decoding"], selected["peaks"]) == (None, selection.candidate.model_dump())
    table = read_table(selection.table)
    assert "av_ap" in table
    assert np.isnan(table["av_ap"]).all()
    model = ns.TrainedModel.load(run)
    assert (model.checkpoint.iteration, model.decoding) == (5, None)


def test_center_vectors_alone_are_selected_by_the_points_that_all_voxels_vote_for(made, tmp_path):
    run = make_run(tmp_path / "r", Scenario([ns.CenterVectors()]), [5])
    selection = select_run(run, made[1], "detection")
    assert set(selection.best) == {("detection", "votes")}
    assert {row.candidate.votes_from for row in selection.rows} == {"all"}
    assert selection.candidate == ns.TrainedModel.load(run).points


def test_a_grid_from_a_toml(tmp_path):
    scenario, path = Scenario.named("three_label_cpv"), tmp_path / "grid.toml"

    def grid(text):
        path.write_text(text)
        return read_grid(path, scenario, 9, WAYS)

    two = grid(
        'seeds = "main"\nseed_threshold = [0.7, 0.8]\nforeground_threshold = [0.5, 0.6]\ndilate = [0, 1]\n'
    )
    assert two == [
        Decoding(seed_threshold=s, foreground_threshold=f, dilate=d)
        for s in (0.7, 0.8)
        for f in (0.5, 0.6)
        for d in (0, 1)
    ]
    assert set(grid("")) == set(scenario.decodings(reach=9))
    votes = grid(
        '[[grid]]\nseeds = "votes"\nvote_passes = [1, 2]\nforeground_threshold = 0.5\n[[grid]]\nseeds="main"'
    )
    assert {d.vote_passes for d in votes if d.seeds == "votes"} == {1, 2}
    assert {d.reach for d in votes if d.seeds == "votes"} == {9}
    assert len(votes) == 2 * 8 + len(Scenario.named("three_label").decodings())
    sharper = max(d.seed_threshold for d in votes if d.vote_passes == 1)
    assert sharper > max(d.seed_threshold for d in votes if d.vote_passes == 2 and d.seeds == "votes")
    for text, says in {
        "seed_treshold = [1]": "did you mean 'seed_threshold'",
        "seed_threshold = [1.0]": "thresholds for main and votes",
        'seeds = "main"\ndilate = [-1]': "key dilate",
        'seeds = ["main", "both"]': "key seeds",
        'seeds = "main"\ndilate = []': "empty list",
        'way = "moon"': "one of instances",
        "dilate = 1\n[[grid]]\n": "tables",
        "dilate = ": "a TOML file",
    }.items():
        with pytest.raises(InputError, match=says):
            grid(text)
    path.write_text('seeds = "votes"')
    with pytest.raises(InputError, match="expected main; received 'votes'"):
        read_grid(path, Scenario.named("three_label"), 9, WAYS)


def test_command_line(made, run, tmp_path):
    volumes = [str(volume) for volume in made[1]]
    grid = tmp_path / "grid.toml"
    grid.write_text('seeds = "main"\nseed_threshold = [0.336, 0.343]\nforeground_threshold = [0.667]\n')
    arguments = [
        "select",
        str(run),
        *volumes,
        "--for",
        "detection,segmentation",
        "--grid",
        str(grid),
        "--json",
    ]
    result = CliRunner().invoke(cli, [*arguments, "--checkpoint", "20", "--min-size", "2"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["mirrors"] == "none"
    assert (answer["checkpoint"], answer["for"]) == (TRUE_CHECKPOINT, "detection")
    assert Decoding(**answer["parameters"]) == TRUE
    assert answer["best"]["segmentation"]["main"]["score"] == 1.0
    assert answer["table"] == str(run / "selection" / "table.csv")
    assert len(read_table(answer["table"])["score"]) == 2
    assert answer["best"]["segmentation"]["main"]["checkpoint"] == TRUE_CHECKPOINT
    assert answer["best"]["detection"]["main"]["parameters"] == answer["parameters"]
    selected = json.loads((run / "selected.json").read_text())
    assert Decoding(**selected["decoding"]) == TRUE


def test_bad_input_is_one_line_and_changes_nothing(made, run, tmp_path):
    bare = make_image(tmp_path / "bare.zarr", 3)
    axes = ("c", "z", "y", "x")
    create_image(tmp_path / "two.zarr", shape=(2, *SHAPE), dtype="uint8", scale_um=SCALE, axes=axes)
    empty = make_image(tmp_path / "empty.zarr", 3)
    add_labels(empty, np.zeros(SHAPE))
    volume = str(made[1][0])
    for arguments, says in (
        ([run, bare], "no labels"),
        ([run, tmp_path / "two.zarr"], "1 channel(s)"),
        ([run, empty], "none with a label"),
        ([run, volume, "--labels", "cells"], "'cells'"),
        ([run, volume, "--for", "counting"], "segmentation, detection or both"),
        ([run, volume, "--checkpoint", "7"], "one or more of 10, 20"),
        ([run, volume, "--grid", tmp_path / "no.toml"], "no.toml"),
        ([run], "data.validation"),
        ([tmp_path / "nowhere", volume], "no such folder"),
        ([run, tmp_path / "missing.zarr"], "missing.zarr"),
    ):
        result = CliRunner().invoke(cli, ["select", *map(str, arguments)])
        assert result.exit_code == 1, arguments
        (line,) = [line for line in result.stderr.splitlines() if line]
        assert line.startswith("nucseg: "), line
        assert says in line, line
    assert not (run / "selection").exists()
    assert not (run / "selected.json").exists()
    np.save(tmp_path / "other.npy", np.ones((4, 5, 6), np.uint8))
    with pytest.raises(InputError, match="the shape of"):
        select_run(run, [(volume, tmp_path / "other.npy")])


def parts():
    """What of each volume is annotated: a half, cut by a slanted plane, and all but a corner."""
    z, y, x = np.indices(SHAPE)
    return [z + y + x < 33, (z > 5) | (x < 14)]


def plain_rows(made, masks):
    """The scores of the newer checkpoint by plain loops."""
    scenario, rows = Scenario.named("three_label_cpv"), []
    for decoding in GRID:
        rows.append(
            Scores.mean(
                [
                    match(
                        open_labels(volume).read(),
                        instances(made[2][i, TRUE_CHECKPOINT], scenario, decoding),
                        annotated=mask,
                    )
                    for i, (volume, mask) in enumerate(zip(made[1], masks, strict=True))
                ]
            )
        )
    return rows


def scores_of(selection):
    return [row.scores for row in selection.rows]


def test_volumes_annotated_in_part_are_scored_where_they_are(made, run, tmp_path, predicted):
    first, second = masks = parts()
    np.save(tmp_path / "first.npy", first)
    np.save(tmp_path / "second.npy", second.astype(np.uint8))
    files = [tmp_path / "first.npy", tmp_path / "second.npy"]
    options = {"grid": GRID, "checkpoints": [TRUE_CHECKPOINT], "keep_predictions": True}
    whole = scores_of(select_run(run, made[1], **options))
    blocks = len(predicted)
    expected = plain_rows(made, masks)
    assert scores_of(select_run(run, made[1], masks=files, **options)) == expected != whole
    assert scores_of(select_run(run, made[1], masks=[None, files[1]], **options)) == plain_rows(
        made, [None, second]
    )
    assert scores_of(select_run(run, made[1], **options)) == whole, "scores of masks were taken for these"
    assert len(predicted) == blocks, "a mask makes no new predictions"

    data = [{"raw": str(v), "mask": str(mask)} for v, mask in zip(made[1], files, strict=True)]
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "config": {"data": {"validation": data}}}))
    assert scores_of(select_run(run, **options)) == expected

    command = ["select", str(run), *map(str, made[1]), "--checkpoint", str(TRUE_CHECKPOINT), "--json"]
    grid = tmp_path / "grid.toml"
    grid.write_text('seeds = "main"\nseed_threshold = 0.336\nforeground_threshold = 0.667\n')
    given = [option for file in files for option in ("--mask", str(file))]
    result = CliRunner().invoke(cli, [*command, "--grid", str(grid), *given])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["score"] == expected[0].av_ap != whole[0].av_ap


def test_a_label_may_mean_that_nothing_is_annotated(made, run, tmp_path):
    volume = shutil.copytree(made[1][0], tmp_path / "v.zarr")
    truth = open_labels(volume).read()
    known = parts()[0]
    name = {"shape": SHAPE, "scale_um": SCALE, "shards": SHAPE}
    for dtype, label in (("int32", -1), ("uint16", 65535)):
        stored = create_labels(volume, dtype, dtype=dtype, **name)
        stored.write((0, 0, 0), np.where(known, truth.astype(np.int64), label).astype(dtype))
        found = select_run(run, [volume], grid=GRID[:2], checkpoints=[10], labels=dtype, ignore_label=label)
        for row in found.rows:
            labels = instances(made[2][0, 10], Scenario.named("three_label_cpv"), row.candidate)
            assert row.scores.tp == match(truth, labels, annotated=known).tp
            assert row.scores.fp == match(truth, labels, annotated=known).fp
    create_labels(volume, "seen", dtype="uint8", **name).write((0, 0, 0), known.astype(np.uint8))
    assert scores_of(select_run(run, [volume], grid=GRID[:2], checkpoints=[10], masks="seen")) == scores_of(
        found
    )


def test_masks_that_do_not_fit_are_refused(made, run, tmp_path):
    np.save(tmp_path / "none.npy", np.zeros(SHAPE, bool))
    np.save(tmp_path / "background.npy", open_labels(made[1][0]).read() == 0)
    volumes = made[1]
    for given, masks, says in (
        (volumes, [tmp_path / "none.npy"], "received 1 for 2 volumes"),
        (volumes[:1], ["seen", None], "received 2 for 1 volumes"),
        ([], ["seen"], "masks of data.validation"),
        (volumes[:1], [tmp_path / "none.npy"], "no annotated voxel"),
        (volumes[:1], [tmp_path / "background.npy"], "none with a label"),
        (volumes, "seen", "mask 'seen'"),
    ):
        with pytest.raises(InputError, match=says):
            select_run(run, given, grid=GRID[:1], masks=masks)


def test_a_volume_that_the_run_was_trained_on_is_named(made, tmp_path, caplog):
    first, second = made[1]
    (tmp_path / "link.zarr").symlink_to(first)
    data = {"train": [{"raw": str(first)}]}
    run = make_run(tmp_path / "r", Scenario.named("three_label_cpv"), [10], config={"data": data})
    told = []
    select_run(run, [tmp_path / "link.zarr", second], grid=GRID[:1], log=told.append)
    (warning,) = [line for line in told if line.startswith("warning")]
    assert str(tmp_path / "link.zarr") in warning
    assert "was trained on" in warning
    select_run(run, [second, first], grid=GRID[:1])
    assert [(r.levelname, str(first) in r.getMessage()) for r in caplog.records] == [("WARNING", True)]
