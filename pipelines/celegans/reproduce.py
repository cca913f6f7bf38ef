"""From the download to the paper's tables, in one command.

    python pipelines/celegans/reproduce.py DOWNLOAD FOLDER

Imports the volumes to FOLDER/volumes, copies experiment.toml to FOLDER (where one is there already, with changes of
yours, it stays; with --partial the copy names only the worms that are there), and runs `nucseg experiment`, whose
tables, figures and report lie in FOLDER/results. The same command again goes on where it stopped. The published budget
is meant for a large GPU and many days; README.md has a small one.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from import_volumes import HERE, PARTS, import_worms, options_of, options_parser

from nucseg.errors import NucsegError


def write_config(path: Path, imported: dict[str, Any]) -> None:
    """Copy experiment.toml, without the volumes that were not imported.

    Args:
        path: The copy.
        imported: What `import_worms` returns.
    """
    there = {volume for part in PARTS for volume in imported[part]}
    kept = [
        line
        for line in (HERE / "experiment.toml").read_text(encoding="utf-8").splitlines(keepends=True)
        if (named := re.fullmatch(r'\s*"(volumes/[^"]+)",?\s*', line)) is None or named[1] in there
    ]
    path.write_text("".join(kept), encoding="utf-8")


if __name__ == "__main__":
    parser = options_parser(__doc__)
    parser.add_argument("--import-only", action="store_true", help="print the experiment's command instead")
    given = parser.parse_args()
    try:
        imported = import_worms(given.download, given.out, options_of(given))
    except NucsegError as error:
        sys.exit(f"reproduce.py: {error}")
    config = given.out / "experiment.toml"
    if not config.exists():
        write_config(config, imported)
    command = ["experiment", str(config), "--folder", str(given.out / "results")]
    print(f"$ {shlex.join(['nucseg', *command])}", flush=True)
    if not given.import_only:
        sys.exit(subprocess.run([sys.executable, "-m", "nucseg", *command], check=False).returncode)
