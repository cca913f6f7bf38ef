"""What cannot fit is refused before any work, with the setting that would fit; an estimate comes from one block."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from blockwise_cases import Doubled, labels_of, random_prediction, random_raw, save_prediction, save_raw
from click.testing import CliRunner

from nucseg.blockwise import machine, preflight
from nucseg.blockwise.estimate import duration, estimating, grid_part, probe
from nucseg.blockwise.grid import Grid
from nucseg.blockwise.launch import Launcher, Local
from nucseg.blockwise.machine import Room, memory_limit, room_at
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.records import Records
from nucseg.blockwise.resources import Resources
from nucseg.blockwise.run import run
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.slurm import Slurm
from nucseg.blockwise.steps import segment, segment_task
from nucseg.blockwise.task import Task
from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.heads.scenario import Decoding
from nucseg.volume import open_volume

GIB = 2**30


class Machine(Local):
    """This machine with another size of memory."""

    has: int

    def shared_memory(self) -> int:
        return self.has


class Greedy(Doubled):
    """A task that needs 1 KiB of memory a voxel of a block, and 8 bytes on disk a voxel."""

    def expected_memory(self) -> tuple[int, int]:
        size = 1024 * int(np.prod(self.block))
        return size, 2 * size

    def expected_output(self) -> int:
        return 8 * self.grid().volume[0] * self.grid().volume[1] * self.grid().volume[2]


@pytest.fixture
def volume(tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((16, 16, 64), np.int32))
    return str(tmp_path / "v.npy")


def greedy(tmp_path, volume, block=(16, 16, 32)) -> Greedy:
    return Greedy(out=str(tmp_path / "o"), volume=volume, block=block)


def test_memory_that_is_not_there_is_refused_with_what_fits(tmp_path, volume, monkeypatch):
    monkeypatch.setattr(preflight, "SMALLEST", 8)
    task, size = greedy(tmp_path, volume), 1024 * 16 * 16 * 32
    with pytest.raises(InputError, match=r"2 workers with 0\.00781 GiB each") as caught:
        task.blockwise(Machine(workers=2, has=size))
    assert "--launcher local:1" in caught.value.remedy
    assert "--block 16 16 16" in caught.value.remedy
    assert "--no-preflight" in caught.value.remedy
    assert not (tmp_path / "o").exists(), "nothing was begun"
    with pytest.raises(InputError) as caught:
        task.blockwise(Machine(workers=0, has=size - 1))
    assert "--launcher" not in caught.value.remedy
    assert "--block 16 16 16" in caught.value.remedy
    with pytest.raises(InputError, match="a machine with more memory"):
        task.blockwise(Machine(workers=0, has=1024))
    # what is proposed fits, and so does more memory than is usual, even if a few blocks may need twice as much
    smaller = task.model_copy(update={"block": (16, 16, 16)})
    assert smaller.blockwise(Machine(workers=0, has=size - 1))["blocks"] == 4
    shutil.rmtree(tmp_path / "o")
    assert task.blockwise(Machine(workers=0, has=size))["blocks"] == 2


def test_no_more_workers_count_than_there_are_blocks(tmp_path, volume):
    task, size = greedy(tmp_path, volume), 1024 * 16 * 16 * 32
    preflight.check_task(task.resolved(), Machine(workers=40, has=2 * size))
    with pytest.raises(InputError, match="2 workers with"):
        preflight.check_task(task.resolved(), Machine(workers=40, has=2 * size - 1))


def test_it_can_be_told_to_start_all_the_same(tmp_path, volume):
    where = Machine(workers=0, has=1024, preflight=False)
    assert greedy(tmp_path, volume).blockwise(where)["blocks"] == 2
    assert Launcher().shared_memory() is None, "elsewhere nothing is known, and nothing refused"


def test_a_disk_that_is_too_small_is_refused_but_what_is_done_counts(tmp_path, volume, monkeypatch):
    task, need = greedy(tmp_path, volume), 8 * 16 * 16 * 64
    asked: list[Path] = []

    def free(room: Room):
        monkeypatch.setattr(preflight, "room_at", lambda path: asked.append(path) or room)

    free(Room(need - 1, None))
    with pytest.raises(
        InputError, match=r"on disk, which are free at .*/o; received .* GiB \(after compression"
    ):
        task.blockwise(Local(workers=0))
    assert not (tmp_path / "o").exists()
    assert asked == [tmp_path / "o"]
    free(Room(need, None))
    task.blockwise(Local(workers=0))
    free(Room(0, 0))
    assert task.blockwise(Local(workers=0))["skipped"] == 2, "all is done, nothing is needed"
    lines = next((tmp_path / "o" / ".nucseg" / "doubled").glob("blocks-*.jsonl"))
    lines.write_text(lines.read_text().splitlines(keepends=True)[0])
    free(Room(need // 2 - 1, None))
    with pytest.raises(InputError, match="on disk"):
        task.blockwise(Local(workers=0))
    free(Room(need // 2, 1))
    assert task.blockwise(Local(workers=0))["skipped"] == 1
    size = sum(f.stat().st_size for f in (tmp_path / "o" / "doubled").rglob("*") if f.is_file())
    free(Room(need - size, None))
    assert task.blockwise(Local(workers=0), overwrite=True)["skipped"] == 0, (
        "what is deleted first makes room"
    )


def test_too_many_files_or_blocks_are_refused_with_larger_blocks(tmp_path, volume, monkeypatch):
    task = greedy(tmp_path, volume, block=(4, 4, 4))
    monkeypatch.setattr(preflight, "room_at", lambda path: Room(2**40, 100))
    with pytest.raises(InputError, match=r"256 blocks, each a file.*--block 8 8 4"):
        task.blockwise(Local(workers=0))
    monkeypatch.setattr(preflight, "room_at", lambda path: Room(2**40, 256))
    with pytest.raises(InputError, match=r"256 blocks, .*of the driver's memory.*--block 8 8 8"):
        task.blockwise(Machine(workers=0, has=32 * preflight.RECORD))
    assert not (tmp_path / "o").exists()


def test_all_that_does_not_fit_is_said_at_once(tmp_path, volume, monkeypatch):
    monkeypatch.setattr(preflight, "room_at", lambda path: Room(10, None))
    with pytest.raises(InputError) as caught:
        greedy(tmp_path, volume).blockwise(Machine(workers=2, has=1024 * 16 * 16 * 32))
    assert "memory" in caught.value.expected
    assert "disk" in caught.value.expected
    assert "larger disk" in caught.value.remedy


def test_a_prediction_and_its_segmentation_are_checked_together_before_either(
    tmp_path, untrained, monkeypatch
):
    raw = save_raw(tmp_path / "raw.zarr", random_raw((48, 48, 64), seed=1))
    settled = {"seed_threshold": 0.335, "foreground_threshold": 0.6, "max_halo": 64}
    task = Predict(volume=raw, out=str(tmp_path / "o"), model=str(untrained), block=(16, 16, 16)).resolved()
    memory = task.expected_memory()[0]
    voxels = 48 * 48 * 64
    later = voxels * (4 * 6 + 60) + 3 * GIB // 10
    assert later < memory, "of the two steps the prediction needs more here"
    with pytest.raises(InputError, match=r"for predict.*; received .*--launcher|for predict"):
        run(
            raw,
            str(tmp_path / "o"),
            str(untrained),
            launcher=Machine(workers=0, has=memory - 1),
            block=(16, 16, 16),
        )
    disk = int(4 * 6 * voxels * Predict.stored_part) + int(4 * voxels * 0.1)
    monkeypatch.setattr(preflight, "room_at", lambda path: Room(disk - 1, None))
    with pytest.raises(InputError, match=r"^predict in .* blocks of .* voxels, segment in 1 blocks"):
        run(
            raw,
            str(tmp_path / "o"),
            str(untrained),
            launcher=Local(workers=0),
            encoding="float32",
            keep=("predictions",),
            **settled,
        )
    assert not (tmp_path / "o").exists()
    monkeypatch.setattr(preflight, "room_at", lambda path: Room(disk, None))
    preflight.check_fits([preflight.need_of(task, Local(workers=0))], task.out)


def test_tasks_that_go_on_together_share_the_memory(tmp_path, volume, monkeypatch):
    monkeypatch.setattr(preflight, "SMALLEST", 8)
    task, size = greedy(tmp_path, volume), 1024 * 16 * 16 * 32
    resolved = task.resolved()

    def needs(workers: int, has: int):
        return [preflight.need_of(resolved, Machine(workers=workers, has=has)) for _ in range(2)]

    preflight.check_fits(needs(2, 4 * size), task.out)
    with pytest.raises(InputError, match=r"2 workers with .* and 2 workers with") as caught:
        preflight.check_fits(needs(2, 4 * size - 1), task.out)
    assert "--launcher local:1)" in caught.value.remedy
    assert "--block 16 16 16" in caught.value.remedy
    preflight.check_fits(needs(0, size), task.out)  # one process has one block at a time


def test_a_worker_of_a_cluster_gets_what_is_asked_for(tmp_path, volume, monkeypatch):
    monkeypatch.setattr(preflight, "SMALLEST", 8)
    task = greedy(tmp_path, volume)  # 8 MiB
    slurm = Slurm(workers=3, memory="4G", tasks={"doubled": {"memory": "7M"}})
    with pytest.raises(InputError, match="which a worker of doubled gets") as caught:
        preflight.check_task(task.resolved(), slurm)
    assert "--block 16 16 16" in caught.value.remedy
    for memory in ("8M", "8192K", "8", None):
        preflight.check_task(task.resolved(), slurm.model_copy(update={"memory": memory, "tasks": {}}))
    assert Resources(memory="3T").memory_bytes == 3 * 1024 * GIB


def test_predictions_that_are_dropped_need_room_for_a_slab_only(tmp_path, untrained, monkeypatch):
    raw = save_raw(tmp_path / "raw.zarr", random_raw((400, 16, 16), seed=1))
    fields = {"out": str(tmp_path / "o"), "block": (16, 16, 16)}
    predict = Predict(volume=raw, model=str(untrained), encoding="float32", **fields).resolved()
    reader = Segment(max_halo=64, decoding=Decoding(seed_threshold=0.335, foreground_threshold=0.6), **fields)
    planes = preflight.planes_at_once(predict, [reader])
    assert planes == 16 + 16 + 2 * 64
    whole = preflight.need_of(predict, Local(workers=1))
    slab = preflight.need_of(predict, Local(workers=1), planes=planes)
    assert whole.disk == int(400 * 16 * 16 * 6 * 4 * 0.95)
    assert slab.disk == int(400 * 16 * 16 * 6 * 4 * 0.95 * planes / 400)
    room = slab.disk + whole.disk // 2
    monkeypatch.setattr(preflight, "room_at", lambda path: Room(room, None))
    with pytest.raises(InputError, match="on disk"):
        (predict + reader).blockwise(Local(workers=0))
    (predict + reader).blockwise(Local(workers=0), keep=())


def test_blocks_that_a_network_can_take_are_proposed(tmp_path, untrained):
    raw = save_raw(tmp_path / "raw.zarr", random_raw((64, 128, 128), seed=1))
    task = Predict(volume=raw, out=str(tmp_path / "o"), model=str(untrained), block=(64, 128, 128))
    have = task.resolved().expected_memory()[0] - 1
    with pytest.raises(InputError) as caught:
        task.blockwise(Machine(workers=0, has=have))
    words = caught.value.remedy.split("--block ")[1].split(")")[0].split()
    proposed = task.model_copy(update={"block": tuple(map(int, words))}).resolved()
    assert proposed.block == tuple(map(int, words)) == (64, 64, 128)
    assert proposed.expected_memory()[0] <= have
    preflight.check_task(proposed, Machine(workers=0, has=have))


def test_the_whole_volume_at_once_is_not_mended_by_blocks(tmp_path):
    path = save_prediction(tmp_path / "p.zarr", random_prediction((32, 64, 64), 5))
    with pytest.raises(InputError, match="leave out --whole"):
        segment(
            path,
            str(tmp_path / "o"),
            head="three_label",
            whole=True,
            launcher=Machine(workers=0, has=GIB // 4),
        )


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:       16000 kB\nMemFree: 10 kB\n"}


def test_memory_is_the_smallest_of_machine_and_control_groups(tmp_path):
    kib = 1024
    assert memory_limit(write(tmp_path / "plain", MEMINFO)) == 16000 * kib
    two = {"proc/self/cgroup": "0::/job/step\n", "sys/fs/cgroup/job/step/memory.max": "max\n"}
    above = {"sys/fs/cgroup/job/memory.max": f"{5000 * kib}\n"}
    assert memory_limit(write(tmp_path / "two", MEMINFO | two)) == 16000 * kib
    assert memory_limit(write(tmp_path / "above", MEMINFO | two | above)) == 5000 * kib
    container = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "4096000"}
    assert memory_limit(write(tmp_path / "container", MEMINFO | container)) == 4096000
    one = {
        "proc/self/cgroup": "9:name=systemd:/\n4:memory,hugetlb:/slurm/job_1\n0::/\n",
        "sys/fs/cgroup/memory/slurm/job_1/memory.limit_in_bytes": "2048000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
    }
    assert memory_limit(write(tmp_path / "one", MEMINFO | one)) == 2048000
    assert GIB // 8 < Local().shared_memory() < 2**50


def test_room_is_that_of_the_nearest_folder(tmp_path, monkeypatch):
    Stat = namedtuple("Stat", "f_bavail f_frsize f_files f_favail")
    asked = []
    monkeypatch.setattr(machine.os, "statvfs", lambda path: asked.append(path) or Stat(3, 100, 9, 7))
    assert room_at(tmp_path / "a" / "b") == Room(300, 7)
    assert asked == [tmp_path]
    monkeypatch.setattr(machine.os, "statvfs", lambda path: Stat(3, 100, 0, 0))
    assert room_at(tmp_path).files is None


def test_a_dry_run_does_one_block_and_leaves_nothing(tmp_path, untrained):
    raw = save_raw(tmp_path / "raw.zarr", random_raw((21, 26, 33), seed=2))
    out = tmp_path / "o"
    task = Predict(volume=raw, out=str(out), model=str(untrained), block=(16, 16, 16))
    found = probe(task, Local(workers=2))
    assert not out.exists()
    assert (found["blocks"], found["undone"], found["block"], found["fits"]) == (12, 12, [16, 16, 16], "yes")
    assert found["memory_bytes"] == task.resolved().expected_memory()[0]
    part = 21 * 26 * 33 / 12 / (5 * 10 * 16)  # the middle block is one at the border
    assert found["stored_bytes"] == int(found["block_bytes"] * 12 * part)
    assert found["seconds"] == found["block_seconds"] * 12 / 2
    task.blockwise(Local(workers=0))
    shard = out / "prediction" / "0" / "c" / "0" / "1" / "1" / "1"
    assert found["block_bytes"] == shard.stat().st_size
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    settled = {"seed_threshold": 0.335, "foreground_threshold": 0.6, "max_halo": 64, "block": (16, 16, 16)}
    step = segment_task(str(out / "prediction"), str(out), **settled)
    assert probe(step, Local(workers=0))["block_bytes"] > 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    step.blockwise(Local(workers=0))
    assert labels_of(out).any()
    found = probe(Measure(volume=raw, out=str(out)), Machine(workers=0, has=10))
    assert (found["task"], found["block_bytes"]) == ("measure", None)
    assert "machine with more memory" in found["fits"]
    assert not (out / "tables").exists()


def test_dry_runs_from_the_command_line(tmp_path, untrained):
    raw = save_raw(tmp_path / "raw.zarr", random_raw((21, 26, 33), seed=2))
    common = [
        raw,
        str(tmp_path / "o"),
        "--model",
        str(untrained),
        "--launcher",
        "local:0",
        "--json",
        "--dry-run",
    ]
    for verb in ("predict", "run"):
        result = CliRunner().invoke(cli, [verb, *common, "--block", "16", "16", "16"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["blocks"] == 12
    assert not (tmp_path / "o").exists()


def test_the_preflight_can_be_left_out_on_the_command_line(tmp_path, monkeypatch):
    path = save_prediction(tmp_path / "p.zarr", random_prediction((16, 20, 24), 5))
    monkeypatch.setattr(preflight, "room_at", lambda path: Room(10, None))
    command = [
        "segment",
        path,
        str(tmp_path / "o"),
        "--head",
        "three_label",
        "--launcher",
        "local:0",
        "--json",
    ]
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code == 1
    assert "--no-preflight" in refused.stderr
    done = CliRunner().invoke(cli, [*command, "--no-preflight"])
    assert done.exit_code == 0, done.output


def test_the_second_block_tells_what_all_take(tmp_path, volume):
    """The line is written while blocks are at work; here a record appears as a worker would write it."""
    task = greedy(tmp_path, volume, (16, 16, 20)).prepared()
    records, lines = Records(task.out, task.name), []
    task.create()
    records.begin(task.description(), task.grid())
    (records.folder / "blocks-earlier.jsonl").write_text(
        json.dumps({"block": [0, 0, 1], "status": "done"}) + "\n"
    )
    with estimating(task, records, 4, 2, lines.append):
        file = records.folder / "blocks-a.jsonl"
        failed = {"block": [0, 0, 1], "status": "failed"}
        first = {"block": [0, 0, 0], "status": "done", "seconds": 30.0, "peak_memory_bytes": 2 * GIB}
        slow = {**first, "seconds": 900.0}  # a worker's first block pays for what is compiled once
        file.write_text("".join(json.dumps(line) + "\n" for line in (slow, failed, first)) + '{"torn')
        for _ in range(100):
            if lines:
                break
            import time

            time.sleep(0.1)
    # 4 blocks of 20 voxels, the last of 4: a mean of 16; 30 s x 4 x 16 / 20 by 2 workers
    told = "a block took 30 s and 2 GiB of memory; at its pace 4 blocks take 48 seconds with 2 workers"
    assert lines == [f"doubled: {told}"]
    assert duration(7300) == "2.03 hours"
    assert duration(3 * 86400) == "3 days"
    grid = Grid((16, 16, 64), (16, 16, 20))
    assert grid_part(grid, grid[0, 0, 0]) == 0.8


def test_a_run_with_a_log_tells_it_and_ends_without_a_block_too(tmp_path, volume):
    lines: list[str] = []
    result = greedy(tmp_path, volume, (16, 16, 16)).blockwise(Local(workers=0), log=lines.append)
    assert result["blocks"] == 4
    assert lines[0].startswith("doubled: 4 blocks")
    assert open_volume(tmp_path / "o" / "doubled").shape == (16, 16, 64)


def test_a_fused_run_that_cannot_fit_leaves_nothing(tmp_path, untrained, monkeypatch):
    raw = save_raw(tmp_path / "raw.zarr", random_raw((16, 20, 24), seed=1))
    monkeypatch.setattr(preflight, "room_at", lambda path: Room(10, None))
    with pytest.raises(InputError, match="on disk"):
        run(raw, str(tmp_path / "o"), str(untrained), launcher=Local(workers=0), fused=True)
    assert not (tmp_path / "o").exists()


def test_classes_that_workers_cannot_import_are_refused(tmp_path, volume, monkeypatch):
    task = greedy(tmp_path, volume)
    monkeypatch.setattr(Greedy, "__module__", "__main__")
    with pytest.raises(InputError, match="expected a class in a module"):
        task.blockwise(Local(workers=1))
    assert not (tmp_path / "o").exists()
    assert task.blockwise(Local(workers=0))["blocks"] == 2


def test_a_method_that_a_task_lacks_is_named(tmp_path, volume):
    class Half(Greedy):
        expected_memory = Task.expected_memory

    with pytest.raises(InputError, match=r"task .*Half: expected a method `expected_memory`.*08_own_task"):
        Half(out=str(tmp_path / "o"), volume=volume, block=(16, 16, 32)).blockwise(Local(workers=0))
    assert not (tmp_path / "o").exists()


def test_options_that_would_do_nothing_are_refused(tmp_path, untrained):
    common = [str(tmp_path / "raw.zarr"), str(tmp_path / "o"), "--model", str(untrained)]
    save_raw(tmp_path / "raw.zarr", random_raw((16, 20, 24), seed=1))
    for options, status, says in (
        (["--mask-level", "3"], 2, "need --mask"),
        (["--fused", "--keep", "predictions"], 1, "nothing to keep"),
        (["--launcher", "local:-1"], 1, "local:N, slurm:N"),
    ):
        result = CliRunner().invoke(cli, ["run", *common, *options])
        assert result.exit_code == status, result.output
        assert says in result.stderr
        assert not (tmp_path / "o").exists()
