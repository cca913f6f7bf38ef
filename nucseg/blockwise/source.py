"""The prediction that a step decodes: where it is, whether it is whole, and which heads it follows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from nucseg.blockwise.decoding import Origin, read_origin, settled_scenario
from nucseg.blockwise.dropping import dropped_blocks
from nucseg.blockwise.records import Records
from nucseg.blockwise.task import Task
from nucseg.errors import InputError
from nucseg.heads.scenario import Scenario
from nucseg.storage import remote
from nucseg.volume import Volume


class Readable(Protocol):
    """A prediction (c, z, y, x), on disk or made when it is read."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels z, y, x."""

    def read(self, begin: tuple[int, int, int], shape: tuple[int, int, int]) -> np.ndarray:
        """The values of a region that lies inside."""


def settled_prediction(out: str, prediction: str | None, reader: str | None = None) -> str | None:
    """The prediction's path, absolute; None where it is OUT/prediction.

    Args:
        out: The step's OUT.
        prediction: As the user named it.
        reader: The step's name; when all of its blocks are done, it needs no prediction any more.

    Raises:
        InputError: It was made by `Predict` and has blocks missing, or dropped.
    """
    if prediction and remote.is_remote(prediction):
        return remote.absolute(prediction)
    path = prediction and str(Path(prediction).resolve())
    own = str(Path(out) / "prediction")
    if path == own:
        path = None
    source = Path(path or own)
    made = Records(source.parent, "predict")
    if source.name == "prediction" and made.head() is not None and not made.complete():
        raise InputError(
            str(source),
            expected="a complete prediction",
            received="one with blocks missing",
            remedy="run `nucseg predict` again, which goes on where it stopped",
        )
    if source.name == "prediction" and made.head() is not None and not source.exists():
        raise InputError(
            str(source),
            expected="the prediction that was made there",
            received="nothing: it was deleted or moved after it was made",
            remedy="bring it back, or make it again: `nucseg predict VOLUME OUT --model RUN --overwrite`",
        )
    dropped = len(dropped_blocks(made)) if source.name == "prediction" else 0
    if dropped and not (reader and Records(out, reader).complete()):
        raise InputError(
            str(source),
            expected="a complete prediction",
            received=f"one with {dropped} blocks dropped: `nucseg run` deletes them when nothing needs them any more",
            remedy="make these blocks again with the command of that run and --keep predictions",
        )
    return path


def is_written_by(out: str, prediction: str | None, tasks: Sequence[Task]) -> bool:
    """Whether a step reads OUT/prediction, and this is what all of some other tasks write."""
    own = Path(out).resolve() / "prediction"
    wanted = own if prediction is None else Path(prediction).resolve()
    return bool(tasks) and wanted == own and all(task.written() == own for task in tasks)


def checked_scenario(volume: Volume, path: str, named: Scenario | None) -> tuple[Scenario, Origin]:
    """The heads that a prediction follows, and all that it says about itself.

    Args:
        volume: The prediction, opened.
        path: Its path.
        named: The scenario that the user named.

    Raises:
        InputError: No scenario is known, or it has another number of channels.
    """
    origin = read_origin(path)
    scenario = settled_scenario(path, named, origin)
    if max(1, volume.channels) != scenario.channels:
        raise InputError(
            path,
            expected=f"{scenario.channels} channels (c, z, y, x), as {scenario.name} has",
            received=f"{max(1, volume.channels)}",
            remedy="name the scenario that the prediction was made with",
        )
    return scenario, origin


def check_segmented(out: str, prediction: str) -> None:
    """Make sure that a segmentation in OUT, if there is one, is of this prediction.

    Raises:
        InputError: It is of another.
    """
    out = str(Path(out).resolve())
    head = Records(out, "segment").head()
    wanted = settled_prediction(out, prediction, "segment")
    if head is not None and head["fields"]["prediction"] != wanted:
        raise InputError(
            f"{out}: labels",
            expected=f"instances of {prediction}",
            received=f"those of {head['fields']['prediction'] or Path(out) / 'prediction'}",
            remedy="name the prediction that was segmented there, or another OUT",
        )
