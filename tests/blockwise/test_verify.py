"""Drill 13: what is lost or damaged on disk after a run is found, named, and repaired to the same digest."""

import json
import shutil

import numpy as np
import pytest
from blockwise_cases import Doubled, balls, random_prediction, random_raw, save_prediction, save_raw
from click.testing import CliRunner

from nucseg.blockwise.downsample import Downsample
from nucseg.blockwise.history import attended
from nucseg.blockwise.launch import Launcher, Local
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.records import Records
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.status import run_status
from nucseg.blockwise.verify import verify
from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.heads.scenario import Scenario
from nucseg.instances.digest import array_digest
from nucseg.volume import open_volume

HERE = Local(workers=0)
BLOCK = (8, 12, 16)
SHAPE = (20, 24, 30)  # 3 x 2 x 2 blocks, the last ones of each axis smaller


def shard(out, index, array="labels/nuclei"):
    """The file of a block, by the layout of zarr's default chunk keys."""
    leading = ("0",) if array == "prediction" else ()
    return out.joinpath(array, "0", "c", *leading, *map(str, index))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(bytes(data))


HURT = {(0, 0, 1): truncate, (1, 1, 0): flip, (2, 0, 0): lambda path: path.unlink()}
"""Where (no axis like another) and how blocks are damaged."""


def files_of(out):
    """Time and content of every file of an OUT."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}


def done_by(out, task):
    """For each done block the run that did it."""
    return {index: line["run"] for index, line in Records(out, task).read()[0].items()}


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "p.zarr"
    return save_prediction(path, random_prediction(SHAPE, seed=5))


@pytest.fixture
def labels_out(tmp_path, maps):
    out = tmp_path / "o"
    result = Segment(prediction=maps, scenario="three_label", out=str(out), block=BLOCK).blockwise(HERE)
    assert result["nuclei"] > 5
    return out


def test_three_damaged_label_blocks_are_found_and_only_they_are_made_again(labels_out):
    before, runs = open_volume(labels_out / "labels" / "nuclei").read(), done_by(labels_out, "segment")
    files = files_of(labels_out)
    for index, hurt in HURT.items():
        hurt(shard(labels_out, index))

    found = verify(labels_out, launcher=HERE)
    assert (found.checked, found.missing, found.repaired) == (12, 0, 0)
    causes = {damage.block: damage.cause for damage in found.damaged}
    assert causes.keys() == HURT.keys()
    assert "cannot be read: damaged data" in causes[0, 0, 1]
    assert "cannot be read: damaged data" in causes[1, 1, 0]
    assert causes[2, 0, 0] == f"lost: {shard(labels_out, (2, 0, 0))} is missing"
    edge = next(damage for damage in found.damaged if damage.block == (2, 0, 0))
    assert (edge.task, edge.begin, edge.shape) == ("segment", (16, 0, 0), (4, 12, 16))
    assert found.remaining == found.damaged

    mended = verify(labels_out, repair=True, launcher=Local(workers=2))
    assert (len(mended.damaged), mended.repaired, mended.remaining) == (3, 3, [])
    np.testing.assert_array_equal(open_volume(labels_out / "labels" / "nuclei").read(), before)
    again = done_by(labels_out, "segment")
    assert {index for index in runs if again[index] != runs[index]} == HURT.keys()
    for path, (_, content) in files.items():
        if "labels" in path.parts:
            assert path.read_bytes() == content
    assert verify(labels_out, launcher=HERE).damaged == []


def test_verifying_an_undisturbed_run_changes_nothing(labels_out):
    before = files_of(labels_out)
    for launcher in (HERE, Local(workers=1)):
        found = verify(labels_out, repair=launcher is HERE, launcher=launcher)
        assert (found.checked, found.damaged, found.repaired) == (12, [], 0)
        assert files_of(labels_out) == before


def test_blocks_of_zeros_have_no_file_and_are_no_damage_but_done_ones_without_a_file_are(tmp_path):
    maps = save_prediction(tmp_path / "p.npy", balls((16, 16, 32), [(8, 8, 8)], 5))
    out = tmp_path / "o"
    Segment(prediction=maps, scenario="three_label", out=str(out), block=(16, 16, 16)).blockwise(HERE)
    full, empty = shard(out, (0, 0, 0)), shard(out, (0, 0, 1))
    assert full.exists()
    assert not empty.exists()
    assert verify(out, launcher=HERE).damaged == []
    shutil.rmtree(full.parents[2])  # the array is there, and all of it reads as zeros
    assert not open_volume(out / "labels" / "nuclei").read().any()
    assert [damage.block for damage in verify(out, launcher=HERE).damaged] == [(0, 0, 0)]
    assert verify(out, repair=True, launcher=HERE).remaining == []
    assert full.exists()
    assert not empty.exists()


def test_voxels_where_there_were_none_are_damage(labels_out):
    """A whole, valid block of other values: only the digest can tell."""
    labels = open_volume(labels_out / "labels" / "nuclei")
    data = labels.read((8, 12, 16), (8, 12, 14))
    data[2, 3, 4] += 1
    labels.write((8, 12, 16), data)
    (damage,) = verify(labels_out, launcher=HERE).damaged
    assert (damage.block, damage.begin, damage.shape) == ((1, 1, 1), (8, 12, 16), (8, 12, 14))
    assert "other values" in damage.cause
    assert verify(labels_out, repair=True, launcher=HERE).remaining == []


def test_blocks_that_are_not_done_are_no_damage_and_repair_leaves_them(labels_out):
    records = Records(labels_out, "segment")
    (file,) = records.folder.glob("blocks-*.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:7]))
    damaged = sorted(records.read()[0])[-1]
    truncate(shard(labels_out, damaged))
    found = verify(labels_out, repair=True, launcher=HERE)
    assert (found.checked, found.missing) == (7, 5)
    assert [damage.block for damage in found.damaged] == [damaged]
    assert found.remaining == []
    assert len(records.read()[0]) == 7
    (told,) = run_status(labels_out).tasks
    assert (told.done, told.damaged, [run["kind"] for run in told.runs]) == (7, 0, ["run", "repair"])


def test_a_repair_that_was_killed_is_remembered_and_a_resumed_run_does_what_is_left(labels_out, monkeypatch):
    records, before = Records(labels_out, "segment"), open_volume(labels_out / "labels" / "nuclei").read()
    truncate(shard(labels_out, (1, 1, 0)))
    with monkeypatch.context() as patched:
        patched.setattr(Local, "run", killed_unless_reading)
        with pytest.raises(KeyboardInterrupt):
            verify(labels_out, repair=True, launcher=HERE)
    assert (1, 1, 0) not in records.read()[0]
    found = verify(labels_out, launcher=HERE)
    assert (found.checked, found.missing) == (11, 0)
    (damage,) = found.damaged
    assert (damage.block, damage.cause) == ((1, 1, 0), "was found damaged before, and is not made again yet")
    (told,) = run_status(labels_out).tasks
    assert (told.state, told.done, told.damaged, told.failed) == ("failed", 11, 1, [])
    assert told.based_on == "all blocks were done, but some were found damaged since"
    assert [run["kind"] for run in told.runs] == ["run", "repair"]
    assert verify(labels_out, repair=True, launcher=HERE).repaired == 1
    np.testing.assert_array_equal(open_volume(labels_out / "labels" / "nuclei").read(), before)
    assert verify(labels_out, launcher=HERE).damaged == []


def killed_unless_reading(self, task, records, run, only=None, log=None):
    if only is not None:
        raise KeyboardInterrupt
    return Launcher.run(self, task, records, run)


def test_nothing_is_repaired_under_the_hands_of_a_run(labels_out):
    truncate(shard(labels_out, (0, 0, 0)))
    records, before = Records(labels_out, "segment"), files_of(labels_out)
    with records.held(alone=False):
        (damage,) = verify(labels_out, repair=True, launcher=HERE).remaining
        assert "workers of an earlier segment run" in damage.cause
    assert {p: v for p, v in files_of(labels_out).items() if p.suffix != ".lock"} == {
        p: v for p, v in before.items() if p.suffix != ".lock"
    }
    with attended(records, "other", HERE, 1), pytest.raises(InputError, match="nobody at work on segment"):
        verify(labels_out, repair=True, launcher=HERE)
    assert verify(labels_out, repair=True, launcher=HERE).remaining == []


def test_an_array_whose_metadata_are_lost_is_made_again(labels_out):
    before = open_volume(labels_out / "labels" / "nuclei").read()
    (labels_out / "labels" / "nuclei" / "0" / "zarr.json").write_text("{")
    found = verify(labels_out, launcher=HERE)
    assert len(found.damaged) == 12
    shutil.rmtree(labels_out / "labels" / "nuclei")
    assert "is gone" in verify(labels_out, launcher=HERE).damaged[0].cause
    assert verify(labels_out, repair=True, launcher=HERE).repaired == 12
    np.testing.assert_array_equal(open_volume(labels_out / "labels" / "nuclei").read(), before)


def test_a_repair_whose_input_is_gone_or_changed_says_so_and_changes_nothing(tmp_path):
    maps = tmp_path / "p.npy"
    save_prediction(maps, random_prediction(SHAPE, seed=5))
    out = tmp_path / "o"
    Segment(prediction=str(maps), scenario="three_label", out=str(out), block=BLOCK).blockwise(HERE)
    truncate(shard(out, (0, 0, 0)))
    before = files_of(out)
    kept = maps.rename(tmp_path / "kept.npy")
    (damage,) = verify(out, repair=True, launcher=HERE).remaining
    assert "cannot be made again" in damage.cause
    assert str(maps) in damage.cause
    save_prediction(maps, random_prediction(SHAPE, seed=6))
    (damage,) = verify(out, repair=True, launcher=HERE).remaining
    assert "inputs.prediction" in damage.cause
    assert files_of(out) == before
    maps.unlink()
    kept.rename(maps)
    assert verify(out, repair=True, launcher=HERE).remaining == []


def test_a_block_that_comes_out_otherwise_remains_damaged_until_it_is_as_before(tmp_path, monkeypatch):
    """An input that changed in place with its size and times kept: only the digest before the damage tells."""
    maps = tmp_path / "p.npy"
    save_prediction(maps, random_prediction(SHAPE, seed=5))
    out = tmp_path / "o"
    Segment(prediction=str(maps), scenario="three_label", out=str(out), block=BLOCK).blockwise(HERE)
    whole, same = maps.read_bytes(), Records(out, "segment").head()["inputs"]
    monkeypatch.setattr(Segment, "inputs", lambda self: same)
    save_prediction(maps, random_prediction(SHAPE, seed=6))
    truncate(shard(out, (0, 1, 0)))
    (damage,) = verify(out, repair=True, launcher=HERE).remaining
    assert damage.block == (0, 1, 0)
    assert "other values than before it was damaged" in damage.cause
    assert len(verify(out, launcher=HERE).remaining) == 1, "it is remembered"
    maps.write_bytes(whole)
    assert verify(out, repair=True, launcher=HERE).remaining == []
    assert verify(out, launcher=HERE).damaged == []


def test_predictions_and_what_was_made_of_them(tmp_path, untrained):
    raw = save_raw(tmp_path / "raw.zarr", random_raw((16, 18, 20), seed=8))
    out = tmp_path / "o"
    decoding = Scenario.named("three_label_cpv").default_decoding()
    decoding = decoding.model_copy(update={"seed_threshold": 0.335, "foreground_threshold": 0.6})
    predict = Predict(volume=raw, out=str(out), model=str(untrained), block=(8, 8, 8))
    predict.blockwise(HERE)
    stored = open_volume(out / "prediction").read()
    (line,) = (value for index, value in Records(out, "predict").read()[0].items() if index == (1, 2, 0))
    assert line["digest"] == array_digest(stored[:, 8:16, 16:18, 0:8])
    segment = Segment(out=str(out), decoding=decoding, block=(8, 8, 8), max_halo=64)
    (segment + Measure(volume=raw, out=str(out))).blockwise(HERE)
    found = verify(out, launcher=HERE)
    assert (found.checked, found.damaged) == (2 * 18 + 2, [])
    assert (
        found.tasks["measure"] | {"blocks": 18, "checked": 2, "without_digest": 18} == found.tasks["measure"]
    )

    table = out / "tables" / "nuclei.csv"
    labels, text = open_volume(out / "labels" / "nuclei").read(), table.read_text()
    lost = next(index for index in done_by(out, "segment") if shard(out, index).exists())
    hurt = {(0, 0, 1): truncate, (1, 2, 0): flip, (1, 0, 2): lambda path: path.unlink()}
    for index, damage in hurt.items():
        damage(shard(out, index, "prediction"))
    flip(shard(out, lost))
    table.write_text(text.replace("1", "7", 1))
    found = verify(out, launcher=HERE)
    assert {(damage.task, damage.block) for damage in found.damaged} == {
        *(("predict", index) for index in hurt), ("segment", lost), ("measure", None)
    }  # fmt: skip
    assert verify(out, repair=True, launcher=HERE).remaining == []
    np.testing.assert_array_equal(open_volume(out / "prediction").read(), stored)
    np.testing.assert_array_equal(open_volume(out / "labels" / "nuclei").read(), labels)
    assert table.read_text() == text

    shutil.rmtree(out / "prediction")
    found = verify(out, launcher=HERE)
    assert (found.damaged, found.deleted) == ([], [str(out / "prediction")])
    flip(shard(out, lost))
    (damage,) = verify(out, repair=True, launcher=HERE).remaining
    assert "deleted or moved after it was made" in damage.cause
    assert "nucseg predict VOLUME OUT --model RUN --overwrite" in damage.cause


def test_a_repaired_prediction_that_is_lost_before_anything_read_it_is_made_again(tmp_path, untrained):
    raw = save_raw(tmp_path / "raw.zarr", random_raw((8, 10, 12), seed=8))
    out = tmp_path / "o"
    Predict(volume=raw, out=str(out), model=str(untrained), block=(8, 8, 8)).blockwise(HERE)
    shutil.rmtree(out / "prediction")
    assert len(verify(out, launcher=HERE).damaged) == 4
    assert verify(out, repair=True, launcher=HERE).remaining == []


def test_labels_without_small_ones_are_two_arrays(tmp_path, maps):
    decoding = Scenario.named("three_label").default_decoding().model_copy(update={"min_size": 40})
    out = tmp_path / "o"
    task = Segment(prediction=maps, scenario="three_label", out=str(out), block=BLOCK, decoding=decoding)
    digest = task.blockwise(HERE)["digest"]
    labels = open_volume(out / "labels" / "nuclei").read()
    aside = ".nucseg/unsifted.zarr/labels/nuclei"
    truncate(shard(out, (1, 0, 0), aside))
    truncate(shard(out, (0, 1, 1)))
    found = verify(out, repair=True, launcher=HERE)
    assert found.checked == 24
    assert [(d.task, d.block) for d in found.damaged] == [("segment", (1, 0, 0)), ("sift", (0, 1, 1))]
    assert found.remaining == []
    np.testing.assert_array_equal(open_volume(out / "labels" / "nuclei").read(), labels)
    assert task.blockwise(HERE)["digest"] == digest
    shutil.rmtree(out / aside)
    assert verify(out, launcher=HERE).deleted == [str(out / aside)]


def test_levels_that_were_added_to_labels(labels_out):
    levels = Downsample(volume=str(labels_out), labels="nuclei", levels=2, factor=(1, 2, 2))
    levels.blockwise(HERE)
    group = labels_out / "labels" / "nuclei"
    before = [open_volume(group, level=level).read() for level in (0, 1, 2)]
    assert before[1].shape == (20, 12, 15)
    found = verify(labels_out, launcher=HERE)
    names = ["segment", "labels/nuclei/downsample-1", "labels/nuclei/downsample-2"]
    assert (list(found.tasks), found.damaged) == (names, [])
    assert [task.task for task in run_status(labels_out).tasks] == names
    flip(shard(labels_out, (1, 1, 0)))
    lost = sorted(path for path in (group / "1" / "c").rglob("*") if path.is_file())[1]
    content = lost.read_bytes()
    lost.unlink()
    shutil.rmtree(group / "2")
    found = verify(labels_out, launcher=HERE)
    assert [damage.task for damage in found.damaged[:2]] == names[:2]
    assert found.damaged[0].block == (1, 1, 0)
    assert f"lost: {lost} is missing" in found.damaged[1].cause
    assert {damage.task for damage in found.damaged[2:]} == {names[2]}
    assert verify(labels_out, repair=True, launcher=HERE).remaining == []
    assert lost.read_bytes() == content
    for level, values in enumerate(before):
        np.testing.assert_array_equal(open_volume(group, level=level).read(), values)
    assert verify(labels_out, launcher=HERE).damaged == []


class Careful(Doubled):
    """A lab's own task that can be verified."""

    name = "careful"

    def process(self, block):
        found = super().process(block)
        data = open_volume(self.volume).read(block.begin, block.shape)
        return {**found, "digest": array_digest((2 * data).astype(np.int32))}

    def written(self):
        return self.outputs()[0]


def test_a_labs_own_tasks_are_verified_if_they_return_a_digest(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(7 * 9 * 10, dtype=np.int32).reshape(7, 9, 10))
    out = tmp_path / "o"
    for kind in (Doubled, Careful):
        kind(out=str(out / kind.name), volume=str(tmp_path / "v.npy")).blockwise(HERE)
    found = verify(out / "doubled", launcher=HERE)
    assert (found.checked, found.tasks["doubled"]["without_digest"]) == (0, 18)
    (out / "careful" / "doubled" / "0" / "c" / "1" / "0" / "2").unlink()
    (damage,) = verify(out / "careful", launcher=HERE).damaged
    assert (damage.begin, damage.shape) == ((4, 0, 8), (3, 4, 2))
    assert verify(out / "careful", repair=True, launcher=HERE).remaining == []


def test_no_run_or_unreadable_records(tmp_path, labels_out):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="the OUT of a run"):
            verify(path)
    Records(labels_out, "segment").path.write_text("{")
    with pytest.raises(InputError, match="description of a run"):
        verify(labels_out)


def test_the_command(labels_out):
    def nucseg(*arguments):
        result = CliRunner().invoke(cli, ["verify", str(labels_out), "--launcher", "local:0", *arguments])
        return result.exit_code, result.stdout

    status, output = nucseg("--json")
    assert status == 0
    assert json.loads(output) | {"checked": 12, "damaged": []} == json.loads(output)
    truncate(shard(labels_out, (0, 1, 1)))
    status, output = nucseg("--json")
    assert status == 1
    (damage,) = json.loads(output)["damaged"]
    assert (
        damage | {"task": "segment", "block": [0, 1, 1], "begin": [0, 12, 16], "shape": [8, 12, 14]} == damage
    )
    status, output = nucseg()
    assert status == 1
    assert "segment [0:8, 12:24, 16:30]: cannot be read" in output
    status, output = nucseg("--repair", "--json")
    assert (status, json.loads(output)["repaired"]) == (0, 1)
