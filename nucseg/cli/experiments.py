"""The verb about many trainings at once: experiment."""

from pathlib import Path
from typing import Any

import click

from nucseg.cli.verb import Failed, log, verb


@click.command()
@click.argument("config", metavar="CONFIG.toml")
@click.option(
    "--folder", required=True, metavar="DIR", help="Where everything goes; run again to go on there."
)
@click.option(
    "--collect", "only_collect", is_flag=True, help="Train nothing: tables of what is done already."
)
@click.option(
    "--parallel", type=click.IntRange(min=0), metavar="N", help="Trainings at a time; 0: in this process."
)
@click.option(
    "--from",
    "known",
    multiple=True,
    metavar="RESULT.json",
    help="Take the cells that were done elsewhere; may be given several times.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of each training.")
@verb
def experiment(
    config: str,
    folder: str,
    only_collect: bool,
    parallel: int | None,
    threads: int | None,
    known: tuple[str, ...],
) -> dict[str, Any]:
    """Train, select and test scenarios x seeds x data sets as CONFIG.toml says; write tables and figures."""
    from nucseg.experiment import ExperimentConfig, adopt, collect, run_experiment

    settings = ExperimentConfig.from_toml(config)
    if only_collect:
        for results in known:
            adopt(settings, Path(folder), results)
        return collect(settings, folder)
    result = run_experiment(settings, folder, parallel=parallel, threads=threads, known=known, log=log)
    if result["failed"]:
        told = "; ".join(f"{one['cell']}: {one['error']} (see {one['log']})" for one in result["failed"])
        several = "s" if len(result["failed"]) > 1 else ""
        raise Failed(result, f"{len(result['failed'])} training{several} failed, the others are done: {told}")
    return result
