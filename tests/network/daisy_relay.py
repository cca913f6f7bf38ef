"""A daisy worker that lets another process work in its place; imported in daisy's worker process, so kept
light."""

import os
import time
from pathlib import Path

FOLDER = "NUCSEG_TEST_RELAY"


def relay() -> None:
    """Write down how to reach the scheduler, and wait until the work is done."""
    folder = Path(os.environ[FOLDER])
    partial = folder / "partial"
    partial.write_text(os.environ["DAISY_CONTEXT"])
    partial.rename(folder / "context")
    while not (folder / "done").exists():
        time.sleep(0.05)
