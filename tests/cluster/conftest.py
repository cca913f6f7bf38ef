"""A real Slurm for the drills, and what every drill does: have a run disturbed, and compare its digest."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import drill_table
import pytest
import slurm_hosts
from drill_task import Unlucky, attempts
from slurm_hosts import SlurmHosts

from nucseg.blockwise.launch import Local
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.slurm import Slurm

HERE = Path(__file__).parent
SHAPE, BLOCK = (32, 32, 64), (16, 16, 16)
SETTLED: dict[str, Any] = {"scenario": "three_label", "block": BLOCK, "halo": 8}
ROWS: list[dict[str, Any]] = []


@pytest.fixture(scope="session")
def hosts(tmp_path_factory):
    """Three hosts under a Slurm of their own."""
    if os.environ.get("NUCSEG_CLUSTER") != "1":
        pytest.skip("drills on a real Slurm run with NUCSEG_CLUSTER=1 (make test-cluster)")
    if problem := slurm_hosts.missing():
        pytest.skip(f"a Slurm of several hosts on this machine {problem}")
    cluster = SlurmHosts(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.up()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(cluster.conf))
            patch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", ""))))
            yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def maps(tmp_path_factory):
    """A prediction of balls, one in each block and reaching into others."""
    sys.path.insert(0, str(HERE.parent / "blockwise"))
    from blockwise_cases import balls, save_prediction

    centers = [(7 + 16 * z, 9 + 16 * y, 6 + 16 * x) for z in range(2) for y in range(2) for x in range(4)]
    return save_prediction(tmp_path_factory.mktemp("maps") / "p.npy", balls(SHAPE, centers, 7))


@pytest.fixture(scope="session")
def calm(maps, tmp_path_factory):
    """What the undisturbed run comes to, in this process."""
    out = tmp_path_factory.mktemp("calm")
    result = Segment(prediction=maps, out=str(out / "o"), **SETTLED).blockwise(Local(workers=0))
    assert result["nuclei"] == 16
    return result


class Drill:
    """One run with an accident.

    Args:
        folder: For OUT and the notes of attempts.
        maps: The prediction.
        calm: Result of the undisturbed run.
        cluster: The Slurm.
    """

    def __init__(self, folder: Path, maps: str, calm: dict[str, Any], cluster: SlurmHosts) -> None:
        self.folder, self.maps, self.calm, self.cluster = folder, maps, calm, cluster
        self.out, self.notes = folder / "out", folder / "notes"
        self.notes.mkdir()
        self.lines: list[str] = []
        self._pool = ThreadPoolExecutor(1)
        self.started = time.monotonic()
        self.before = 0

    def launcher(self, **settings: Any) -> Slurm:
        """Two workers that notice silence soon."""
        return Slurm(**{"workers": 2, "patience": 4.0, "restarts": 4, **settings})

    def task(self, **fields: Any) -> Unlucky:
        """The segmentation with an accident in its sixth block."""
        fields = {"at": (0, 1, 1), "prediction": self.maps, "out": str(self.out), **SETTLED, **fields}
        return Unlucky(folder=str(self.notes), **fields)

    def begin(self, launcher: Slurm | None = None, **fields: Any) -> "Future[dict[str, Any]]":
        """Start the run."""
        task, launcher = self.task(**fields), launcher or self.launcher()
        return self._pool.submit(task.blockwise, launcher, log=self.lines.append)

    def begin_apart(self, launcher: Slurm, host: str | None = None) -> subprocess.Popen:
        """Start the run in a driver of its own, which can be killed."""
        spec = {"task": self.task().model_dump(mode="json"), "launcher": launcher.model_dump(mode="json")}
        (self.folder / "spec.json").write_text(json.dumps(spec))
        command = [sys.executable, str(HERE / "driver.py"), str(self.folder / "spec.json")]
        with open(self.folder / "driver.log", "a") as log:
            return subprocess.Popen(
                self.cluster.on(host, command) if host else command,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def held(self) -> dict[str, Any]:
        """Wait until a worker is in the block with the accident, and all other blocks are done."""
        self.wait(lambda: (self.notes / "held").exists(), "the block with the accident")
        done = 15 if self.out.exists() else 0
        self.wait(lambda: self.recorded() >= done, "all other blocks")
        self.before = self.recorded()
        return json.loads((self.notes / "held").read_text())

    def recorded(self) -> int:
        """Number of blocks that are recorded as done."""
        files = (self.out / ".nucseg" / "segment").glob("blocks-*.jsonl")
        return sum('"status": "done"' in line for file in files for line in file.read_text().splitlines())

    def go(self) -> None:
        """Let the block with the accident go on."""
        (self.notes / "go").touch()

    def again(self) -> dict[tuple[int, ...], int]:
        """Blocks that were begun more than once, and how often."""
        counts: dict[tuple[int, ...], int] = {}
        for attempt in attempts(self.notes):
            counts[tuple(attempt["block"])] = counts.get(tuple(attempt["block"]), 0) + 1
        return {block: number for block, number in counts.items() if number > 1}

    def array(self) -> dict[str, Any]:
        """What the foreman has written."""
        return json.loads((self.out / ".nucseg" / "segment" / "array.json").read_text())

    def wait(self, condition, what: str, seconds: float = 120.0) -> None:
        """Wait until something is so; show the logs if it never is."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                logs = sorted(self.folder.rglob("*.log")) + sorted(self.folder.rglob("*.err"))
                tails = "\n".join(f"{path}: {path.read_text()[-600:]}" for path in logs)
                raise AssertionError(f"waited in vain for {what}\n{self.lines}\n{tails}")
            time.sleep(0.05)

    def no_jobs(self) -> bool:
        """Whether Slurm has nothing to do any more."""
        return not self.cluster.ask("squeue", "--noheader").strip()

    def same(self, result: dict[str, Any]) -> None:
        """The digest is that of the undisturbed run."""
        assert result["digest"] == self.calm["digest"]
        assert result["nuclei"] == self.calm["nuclei"]

    def note(self, number: int, what: str, outcome: str = "digest equal") -> None:
        """A row of the table in docs/drills.md."""
        try:
            restarts = self.array()["restarts"]
        except (OSError, ValueError):
            restarts = 0
        ROWS.append(
            {
                "drill": number,
                "what": what,
                "before": self.before,
                "again": sum(number - 1 for number in self.again().values()),
                "workers": restarts,
                "seconds": round(time.monotonic() - self.started, 1),
                "outcome": outcome,
            }
        )


@pytest.fixture
def drill(hosts, tmp_path, maps, calm):
    """A drill, with a cluster that is well before and after."""
    hosts.wait(lambda: set(hosts.states().values()) == {"idle"}, "all hosts to be idle")
    yield Drill(tmp_path, maps, calm, hosts)
    hosts.ask("scancel", "--user=root")


def pytest_sessionfinish(session):
    """Print what the drills took, and put it into the table of the page that `NUCSEG_DRILLS` names."""
    rows = sorted(ROWS, key=lambda row: row["drill"])
    lines = [drill_table.line(row) for row in rows]
    if lines:
        print("\n" + "\n".join(drill_table.HEAD + lines))
    if path := os.environ.get("NUCSEG_DRILLS"):
        drill_table.replace(Path(path), rows)
