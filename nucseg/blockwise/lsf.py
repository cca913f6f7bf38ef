"""Workers in IBM Spectrum LSF."""

import re
import sys
from pathlib import Path
from typing import ClassVar

from nucseg.blockwise.array import JobArray
from nucseg.blockwise.cluster import ClusterError, Condition, Element
from nucseg.blockwise.resources import Resources

PENDING = {"PEND", "PSUSP", "WAIT"}


class LSF(JobArray):
    """Workers are the elements of one LSF job array a task.

    >>> LSF(workers=8, partition="gpu", gpus=1).partition
    'gpu'
    """

    kind: ClassVar[str] = "lsf"
    threads: ClassVar[str] = "${LSB_DJOB_NUMPROC:-1}"

    def submission(self, name: str, elements: int, log: Path, resources: Resources) -> list[str]:
        """`bsub`; not rerunnable, as an element is replaced."""
        output = str(log).replace("%", "%%")
        asked: list[str] = []
        if resources.partition:
            asked += ["-q", resources.partition]
        if resources.time:
            asked += ["-W", resources.time]
        if resources.cpus:
            asked += ["-n", str(resources.cpus), "-R", "span[hosts=1]"]
        if resources.memory:
            asked += ["-M", resources.memory, "-R", f"rusage[mem={resources.memory}]"]
        if resources.gpus:
            asked += ["-gpu", f"num={resources.gpus}"]
        return [
            *("bsub", "-K", "-rn", "-J", f"{name}[1-{elements}]", "-o", f"{output}/lsf-%J_%I.log"),
            *asked,
            *resources.options,
        ]

    def submitted(self, line: str) -> str | None:
        """Such as `Job <123> is submitted to queue <normal>.`."""
        found = re.match(r"Job <(\d+)> is submitted", line.strip())
        return found and found[1]

    def listing(self, jobs: list[str]) -> list[str]:
        """`bjobs`, one line an element, those that have ended, too."""
        return ["bjobs", "-a", "-noheader", "-o", "jobid jobindex stat", *jobs]

    def condition(self, line: str) -> tuple[Element, Condition] | None:
        """Such as `123 1 RUN`."""
        found = re.fullmatch(r"(\d+)\s+(\d+)\s+(\w+)", line.strip())
        if not found:
            return None
        known: dict[str, Condition] = {"DONE": "done", "EXIT": "dead", **dict.fromkeys(PENDING, "pending")}
        return (found[1], int(found[2])), known.get(found[3], "running")

    def cancellation(self, jobs: list[str], name: str) -> list[str]:
        """`bkill`; job 0 means all of the name."""
        return ["bkill", *(jobs or ["-J", name, "0"])]

    def cancel(self, jobs: list[str], name: str) -> None:
        """`bkill`, for which it is an error that nothing is left."""
        try:
            self.ask(self.cancellation(jobs, name))
        except ClusterError as error:
            if not re.search(r"No matching job|already finished|No unfinished job|not found", str(error)):
                print(f"could not cancel {name}: {error}", file=sys.stderr)
