"""The same run from Python and from the command line: the same labels, voxel for voxel.

    python examples/03_python_and_command_line.py VOLUME RUN [FOLDER]

The digest is a hash of the labels' values. It does not depend on the block shape, the number of workers, or on
who started the run, so two labs can compare results by comparing one line.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nucseg as ns


def main(volume: str, model: str, folder: Path) -> None:
    """Segment one prediction twice, with other blocks."""
    first = ns.run(volume, str(folder / "python.zarr"), model, keep=("predictions",))

    prediction = folder / "python.zarr" / "prediction"
    command = [
        "nucseg",
        "segment",
        prediction,
        folder / "command.zarr",
        "--block",
        "40",
        "48",
        "56",
        "--json",
    ]
    print("$", *command)
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], check=True, stdout=subprocess.PIPE, text=True
    )
    second = json.loads(done.stdout)

    print(f"Python:       {first.nuclei} nuclei, digest {first.digest}")
    print(f"command line: {second['nuclei']} nuclei, digest {second['digest']}, {second['blocks']} blocks")
    if first.digest != second["digest"]:
        raise SystemExit("the two differ")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    place = Path(sys.argv[3]) if len(sys.argv) == 4 else Path(tempfile.mkdtemp(prefix="nucseg-"))
    main(sys.argv[1], sys.argv[2], place)
