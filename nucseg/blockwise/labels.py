"""OUT/labels/nuclei: which run wrote it, and how large it is."""

from math import prod
from pathlib import Path

import numpy as np

from nucseg.blockwise.grid import Shape
from nucseg.blockwise.records import Records


def labels_records(out: str | Path) -> Records:
    """The records of the task that wrote OUT/labels/nuclei last: the segmentation, or its second pass."""
    made = Records(out, "segment")
    head = made.head()
    return Records(out, "sift") if head and head["fields"]["decoding"]["min_size"] else made


def label_dtype(volume: Shape) -> np.dtype:
    """uint32 where the number of each voxel fits, else uint64."""
    return np.dtype("uint32" if prod(volume) < 2**32 else "uint64")


def label_bytes(volume: Shape) -> int:
    """Bytes of the labels of a volume, before compression."""
    return prod(volume) * label_dtype(volume).itemsize
