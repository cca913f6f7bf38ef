"""What `status` says of a finished, an interrupted, a failed and a running run; it reads only."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from blockwise_cases import Doubled, random_prediction, save_prediction
from click.testing import CliRunner
from test_kill import DRIVER, wait_for
from test_verify import files_of

from nucseg.blockwise import status as module
from nucseg.blockwise.history import attended, runs
from nucseg.blockwise.launch import Local
from nucseg.blockwise.records import Records
from nucseg.blockwise.status import run_status
from nucseg.cli.main import cli
from nucseg.errors import BlocksFailed, InputError

HERE = Local(workers=0)


@pytest.fixture
def volume(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(7 * 9 * 10, dtype=np.int32).reshape(7, 9, 10))
    return str(tmp_path / "v.npy")


def only_task(out):
    (task,) = run_status(out).tasks
    return task


def test_a_finished_run(tmp_path, volume):
    task = Doubled(out=str(tmp_path / "o"), volume=volume)
    result = task.blockwise(HERE)
    before = files_of(tmp_path / "o")
    found = run_status(tmp_path / "o")
    assert files_of(tmp_path / "o") == before
    assert (found.state, found.out) == ("done", str(tmp_path / "o"))
    (told,) = found.tasks
    assert (told.task, told.state, told.blocks, told.done, told.failed) == ("doubled", "done", 18, 18, [])
    assert told.config | {"volume": volume, "block": [4, 4, 4]} == told.config
    assert told.versions.keys() >= {"nucseg", "daisy", "zarr", "python"}
    assert told.peak_memory_bytes == result["peak_memory_bytes"]
    assert told.seconds_left is None
    lines = Records(tmp_path / "o", "doubled").read()[0]
    assert told.block_seconds == pytest.approx(sum(line["seconds"] for line in lines.values()))
    assert len(told.slowest) == 5
    assert told.slowest[0].seconds == max(line["seconds"] for line in lines.values())
    (run,) = told.runs
    assert (run["pid"], run["host"], run["how"], run["blocks"]) == (
        os.getpid(),
        socket.gethostname(),
        "ended",
        18,
    )
    task.blockwise(HERE)
    assert len(only_task(tmp_path / "o").runs) == 1, "nothing was done the second time"


def test_a_failed_run_names_its_blocks_and_their_logs(tmp_path, volume):
    out = tmp_path / "o"
    with pytest.raises(BlocksFailed):
        Doubled(out=str(out), volume=volume, bad=(1, 2, 0)).blockwise(HERE)
    told = only_task(out)
    assert (told.state, told.done) == ("failed", 17)
    (block,) = told.failed
    assert (block.block, block.begin, block.shape) == ((1, 2, 0), (4, 8, 0), (3, 1, 4))
    assert "RuntimeError: no luck" in block.error
    assert "no luck" in Path(block.log).read_text()
    result = CliRunner().invoke(cli, ["status", str(out)])
    assert result.exit_code == 0
    assert f"failed [4:7, 8:9, 0:4]: {block.error}; log {block.log}" in result.stdout


def test_the_log_of_a_worker_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    )
    np.save(tmp_path / "v.npy", np.zeros((4, 4, 16), np.int32))
    with pytest.raises(BlocksFailed):
        Doubled(out=str(tmp_path / "o"), volume=str(tmp_path / "v.npy"), bad=(0, 0, 3)).blockwise(
            Local(workers=1)
        )
    (block,) = only_task(tmp_path / "o").failed
    assert block.begin == (0, 0, 12)
    assert "no luck" in Path(block.log).read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
def test_a_running_run_and_the_same_after_its_driver_was_killed(tmp_path):
    path = save_prediction(tmp_path / "p.zarr", random_prediction((48, 48, 48), 3, density=-1))
    out = tmp_path / "o"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, path, str(out)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: next(Records(out, "segment").lines(), None), "the first block")
        driver.send_signal(signal.SIGSTOP)  # the worker goes on with its block at most
        told = only_task(out)
        assert (told.state, told.based_on) == (
            "running", f"process {driver.pid} on {socket.gethostname()} is alive"
        )  # fmt: skip
        assert 0 < told.done < told.blocks == 216
        assert told.blocks_per_minute > 0
        assert told.seconds_left == pytest.approx((216 - told.done) / told.blocks_per_minute * 60)
        assert told.mvox_per_s == pytest.approx(told.blocks_per_minute / 60 * 8**3 / 1e6)
    finally:
        driver.kill()
        driver.wait()
    told = only_task(out)
    assert told.state == "stopped"
    assert "is gone and did not say that it ended" in told.based_on
    assert told.seconds_left is None
    assert told.runs[-1]["ended"] is None
    result = CliRunner().invoke(cli, ["status", str(out), "--json"])
    answer = json.loads(result.stdout)
    assert (answer["state"], answer["tasks"][0]["blocks"]) == ("stopped", 216)


def test_a_driver_on_another_machine_is_known_by_locks_and_ages(tmp_path, volume):
    out = tmp_path / "o"
    Doubled(out=str(out), volume=volume).blockwise(HERE)
    records = Records(out, "doubled")
    (blocks,) = records.folder.glob("blocks-*.jsonl")
    blocks.write_text("".join(blocks.read_text().splitlines(keepends=True)[:4]))
    start = json.loads((records.folder / "runs.jsonl").read_text().splitlines()[0])
    elsewhere = {**start, "host": "another", "time": time.time() - 3000}
    (records.folder / "runs.jsonl").write_text(json.dumps(elsewhere) + "\n")
    told = only_task(out)
    assert (told.state, told.done) == ("running", 4)
    assert "the newest record is 0 s old" in told.based_on
    assert told.blocks_per_minute == pytest.approx(4 / module.WINDOW * 60, rel=0.01)
    assert told.seconds_left == pytest.approx(14 / 4 * module.WINDOW, rel=0.01)
    os.utime(blocks, (time.time() - 1000,) * 2)
    assert only_task(out).state == "stopped"
    with records.held(alone=False):
        told = only_task(out)
        assert told.state == "running"
        assert "workers hold the task's lock" in told.based_on


def test_an_interrupted_run(tmp_path, volume):
    out = tmp_path / "o"
    task = Doubled(out=str(out), volume=volume)
    task.blockwise(HERE)
    records = Records(out, "doubled")
    (blocks,) = records.folder.glob("blocks-*.jsonl")
    blocks.write_text("".join(blocks.read_text().splitlines(keepends=True)[:4]))

    def interrupted():
        with attended(records, "second", HERE, 14):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [run["how"] for run in runs(records)] == ["ended", "interrupted"]
    told = only_task(out)
    assert (told.state, told.done, told.failed) == ("stopped", 4, [])
    task.blockwise(HERE)
    assert only_task(out).state == "done"
    assert [run["blocks"] for run in only_task(out).runs] == [18, 14, 14]


def test_no_run(tmp_path):
    with pytest.raises(InputError, match="the OUT of a run"):
        run_status(tmp_path)
    result = CliRunner().invoke(cli, ["status", str(tmp_path)])
    assert result.exit_code == 1
    assert "the OUT of a run" in result.stderr
