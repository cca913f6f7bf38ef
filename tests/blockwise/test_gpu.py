"""Each worker gets a GPU of its own as long as there are enough, also in place of one that was killed."""

import subprocess
import sys

from nucseg.blockwise.fused import PredictAndSegment
from nucseg.blockwise.gpu import claim_gpu, visible_gpus
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.segment import Segment

CLAIM = """
import os, sys
from pathlib import Path
from nucseg.blockwise.gpu import claim_gpu
print(claim_gpu(["GPU-a", "3"], Path(sys.argv[1])), os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


def worker(folder):
    return subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_workers_share_gpus_evenly_and_a_killed_one_leaves_its_place(tmp_path):
    workers = []
    for expected in ("GPU-a", "3", "GPU-a"):
        workers.append(worker(tmp_path))
        assert workers[-1].stdout.readline().split() == [expected, expected]
    workers[1].kill()
    workers[1].wait()
    workers.append(worker(tmp_path))
    assert workers[-1].stdout.readline().split() == ["3", "3"]
    for process in workers:
        process.kill()
        process.wait()
        process.stdout.close(), process.stdin.close()


def test_what_others_have_chosen_stays(tmp_path, monkeypatch):
    for name in ("nvidia1", "nvidia0", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["0", "1", "10"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, MIG-7"}, tmp_path) == ["2", "MIG-7"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert claim_gpu(folder=tmp_path) is None
    assert not list(tmp_path.glob("*.lock"))


def test_only_tasks_with_a_network_claim_one():
    assert Predict.network is PredictAndSegment.network is True
    assert Segment.network is False
