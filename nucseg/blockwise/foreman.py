"""The foreman of a job array: submits it, opens the gate to the scheduler, replaces dead elements, cancels it.

Runs in a process of its own, which daisy takes for the task's only worker. It ends when the scheduler has no more
work, or when nothing is left that could do it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nucseg.blockwise.cluster import ClusterError, Condition, Element, array_name, run_of
from nucseg.blockwise.json_file import write_json
from nucseg.blockwise.remote import parent_gone

if TYPE_CHECKING:
    from nucseg.blockwise.array import JobArray

STATE = "array.json"
"""What the foreman knows, for the driver and for whoever looks: address, jobs, elements by condition, lines told."""
LONGEST, SHORTEST = 15.0, 1.0
"""Seconds between two questions to the cluster: a twentieth of the time since the last change, within these."""
FAREWELL = 5.0
"""Seconds for workers to leave by themselves when all is done."""
LEFT_OUT = ("SLURM_", "LSB_", "LS_")
"""Variables of a job that the driver itself may run in: they would be taken for options of the array."""
KEPT = ("SLURM_CONF", "LSF_ENVDIR")


def oversee(launcher: "JobArray", job: str) -> None:
    """Have an array work on a job until it is done; what daisy calls."""
    import daisy.v2 as daisy

    Foreman(launcher, Path(job), daisy.Context.from_env()).run()


class Foreman:
    """One array of one task of one run.

    Args:
        launcher: Where and how.
        job: The job file.
        context: daisy's, with its address.
    """

    def __init__(self, launcher: "JobArray", job: Path, context: Any) -> None:
        self.launcher, self.job, self.context = launcher, job, context
        self.task = job.parent.name
        self.name = array_name(self.task, run_of(job))
        self.logs = job.parent / "logs"
        self.jobs: list[str] = []
        self.waiting: list[subprocess.Popen] = []
        self.seen: dict[Element, Condition] = {}
        self.expected: set[Element] = set()
        self.replaced: set[Element] = set()
        self.restarts = 0
        self.told: list[str] = []
        self.problem: str | None = None
        self.stop = threading.Event()

    def run(self) -> None:
        """Submit, oversee, cancel; raises SystemExit with a reason if blocks are left and nobody does them."""
        if ended := self.ended_before():
            raise SystemExit(ended)
        parent = os.getppid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.stop.set())
        self.logs.mkdir(parents=True, exist_ok=True)
        self.gate = self.launcher.open_gate(self.job, self.context)
        environment = self.launcher.worker_environment(self.job, self.context, self.gate)
        self.script = self.launcher.script(self.job, environment)
        problem = None
        try:
            self.launcher.cancel([], self.name)  # of a foreman that was killed
            self.submit(self.launcher.workers)
            self.tell(
                f"{self.task}: scheduler at {self.gate.address[0]}:{self.gate.address[1]}, {self.launcher.workers} "
                f"workers as job {self.jobs[0]} ({self.name}), logs in {self.logs}"
            )
            problem = self.oversee(parent)
        finally:
            if not (self.stop.is_set() or problem):
                self.say_farewell()
            self.launcher.cancel(self.jobs, self.name)
            self.gate.close()
            for waiting in self.waiting:
                waiting.kill()
                waiting.wait()
        if problem:
            self.problem = problem
            self.write()
            raise SystemExit(problem)

    def ended_before(self) -> str | None:
        """Why an earlier foreman of this run gave up, if one did: daisy may start another in its place."""
        try:
            state = json.loads(self.job.with_name(STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        problem: str | None = state.get("problem") if state.get("name") == self.name else None
        return problem

    def oversee(self, parent: int) -> str | None:
        """Watch until the work is done (None) or nobody is left to do it (why)."""
        changed = asked = time.monotonic()
        while not (self.stop.wait(0.5) or parent_gone(parent)):
            if not self.gate.work_left():
                return None
            now = time.monotonic()
            if now - asked < min(LONGEST, max(SHORTEST, (now - changed) / 20)):
                continue
            asked, before = now, dict(self.seen)
            if not self.look():
                continue
            if self.seen != before:
                changed = now
            dead = [
                element
                for element, state in self.seen.items()
                if state == "dead" and element not in self.replaced
            ]
            if dead:
                self.replace(dead)
            elif "done" in self.seen.values() and now - changed > self.launcher.block_timeout:
                self.relieve()
                changed = now
            if not any(state in ("pending", "running") for state in self.seen.values()):
                if not self.gate.work_left():
                    return None
                return self.reason()
        self.stop.set()
        return None

    def say_farewell(self) -> None:
        """Let workers leave by themselves."""
        until = time.monotonic() + FAREWELL
        while time.monotonic() < until and (
            self.gate.connections or (self.look() and "running" in self.seen.values())
        ):
            time.sleep(0.2)

    def look(self) -> bool:
        """Ask the cluster about all elements; False: it does not answer."""
        try:
            found = self.launcher.conditions(self.jobs)
        except ClusterError as error:
            found = {}
            if all(waiting.poll() is None for waiting in self.waiting):  # they still wait for their jobs
                print(f"the cluster does not answer: {error}", file=sys.stderr)
                return False
        for element in self.expected:
            if element in found:
                self.seen[element] = found[element]
            elif self.seen.get(element) != "done":  # forgotten by the cluster
                self.seen[element] = "dead"
        self.write()
        return True

    def replace(self, dead: list[Element]) -> None:
        """Submit new elements for dead ones, as many as may be."""
        self.replaced |= set(dead)
        number = min(len(dead), self.launcher.restarts - self.restarts)
        names = ", ".join(f"{job}_{index}" for job, index in sorted(dead)[:4])
        names += ", ..." if len(dead) > 4 else ""
        if number < 1:
            self.tell(f"{self.task}: workers died ({names}) and are not replaced any more")
            return
        self.restarts += number
        try:
            self.submit(number)
        except ClusterError as error:
            self.tell(f"{self.task}: workers died ({names}) and could not be replaced: {error}")
            return
        self.tell(
            f"{self.task}: workers died ({names}), replaced by job {self.jobs[-1]}; "
            f"{self.launcher.restarts - self.restarts} more may be"
        )

    def relieve(self) -> None:
        """Add a worker where others have left for want of work and a block was not given back in time.

        daisy hands such a block out again, when all who could take it may be gone; the worker that has it is stuck, or
        stopped, and need not die.
        """
        if self.restarts < self.launcher.restarts:
            self.restarts += 1
            self.submit(1)
            self.tell(
                f"{self.task}: a worker has kept its block for more than {self.launcher.block_timeout:g} s; one more "
                f"is submitted as job {self.jobs[-1]}"
            )

    def submit(self, elements: int) -> None:
        """Submit an array and wait until its number is known; the command goes on waiting for its end.

        Raises:
            ClusterError: It was refused.
        """
        command = self.launcher.submission(self.name, elements, self.logs, self.launcher.resources(self.task))
        environment = {
            name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(LEFT_OUT)
        }
        said: list[str] = []
        with tempfile.TemporaryFile("w+", encoding="utf-8") as script:
            script.write(self.script)
            script.seek(0)
            try:
                waiting = subprocess.Popen(
                    command,
                    stdin=script,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the foreman, who then cancels
                )
            except OSError as error:
                raise ClusterError(f"{command[0]}: {error.strerror or error}") from None
        for line in waiting.stdout or ():
            said.append(line.strip())
            number = self.launcher.submitted(line)
            if number:
                break
        else:
            waiting.wait()
            raise ClusterError(" ".join(said) or f"{command[0]} ended with status {waiting.returncode}")
        threading.Thread(target=_drain, args=(waiting,), daemon=True).start()
        self.waiting.append(waiting)
        self.jobs.append(number)
        new = {(number, index) for index in range(1, elements + 1)}
        self.expected |= new
        self.seen |= dict.fromkeys(new, "pending")
        self.write()

    def reason(self) -> str:
        """Why nobody does the blocks that are left: what the last element to die wrote last."""
        logs = sorted(self.logs.glob(f"{self.launcher.kind}-*.log"), key=lambda path: path.stat().st_mtime)
        for path in reversed(logs):
            lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if lines:
                return f"{self.restarts} dead workers were replaced and died, too; the last said: {lines[-1].strip()}"
        return f"{self.restarts} dead workers were replaced and died, too, without a word"

    def tell(self, line: str) -> None:
        """Have the driver tell the user."""
        self.told.append(line)
        print(line, file=sys.stderr, flush=True)
        self.write()

    def write(self) -> None:
        """Write what is known."""
        counts = {state: list(self.seen.values()).count(state) for state in dict.fromkeys(self.seen.values())}
        state = {
            "name": self.name,
            "foreman": os.getpid(),
            "address": list(self.gate.address),
            "jobs": self.jobs,
            "elements": counts,
            "restarts": self.restarts,
            "told": self.told,
            "problem": self.problem,
        }
        try:
            write_json(self.job.with_name(STATE), state)
        except OSError as error:  # a full disk: workers go on or fail by themselves
            print(f"{STATE}: {error}", file=sys.stderr)


def _drain(waiting: subprocess.Popen) -> None:
    """Read what a waiting command says, lest it be stopped by a full pipe."""
    for line in waiting.stdout or ():
        if "error" in line.lower():
            print(line.rstrip(), file=sys.stderr, flush=True)
