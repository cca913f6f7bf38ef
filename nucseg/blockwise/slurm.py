"""Workers in Slurm."""

import re
from pathlib import Path
from typing import ClassVar

from nucseg.blockwise.address import address_towards, reachable_address
from nucseg.blockwise.array import JobArray
from nucseg.blockwise.cluster import ClusterError, Condition, Element
from nucseg.blockwise.resources import Resources

PENDING = {
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
}
DEAD = {
    *("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED"),
    "TIMEOUT",
}
"""States of Slurm's JOB STATE CODES (man squeue); all others run, or are about to have ended."""


class Slurm(JobArray):
    """Workers are the elements of one Slurm job array a task.

    >>> Slurm(workers=16, options=["--gpus=1"]).workers
    16
    """

    kind: ClassVar[str] = "slurm"
    threads: ClassVar[str] = "${SLURM_CPUS_PER_TASK:-1}"

    def submission(self, name: str, elements: int, log: Path, resources: Resources) -> list[str]:
        """`sbatch`; an element is never requeued, as it is replaced."""
        output = str(log).replace("\\", r"\\").replace("%", "%%")
        asked = {
            "partition": resources.partition,
            "time": resources.time,
            "cpus-per-task": resources.cpus,
            "mem": resources.memory,
            "gpus": resources.gpus or None,
        }
        return [
            *(
                "sbatch",
                "--wait",
                "--no-requeue",
                "--parsable",
                f"--array=1-{elements}",
                f"--job-name={name}",
            ),
            *(f"--output={output}/slurm-%A_%a.log", "--open-mode=append", "--export=ALL", "--ntasks=1"),
            *(f"--{option}={value}" for option, value in asked.items() if value is not None),
            *resources.options,
        ]

    def submitted(self, line: str) -> str | None:
        """`--parsable` prints the number, and the cluster's name where there are several."""
        found = re.fullmatch(r"(\d+)(;\S+)?", line.strip())
        return found and found[1]

    def listing(self, jobs: list[str]) -> list[str]:
        """`squeue`, one line an element."""
        how = ("--noheader", "--array", "--states=all", "--format=%i %T")
        return ["squeue", *how, f"--jobs={','.join(jobs)}"]

    def condition(self, line: str) -> tuple[Element, Condition] | None:
        """Such as `12_3 RUNNING`."""
        found = re.fullmatch(r"(\d+)_(\d+) (\w+)", line.strip())
        if not found:
            return None
        state = found[3]
        condition: Condition = (
            "pending"
            if state in PENDING
            else "dead"
            if state in DEAD
            else "done"
            if state == "COMPLETED"
            else "running"
        )
        return (found[1], int(found[2])), condition

    def cancellation(self, jobs: list[str], name: str) -> list[str]:
        """`scancel`; quiet about jobs that have ended."""
        return ["scancel", "--quiet", *(jobs or [f"--name={name}"])]

    def address(self) -> str:
        """The address of the interface that leads to Slurm's controller, unless `host` says another."""
        if self.host is not None:
            return reachable_address(self.host)
        try:
            config = self.ask(["scontrol", "show", "config"])
        except ClusterError:
            config = ""
        found = re.search(r"^SlurmctldHost\S*\s*=\s*(\S+?)(?:\((\S+)\))?\s*$", config, re.MULTILINE)
        towards = found and (found[2] or found[1])
        return (towards and address_towards(towards)) or reachable_address()
