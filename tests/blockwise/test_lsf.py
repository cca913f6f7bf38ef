"""LSF, against a stand-in that starts the workers: there is no LSF to test with. See fake_lsf.py."""

import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from blockwise_cases import Doubled, Maps, balls
from test_kill import alive, wait_for

from nucseg.blockwise.chain import Chain
from nucseg.blockwise.launch import Local
from nucseg.blockwise.launchers import parse_launcher
from nucseg.blockwise.lsf import LSF
from nucseg.blockwise.records import Records
from nucseg.blockwise.resources import Resources
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.slurm import Slurm
from nucseg.errors import BlocksFailed, InputError
from nucseg.volume import open_volume

HERE = Path(__file__).parent


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The folder in which the stand-in keeps book; its commands are on PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "book").mkdir()
    for name in ("bsub", "bjobs", "bkill"):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "fake_lsf.py"}" {name} "$@"\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_LSF", str(tmp_path / "book"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", ""))))
    return tmp_path / "book"


@pytest.fixture
def task(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(4 * 4 * 16, dtype=np.int32).reshape(4, 4, 16))
    return Doubled(out=str(tmp_path / "o"), volume=str(tmp_path / "v.npy"))


def test_a_run_on_lsf(book, task, tmp_path):
    (tmp_path / "c.toml").write_text('partition = "cpu"\nmemory = "4G"\ncpus = 2\nhost = "127.0.0.1"\n')
    lines = []
    task.blockwise(parse_launcher("lsf:2", tmp_path / "c.toml"), log=lines.append)
    assert np.array_equal(open_volume(tmp_path / "o" / "doubled").read(), 2 * open_volume(task.volume).read())
    assert "scheduler at 127.0.0.1:" in lines[1]
    assert "2 workers as job 101 (nucseg-doubled-" in lines[1]
    asked = (book / "101.bsub").read_text().split("\n")
    assert asked[:2] == ["-K", "-rn"]
    for option, value in (("-q", "cpu"), ("-n", "2"), ("-M", "4G")):
        assert asked[asked.index(option) + 1] == value
    assert [path.name for path in sorted(Records(task.out, "doubled").logs.glob("lsf-*"))] == [
        "lsf-101_1.log",
        "lsf-101_2.log",
    ]
    assert {e["stat"] for e in json.loads((book / "101.json").read_text())["elements"].values()} <= {
        "DONE",
        "EXIT",
    }


def chain_of(folder: Path, out: str) -> Chain:
    """A prediction of balls that stands for a network's, and its segmentation."""
    path = folder / "p.npy"
    if not path.exists():
        centers = [(7 + 16 * z, 9 + 16 * y, 6) for z in range(2) for y in range(2)]
        np.save(path, balls((32, 32, 16), centers, 7))
    settled = {"out": str(folder / out), "block": (16, 16, 16)}
    return Chain((Maps(maps=str(path), **settled), Segment(scenario="three_label", halo=8, **settled)))


def test_two_arrays_go_on_together(book, tmp_path):
    calm = chain_of(tmp_path, "calm").blockwise(Local(workers=0))
    lines = []
    launcher = LSF(workers=2, host="127.0.0.1")
    predicted, segmented = chain_of(tmp_path, "o").blockwise(launcher, log=lines.append, keep=())
    assert segmented["digest"] == calm[1]["digest"]
    assert segmented["nuclei"] == predicted["blocks"] == 4
    assert len(Records(tmp_path / "o", "drop").read()[0]) == 4
    for name in ("predict", "segment"):
        assert any(line.startswith(f"{name}: scheduler at 127.0.0.1:") for line in lines)


def test_an_array_of_two_that_cannot_start_is_told_and_not_tried_again(book, tmp_path):
    broken = {"segment": Resources(setup=("echo no such module >&2; exit 3",))}
    launcher = LSF(workers=1, restarts=1, host="127.0.0.1", tasks=broken)
    with pytest.raises(BlocksFailed, match=r"segment: 4 of 4 blocks failed.*the last said: no such module"):
        chain_of(tmp_path, "o").blockwise(launcher)
    names = [path.read_text() for path in book.glob("*.bsub")]
    assert sum("nucseg-segment-" in text for text in names) == 2, "the array, and one for its dead worker"
    assert Records(tmp_path / "o", "predict").complete()


def test_a_block_that_always_kills_its_worker_ends_the_run_and_is_named(book, task, tmp_path):
    lines = []
    task = task.model_copy(update={"bad": (0, 0, 1), "how": "die"})
    with pytest.raises(BlocksFailed, match=r"1 of 4 blocks failed: \[0:4, 0:4, 4:8\]") as error:
        task.blockwise(LSF(workers=1, restarts=4, host="127.0.0.1"), log=lines.append)
    assert error.value.blocks == 4
    assert 1 <= sum("replaced by job" in line for line in lines) <= 4


def test_workers_that_cannot_start_end_the_run_with_their_last_words(book, task, tmp_path):
    launcher = LSF(workers=2, restarts=2, host="127.0.0.1", setup=["echo no such module >&2; exit 3"])
    with pytest.raises(
        BlocksFailed, match=r"4 of 4 blocks failed.*2 dead workers.*the last said: no such module"
    ):
        task.blockwise(launcher)


def test_a_refused_submission_is_told(book, task, monkeypatch, tmp_path):
    (tmp_path / "bin" / "bsub").write_text(
        "#!/bin/sh\necho 'no queue: No such queue. Job not submitted.'\nexit 255\n"
    )
    with pytest.raises(BlocksFailed, match="No such queue"):
        task.blockwise(LSF(workers=1, host="127.0.0.1"))


def test_a_machine_without_the_command_is_told(task, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for kind, command in ((LSF, "bsub"), (Slurm, "sbatch")):
        with pytest.raises(InputError, match=f"expected the command {command} on PATH"):
            task.blockwise(kind(workers=1, host="127.0.0.1"))


def test_killing_the_foreman_ends_the_run(book, task, tmp_path):
    """Its gate is gone with it, so that all workers leave."""
    (tmp_path / "wait").write_text("")
    launcher = LSF(workers=1, host="127.0.0.1", setup=[f"while [ -e '{tmp_path}/wait' ]; do sleep 0.1; done"])
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(task.blockwise, launcher)
        state = Records(task.out, "doubled").folder / "array.json"
        wait_for(lambda: state.exists() and json.loads(state.read_text())["told"], "the array")
        os.kill(json.loads(state.read_text())["foreman"], signal.SIGKILL)
        with pytest.raises(BlocksFailed, match=r"4 of 4 blocks failed.*code -9"):
            running.result(timeout=120)
    pids = [e["pid"] for e in json.loads((book / "101.json").read_text())["elements"].values()]
    wait_for(lambda: not any(alive(pid) for pid in pids), "the array to be cancelled by the driver")
