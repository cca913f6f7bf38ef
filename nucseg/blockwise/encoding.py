"""Which encoding a prediction is stored in, and whether what is stored can be decoded as asked for."""

from typing import TYPE_CHECKING

from nucseg.blockwise.decoding import diameter_voxels
from nucseg.errors import InputError
from nucseg.heads.scenario import Scenario
from nucseg.storage.encoding import Encoding, Kind
from nucseg.volume import Volume

if TYPE_CHECKING:
    from nucseg.network.model import TrainedModel

DEFAULT: Kind = "uint16"
"""Where every head says the range of its values; float32 where one does not. See docs/disk.md."""


def settled_encoding(scenario: Scenario, wanted: Encoding | Kind | None, reach: int | None) -> Encoding:
    """How a prediction of these heads is stored.

    Args:
        scenario: The heads.
        wanted: What the user asks for; None: `DEFAULT` where every head says its range, else float32.
        reach: Longest vector that votes, voxels; None: not known.

    Raises:
        InputError: Integers are asked for, and a head says no range.
    """
    if isinstance(wanted, Encoding):
        return wanted
    ranges = []
    for head in scenario.heads:
        own = head.stored_range(reach)
        if own is None and wanted in ("uint8", "uint16"):
            raise _no_range(wanted, head.name, vectors=head is scenario.auxiliary)
        ranges.append(own and [own] * head.channels)
    if all(ranges):
        return Encoding.of_ranges(wanted or DEFAULT, [pair for part in ranges for pair in part or []])
    return Encoding(dtype=wanted or "float32")


def _no_range(wanted: str, head: str, vectors: bool) -> InputError:
    longest = ", which is that of the longest vector: the largest diameter of a nucleus" if vectors else ""
    give = "give the diameter in micrometres (--nucleus-um)" if vectors else "write the head's stored_range"
    return InputError(
        f"encoding {wanted} of {head}",
        expected=f"the range of its values{longest}",
        received="none",
        remedy=f"store float16 or float32 (--encoding float32), or {give}",
    )


def known_reach(
    model: "TrainedModel", scale_um: tuple[float, float, float] | None, given: int | None
) -> int | None:
    """The longest vector that may vote, voxels: the largest of all that is known; None: nothing is.

    Args:
        model: Its selected decodings have a reach; its training data, a largest diameter.
        scale_um: Voxel size of the volume; None: that of the training data.
        given: By the user.
    """
    known = [given or 0]
    known += [decoding.reach or 0 for decoding in (model.decoding, model.points) if decoding]
    scale = scale_um or model.scale_um
    if model.record.nucleus_um and scale:
        known.append(diameter_voxels(model.record.nucleus_um, scale))
    return max(known) or None


def check_reach(volume: Volume, path: str, scenario: Scenario, reach: int) -> None:
    """See that a stored prediction has every vector that votes.

    Args:
        volume: The prediction, opened.
        path: Its path.
        scenario: The heads that its channels follow.
        reach: Longest vector that votes, voxels.

    Raises:
        InputError: Longer ones than it can hold are to vote.
    """
    if volume.stored.encoding is not None:
        check_vectors(volume.stored.encoding, path, scenario, reach)


def check_vectors(encoding: Encoding, path: str, scenario: Scenario, reach: int) -> None:
    """As `check_reach`, of an encoding.

    Raises:
        InputError: Longer vectors than it can hold are to vote.
    """
    vectors = scenario.auxiliary
    if vectors is None or not encoding.scale or not reach:
        return
    own = scenario.slices()[vectors.name]
    longest = min(encoding.limits(channel)[1] for channel in range(own.start, own.stop))
    if longest <= reach:
        raise InputError(
            f"{path}: {vectors.name}",
            expected=f"vectors of up to {reach} voxels, which are to vote",
            received=f"components of up to {longest:g} voxels, as {encoding.dtype} was to hold",
            remedy="predict again with this nucleus diameter (--nucleus-um), or give a smaller one",
        )
