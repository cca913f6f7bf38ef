"""OUT/labels/nuclei: which run wrote it, and how large it is."""

from math import prod
from pathlib import Path

import numpy as np

from nucseg.blockwise.grid import Block, Grid, Shape
from nucseg.blockwise.records import Records
from nucseg.instances.digest import add_digests, block_digest
from nucseg.storage import remote
from nucseg.volume import Volume


def labels_records(out: str | Path) -> Records:
    """The records of the task that wrote OUT/labels/nuclei last: the segmentation, its second pass, or `Compact`."""
    made, compact = Records(out, "segment"), Records(out, "compact")
    head = made.head()
    if head is None:
        return compact if compact.head() else made
    if head["fields"].get("compact"):
        return compact
    return Records(out, "sift") if head["fields"]["decoding"]["min_size"] else made


def records_of(path: str | Path) -> Records | None:
    """The records of the task that wrote an array, of whichever OUT; None: it was not nucseg, as far as is known.

    Args:
        path: `OUT/prediction`, `OUT/labels/nuclei`, or a level below one of them.
    """
    if remote.is_remote(path):
        return None
    place = Path(path).resolve()
    if place.name.isdecimal():
        place = place.parent
    if place.parts[-2:] == ("labels", "nuclei"):
        made = labels_records(place.parent.parent)
    elif place.name == "prediction":
        made = Records(place.parent, "predict")
    else:
        return None
    return made if made.head() is not None else None


def stored_label_digest(labels: Volume, block: Block) -> str:
    """`block_digest` of a block of stored labels, as records have it; read by shards, so that memory is bounded."""
    total, unit = 0, labels.write_unit
    for cell in Grid(block.shape, unit):
        begin = tuple(b + c for b, c in zip(block.begin, cell.begin, strict=True))
        z, y, x = begin
        total = add_digests(total, block_digest(labels.read((z, y, x), cell.shape), (z, y, x), labels.shape))
    return f"{total:032x}"


def label_dtype(volume: Shape) -> np.dtype:
    """uint32 where the number of each voxel fits, else uint64."""
    return np.dtype("uint32" if prod(volume) < 2**32 else "uint64")


def label_bytes(volume: Shape) -> int:
    """Bytes of the labels of a volume, before compression."""
    return prod(volume) * label_dtype(volume).itemsize
