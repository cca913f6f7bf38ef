"""Verbs about models: scenarios, train."""

from typing import Any

import click

from nucseg.cli.verb import log, verb


@click.command()
@verb
def scenarios() -> dict[str, Any]:
    """List the scenarios by name: what a training configuration's `scenario` may say."""
    from nucseg.heads.scenario import scenario_names

    names = list(scenario_names())
    return {"scenarios": names, "text": "\n".join(names)}


@click.command()
@click.argument("config", metavar="CONFIG.toml")
@click.option("--folder", required=True, metavar="RUN", help="Where checkpoints, losses and snapshots go.")
@click.option("--iterations", type=click.IntRange(min=1), help="Instead of the configuration's number.")
@click.option("--resume", is_flag=True, help="Go on exactly where the run in RUN stopped.")
@verb
def train(config: str, folder: str, iterations: int | None, resume: bool) -> dict[str, Any]:
    """Train a network as CONFIG.toml says."""
    from nucseg.training import TrainConfig
    from nucseg.training import train as run_training

    settings = TrainConfig.from_toml(config)
    result = run_training(settings, folder, iterations=iterations, resume=resume)
    log(f"trained to iteration {result.iteration} in {folder}")
    return {
        "iteration": result.iteration,
        "loss": result.loss,
        "seconds_per_iteration": result.seconds_per_iteration,
    }
