"""From the download to the paper's tables, in one command.

    python pipelines/celegans/reproduce.py DOWNLOAD FOLDER

Imports the volumes to FOLDER/volumes, copies experiment.toml to FOLDER (where one is there already, with changes of
yours, it stays), and runs `nucseg experiment`, whose tables, figures and report lie in FOLDER/results. The same command
again goes on where it stopped. The published budget is meant for a large GPU and many days; README.md has a small one.
"""

import shlex
import shutil
import subprocess
import sys

from import_volumes import HERE, import_worms, options_of, options_parser

from nucseg.errors import NucsegError

if __name__ == "__main__":
    parser = options_parser(__doc__)
    parser.add_argument("--import-only", action="store_true", help="print the experiment's command instead")
    given = parser.parse_args()
    try:
        import_worms(given.download, given.out, options_of(given))
    except NucsegError as error:
        sys.exit(f"reproduce.py: {error}")
    config = given.out / "experiment.toml"
    if not config.exists():
        shutil.copyfile(HERE / "experiment.toml", config)
    command = ["experiment", str(config), "--folder", str(given.out / "results")]
    print(f"$ {shlex.join(['nucseg', *command])}", flush=True)
    if not given.import_only:
        sys.exit(subprocess.run([sys.executable, "-m", "nucseg", *command], check=False).returncode)
