"""A driver that can be killed: runs the drill that SPEC.json describes.

python driver.py SPEC.json
"""

import json
import sys
from pathlib import Path

from drill_task import Unlucky

from nucseg.blockwise.slurm import Slurm

if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text())
    print(Unlucky(**spec["task"]).blockwise(Slurm(**spec["launcher"]), log=print)["digest"], flush=True)
