"""Launchers by name, a cluster's file, and the commands that come of it."""

import subprocess
from pathlib import Path

import pytest

from nucseg.blockwise.function_launcher import FunctionLauncher
from nucseg.blockwise.job import task_of
from nucseg.blockwise.launch import Local
from nucseg.blockwise.launchers import parse_launcher
from nucseg.blockwise.lsf import LSF
from nucseg.blockwise.resources import Resources
from nucseg.blockwise.slurm import Slurm
from nucseg.errors import InputError

CLUSTER = """
partition = "cpu"
memory = "8G"
setup = ["module load cuda", "source /opt/env with space/activate"]
patience = 30

[predict]
partition = "gpu"
gpus = 2
container = ["apptainer", "exec", "my image.sif"]
python = "/usr/bin/python3"

[downsample]
cpus = 3
memory = "2G"
options = ["--account=lab"]

[tasks.smooth]
time = "1:00:00"
"""


def start(command, environment, log):
    """A launcher of one's own, for the tests."""


@pytest.fixture
def cluster(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text(CLUSTER)
    return path


def test_launchers_by_name(cluster):
    assert parse_launcher("local:3") == Local(workers=3)
    assert parse_launcher("local").workers >= 1
    assert parse_launcher("slurm:16") == Slurm(workers=16)
    assert parse_launcher("slurm") == Slurm(workers=1)
    assert parse_launcher("lsf:4", cluster) == LSF.from_toml(cluster, 4)
    own = parse_launcher("test_launchers:start:5")
    assert isinstance(own, FunctionLauncher)
    assert (own.workers, own.start) == (5, start)
    for text in ("slurm:0", "local:x", "", "local:-1", "moon:3", "slurm:-2"):
        with pytest.raises(InputError, match=r"local:N, slurm:N|import path"):
            parse_launcher(text)
    for text in ("test_launchers:none:2", "no_such_module:start", "test_launchers:CLUSTER:1"):
        with pytest.raises(InputError, match="import path of a function"):
            parse_launcher(text)
    with pytest.raises(InputError, match=r"beside the cluster's file; received 'local:2'"):
        parse_launcher("local:2", cluster)


def test_tasks_have_resources_of_their_own(cluster):
    launcher = Slurm.from_toml(cluster, workers=7)
    assert (launcher.workers, launcher.patience) == (7, 30)
    common = {"partition": "cpu", "memory": "8G", "setup": launcher.setup}
    assert launcher.resources("segment") == Resources(**common)
    predict = launcher.resources("predict")
    assert (predict.partition, predict.memory, predict.gpus) == ("gpu", "8G", 2)
    assert launcher.resources("downsample-3").cpus == 3
    assert launcher.resources("smooth").time == "1:00:00"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpu = 1", r"gpu: expected one of block_timeout, container, cpus, gpus"),
        ("gpus = -1", r"gpus: .*greater than or equal to 0; received -1"),
        ("[predict]\nmemory = 'lots'", r"predict.memory: .*received 'lots'"),
        ("[predcit]\ngpus = 1", r"\[predcit\]: expected the table of a task: predict, .*\[tasks.predcit\]"),
        ("workers = 4\nx = 1", r"x: expected one of"),
        ("a b", "expected a TOML file of cluster settings"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path, text, says):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        Slurm.from_toml(path)
    with pytest.raises(InputError, match="cluster settings"):
        Slurm.from_toml(tmp_path / "none.toml")


def test_the_command_of_slurm():
    launcher = Slurm(
        workers=4, partition="gpu", time="4:00:00", cpus=2, memory="8G", gpus=1, options=["--account=lab"]
    )
    command = launcher.submission("name", 4, Path("/o%ut/logs"), launcher.resources("predict"))
    assert command[0] == "sbatch"
    for word in (
        *("--wait", "--no-requeue", "--array=1-4", "--job-name=name", "--output=/o%%ut/logs/slurm-%A_%a.log"),
        *("--partition=gpu", "--time=4:00:00", "--cpus-per-task=2", "--mem=8G", "--gpus=1", "--account=lab"),
    ):
        assert word in command
    assert command[-1] == "--account=lab", "what the user says comes last and wins"
    assert not [w for w in Slurm().submission("n", 1, Path("/"), Resources(gpus=0)) if "gpus" in w]
    assert launcher.submitted("123\n") == launcher.submitted("123;here\n") == "123"
    assert launcher.submitted("sbatch: error: no") is None
    assert launcher.condition("12_3 RUNNING") == (("12", 3), "running")
    assert launcher.condition("12_3 COMPLETING") == (("12", 3), "running")
    for state, condition in (
        *(("PENDING", "pending"), ("COMPLETED", "done"), ("NODE_FAIL", "dead"), ("OUT_OF_MEMORY", "dead")),
        *(("TIMEOUT", "dead"), ("CANCELLED", "dead"), ("PREEMPTED", "dead"), ("REQUEUED", "pending")),
    ):
        assert launcher.condition(f"7_1 {state}") == (("7", 1), condition)
    assert launcher.condition("slurm_load_jobs error") is None


def test_the_script_of_a_worker_is_shell(cluster, tmp_path):
    launcher = Slurm.from_toml(cluster)
    job = tmp_path / "it's OUT" / "predict" / "job.json"
    script = launcher.script(job, {"DAISY_CONTEXT": "a=b c:d='$e'"})
    lines = script.splitlines()
    assert lines[:3] == ["#!/bin/bash", *launcher.setup]
    assert lines[-1].startswith(
        "exec apptainer exec 'my image.sif' /usr/bin/python3 -m nucseg.blockwise.worker "
    )
    spoken = script.replace("module load cuda", ":").replace(launcher.setup[1], ":")
    spoken = spoken.replace("apptainer exec 'my image.sif' /usr/bin/python3 -m", "printf '%s\\n'")
    result = subprocess.run(
        ["bash", "-c", spoken + '\necho "never"'],
        capture_output=True,
        text=True,
        env={"SLURM_CPUS_PER_TASK": "6"},
    )
    assert result.stdout.splitlines() == ["nucseg.blockwise.worker", str(job)]
    printed = subprocess.run(
        ["bash", "-c", spoken.rpartition("exec ")[0] + '\necho "$DAISY_CONTEXT" $OMP_NUM_THREADS'],
        capture_output=True,
        text=True,
        env={"SLURM_CPUS_PER_TASK": "6"},
    )
    assert printed.stdout == "a=b c:d='$e' 6\n"


def test_a_job_names_a_task_and_nothing_else():
    for path in (
        "os:system",
        "nucseg.blockwise.task:Path",
        "nucseg.blockwise.task:hash_of",
        ":",
        "no.module:Task",
    ):
        with pytest.raises(InputError, match="expected the import path of a Task"):
            task_of({"task": path, "fields": {}})
    assert task_of({"task": "blockwise_cases:Doubled", "fields": {"out": "o", "volume": "v"}}).volume == "v"


def test_local_runs_listen_on_the_loopback_only(tmp_path, monkeypatch):
    """Asked of the kernel by a worker, while daisy listens."""
    import numpy as np
    from listening_task import Listening

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    np.save(tmp_path / "v.npy", np.zeros((4, 4, 4), np.int32))
    task = Listening(out=str(tmp_path / "o"), volume=str(tmp_path / "v.npy"))
    assert task.blockwise(Local(workers=1))["addresses"] == ["0100007F"]
