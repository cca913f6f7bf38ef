"""Writing a synthetic worm to disk, block by block."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nucseg.errors import InputError, NucsegError
from nucseg.points import write_table
from nucseg.storage.formats import demand_folder_name
from nucseg.synthetic.plan import DEFAULT_SCALE_UM, Plan, plan_worm
from nucseg.synthetic.render import render_block
from nucseg.volume import create_image, create_labels

BLOCK = (128, 128, 128)
"""Voxels drawn and written at once, unless asked otherwise."""


def synthesize(
    out: str | Path,
    *,
    shape: tuple[int, int, int],
    nuclei: int,
    seed: int,
    scale_um: tuple[float, float, float] = DEFAULT_SCALE_UM,
    difficulty: str = "worm",
    block: tuple[int, int, int] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write a synthetic worm: an OME-Zarr image, its true labels `labels/nuclei`, and `tables/centers`.

    A bent tube lies along the longest axis, its head at low coordinates: there most nuclei crowd and touch,
    along the body they lie in rows. Sizes are physical, so a volume of smaller voxels shows larger nuclei.
    See `nucseg.synthetic.render` for the model of image formation and `nucseg.synthetic.difficulty` for the
    dials.

    Memory holds the plan of the nuclei and one block; the voxels do not depend on the blocks.

    Args:
        out: OME-Zarr to create.
        shape: Volume, voxels, z, y, x.
        nuclei: How many; all of them lie wholly in the volume.
        seed: The same seed gives the same voxels.
        scale_um: Voxel, um, z, y, x.
        difficulty: `easy` (separate, evenly stained nuclei), `worm`, or `hard` (crowded, blurred, few
            photons).
        block: Voxels drawn and written at once (the shard), z, y, x.
        overwrite: Replace an image and labels that are there.
        progress: Called with blocks done and blocks in all.

    Returns:
        `shape`, `nuclei`, `scale_um`, `difficulty`, `seed`, and `foreground`, the share of voxels in nuclei.

    Raises:
        InputError: When so many nuclei do not fit (the message says how many do), the voxels are too coarse,
            `out` is in use, or its name is that of another kind of file.
    """
    demand_folder_name(str(out))
    shape = _triple(shape, "shape")
    size = _triple(block or tuple(min(b, n) for b, n in zip(BLOCK, shape, strict=True)), "block")
    plan = plan_worm(shape, nuclei, seed, scale_um, difficulty)
    image = create_image(
        str(out), shape=plan.shape, dtype="uint16", scale_um=plan.scale_um, shards=size, overwrite=overwrite
    )
    labels = create_labels(
        str(out),
        "nuclei",
        shape=plan.shape,
        dtype="uint32",
        scale_um=plan.scale_um,
        shards=size,
        overwrite=overwrite,
    )
    voxels = np.zeros(nuclei + 1, np.int64)
    total = math.prod(-(-n // b) for n, b in zip(plan.shape, size, strict=True))
    for done, (begin, part) in enumerate(_blocks(plan.shape, size), start=1):
        raw, drawn = render_block(plan, begin, part)
        image.write(begin, raw)
        labels.write(begin, drawn)
        voxels += np.bincount(drawn.ravel(), minlength=nuclei + 1)
        if progress is not None:
            progress(done, total)
    if not voxels[1:].all():
        raise NucsegError(f"{out}: nucleus {1 + int(np.argmin(voxels[1:]))} was planned but has no voxel")
    _write_centers(out, plan, voxels[1:])
    return {
        "shape": list(plan.shape),
        "nuclei": int(np.count_nonzero(voxels[1:])),
        "scale_um": list(plan.scale_um),
        "difficulty": plan.look.name,
        "seed": seed,
        "foreground": 1.0 - float(voxels[0]) / math.prod(plan.shape),
    }


def _write_centers(out: str | Path, plan: Plan, voxels: np.ndarray) -> None:
    columns: dict[str, np.ndarray] = {"id": np.arange(1, voxels.size + 1, dtype=np.uint32)}
    columns |= {name: plan.centers[:, k] for k, name in enumerate("zyx")}
    columns |= {f"{name}_um": plan.centers_um[:, k] for k, name in enumerate("zyx")}
    columns["voxels"] = voxels
    write_table(out, "centers", columns)


def _blocks(
    shape: tuple[int, int, int], size: tuple[int, int, int]
) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Begin and shape of each block, in C order; the last ones are cut at the volume's border."""
    for z in range(0, shape[0], size[0]):
        for y in range(0, shape[1], size[1]):
            for x in range(0, shape[2], size[2]):
                part = (min(size[0], shape[0] - z), min(size[1], shape[1] - y), min(size[2], shape[2] - x))
                yield (z, y, x), part


def _triple(values: tuple[int, ...], what: str) -> tuple[int, int, int]:
    if len(values) != 3 or any(v != int(v) or v < 1 for v in values):
        raise InputError(
            what,
            expected="three positive numbers of voxels, z y x",
            received=str(tuple(values)),
            remedy="give three, as in 64 88 160",
        )
    return int(values[0]), int(values[1]), int(values[2])
