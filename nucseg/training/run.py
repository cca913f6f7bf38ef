"""`train`: run a training configuration."""

import csv
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nucseg.errors import own_cause
from nucseg.network.backend import require_backend
from nucseg.network.checkpoint import find_checkpoint
from nucseg.network.record import check_run_folder
from nucseg.training.config import TrainConfig
from nucseg.training.data import prepare

if TYPE_CHECKING:
    import gunpowder as gp

logger = logging.getLogger(__name__)

_RECENT = 50


class TrainResult(NamedTuple):
    """How a training ended.

    Attributes:
        iteration: Training steps done.
        loss: Mean of the last steps of the run, at most 50, as losses.csv has them; a run that was stopped and
            resumed has that of one without a stop.
        seconds_per_iteration: Mean time of a step, waiting for data and saving included; without the first
            one, which compiles the network.
    """

    iteration: int
    loss: float
    seconds_per_iteration: float


def train(
    config: TrainConfig,
    folder: str | Path,
    iterations: int | None = None,
    resume: bool = False,
    progress: Callable[[int, float], None] | None = None,
    augment: "Sequence[Callable[[gp.ArrayKey], gp.BatchFilter]]" = (),
) -> TrainResult:
    """Train a network as the configuration says.

    Args:
        config: The configuration, such as `TrainConfig.from_toml("train.toml")`.
        folder: The run folder; see `KerasTrain`.
        iterations: Instead of the configuration's number; the learning rate's schedule ends there, too.
        resume: Go on exactly where the run in the folder stopped; a folder without checkpoints is started
            afresh, with a warning.
        progress: Called after each step with the number of steps done and the loss. None: a progress bar if
            standard error is a terminal.
        augment: Further augmentations of raw, such as a lab's own `ArrayAugment` class: each is called with
            raw's key and returns a node. They run after those of the configuration.

    Raises:
        InputError: A volume, a setting or the folder cannot be used.
        HeadFailed: A method of a head raised an error; the message names both.
        NucsegError: The loss is not finite, or a process that prepares batches failed.
    """
    if iterations is not None:
        config = config.model_copy(update={"iterations": iterations})
    require_backend()
    check_run_folder(folder, resume)
    prepared = prepare(config)
    from nucseg.training.pipeline import training_pipeline

    try:
        pipeline, node = training_pipeline(config, prepared, folder, resume=resume, extra=augment)
        if node.iteration >= config.iterations:
            logger.info("%s has %d iterations already: nothing to do", folder, node.iteration)
            return _finished(folder)
        if resume and not node.iteration:
            logger.warning("nothing to resume in %s: starting from iteration 0", folder)
        with _silent_setup():
            seconds = _loop(pipeline, node, config, progress)
        return TrainResult(node.iteration, _recent_loss(folder, node.iteration), seconds)
    except Exception as error:
        cause = own_cause(error)
        if cause is None:
            raise
        raise cause from error


def _loop(
    pipeline: "gp.Pipeline", node: Any, config: TrainConfig, progress: Callable[[int, float], None] | None
) -> float:
    """Train; returns the mean seconds of a step."""
    import gunpowder as gp
    from tqdm import tqdm

    request = node.request(config.patch.output)
    recent: deque[float] = deque(maxlen=_RECENT)
    first = node.iteration + 1
    bar = tqdm(
        total=config.iterations,
        initial=node.iteration,
        unit="it",
        desc="training",
        disable=progress is not None or not sys.stderr.isatty(),
    )
    with gp.build(pipeline), bar:
        begun = time.perf_counter()
        while node.iteration < config.iterations:
            batch = pipeline.request_batch(request)
            recent.append(batch.loss)
            if node.iteration == first:
                compiled = time.perf_counter()
            if progress is not None:
                progress(node.iteration, batch.loss)
            bar.update()
            if node.iteration % 10 == 0:
                bar.set_postfix(loss=f"{sum(recent) / len(recent):.3f}", refresh=False)
        end = time.perf_counter()
    steps = node.iteration - first
    return (end - compiled) / steps if steps else end - begun


@contextmanager
def _silent_setup() -> Iterator[None]:
    """Without gunpowder's log line about a failed setup: the error that is raised says more."""
    log = logging.getLogger("gunpowder.build")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before


def _finished(folder: str | Path) -> TrainResult:
    iteration = find_checkpoint(folder).iteration
    seconds = float(_rows(folder, iteration)[-1]["seconds"]) / iteration
    return TrainResult(iteration, _recent_loss(folder, iteration), seconds)


def _recent_loss(folder: str | Path, iteration: int) -> float:
    """Mean loss of the last steps up to an iteration, those of a process before this one among them."""
    recent = [float(row["loss"]) for row in _rows(folder, iteration)[-_RECENT:]]
    return sum(recent) / len(recent)


def _rows(folder: str | Path, iteration: int) -> list[dict[str, str]]:
    """The rows of losses.csv up to an iteration."""
    with (Path(folder) / "losses.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if int(row["iteration"]) <= iteration]
