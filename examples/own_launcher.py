"""One function that starts one worker; see 07_own_launcher.py."""

import os
import subprocess
from pathlib import Path


def start(command: list[str], environment: dict[str, str], log: Path) -> None:
    """Run a worker with a low priority on this machine.

    Args:
        command: The words that start it.
        environment: Variables that it needs, among them the scheduler's address.
        log: What it prints goes here, at the end.
    """
    with open(log, "ab") as file:
        words = ["nice", "-n", "5", *command]
        subprocess.run(words, env={**os.environ, **environment}, stdout=file, stderr=file, check=True)
