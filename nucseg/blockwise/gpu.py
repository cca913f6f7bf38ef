"""One GPU a worker: a library takes the first of all that it sees, and workers on one machine would share it."""

import fcntl
import os
import re
import tempfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> list[str]:
    """What the libraries of this process would see, as `CUDA_VISIBLE_DEVICES` names it.

    Args:
        environment: Where that variable is, if somebody (such as Slurm) has set it already.
        devices: The folder of device files, looked at where it is not set.
    """
    if VARIABLE in environment:
        return [name for name in environment[VARIABLE].replace(" ", "").split(",") if name]
    names = (re.fullmatch(r"nvidia(\d+)", path.name) for path in devices.glob("nvidia*"))
    return [str(number) for number in sorted(int(name[1]) for name in names if name)]


def claim_gpu(gpus: list[str] | None = None, folder: Path | None = None) -> str | None:
    """Choose the GPU that the fewest workers of this user use, and have this process see no other.

    To be called before a library looks for GPUs. A claim is a lock on a file, which the system lifts when the process
    ends, however it ends; so one that replaces a dead worker finds its place free.

    Args:
        gpus: To choose from; None: `visible_gpus()`.
        folder: Of the files; None: the folder of temporary files of this machine.

    Returns:
        Its name; None where there are fewer than two, and nothing to choose.
    """
    gpus = visible_gpus() if gpus is None else gpus
    if len(gpus) < 2:
        return None
    folder = folder or Path(tempfile.gettempdir())
    for share in count():
        for gpu in gpus:
            name = re.sub(r"\W", "_", gpu)
            file = os.open(
                folder / f"nucseg-{os.getuid()}-gpu-{name}-{share}.lock", os.O_RDWR | os.O_CREAT, 0o600
            )
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            os.environ[VARIABLE] = gpu  # the file stays open as long as the process lives
            return gpu
    raise AssertionError("a count does not end")
