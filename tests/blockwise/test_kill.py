"""kill -9: of a worker, of the scheduler; what is done stays done and the result is the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from blockwise_cases import Doubled, random_prediction, save_prediction

from nucseg.blockwise.launch import Local
from nucseg.blockwise.records import Records
from nucseg.blockwise.segment import Segment
from nucseg.errors import BlocksFailed
from nucseg.volume import open_volume

DRIVER = """
import sys
from nucseg.blockwise.launch import Local
from nucseg.blockwise.segment import Segment
settled = {"prediction": sys.argv[1], "scenario": "three_label", "block": (8, 8, 8), "halo": 4}
Segment(out=sys.argv[2], **settled).blockwise(Local(workers=1))
"""


def wait_for(condition, what: str, seconds: float = 120.0):
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
def test_kill_a_worker_then_the_scheduler_then_go_on(tmp_path):
    path = save_prediction(tmp_path / "p.zarr", random_prediction((48, 48, 48), 3, density=-1))
    settled = {"prediction": path, "scenario": "three_label", "block": (8, 8, 8), "halo": 4}
    undisturbed = Segment(out=str(tmp_path / "calm"), **settled).blockwise(Local(workers=0))
    blocks = undisturbed["blocks"]

    out = tmp_path / "killed"
    records = Records(out, "segment")
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, path, str(out)], stderr=subprocess.DEVNULL)
    try:
        first = wait_for(lambda: next(records.lines(), None), "the first block")["pid"]
        os.kill(first, signal.SIGKILL)
        second = wait_for(
            lambda: {line["pid"] for line in records.lines()} - {first},
            "blocks of the worker that takes over",
        ).pop()
    finally:
        driver.kill()
        driver.wait()
    wait_for(lambda: not alive(second), "the worker to end itself without its scheduler")

    done = len(records.read()[0])
    assert 0 < done < blocks, "the kill came in the middle"
    result = Segment(out=str(out), **settled).blockwise(Local(workers=0))
    assert result["skipped"] == done
    assert result["digest"] == undisturbed["digest"]
    assert result["nuclei"] == undisturbed["nuclei"]


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
def test_a_block_that_always_kills_its_worker_is_named_and_the_others_finish(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where workers find the task
    np.save(tmp_path / "v.npy", np.arange(4 * 4 * 16, dtype=np.int32).reshape(4, 4, 16))
    task = Doubled(out=str(tmp_path / "o"), volume=str(tmp_path / "v.npy"), bad=(0, 0, 1), how="die")
    with pytest.raises(BlocksFailed, match=r"1 of 4 blocks failed: \[0:4, 0:4, 4:8\].*code -9"):
        task.blockwise(Local(workers=1))
    expected = 2 * open_volume(task.volume).read()
    expected[:, :, 4:8] = 0
    assert np.array_equal(open_volume(tmp_path / "o" / "doubled").read(), expected)


def test_workers_that_cannot_start_are_told_once_and_only_in_the_log(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    np.save(tmp_path / "v.npy", np.zeros((4, 4, 24), np.int32))
    task = Doubled(out=str(tmp_path / "o"), volume=str(tmp_path / "v.npy"), how="no start")
    told = (
        r"6 of 6 blocks failed: \[0:4, 0:4, 0:4\] and 5 more, all with: weights: .*; train; logs in .*logs$"
    )
    with pytest.raises(BlocksFailed, match=told):
        task.blockwise(Local(workers=1))
    records = Records(task.out, "doubled")
    assert len({line["pid"] for line in records.lines()}) == 1
    assert capfd.readouterr() == ("", "")
    assert "InputError: weights" in (records.logs / "doubled" / "worker_0.err").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="no signals for groups")
def test_control_c_to_the_whole_group_is_one_line(tmp_path):
    path = save_prediction(tmp_path / "p.zarr", random_prediction((48, 48, 48), 3, density=-1))
    command = [sys.executable, "-m", "nucseg", "segment", path, str(tmp_path / "o"), "--head", "three_label"]
    driver = subprocess.Popen(
        [*command, "--block", "8", "8", "8"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_for(lambda: next(Records(tmp_path / "o", "segment").lines(), None), "the first block")
        os.killpg(driver.pid, signal.SIGINT)
        error = driver.communicate(timeout=60)[1]
    finally:
        driver.kill()
    assert driver.returncode == 1
    plan, *rest = error.strip().splitlines()
    assert plan.startswith("segment: 216 blocks")
    assert rest[-1] == "nucseg: interrupted; run the same command again to go on from here"
    assert all(line.startswith("segment: a block took") for line in rest[:-1]), (
        "no more than was expected of it"
    )
    assert len(rest) <= 2
