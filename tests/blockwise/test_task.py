"""What every blockwise task has: records, resuming, refusals, failures that are named."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from blockwise_cases import Doubled

from nucseg.blockwise.grid import Grid, chunk_shape
from nucseg.blockwise.job import read_job, task_of
from nucseg.blockwise.launch import Local
from nucseg.blockwise.records import Records, identity
from nucseg.blockwise.worker import Worker, run_job
from nucseg.errors import BlocksFailed, InputError, NucsegError
from nucseg.volume import create_image, create_labels, open_volume

HERE = Local(workers=0)


@pytest.fixture
def volume(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(7 * 9 * 10, dtype=np.int32).reshape(7, 9, 10))
    return str(tmp_path / "v.npy")


def doubled_of(task: Doubled) -> np.ndarray:
    return open_volume(Path(task.out) / "doubled").read()


def drop_records(task: Doubled, keep: int) -> None:
    """As if the run had been killed after some blocks."""
    for file in (Path(task.out) / ".nucseg" / "doubled").glob("blocks-*.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:keep]) + lines[keep][:30])  # the last one torn


def test_blocks_tile_the_volume():
    grid = Grid((7, 9, 10), (4, 4, 4))
    seen = np.zeros(grid.volume, int)
    for block in grid:
        seen[tuple(slice(b, e) for b, e in zip(block.begin, block.end, strict=True))] += 1
        assert grid[block.index] == block
    assert (seen == 1).all()
    assert len(grid) == 2 * 3 * 3
    with pytest.raises(InputError, match="positive"):
        Grid((7, 9, 10), (4, 0, 4))


@pytest.mark.parametrize(
    ("shard", "chunk"),
    [((128, 96, 64), (64, 48, 64)), ((127, 5, 200), (127, 5, 50)), ((1, 262, 81), (1, 262, 27))],
)
def test_chunks_divide_shards_and_are_not_slivers(shard, chunk):
    assert chunk_shape(shard) == chunk
    assert all(s % c == 0 for s, c in zip(shard, chunk, strict=True))


def test_a_labs_own_task_runs_and_resumes(tmp_path, volume):
    task = Doubled(out=str(tmp_path / "o"), volume=volume)
    result = task.blockwise(HERE)
    data = open_volume(volume).read()
    assert np.array_equal(doubled_of(task), 2 * data)
    assert (result["blocks"], result["skipped"], result["failed"], result["sum"]) == (18, 0, 0, data.sum())
    assert result["peak_memory_bytes"] > 2**20

    again = task.blockwise(HERE)
    assert (again["skipped"], again["sum"]) == (18, data.sum())

    drop_records(task, keep=5)
    resumed = task.blockwise(HERE)
    assert (resumed["skipped"], resumed["sum"]) == (5, data.sum())
    assert np.array_equal(doubled_of(task), 2 * data)


def test_a_chain_runs_one_task_after_the_other(tmp_path, volume):
    first = Doubled(out=str(tmp_path / "a"), volume=volume)
    second = Doubled(out=str(tmp_path / "b"), volume=str(tmp_path / "a" / "doubled"))
    results = (first + second).blockwise(HERE)
    assert np.array_equal(doubled_of(second), 4 * open_volume(volume).read())
    assert len(results) == 2


def test_other_settings_or_inputs_are_refused_unless_overwritten(tmp_path, volume):
    task = Doubled(out=str(tmp_path / "o"), volume=volume)
    task.blockwise(HERE)
    before = doubled_of(task)
    other = task.model_copy(update={"block": (7, 9, 10)})
    with pytest.raises(InputError, match=r"block.*\[4, 4, 4\].*\[7, 9, 10\].*overwrite"):
        other.blockwise(HERE)
    assert np.array_equal(doubled_of(task), before)
    result = other.blockwise(HERE, overwrite=True)
    assert (result["blocks"], result["skipped"]) == (1, 0)
    assert open_volume(tmp_path / "o" / "doubled").write_unit == (7, 9, 10)
    assert np.array_equal(doubled_of(task), before)


def test_a_run_killed_before_its_head_was_written_begins_afresh(tmp_path, volume):
    task = Doubled(out=str(tmp_path / "o"), volume=volume)
    task.blockwise(HERE)
    (tmp_path / "o" / ".nucseg" / "doubled.json").unlink()
    assert task.blockwise(HERE)["skipped"] == 0


def test_foreign_folders_stay_untouched(tmp_path, volume):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="other content"):
        Doubled(out=str(tmp_path / "o"), volume=volume).blockwise(HERE, overwrite=True)
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_written(tmp_path, volume):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "o"):
        with pytest.raises(InputError, match="expected a"):
            Doubled(out=str(out), volume=volume).blockwise(HERE)


def test_bad_input_leaves_no_folder_behind(tmp_path):
    with pytest.raises(InputError):
        Doubled(out=str(tmp_path / "o"), volume=str(tmp_path / "none.npy")).blockwise(HERE)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("how", "text", "tries"), [("raise", "RuntimeError: no luck", 3), ("refuse", "too hard", 1)]
)
def test_a_block_that_always_fails_is_named_and_the_others_finish(tmp_path, volume, how, text, tries, capsys):
    task = Doubled(out=str(tmp_path / "o"), volume=volume, bad=(1, 1, 1), how=how)
    with pytest.raises(BlocksFailed, match=rf"1 of 18 blocks failed: \[4:7, 4:8, 4:8\] {text}.*logs in"):
        task.blockwise(HERE)
    got, expected = doubled_of(task), 2 * open_volume(volume).read()
    expected[4:7, 4:8, 4:8] = 0
    assert np.array_equal(got, expected)
    lines = list(Records(task.out, "doubled").lines())
    assert sum(line["status"] == "failed" for line in lines) == tries
    with pytest.raises(BlocksFailed, match="1 of 18"):
        task.blockwise(HERE)
    assert capsys.readouterr() == ("", "")
    if how == "raise":
        log = (Records(task.out, "doubled").logs / "driver.err").read_text()
        assert log.count('raise RuntimeError("no luck")') == 2 * tries


def test_what_killed_writes_left_is_swept(tmp_path, volume):
    task = Doubled(out=str(tmp_path / "o"), volume=volume)
    task.blockwise(HERE)
    left = tmp_path / "o" / "doubled" / "0" / "c" / "0" / "0.1234.partial"
    left.write_bytes(b"half")
    task.blockwise(HERE)
    assert not left.exists()


def test_outputs_are_not_replaced_under_a_workers_hands(tmp_path, volume):
    task = Doubled(out=str(tmp_path / "o"), volume=volume)
    task.blockwise(HERE)
    with (
        Records(task.out, "doubled").held(alone=False),
        pytest.raises(InputError, match="workers of an earlier"),
    ):
        task.blockwise(HERE, overwrite=True)
    assert task.blockwise(HERE)["skipped"] == 18


def test_a_job_is_the_tasks_own_fields(tmp_path, volume):
    task = Doubled(out=str(tmp_path / "o"), volume=volume, bad=(0, 0, 0)).resolved()
    path = tmp_path / "job.json"
    path.write_text(json.dumps(task.job("run")))
    assert task_of(read_job(path)) == task
    path.write_text("{}")
    with pytest.raises(InputError, match="a job file"):
        read_job(path)
    with pytest.raises(InputError, match="import path"):
        task_of({"task": "nucseg.nowhere:Task", "fields": {}})


def test_identity_follows_the_file(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(3))
    first = identity(path)
    assert identity(path) == first
    np.save(path, np.zeros(4))
    assert identity(path) != first
    assert identity(f"{path}:dataset")["bytes"] == path.stat().st_size


def test_identity_of_an_image_follows_its_finest_chunks_but_not_what_lies_beside_them(tmp_path):
    path = tmp_path / "a.zarr"
    data = np.arange(6 * 8 * 10, dtype=np.uint16).reshape(6, 8, 10)
    image = create_image(path, shape=data.shape, dtype="uint16", scale_um=(1, 1, 1))
    image.write((0, 0, 0), data)
    first, alone = identity(path), identity(path / "0")
    labels = create_labels(path, shape=data.shape, dtype="uint32", scale_um=(1, 1, 1))
    labels.write((0, 0, 0), data.astype(np.uint32))
    (path / "tables").mkdir()
    (path / "tables" / "centers.csv").write_text("z,y,x\n")
    assert (identity(path)["chunks"], identity(path / "0")) == (first["chunks"], alone)
    of_labels = identity(path / "labels" / "nuclei")
    image.write((0, 0, 0), data[:, ::-1].copy())
    assert identity(path)["chunks"] != first["chunks"]
    assert identity(path / "0") != alone
    assert identity(path / "labels" / "nuclei") == of_labels


def test_a_worker_without_a_scheduler_is_told(tmp_path, volume, monkeypatch):
    task = Doubled(out=str(tmp_path / "o"), volume=volume)
    task.blockwise(HERE)
    path = tmp_path / "job.json"
    path.write_text(json.dumps(task.resolved().job("run")))
    monkeypatch.delenv("DAISY_CONTEXT", raising=False)
    with pytest.raises(InputError, match="started by a launcher"):
        run_job(path)


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr("nucseg.blockwise.launch.cores", lambda: 12)
    for workers, threads in ((1, "12"), (5, "2"), (20, "1")):
        command = Local(workers=workers).worker_function(Path("job.json"))
        environment = command.args[1]
        assert {value for name, value in environment.items() if "INTRAOP" in name or "OMP" in name} == {
            threads
        }


def test_a_block_that_the_task_does_not_have_is_not_done(tmp_path, volume):
    import daisy.v2 as daisy

    task = Doubled(out=str(tmp_path / "o"), volume=volume)
    task.blockwise(Local(workers=0))
    worker = Worker(task.resolved(), Records(task.out, "doubled"), "key", "run")
    for offset in ((-4, 0, 0), (0, 400, 0), (0, 0, 1)):
        roi = daisy.Roi(offset, (4, 4, 4))
        with pytest.raises(NucsegError, match="does not have"):
            worker.serve(daisy.Block(daisy.Roi((0, 0, 0), (8, 8, 8)), roi, roi))


def test_a_logger_that_took_hold_of_standard_error_in_a_run_still_writes_after_it(tmp_path, volume):
    code = f"""
import logging
from blockwise_cases import Doubled
from nucseg.blockwise.launch import Local

class Logs(Doubled):
    def start_worker(self):
        super().start_worker()
        logging.getLogger("heard").addHandler(logging.StreamHandler())
        logging.getLogger("heard").warning("in the run")

for number in (1, 2):
    Logs(out=f"{tmp_path}/{{number}}", volume="{volume}").blockwise(Local(workers=0))
    logging.getLogger("heard").warning("after it")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert done.stderr.count("after it") == 3  # the second run adds a second handler
    assert done.stderr.count("in the run") == 3
    assert "closed file" not in done.stderr
