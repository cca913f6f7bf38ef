"""Run the comparisons and print a table: `python -m benchmarks [NAME ...] [--json FILE]`."""

import argparse
import importlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

SUITES = ("kernels", "watershed", "deformation", "selection")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUITES)}; default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, machine and versions")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(SUITES)
    if unknown:
        parser.error(f"expected names of {', '.join(SUITES)}; received {', '.join(sorted(unknown))}")
    rows = []
    print(f"{'what':34}{'ours':>12}  {'other':26}{'':>10}{'ratio':>8}{'noise':>8}")
    for name in arguments.names or SUITES:
        for row in importlib.import_module(f"benchmarks.{name}").rows():
            rows.append(row)
            print(
                f"{row.name:34}{row.ours_s * 1e3:9.1f} ms  {row.other:26}{row.other_s * 1e3:7.1f} ms"
                f"{row.ratio:8.1f}{row.spread:8.2f}",
                flush=True,
            )
    if arguments.json:
        versions = {p: version(p) for p in ("nucseg", "numpy", "numba", "scipy", "mahotas", "gunpowder")}
        machine = {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        result = {"rows": [row.to_json() for row in rows], "machine": machine, "versions": versions}
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
