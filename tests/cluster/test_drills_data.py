"""Drills 10 and 12 to 15: blocks that fail, a full disk, damaged files, other settings, objects that are too large."""

import contextlib
import subprocess
import time

import pytest
from slurm_hosts import CONTROLLER

from nucseg.blockwise.verify import verify
from nucseg.errors import BlocksFailed, InputError
from nucseg.volume import open_volume


def fill(path):
    """Write until nothing more fits."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_10_a_block_that_always_raises(drill):
    with pytest.raises(
        BlocksFailed, match=r"1 of 16 blocks failed: \[0:16, 16:32, 16:32\].*no luck"
    ) as error:
        drill.begin(accident="raise").result(timeout=180)
    assert drill.again() == {(0, 1, 1): 3}
    assert "slurm-" in next((drill.out / ".nucseg/segment").glob("blocks-*.jsonl")).read_text() or error
    drill.before = drill.recorded()
    assert drill.before == 15
    drill.note(10, "a block raises each time", "named after 3 attempts, the other 15 done, status 1")


def test_12_the_disk_is_full(drill, request):
    drill.out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(drill.out)]
    subprocess.run(mount, check=True)
    request.addfinalizer(lambda: subprocess.run(["umount", "--lazy", str(drill.out)], check=True))
    running = drill.begin(drill.launcher(restarts=1))
    drill.held()
    filler = drill.out / ".nucseg" / "filler"
    fill(filler)
    drill.go()
    with pytest.raises((BlocksFailed, OSError), match=r"failed|No space"):
        running.result(timeout=180)
    filler.unlink()
    result = drill.begin().result(timeout=180)
    drill.same(result)
    assert result["skipped"] == 15
    drill.note(12, "no byte left on the disk of OUT as a block is written; room made; run again")


def test_an_undisturbed_run_then_14_other_settings_then_13_damaged_chunks(drill):
    drill.same(drill.begin(at=None).result(timeout=180))
    drill.before = drill.recorded()
    assert drill.again() == {}
    told = [line for line in drill.lines if "scheduler at" in line]
    assert len(told) == 1
    assert f"scheduler at {CONTROLLER}:" in told[0], "the interface that leads to the controller"
    assert not (drill.out / ".nucseg" / "segment" / "key").exists()
    drill.note(0, "nothing")

    drill.started = time.monotonic()
    with pytest.raises(InputError, match=r"halo 8.*received halo 9.*overwrite"):
        drill.begin(at=None, halo=9).result(timeout=60)
    assert drill.again() == {}
    drill.note(14, "the same OUT with another halo", "refused, nothing changed")

    drill.started = time.monotonic()
    before = open_volume(drill.out / "labels" / "nuclei").read()
    truncated, flipped, deleted = (
        drill.out.joinpath("labels", "nuclei", "0", "c", *index)
        for index in (("0", "0", "1"), ("0", "1", "2"), ("1", "0", "3"))
    )
    truncated.write_bytes(truncated.read_bytes()[:-9])
    data = bytearray(flipped.read_bytes())
    data[len(data) // 3] ^= 0x10
    flipped.write_bytes(bytes(data))
    deleted.unlink()
    found = verify(drill.out, repair=True, launcher=drill.launcher())
    assert {damage.block for damage in found.damaged} == {(0, 0, 1), (0, 1, 2), (1, 0, 3)}
    assert found.remaining == []
    assert drill.again() == dict.fromkeys([(0, 0, 1), (0, 1, 2), (1, 0, 3)], 2)
    assert (open_volume(drill.out / "labels" / "nuclei").read() == before).all()
    drill.note(13, "a chunk truncated, one flipped, one deleted; `verify --repair`")


def test_15_an_object_larger_than_the_largest_halo(drill):
    with pytest.raises(BlocksFailed, match=r"blocks failed: \[0:16, 0:16, 0:16\].*halo"):
        drill.begin(at=None, halo=2, max_halo=2).result(timeout=180)
    drill.before = drill.recorded()
    drill.note(
        15, "`max_halo` 2 voxels, which is less than a nucleus", "each such block named, none of them written"
    )
