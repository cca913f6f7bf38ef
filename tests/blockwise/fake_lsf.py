"""A stand-in for LSF's `bsub`, `bjobs` and `bkill` on this machine: it starts the workers and keeps book in a folder.

    python fake_lsf.py bsub -K -J "name[1-2]" -o LOG/%J_%I.log ... < script
    python fake_lsf.py bjobs -a -noheader -o "jobid jobindex stat" 101
    python fake_lsf.py bkill 101, or -J name 0

It follows IBM's manual pages in what it is asked and answers; it is no LSF.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

BOOK = Path(os.environ["FAKE_LSF"])


def bsub(arguments: list[str]) -> int:
    """Start all elements, say so, and wait for them."""
    name, first, last = re.fullmatch(r"(.+)\[(\d+)-(\d+)\]", arguments[arguments.index("-J") + 1]).groups()
    log = arguments[arguments.index("-o") + 1]
    job = 101 + len(list(BOOK.glob("*.json")))
    script = sys.stdin.read()
    (BOOK / f"{job}.bsub").write_text("\n".join(arguments))
    elements = {}
    for index in range(int(first), int(last) + 1):
        with open(log.replace("%J", str(job)).replace("%I", str(index)), "ab") as file:
            environment = {**os.environ, "LSB_JOBINDEX": str(index), "LSB_DJOB_NUMPROC": "1"}
            elements[index] = subprocess.Popen(
                ["bash", "-s"], stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment
            )
        elements[index].stdin.write(script.encode())
        elements[index].stdin.close()
    keep(job, name, elements)
    print(f"Job <{job}> is submitted to default queue <normal>.", flush=True)
    print("<<Waiting for dispatch ...>>", file=sys.stderr)
    while any(process.poll() is None for process in elements.values()):
        keep(job, name, elements)
        time.sleep(0.05)
    keep(job, name, elements)
    return 0


def keep(job: int, name: str, elements: dict[int, subprocess.Popen]) -> None:
    """Write into the book which element runs as which process, and how it ended."""
    state = {
        index: {"pid": process.pid, "stat": {None: "RUN", 0: "DONE"}.get(process.poll(), "EXIT")}
        for index, process in elements.items()
    }
    (BOOK / f"{job}.new").write_text(json.dumps({"name": name, "elements": state}))
    (BOOK / f"{job}.new").rename(BOOK / f"{job}.json")


def bjobs(arguments: list[str]) -> int:
    """One line an element."""
    for job in arguments[arguments.index("jobid jobindex stat") + 1 :]:
        for index, element in json.loads((BOOK / f"{job}.json").read_text())["elements"].items():
            print(f"{job}   {index}   {element['stat']}")
    return 0


def bkill(arguments: list[str]) -> int:
    """Kill the elements that run; complain as LSF does where there are none."""
    books = {path.stem: json.loads(path.read_text()) for path in BOOK.glob("*.json")}
    if arguments[0] == "-J":
        books = {job: book for job, book in books.items() if book["name"] == arguments[1]}
    else:
        books = {job: books[job] for job in arguments}
    running = [e["pid"] for book in books.values() for e in book["elements"].values() if e["stat"] == "RUN"]
    for pid in running:
        os.kill(pid, signal.SIGTERM)
    if not running:
        print("No matching job found" if not books else "Job has already finished", file=sys.stderr)
    return 0 if running else 255


if __name__ == "__main__":
    sys.exit({"bsub": bsub, "bjobs": bjobs, "bkill": bkill}[sys.argv[1]](sys.argv[2:]))
