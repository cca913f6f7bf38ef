"""Workers started by a function of your own: here with `nice`, on a cluster of yours with `ssh` or what it has.

    python examples/07_own_launcher.py PREDICTION OUT [--head three_label] [--workers 2]

The command line takes the same function by its import path, where Python can import it:

    PYTHONPATH=examples nucseg segment PREDICTION OUT --head three_label --launcher own_launcher:start:2

Such a function runs `command` on any host that sees the same files and can reach this one, with the variables
`environment` added, appends what the worker prints to `log`, and returns when the worker has ended. It is called once
a worker, each call in a process of its own; a worker whose call raises is replaced. Over ssh it would be

    variables = [f"{name}={value}" for name, value in environment.items()]
    subprocess.run(["ssh", "node7", shlex.join(["env", *variables, *command])], stdout=file, stderr=file, check=True)
"""

import argparse
from pathlib import Path

from own_launcher import start

import nucseg as ns


def main(prediction: str, out: str, head: str, workers: int) -> None:
    """Segment a prediction with workers of one's own, and in this process: the same labels."""
    task = ns.Segment(prediction=prediction, scenario=head, out=f"{out}/own", block=(32, 32, 32))
    launcher = ns.FunctionLauncher(workers=workers, start=start, host="127.0.0.1")
    own = task.blockwise(launcher, log=print)
    here = task.model_copy(update={"out": f"{out}/here"}).blockwise(ns.Local(workers=0))
    print(f"{own['nuclei']} nuclei, digest {own['digest']}; in this process digest {here['digest']}")
    print(f"{len(list(Path(out, 'own').rglob('worker-*.log')))} workers left a log")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prediction")
    parser.add_argument("out")
    parser.add_argument("--head", default="three_label")
    parser.add_argument("--workers", type=int, default=2)
    main(**vars(parser.parse_args()))
