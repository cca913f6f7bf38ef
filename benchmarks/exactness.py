"""Random cases: blockwise labels and points against the whole volume, voxel by voxel.

    python -m benchmarks.exactness [--cases 1000] [--seed 0] [--json FILE]

Every scenario with every kind of seeds, volumes from one voxel thin to cubes, blocks of any shape, halos that have to
grow, objects over many blocks, ties, dilation and minimum sizes. The whole volume is flooded by mahotas (`--engine
mahotas`), or grouped in one piece where nothing is flooded; points are those of the whole map.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

import nucseg as ns
from nucseg.blockwise.detect import Detect
from nucseg.evaluate.detect import points
from nucseg.evaluate.grid import instances
from nucseg.heads.decoding import Decoding
from nucseg.heads.points import PointDecoding
from nucseg.heads.scenario import Scenario

HERE = ns.Local(workers=0)
MODELS = ("three_label", "affinities", "sdt")
KINDS = (
    *((name, "main") for name in (*MODELS, "gauss")),
    *((f"{name}_cpv", seeds) for name in MODELS for seeds in ("main", "votes", "vectors")),
)
"""Each scenario and kind of seeds gets as many cases."""

side = st.integers(1, 28)
block_side = st.integers(3, 30)


@st.composite
def cases(draw: Any, scenario: str, seeds: str) -> dict[str, Any]:
    """One case of a scenario and a kind of seeds: shapes, and how it is decoded."""
    return {
        "scenario": scenario,
        "seeds": seeds,
        "random": draw(st.integers(0, 2**32 - 1)),
        "shape": (draw(side), draw(side), draw(st.integers(4, 40))),
        "block": (draw(block_side), draw(block_side), draw(block_side)),
        "halo": draw(st.integers(1, 6)),
        "levels": draw(st.sampled_from((0, 6, 12))),
        "density": draw(st.sampled_from((-1.0, 0.0, 1.5))),
        "dilate": draw(st.integers(0, 2)),
        "min_size": draw(st.sampled_from((0, 0, 9))),
        "votes_from": draw(st.sampled_from(("foreground", "all"))),
        "distance": draw(st.integers(1, 3)),
        "within": draw(st.integers(0, 3)),
    }


def prediction_of(case: dict[str, Any]) -> np.ndarray:
    """Smooth random maps of nuclei that merge, float32 (c, z, y, x); rounded to levels, so that there are ties."""
    rng = np.random.default_rng(case["random"])
    shape, levels = case["shape"], case["levels"]

    def smooth() -> np.ndarray:
        noise = gaussian_filter(rng.standard_normal(shape), 2.0, mode="nearest")
        return noise / max(noise.std(), 1e-9)

    def level(map_: np.ndarray) -> np.ndarray:
        return np.round(map_ * levels) / levels if levels else map_

    height = level(1 / (1 + np.exp(-2 * smooth() - case["density"])))
    main = case["scenario"].removesuffix("_cpv")
    if main == "three_label":
        channels = [1 - height, height**2, height * (1 - height)]
    elif main == "affinities":
        channels = [level(np.clip(height + 0.1 * smooth(), 0, 1)) for _ in range(3)] + [height]
    elif main == "sdt":
        channels = [2 * height - 1]
    else:
        channels = [height]
    if case["scenario"].endswith("_cpv"):
        channels += [np.round(4 * smooth()) / 2 for _ in range(3)]
    return np.stack(channels).astype(np.float32)


def differing(case: dict[str, Any], folder: Path) -> tuple[int, int]:
    """Voxels, or points, that differ from those of the whole volume; and how many objects there are."""
    prediction, scenario = prediction_of(case), Scenario.named(case["scenario"])
    np.save(folder / "p.npy", prediction)
    rng = np.random.default_rng(case["random"] + 1)
    given_task = {"prediction": str(folder / "p.npy"), "scenario": scenario}
    if case["scenario"] == "gauss":
        decoding = PointDecoding(threshold=float(rng.uniform(0.2, 0.8)), distance=case["distance"])
        Detect(out=str(folder / "o"), block=case["block"], decoding=decoding, **given_task).blockwise(HERE)
        whole = {tuple(p) for p in points(prediction, scenario, decoding)}
        found = {tuple(p) for p in ns.read_points(folder / "o" / "tables" / "points.csv")}
        return len(whole ^ found), len(whole)
    how = {"dilate": case["dilate"], "min_size": case["min_size"]}
    low = -0.3 if scenario.name.startswith("sdt") else 0.3
    if case["seeds"] == "main":
        how |= {"seed_threshold": float(rng.uniform(low, 0.8))}
    else:
        how |= {
            "seeds": case["seeds"],
            "seed_threshold": float(rng.uniform(0.3, 1.2)),
            "reach": 3,
            "vote_passes": 1,
        }
        how |= {"votes_from": case["votes_from"], "distance": case["distance"], "within": case["within"]}
    decoding = Decoding(foreground_threshold=float(rng.uniform(low, 0.6)), **how)
    given_task |= {"decoding": decoding}
    ns.Segment(
        out=str(folder / "o"), block=case["block"], halo=case["halo"], max_halo=64, **given_task
    ).blockwise(HERE)
    if case["seeds"] == "vectors":
        whole_labels = instances(prediction, scenario, decoding)
    else:
        ns.Segment(out=str(folder / "w"), engine="mahotas", whole=True, **given_task).blockwise(HERE)
        whole_labels = ns.open_labels(folder / "w").read()
    found_labels = ns.open_labels(folder / "o").read()
    return int(np.count_nonzero(whole_labels != found_labels)), len(np.unique(whole_labels[whole_labels > 0]))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exactness", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    done, objects, voxels, wrong = Counter(), 0, 0, []
    started = time.perf_counter()

    def check(case: dict[str, Any]) -> None:
        nonlocal objects, voxels
        with tempfile.TemporaryDirectory() as folder:
            differ, count = differing(case, Path(folder))
        done[f"{case['scenario']}, {case['seeds']}"] += 1
        objects, voxels = objects + count, voxels + int(np.prod(case["shape"]))
        if differ:
            wrong.append({**case, "differing": differ})

    for kind in KINDS:
        strategy = settings(
            max_examples=-(-arguments.cases // len(KINDS)),
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        seed(arguments.seed)(strategy(given(case=cases(*kind))(check)))()
        print(f"{sum(done.values())} cases, {len(wrong)} wrong", file=sys.stderr)
    result = {
        "cases": sum(done.values()),
        "kinds": dict(sorted(done.items())),
        "objects": objects,
        "voxels": voxels,
        "wrong": wrong,
        "seconds": round(time.perf_counter() - started),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
