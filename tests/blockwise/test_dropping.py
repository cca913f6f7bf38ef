"""Predictions are dropped when nothing needs them, told from lost ones, and made again where they are needed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from blockwise_cases import Maps, labels_of, rows_of_balls
from test_kill import alive, wait_for

from nucseg.blockwise.chain import Chain
from nucseg.blockwise.dropping import dropped_blocks
from nucseg.blockwise.launch import Local
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.records import DROPPED, Records
from nucseg.blockwise.repair import set_aside
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.status import run_status
from nucseg.blockwise.verify import verify
from nucseg.errors import BlocksFailed, InputError
from nucseg.volume import open_volume

HERE = Local(workers=0)
MAPS, BLOCKS = (8, 18, 12), (12, 9, 22)
REACH = 10

DRIVER = """
import sys
from blockwise_cases import Maps
from nucseg.blockwise.launch import Local
from nucseg.blockwise.segment import Segment
maps, out = sys.argv[1:]
first = Maps(out=out, maps=maps, block=(8, 18, 12), until="drop")
second = Segment(out=out, scenario="three_label", block=(12, 9, 22), halo=4, max_halo=10)
(first + second).blockwise(Local(workers=1), keep=())
"""


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return rows_of_balls(tmp_path_factory.mktemp("maps") / "maps.npy", 60)


@pytest.fixture(scope="module")
def kept(maps, tmp_path_factory):
    """The reference: one task after the other, all kept."""
    out = tmp_path_factory.mktemp("kept") / "o"
    first, second = chain(out, maps).tasks
    first.blockwise(HERE)
    return second.blockwise(HERE)["digest"], labels_of(out)


def chain(out: Path, maps: str, **fields) -> Chain:
    first = Maps(out=str(out), maps=maps, block=MAPS, **fields)
    return first + Segment(out=str(out), scenario="three_label", block=BLOCKS, halo=4, max_halo=REACH)


def shards(out: Path) -> dict[tuple[int, int, int], Path]:
    """The prediction's files by their block, by the layout of zarr's default chunk keys."""
    root = out / "prediction" / "0" / "c" / "0"
    found = (path for path in root.rglob("*") if path.is_file())
    return {tuple(map(int, path.relative_to(root).parts)): path for path in found}


def predicted(out: Path) -> Records:
    return Records(out, "predict")


def test_each_block_goes_when_all_that_reads_it_is_done_and_no_sooner(tmp_path, maps, kept):
    out, said = tmp_path / "o", []
    results = chain(out, maps).blockwise(HERE, keep=(), log=said.append)
    assert [result["blocks"] for result in results] == [16, 10]
    assert results[1]["digest"] == kept[0]
    assert all(path.stat().st_size == 0 for path in shards(out).values())
    assert len(shards(out)) == len(dropped_blocks(predicted(out))) == 16
    assert any("dropped after use" in line for line in said)

    segmented = {index: line["ended"] for index, line in Records(out, "segment").read()[0].items()}
    gone = {index: line["ended"] for index, line in Records(out, "drop").read()[0].items()}
    for (z, _, _), ended in gone.items():  # blocks of both tasks span y, x or do so with the reach
        readers = [
            t
            for (s, _, _), t in segmented.items()
            if 12 * s - REACH < 8 * z + 8 and 8 * z < 12 * s + 12 + REACH
        ]
        assert ended >= max(readers)
    assert min(gone.values()) < max(segmented.values()), "not only at the end"

    again = chain(out, maps).blockwise(HERE, keep=())
    assert [result["skipped"] for result in again] == [16, 10]


def test_what_is_dropped_is_no_damage_and_cannot_be_read_as_zeros(tmp_path, maps):
    out = tmp_path / "o"
    chain(out, maps).blockwise(HERE, keep=())
    found = verify(out, launcher=HERE)
    assert (found.damaged, found.missing, found.tasks["predict"]["dropped"]) == ([], 0, 16)
    assert found.checked == 10
    assert "drop" not in found.tasks
    status = {task.task: task for task in run_status(out).tasks}
    assert {name: task.state for name, task in status.items()} == dict.fromkeys(status, "done")
    assert (status["predict"].dropped, status["segment"].dropped) == (16, 0)
    with pytest.raises(InputError, match="damaged data"):
        open_volume(out / "prediction").read((0, 0, 0), (8, 8, 8))
    with pytest.raises(InputError, match=r"16 blocks dropped.*--keep predictions"):
        Segment(out=str(tmp_path / "b"), prediction=str(out / "prediction")).blockwise(HERE)
    second = chain(out, maps).tasks[1]
    assert second.blockwise(HERE)["skipped"] == 10, "nothing is left that would read it"


def test_labels_that_are_damaged_later_are_repaired_from_blocks_made_again(tmp_path, maps, kept):
    out = tmp_path / "o"
    chain(out, maps).blockwise(HERE, keep=())
    shard = out / "labels" / "nuclei" / "0" / "c" / "2" / "1" / "0"
    shard.write_bytes(shard.read_bytes()[:-9])
    before = {index: line["run"] for index, line in predicted(out).read()[0].items()}
    found = verify(out, repair=True, launcher=HERE)
    assert ([damage.block for damage in found.damaged], found.remaining) == ([(2, 1, 0)], [])
    np.testing.assert_array_equal(labels_of(out), kept[1])
    after = {index: line["run"] for index, line in predicted(out).read()[0].items()}
    # z 24:36 and 10 voxels around it
    assert {index for index in after if after[index] != before[index]} == {
        (z, 0, x) for z in range(1, 6) for x in (0, 1)
    }
    assert all(path.stat().st_size == 0 for path in shards(out).values())
    assert verify(out, launcher=HERE).tasks["predict"]["dropped"] == 16

    shard.unlink()
    Path(maps + ".none").unlink(missing_ok=True)
    changed = Records(out, "predict").path
    head = changed.read_text()
    changed.write_text(head.replace(maps, f"{maps}.none"))
    (damage,) = verify(out, repair=True, launcher=HERE).remaining
    assert "what it was made from was dropped" in damage.cause
    changed.write_text(head)
    assert verify(out, repair=True, launcher=HERE).remaining == []


def test_a_resumed_run_makes_again_only_what_it_needs_and_drops_it_again(tmp_path, maps, kept):
    out, said = tmp_path / "o", []
    chain(out, maps).blockwise(HERE, keep=())
    set_aside(Records(out, "segment"), [(0, 0, 0)])
    results = chain(out, maps).blockwise(HERE, keep=(), log=said.append)
    assert [result["skipped"] for result in results] == [16 - 6, 9]  # z 0:12 reads 0:22
    assert "predict: 6 blocks that were dropped are made again" in said
    assert results[1]["digest"] == kept[0]
    assert len(dropped_blocks(predicted(out))) == 16
    assert all(path.stat().st_size == 0 for path in shards(out).values())


def test_a_block_made_again_with_other_values_is_refused(tmp_path, maps):
    own, out = tmp_path / "maps.npy", tmp_path / "o"
    own.write_bytes(Path(maps).read_bytes())
    chain(out, str(own)).blockwise(HERE, keep=())
    np.save(own, np.load(own)[:, :, ::-1].copy())
    set_aside(Records(out, "segment"), [(0, 0, 0)])
    with pytest.raises(
        BlocksFailed, match=r"other values.*segment: 1 of 10 blocks are not done.*waits for predict"
    ):
        chain(out, str(own)).blockwise(HERE, keep=())


def test_predictions_that_are_wanted_after_all_are_made_again(tmp_path, maps, kept):
    out = tmp_path / "o"
    chain(out, maps).blockwise(HERE, keep=())
    results = chain(out, maps).blockwise(HERE)
    assert [result["skipped"] for result in results] == [0, 10]
    np.testing.assert_array_equal(open_volume(out / "prediction").read(), np.load(maps))
    assert dropped_blocks(predicted(out)) == set()
    chain(out, maps).blockwise(HERE, keep=())
    assert len(dropped_blocks(predicted(out))) == 16
    chain(out, maps).tasks[0].blockwise(HERE)
    np.testing.assert_array_equal(open_volume(out / "prediction").read(), np.load(maps))
    chain(out, maps).blockwise(HERE, keep=())
    first = chain(out, maps).tasks[0]
    first.blockwise(HERE, overwrite=True)
    assert dropped_blocks(predicted(out)) == set(), "another run: nothing of it is dropped"


def test_files_that_were_emptied_without_a_record_are_dropped_blocks(tmp_path, maps, kept):
    """A worker that is killed between the two leaves such."""
    out = tmp_path / "o"
    chain(out, maps).blockwise(HERE, keep=())
    file = next((out / ".nucseg" / "drop").glob("blocks-*.jsonl"))
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    records, drop = Records(out, "predict"), Records(out, "drop")
    assert len(drop.read()[0]) == len(records.read()[0]) - 1
    assert dropped_blocks(records) == set(records.read()[0])
    found = verify(out, launcher=HERE)
    assert not found.damaged
    assert found.tasks["predict"]["dropped"] == len(records.read()[0])
    chain(out, maps).blockwise(HERE, keep=("predictions",))
    assert all(path.stat().st_size for path in shards(out).values())
    again = Segment(out=str(tmp_path / "s"), prediction=str(out / "prediction"), scenario="three_label")
    assert again.blockwise(HERE)["digest"] == kept[0]


def test_a_prediction_that_is_read_whole_or_later_is_kept(tmp_path, maps, kept):
    out = tmp_path / "o"
    first, second = chain(out, maps).tasks
    results = (first + second.model_copy(update={"whole": True})).blockwise(HERE, keep=())
    assert results[1]["digest"] == kept[0]
    other = Segment(out=str(tmp_path / "b"), prediction=str(out / "prediction"), scenario="three_label")
    chain(out, maps).blockwise(HERE, keep=(), overwrite=True)
    (chain(out, maps) + other).blockwise(HERE, keep=())
    np.testing.assert_array_equal(labels_of(tmp_path / "b"), kept[1])
    np.testing.assert_array_equal(open_volume(out / "prediction").read(), np.load(maps))
    with pytest.raises(InputError, match="keep"):
        chain(out, maps).blockwise(HERE, keep=("labels",))


def test_what_comes_after_does_not_need_it(tmp_path, maps, kept):
    out, raw = tmp_path / "o", tmp_path / "raw.npy"
    np.save(raw, np.load(maps)[1])
    steps = chain(out, maps) + Measure(volume=str(raw), out=str(out))
    assert len(steps.blockwise(HERE, keep=())) == 3
    assert len(dropped_blocks(predicted(out))) == 16


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
def test_kill_9_while_blocks_are_dropped(tmp_path, maps, kept, monkeypatch):
    """The last block of the prediction waits until the first one is dropped."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[2]}")
    out = tmp_path / "o"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, maps, str(out)], stderr=subprocess.DEVNULL)
    tasks = ("predict", "segment", "drop")
    try:
        wait_for(lambda: next(Records(out, "drop").lines(), None), "the first dropped block")
    finally:
        driver.kill()
        driver.wait()
    workers = {line["pid"] for task in tasks for line in Records(out, task).lines()}
    wait_for(lambda: not any(map(alive, workers)), "the workers to end themselves")
    results = chain(out, maps, until="drop").blockwise(Local(workers=1), keep=())
    assert results[1]["digest"] == kept[0]
    np.testing.assert_array_equal(labels_of(out), kept[1])
    assert len(dropped_blocks(predicted(out))) == 16
    assert not any(line["status"] == DROPPED for line in predicted(out).lines()), (
        "nothing was predicted twice"
    )
    assert verify(out, launcher=HERE).damaged == []
