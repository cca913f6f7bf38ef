"""A Slurm of several hosts on this one machine, for root: each host is a network namespace with a name of its own.

    python tests/cluster/slurm_hosts.py up DIR     # then: export SLURM_CONF=DIR/slurm.conf
    python tests/cluster/slurm_hosts.py down DIR
    python tests/cluster/slurm_hosts.py check               # whether it can be had here

Needs Debian's slurm-wlm, munge and iproute2. All hosts hang on one bridge; the controller and who submits are on the
bridge's own address, unless they are started on `login`, a host that runs no jobs. Nothing outside the folder is
changed but namespaces and links whose names begin with `nuc`, and these are gone after `down`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

NETWORK = "10.87.45"
CONTROLLER = f"{NETWORK}.1"
BRIDGE = "nucbr"
TOOLS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare")

CONF = """\
ClusterName=nucseg
SlurmctldHost=controller({controller})
SlurmctldPort=17817
SlurmdPort=17818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
SlurmdTimeout=6
KillWait=1
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
{nodes}
PartitionName=work Nodes=n[1-{number}] Default=YES DefMemPerCPU=1000 MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no cluster can be had here; None: it can be tried."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)}: apt install slurm-wlm munge iproute2"
    probe = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"needs network namespaces: {probe.stderr.strip()}"
    there = subprocess.run(["ip", "link", "show", BRIDGE], capture_output=True, check=False).returncode == 0
    return "is there already; take it down first: slurm_hosts.py down FOLDER" if there else None


class SlurmHosts:
    """The cluster: `up`, `down`, and what can happen to its hosts.

    Args:
        folder: Configuration, state and logs of the daemons.
        number: Hosts that run jobs, n1, n2, ...
    """

    def __init__(self, folder: Path, number: int = 3) -> None:
        self.folder = folder.resolve()
        self.number = number
        self.hosts = [f"n{i + 1}" for i in range(number)]
        self.addresses = {host: f"{NETWORK}.{11 + i}" for i, host in enumerate(self.hosts)}
        self.addresses["login"] = f"{NETWORK}.100"
        self.conf = self.folder / "slurm.conf"

    def up(self) -> None:
        """Make the hosts, start the daemons, and wait until all hosts take jobs."""
        (self.folder / "state").mkdir(parents=True, exist_ok=True)
        self._links()
        self._munge()
        nodes = "\n".join(
            f"NodeName={host} NodeAddr={self.addresses[host]} CPUs=2 RealMemory=8000 State=UNKNOWN"
            for host in self.hosts
        )
        text = CONF.format(folder=self.folder, controller=CONTROLLER, nodes=nodes, number=self.number)
        self.conf.write_text(text, encoding="utf-8")
        _run(
            "unshare",
            "--uts",
            "sh",
            "-c",
            "hostname controller && exec slurmctld -c",
            env=self._environment(),
        )
        for host in self.hosts:
            self.start(host)
        self.wait(lambda: set(self.states().values()) == {"idle"}, "all hosts to be idle")

    def down(self) -> None:
        """Cancel all jobs, stop the daemons, remove the hosts."""
        subprocess.run(["scancel", "--user=root"], env=self._environment(), capture_output=True, timeout=20)
        for name in (*self.hosts, "login"):
            self._kill_all_of(name)
        for name in ("controller", "munge"):
            _signal(self._pid(name), signal.SIGTERM)
        for name in (*self.hosts, "login"):
            subprocess.run(["ip", "netns", "delete", f"nuc-{name}"], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)

    def on(self, host: str, command: Sequence[str]) -> list[str]:
        """The command that runs another one on a host."""
        inside = ["unshare", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh", *command]
        return ["nsenter", f"--net=/run/netns/nuc-{host}", *inside]

    def start(self, host: str) -> None:
        """Switch a host on."""
        spool = self.folder / f"spool-{host}"
        spool.mkdir(exist_ok=True)
        _run(*self.on(host, ["slurmd", "-N", host]), env=self._environment())

    def die(self, host: str) -> None:
        """Switch a host off: its link first, so that nobody hears of the end of its processes."""
        self.link(host, "down")
        self._kill_all_of(host)

    def link(self, host: str, state: str) -> None:
        """Pull a host's cable (`down`) or put it back (`up`)."""
        _run("ip", "link", "set", f"nuc-{host}", state)

    def revive(self, host: str) -> None:
        """Switch a host on again, and wait until it takes jobs."""
        self.link(host, "up")
        self.start(host)
        self.wait(lambda: self.states()[host] == "idle", f"{host} to be idle")

    def states(self) -> dict[str, str]:
        """What Slurm says of each host."""
        lines = self.ask("sinfo", "--noheader", "--Node", "--format=%N %t").splitlines()
        return dict(line.split() for line in lines)

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints."""
        result = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, timeout=30, check=False
        )
        return result.stdout

    def wait(self, condition, what: str, seconds: float = 60.0) -> None:
        """Wait until something is so."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise RuntimeError(f"waited in vain for {what}; logs in {self.folder}")
            time.sleep(0.2)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def _links(self) -> None:
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "address", "add", f"{CONTROLLER}/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        for host, address in self.addresses.items():
            space = f"nuc-{host}"
            _run("ip", "netns", "add", space)
            _run(*f"ip link add {space} type veth peer name eth0 netns {space}".split())
            _run(*f"ip link set {space} master {BRIDGE} up".split())
            for command in (f"address add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
                _run("ip", "-n", space, *command.split())
            _run(*f"ip -n {space} route add default via {CONTROLLER}".split())

    def _munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {
            "socket": "socket",
            "key-file": "key",
            "log-file": "log",
            "pid-file": "pid",
            "seed-file": "seed",
        }
        _run("munged", "--force", *(f"--{option}={self.folder}/munge.{end}" for option, end in files.items()))

    def _pid(self, name: str) -> int | None:
        path = self.folder / f"{name}.pid"
        return int(path.read_text()) if path.exists() and path.read_text().strip() else None

    def _kill_all_of(self, host: str) -> None:
        """Kill whatever runs on a host."""
        space = f"nuc-{host}"
        for _ in range(3):  # what was started meanwhile, too
            listed = subprocess.run(
                ["ip", "netns", "pids", space], capture_output=True, text=True, check=False
            )
            for pid in listed.stdout.split():
                _signal(int(pid), signal.SIGKILL)


def _run(*command: str, env: dict[str, str] | None = None) -> None:
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("up", "down", "check"):
        sys.exit(__doc__)
    if sys.argv[1] != "down" and (problem := missing()):
        sys.exit(f"a Slurm of several hosts on this machine {problem}")
    if sys.argv[1] != "check":
        getattr(SlurmHosts(Path(sys.argv[2])), sys.argv[1])()
