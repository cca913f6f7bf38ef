"""The prediction that a step decodes: where it is, whether it is whole, and which heads it follows."""

from pathlib import Path

from nucseg.blockwise.decoding import Origin, read_origin, settled_scenario
from nucseg.blockwise.records import Records
from nucseg.errors import InputError
from nucseg.heads.scenario import Scenario
from nucseg.storage import remote
from nucseg.volume import Volume


def settled_prediction(out: str, prediction: str | None) -> str | None:
    """The prediction's path, absolute; None where it is OUT/prediction.

    Raises:
        InputError: It was made by `Predict` and has blocks missing.
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
    return path


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
    wanted = settled_prediction(out, prediction)
    if head is not None and head["fields"]["prediction"] != wanted:
        raise InputError(
            f"{out}: labels",
            expected=f"instances of {prediction}",
            received=f"those of {head['fields']['prediction'] or Path(out) / 'prediction'}",
            remedy="name the prediction that was segmented there, or another OUT",
        )
