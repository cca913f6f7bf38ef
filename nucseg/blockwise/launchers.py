"""Launchers by name, as the command line has them."""

from pathlib import Path

from nucseg.blockwise.launch import Launcher, Local
from nucseg.errors import InputError


def parse_launcher(text: str, cluster: str | Path | None = None) -> Launcher:
    """A launcher by its name.

    `local` (a worker a core), `local:N`, `local:0` (in this process); `slurm:N`, `lsf:N`; `module:function:N` is a
    function of your own, see `FunctionLauncher`.

    Args:
        text: The name, with the number of workers.
        cluster: TOML file with the settings of a cluster.

    Raises:
        InputError: There is no such launcher, or the file does not fit it.
    """
    kind, _, count = text.rpartition(":")
    wrong_number = kind in ("local", "slurm", "lsf") and not count.isdecimal()
    if not count.isdecimal():
        kind, count = text, ""
    workers = int(count) if count else 1
    if kind in ("slurm", "lsf") and workers > 0:
        from nucseg.blockwise.lsf import LSF
        from nucseg.blockwise.slurm import Slurm

        array = {"slurm": Slurm, "lsf": LSF}[kind]
        return array(workers=workers) if cluster is None else array.from_toml(cluster, workers)
    if cluster is not None:
        raise InputError(
            "cluster",
            expected="a launcher of a cluster, slurm:N or lsf:N, beside the cluster's file",
            received=f"{text!r} and {cluster}",
            remedy="leave one of them out",
        )
    if kind == "local":
        return Local(workers=workers) if count else Local()
    if ":" in kind and workers > 0 and not wrong_number:
        from nucseg.blockwise.function_launcher import FunctionLauncher, imported

        return FunctionLauncher(workers=workers, start=imported(kind))
    raise InputError(
        "launcher",
        expected="local:N, slurm:N, lsf:N, or module:function:N of your own, with N workers",
        received=repr(text),
        remedy="give one of these",
    )
