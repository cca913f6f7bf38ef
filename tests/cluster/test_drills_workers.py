"""Drills 1 to 6 and 11: what can happen to workers and their hosts; each ends in the undisturbed run's digest."""

import os
import signal

from drill_process import alive
from drill_task import attempts


def test_1_a_worker_is_killed_in_a_block(drill):
    running = drill.begin()
    os.kill(drill.held()["pid"], signal.SIGKILL)
    drill.same(running.result(timeout=180))
    assert drill.again() == {(0, 1, 1): 2}
    assert any("replaced by job" in line for line in drill.lines)
    drill.note(1, "`kill -9` of a worker in a block")


def test_2_a_worker_is_killed_while_it_writes_a_chunk(drill):
    drill.same(drill.begin(accident="half written").result(timeout=180))
    assert drill.again() == {(0, 1, 1): 2}
    assert (drill.notes / "partial").read_text().endswith(".partial")
    drill.same(drill.begin(accident="half written").result(timeout=60))  # nothing left to do but to sweep
    assert not list(drill.out.rglob("*.partial"))
    drill.note(2, "`kill -9` before a written chunk is renamed into place, half of it lost")


def test_3_a_job_is_cancelled(drill):
    running = drill.begin()
    held = drill.held()
    drill.cluster.ask("scancel", f"{held['job']}_{held['element']}")
    drill.same(running.result(timeout=180))
    assert drill.again() == {(0, 1, 1): 2}
    drill.note(3, "`scancel` of a worker's job")


def test_4_a_host_dies(drill):
    running = drill.begin(drill.launcher(options=("--exclusive",)))
    host = drill.held()["host"]
    drill.cluster.die(host)
    try:
        drill.same(running.result(timeout=180))
    finally:
        drill.cluster.revive(host)
    assert drill.again() == {(0, 1, 1): 2}
    assert attempts(drill.notes)[-1]["host"] != host
    drill.note(4, "a host loses its cable and all of its processes at once")


def test_5_the_network_is_parted_and_heals(drill):
    running = drill.begin(drill.launcher(options=("--exclusive",)))
    held = drill.held()
    drill.cluster.link(held["host"], "down")
    try:
        drill.wait(lambda: drill.again(), "another worker to take the block")
        drill.go()  # the one that was cut off writes, too, and late
        drill.wait(lambda: not alive(held["pid"]), "the worker that was cut off to end itself")
    finally:
        drill.cluster.link(held["host"], "up")
    drill.same(running.result(timeout=180))
    assert drill.again() == {(0, 1, 1): 2}
    drill.note(5, "a host is cut off, its block done elsewhere, then it writes late and the network heals")


def test_6_a_worker_is_stopped_and_goes_on(drill):
    running = drill.begin(drill.launcher(block_timeout=15))
    pid = drill.held()["pid"]
    os.kill(pid, signal.SIGSTOP)
    drill.go()
    drill.wait(lambda: drill.again() or running.done(), "another worker to take the block")
    os.kill(pid, signal.SIGCONT)
    drill.same(running.result(timeout=180))
    assert drill.again() == {(0, 1, 1): 2}
    drill.note(6, "SIGSTOP in a block, SIGCONT when another worker has it (`block_timeout=15`)")


def test_11_a_worker_runs_out_of_memory(drill):
    result = drill.begin(drill.launcher(memory="1500M"), accident="memory").result(timeout=180)
    drill.same(result)
    assert drill.again() == {(0, 1, 1): 2}
    logs = "".join(path.read_text() for path in (drill.out / ".nucseg/segment/logs").glob("slurm-*.log"))
    assert "memory limit" in logs
    drill.note(11, "a block takes 3 GiB where `memory` is 1500M, and Slurm kills its worker")
