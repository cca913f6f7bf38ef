"""Tasks that go on together: the same result as one after the other, begun early, resumed, failures named."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from blockwise_cases import Doubled, Maps, labels_of, rows_of_balls
from test_kill import alive, wait_for

from nucseg.blockwise.chain import Chain
from nucseg.blockwise.launch import Local
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.records import Records
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.status import run_status
from nucseg.errors import BlocksFailed, InputError

HERE = Local(workers=0)
LENGTH = 60
MAPS, BLOCKS = (8, 18, 12), (12, 9, 22)
"""Block shapes of the two tasks; neither divides the other, or the volume."""

DRIVER = """
import sys
from blockwise_cases import Maps
from nucseg.blockwise.launch import Local
from nucseg.blockwise.segment import Segment
maps, out = sys.argv[1:]
first = Maps(out=out, maps=maps, block=(8, 18, 12), until="segment")
second = Segment(out=out, scenario="three_label", block=(12, 9, 22), halo=4, max_halo=10)
(first + second).blockwise([Local(workers=1), Local(workers=2)])
"""


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return rows_of_balls(tmp_path_factory.mktemp("maps") / "maps.npy", LENGTH)


@pytest.fixture(scope="module")
def whole(maps, tmp_path_factory):
    """The reference: the whole volume at once, by mahotas."""
    out = tmp_path_factory.mktemp("whole") / "o"
    result = Segment(out=str(out), prediction=maps, scenario="three_label", engine="mahotas").blockwise(HERE)
    assert result["nuclei"] > 5
    return result, labels_of(out)


def chain(out: Path, maps: str, **fields) -> Chain:
    first = Maps(out=str(out), maps=maps, block=MAPS, **fields)
    return first + Segment(out=str(out), scenario="three_label", block=BLOCKS, halo=4, max_halo=10)


def times(out: Path, task: str) -> list[float]:
    return [line["ended"] for line in Records(out, task).read()[0].values()]


def test_in_this_process_later_tasks_begin_early_and_the_labels_are_those_of_the_whole(tmp_path, maps, whole):
    predicted, segmented = chain(tmp_path / "o", maps).blockwise(HERE)
    assert (predicted["blocks"], segmented["blocks"]) == (8 * 1 * 2, 5 * 2 * 1)
    assert segmented["digest"] == whole[0]["digest"]
    np.testing.assert_array_equal(labels_of(tmp_path / "o"), whole[1])
    first, last = sorted(times(tmp_path / "o", "segment")), sorted(times(tmp_path / "o", "predict"))
    # a block z 0:12 reads 10 voxels more, up to 22 of 60: three of eight planes of blocks of 8
    assert sum(ended < first[0] for ended in last) == 6
    assert sum(ended < last[-1] for ended in first) >= 2

    again = chain(tmp_path / "o", maps).blockwise(HERE)
    assert [result["skipped"] for result in again] == [16, 10]
    assert again[1]["digest"] == whole[0]["digest"]


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
def test_workers_of_both_tasks_are_at_work_at_once_and_kill_9_loses_nothing(
    tmp_path, maps, whole, monkeypatch
):
    """The last block of the first task waits for a block of the second, or fails."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[2]}")
    out = tmp_path / "o"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, maps, str(out)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: next(Records(out, "segment").lines(), None), "the first labels")
    finally:
        driver.kill()
        driver.wait()
    workers = {line["pid"] for task in ("predict", "segment") for line in Records(out, task).lines()}
    wait_for(lambda: not any(map(alive, workers)), "the workers to end themselves")
    done = [len(Records(out, task).read()[0]) for task in ("predict", "segment")]
    results = chain(out, maps, until="segment").blockwise([Local(workers=2), Local(workers=1)])
    assert [result["skipped"] for result in results] == done
    assert results[1]["digest"] == whole[0]["digest"]
    np.testing.assert_array_equal(labels_of(out), whole[1])
    logs = Records(out, "segment").logs / "segment"
    assert (logs / "worker_0.err").exists(), "each task's logs lie with its records"


@pytest.mark.parametrize("workers", [0, 1])
def test_blocks_behind_one_that_fails_are_named_and_done_next_time(
    tmp_path, maps, whole, workers, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[2]}")
    own = tmp_path / "maps.npy"
    own.write_bytes(Path(maps).read_bytes())
    (tmp_path / "bad").touch()
    out, fields = tmp_path / "o", {"bad": (5, 0, 1)}  # z 40:48, x 12:22
    with pytest.raises(BlocksFailed) as failed:
        chain(out, str(own), **fields).blockwise(Local(workers=workers))
    text = str(failed.value)
    assert "predict: 1 of 16 blocks failed: [40:48, 0:18, 12:22] no luck" in text
    # those that reach z 40:48 with 10 voxels around them
    waiting = (
        "6 of 10 blocks are not done: [24:36, 0:9, 0:22] and 5 more, all with: waits for predict [40:48,"
    )
    assert f"segment: {waiting}" in text
    report = failed.value.to_json()
    assert (report["blocks"], report["failed"], report["skipped"]) == (26, 7, 0)
    assert "predict [40:48, 0:18, 12:22]" in report["failed_blocks"]
    predict, segment = run_status(out).tasks
    assert (predict.state, predict.done, segment.state, segment.done) == ("failed", 15, "failed", 4)
    assert {block.error for block in segment.failed} == {
        "waits for predict [40:48, 0:18, 12:22], which is not done"
    }
    np.testing.assert_array_equal(labels_of(out)[:24], whole[1][:24])

    (tmp_path / "bad").unlink()
    results = chain(out, str(own), **fields).blockwise(HERE)
    assert [result["skipped"] for result in results] == [15, 4]
    assert results[1]["digest"] == whole[0]["digest"]


def test_a_task_that_needs_all_of_another_begins_after_it(tmp_path, maps, whole):
    out, raw = tmp_path / "o", tmp_path / "raw.npy"
    np.save(raw, np.load(maps)[1])
    steps = chain(out, maps) + Measure(volume=str(raw), out=str(out), block=(20, 18, 22))
    *_, measured = steps.blockwise(HERE)
    assert measured["nuclei"] == whole[0]["nuclei"]
    assert min(times(out, "measure")) >= max(times(out, "segment"))


def test_a_segmentation_of_the_whole_volume_waits(tmp_path, maps, whole):
    out = str(tmp_path / "o")
    steps = Maps(out=out, maps=maps, block=MAPS) + Segment(out=out, scenario="three_label", whole=True)
    assert steps.blockwise(HERE)[1]["digest"] == whole[0]["digest"]


def test_settings_of_another_run_are_refused_and_overwritten(tmp_path, maps, whole):
    out = str(tmp_path / "o")
    chain(tmp_path / "o", maps).blockwise(HERE)
    other = Maps(out=out, maps=maps, block=MAPS) + Segment(
        out=out, scenario="three_label", block=(30, 18, 22)
    )
    with pytest.raises(InputError, match=r"block.*\[12, 9, 22\].*overwrite"):
        other.blockwise(HERE)
    assert [result["skipped"] for result in chain(tmp_path / "o", maps).blockwise(HERE)] == [16, 10]
    assert other.blockwise(HERE, overwrite=True)[1]["digest"] == whole[0]["digest"]


def test_launchers_have_to_fit_the_tasks(tmp_path, maps):
    steps = chain(tmp_path / "o", maps)
    with pytest.raises(InputError, match="one for each of predict, segment; received 3"):
        steps.blockwise([HERE] * 3)
    with pytest.raises(InputError, match=r"0 for predict, 1 for segment.*local:0"):
        steps.blockwise([HERE, Local(workers=1)])


def test_a_labs_own_tasks_of_one_name_in_two_places(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(7 * 9 * 10, dtype=np.int32).reshape(7, 9, 10))
    first = Doubled(out=str(tmp_path / "a"), volume=str(tmp_path / "v.npy"))
    second = Behind(out=str(tmp_path / "b"), volume=str(tmp_path / "a" / "doubled"))
    results = (first + second).blockwise(HERE)
    assert results[1]["sum"] == 2 * np.load(tmp_path / "v.npy").sum()
    order = sorted([*((t, "a") for t in times(tmp_path / "a", "doubled")),
                    *((t, "b") for t in times(tmp_path / "b", "doubled"))])  # fmt: skip
    assert len(order) == 36
    assert json.loads((tmp_path / "b" / ".nucseg" / "doubled.json").read_text())["blocks"] == 18


class Behind(Doubled):
    """Reads exactly the block that it writes."""

    def following(self, earlier):
        return self.resolved(), 0
