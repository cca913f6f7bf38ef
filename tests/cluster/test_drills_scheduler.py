"""Drills 7 to 9: what can happen to the scheduler and its host; and the ways in which a run is ended on purpose."""

import os
import signal

import pytest
from drill_process import alive, children


def logs(drill):
    return "".join(path.read_text() for path in (drill.out / ".nucseg/segment/logs").glob("slurm-*.log"))


def kill_all(pids):
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def go_on(drill):
    """The same run again, which does what is left and ends as the undisturbed one."""
    result = drill.begin().result(timeout=180)
    drill.same(result)
    assert result["skipped"] == drill.before == 15


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda n: n.name)
def test_7_the_scheduler_is_killed(drill, number):
    driver = drill.begin_apart(drill.launcher())
    held = drill.held()
    foreman = drill.array()["foreman"]
    if number == signal.SIGINT:  # Ctrl-C reaches the whole process group
        os.killpg(driver.pid, number)
    else:
        driver.send_signal(number)
    drill.wait(lambda: not alive(held["pid"]), "the workers to be cancelled")
    drill.wait(drill.no_jobs, "the array to be gone")
    drill.wait(lambda: not alive(foreman), "the foreman to end")
    assert driver.wait(timeout=60) != 0
    if number != signal.SIGKILL:
        return
    go_on(drill)
    drill.note(
        7, "`kill -9` of the driver, with daisy's scheduler in it; its foreman cancels the array; run again"
    )


def test_8_the_host_of_the_scheduler_vanishes(drill):
    driver = drill.begin_apart(drill.launcher(host=drill.cluster.addresses["login"]), host="login")
    try:
        held = drill.held()
        drill.cluster.link("login", "down")
        kill_all([*children(driver.pid), driver.pid])
        drill.go()
        drill.wait(lambda: not alive(held["pid"]), "the worker to end itself")
        drill.wait(drill.no_jobs, "the array to be gone, which nobody cancelled")
        assert "the scheduler is gone" in logs(drill)
        assert drill.recorded() == 16, "the worker finished and recorded its block"
    finally:
        drill.cluster.link("login", "up")
        driver.wait()
    result = drill.begin().result(timeout=180)
    drill.same(result)
    assert result["skipped"] == 16
    drill.note(
        8, "the driver's host loses its cable and all of its processes; workers end themselves; run again"
    )


def test_9_a_requeued_job_with_a_stale_address(drill):
    driver = drill.begin_apart(drill.launcher(options=("--requeue",)))
    held = drill.held()
    kill_all([*children(driver.pid), driver.pid])  # the foreman, too: nobody cancels
    driver.wait()
    drill.go()
    drill.wait(lambda: not alive(held["pid"]), "the worker to end itself")
    drill.wait(drill.no_jobs, "the end of the array")
    for path in drill.notes.iterdir():  # the next run is to be held in the same block
        path.unlink()
    records = drill.out / ".nucseg" / "segment"
    for path in records.glob("blocks-*.jsonl"):
        kept = [line for line in path.read_text().splitlines(True) if '"block": [0, 1, 1]' not in line]
        path.write_text("".join(kept))

    running = drill.begin()
    drill.held()
    drill.cluster.ask("scontrol", "requeue", f"{held['job']}_{held['element']}")
    drill.wait(lambda: "the job of another run" in logs(drill), "the requeued worker to be turned away")
    drill.go()
    drill.same(running.result(timeout=180))
    drill.note(
        9, "`scontrol requeue` of a worker of a killed run while the next run is at work; it is turned away"
    )
