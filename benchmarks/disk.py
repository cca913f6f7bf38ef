"""What each encoding of a prediction takes on disk, and how many instances it changes, with trained networks.

`python -m benchmarks.disk RUN [RUN ...] --volumes VOLUME [...] [--json FILE]`: RUN is a training run that was selected
on validation volumes, VOLUME an OME-Zarr with labels. Each volume is predicted once and stored in every encoding; it is
decoded with the best decoding of each kind of seeds. The row `other blocks` is float32 again, predicted in blocks of
another shape: what float rounding in the network changes.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nucseg.blockwise.encoding import known_reach, settled_encoding
from nucseg.blockwise.grid import chunk_shape
from nucseg.blockwise.launch import Local
from nucseg.blockwise.predict import Predict
from nucseg.evaluate.grid import instances
from nucseg.evaluate.matching import match
from nucseg.heads.scenario import Decoding
from nucseg.network.model import TrainedModel
from nucseg.storage.encoding import Encoding
from nucseg.volume import create_image, open_labels, open_volume

KINDS = ("float32", "other blocks", "float16", "uint16", "uint8")


def compared(reference: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """Instances of the reference that have exactly the same voxels, and voxels of others or of background."""
    pairs, counts = np.unique(np.stack([reference.ravel(), labels.ravel()]), axis=1, return_counts=True)
    sizes = [dict(zip(*np.unique(a, return_counts=True), strict=True)) for a in (reference, labels)]
    same = (pairs != 0).all(axis=0)
    for row, size in zip(pairs, sizes, strict=True):
        same &= counts == np.array([size[label] for label in row])
    best: dict[int, int] = {}
    for (a, _), count in zip(pairs.T, counts, strict=True):
        best[a] = max(best.get(a, 0), int(count))
    return int(same.sum()), reference.size - sum(best.values())


def bytes_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measured(run: Path, volume: str, place: Path) -> Iterator[dict[str, Any]]:
    """A row for each encoding and kind of seeds."""
    model, truth = TrainedModel.load(run, threads=1), open_labels(volume).read()
    scale = open_volume(volume).scale_um
    best = json.loads((run / "selected.json").read_text())["best"]["segmentation"]
    ways = {way: Decoding.model_validate(found["parameters"]) for way, found in best.items()}
    values, size = {}, {}
    half = tuple(n // 2 for n in truth.shape)
    for kind, block in (("float32", None), ("other blocks", (half[0], half[1], half[2]))):
        out = place / kind
        Predict(volume=volume, out=str(out), model=str(run), encoding="float32", block=block).blockwise(
            Local(workers=0)
        )
        values[kind] = open_volume(out / "prediction").read()
        size[kind] = bytes_of(out / "prediction" / "0")
    beyond = dict.fromkeys(KINDS, 0)
    exact, shards = values["float32"], open_volume(place / "float32" / "prediction").write_unit
    for kind in KINDS[2:]:
        encoding = settled_encoding(model.scenario, kind, known_reach(model, scale, None))  # type: ignore[arg-type]
        codes, beyond[kind] = encoding.encode(exact)
        values[kind] = encoding.decode(codes)
        stored = create_image(
            place / kind,
            shape=exact.shape,
            dtype="float32",
            scale_um=None,
            axes=("c", "z", "y", "x"),
            shards=shards,
            chunks=chunk_shape(shards),
            encoding=Encoding.model_validate(encoding),
        )
        for begin, shape in stored.blocks():
            part = tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))
            stored.write(begin, values[kind][:, *part])
        size[kind] = bytes_of(place / kind / "0")
    for way, decoding in ways.items():
        reference = instances(exact, model.scenario, decoding)
        for kind in KINDS:
            labels = instances(values[kind], model.scenario, decoding)
            scores, own = match(truth, labels), match(reference, labels)
            same, moved = compared(reference, labels)
            yield {
                "scenario": model.scenario.name,
                "run": str(run),
                "volume": Path(volume).name,
                "seeds": way,
                "encoding": kind,
                "voxels": truth.size,
                "bytes": size[kind],
                "saturated": beyond[kind],
                "reference": len(np.unique(reference)) - 1,
                "nuclei": len(np.unique(labels)) - 1,
                "identical": same,
                "matched_0.5": own.tp[0.5],
                "matched_0.9": own.tp[0.9],
                "moved_voxels": moved,
                "foreground": int(np.count_nonzero(reference)),
                "ap_0.5": scores.ap[0.5],
                "av_ap": scores.av_ap,
            }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: sums and means over volumes and runs, a line for each scenario, kind of seeds and encoding."""
    lines = [
        "| scenario | seeds | encoding | bytes a voxel | nuclei | voxel for voxel | IoU > .9 | IoU > .5 | voxels moved "
        "| AP.5 | avAP |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((row["scenario"], row["seeds"], row["encoding"]) for row in rows)
    for key in keys:
        own = [row for row in rows if (row["scenario"], row["seeds"], row["encoding"]) == key]
        total = {name: sum(row[name] for row in own) for name in own[0] if not isinstance(own[0][name], str)}
        lines.append(
            f"| {' | '.join(key)} | {total['bytes'] / total['voxels']:.2f} | "
            f"{total['nuclei']} of {total['reference']} | "
            f"{total['identical']} | {total['matched_0.9']} | {total['matched_0.5']} | "
            f"{total['moved_voxels'] / total['foreground']:.2%} | "
            f"{total['ap_0.5'] / len(own):.4f} | {total['av_ap'] / len(own):.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.disk", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--volumes", nargs="+", required=True, metavar="VOLUME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for run in arguments.runs:
        for volume in arguments.volumes:
            place = Path(tempfile.mkdtemp(prefix="nucseg-disk-"))
            try:
                rows += measured(run, volume, place)
            finally:
                shutil.rmtree(place, ignore_errors=True)
            if arguments.json:
                arguments.json.write_text(json.dumps({"rows": rows}, indent=1), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
