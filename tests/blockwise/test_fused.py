"""Labels without a stored prediction are those with one; the tiles of the network do not depend on who reads them."""

import json
import shutil
from itertools import product

import numpy as np
import pytest
from blockwise_cases import labels_of, random_raw, save_raw
from click.testing import CliRunner

from nucseg.blockwise.fused import PredictAndSegment
from nucseg.blockwise.grid import Box, Grid
from nucseg.blockwise.launch import Local
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.predictor import Tile
from nucseg.blockwise.records import Records
from nucseg.blockwise.run import run
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.tiles import Lattice, PredictedTiles, best_lattice, tiles_touched
from nucseg.blockwise.verify import verify
from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.heads.scenario import Decoding
from nucseg.storage.encoding import Encoding
from nucseg.volume import open_volume

HERE = Local(workers=0)
SHAPE = (21, 26, 33)
TILE = (8, 12, 16)
MAIN = Decoding(seed_threshold=0.335, foreground_threshold=0.6)
VOTES = Decoding(seeds="votes", seed_threshold=1.0, foreground_threshold=0.65, reach=5, dilate=1)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    data = random_raw(SHAPE, seed=2)
    data[3, 4, 5:8] = np.nan
    return save_raw(tmp_path_factory.mktemp("raw") / "raw.zarr", data)


@pytest.fixture(scope="module")
def stretched(tmp_path_factory, untrained):
    """The untrained network with vectors so long that some are beyond what integers keep."""
    run = tmp_path_factory.mktemp("runs") / "stretched"
    shutil.copytree(untrained, run)
    record = json.loads((run / "run.json").read_text())
    record["scenario"]["heads"][1]["scale"] = 20.0
    (run / "run.json").write_text(json.dumps(record))
    return run


class Numbered:
    """Stands for a network: every voxel of two channels has a number of its own; -1 where it says too much."""

    encoding = Encoding(dtype="float32")

    def __init__(self, shape):
        voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        self.values, self.asked = np.stack([voxels, 0.5 + voxels]), []

    def tile(self, begin, box):
        self.asked.append(begin)
        return Tile(self.values[:, *box.inside(Box((0, 0, 0), self.values.shape[1:]))], box.voxels, 1, 0)


def test_tiles_read_like_the_whole_in_every_lattice():
    rng = np.random.default_rng(1)
    shape, tile = (9, 14, 11), (4, 6, 5)
    for offset in ((0, 0, 0), (3, 2, 4)):
        network = Numbered(shape)
        tiles = PredictedTiles(network, Lattice(shape, tile, offset))
        for _ in range(20):
            begin = [int(rng.integers(0, n)) for n in shape]
            size = [int(rng.integers(1, n - b + 1)) for n, b in zip(shape, begin, strict=True)]
            part = tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))
            np.testing.assert_array_equal(tiles.read(tuple(begin), tuple(size)), network.values[:, *part])
        assert len(network.asked) == len(set(network.asked)) == tiles.predicted, "none twice"
        assert all((b - o) % t == 0 for a in network.asked for b, o, t in zip(a, offset, tile, strict=True))
        tiles.keep(Box((0, 0, 0), (1, 1, 1)))
        tiles.read((0, 0, 0), (1, 1, 1))
        before = tiles.predicted
        tiles.read((8, 13, 10), (1, 1, 1))
        assert tiles.predicted == before + 1, "dropped, so predicted again"
        sums = [tiles.counts(core) for core in Grid(shape, (5, 4, 7))]
        assert sum(s["nonfinite"] for s in sums) == np.prod(shape), "each voxel once, in whichever block"
        assert sum(s["saturated"] for s in sums) == len(tiles.lattice.over(Box((0, 0, 0), shape)))


def test_the_best_lattice_touches_the_fewest_tiles():
    grid, margin, tile, pooling = Grid((40, 70, 33), (16, 20, 33)), 5, (8, 12, 16), (2, 2, 4)

    def touched(lattice):
        boxes = [lattice.over(block.grown(margin, grid.volume)) for block in grid]
        return sum(map(len, boxes)), max(map(len, boxes))

    choices = product(*(range(0, t, p) for t, p in zip(tile, pooling, strict=True)))
    all_lattices = [Lattice(grid.volume, tile, offset) for offset in choices]
    best = best_lattice(grid, margin, tile, pooling)
    assert touched(best)[0] == min(touched(lattice)[0] for lattice in all_lattices)
    for lattice in (best, all_lattices[7]):
        assert tiles_touched(lattice, grid, margin) == touched(lattice)


@pytest.mark.parametrize(("encoding", "decoding"), [("float32", MAIN), ("float32", VOTES), ("uint8", VOTES)])
def test_labels_are_those_of_predict_then_segment(tmp_path, stretched, raw, encoding, decoding):
    stored = tmp_path / "stored"
    model = {"volume": raw, "model": str(stretched), "encoding": encoding}
    predicted = Predict(out=str(stored), block=TILE, **model).blockwise(HERE)
    wanted = Segment(out=str(stored), decoding=decoding, block=(16, 13, 17), halo=4).blockwise(HERE)
    assert wanted["nuclei"] > (10 if decoding is VOTES else 1)
    assert (predicted["saturated"] > 0) == (encoding == "uint8")
    for number, (block, offset, halo) in enumerate(
        [((16, 13, 17), None, 2), ((9, 26, 11), (0, 0, 0), 8), (SHAPE, (4, 6, 2), 4)]
    ):
        out = tmp_path / f"o{number}"
        task = PredictAndSegment(
            out=str(out), decoding=decoding, block=block, tile=TILE, offset=offset, halo=halo, **model
        )
        result = task.blockwise(HERE)
        assert result["digest"] == wanted["digest"]
        np.testing.assert_array_equal(labels_of(out), labels_of(stored))
        assert {key: result[key] for key in ("nonfinite", "saturated")} == {
            key: predicted[key] for key in ("nonfinite", "saturated")
        }
        assert result["nonfinite"] == 3
        assert not (out / "prediction").exists()
        if block == SHAPE:
            touched = len(Lattice(SHAPE, TILE, offset).over(Box((0, 0, 0), SHAPE)))
            assert result["network_factor"] == pytest.approx(touched / len(Grid(SHAPE, TILE)))
            assert task.resolved().cost() == (pytest.approx(result["network_factor"]), 1.0)


def test_a_run_that_stores_no_prediction(tmp_path, untrained, raw, monkeypatch):
    settled = {"seed_threshold": 0.335, "foreground_threshold": 0.6, "block": (16, 16, 20), "launcher": HERE}
    out, said = tmp_path / "o", []
    result = run(raw, str(out), str(untrained), fused=True, log=said.append, **settled)
    assert not (out / "prediction").exists()
    assert list(result.steps) == ["segment", "measure"]
    assert any("no prediction is stored" in line and "the network runs" in line for line in said)
    assert any("3 raw voxels are no number" in line for line in said)
    stored = run(raw, str(tmp_path / "stored"), str(untrained), keep=("predictions",), **settled)
    assert (stored.digest, stored.nuclei) == (result.digest, result.nuclei)
    assert result.nuclei > 1

    def again(*_):
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(type(open_volume(raw)), "intensity_range", again)
        assert run(raw, str(out), str(untrained), fused=True, **settled).skipped == result.blocks
    with pytest.raises(InputError, match="overwrite"):
        Segment(out=str(out), prediction=str(tmp_path / "stored" / "prediction")).blockwise(HERE)

    assert not verify(str(out), launcher=HERE).damaged
    shutil.rmtree(out / "labels" / "nuclei" / "0" / "c" / "0")
    found = verify(str(out), repair=True, launcher=HERE)
    assert found.damaged
    assert not found.remaining
    np.testing.assert_array_equal(labels_of(out), labels_of(tmp_path / "stored"))


def test_what_does_not_fit_is_refused(tmp_path, untrained, raw):
    settled = {"volume": raw, "model": str(untrained), "out": str(tmp_path / "o"), "tile": TILE}
    for fields, told in (
        ({"prediction": "p.zarr"}, "none, nor a scenario"),
        ({"scenario": "sdt"}, "none, nor a scenario"),
        ({"offset": (1, 0, 0)}, r"multiples of the pooling \(2, 2, 2\)"),
        ({"offset": (8, 0, 0)}, r"below the tile \(8, 12, 16\)"),
        ({"decoding": VOTES.model_copy(update={"reach": 30})}, "vectors of up to 30 voxels"),
        ({"decoding": VOTES.model_copy(update={"dilate": 3}), "max_halo": 2}, "at least 3 voxels to dilate"),
        ({"decoding": MAIN.model_copy(update={"seed_threshold": 2.0})}, "seed threshold"),
    ):
        with pytest.raises(InputError, match=told):
            PredictAndSegment(**settled, **fields).resolved()
    assert not (tmp_path / "o").exists()


def test_the_memory_has_network_tiles_and_labels(tmp_path, untrained, raw):
    settled = {"volume": raw, "model": str(untrained), "out": str(tmp_path), "decoding": MAIN}
    task = PredictAndSegment(
        **settled, block=(16, 13, 17), halo=4, max_halo=8, tile=TILE, encoding="uint8"
    ).resolved()
    network = Predict(volume=raw, model=str(untrained), out=str(tmp_path), block=TILE).resolved()
    for halo, size in zip((4, 8), task.expected_memory(), strict=True):
        lattice = Lattice(SHAPE, TILE, task.offset)
        grown = [block.grown(halo, SHAPE) for block in task.grid()]
        tiles = max(len(lattice.over(box)) for box in grown) * np.prod(TILE) * 6
        read = np.prod([min(b + 2 * halo, n) for b, n in zip(task.block, SHAPE, strict=True)])
        assert size == network.expected_memory()[0] + tiles + read * (4 * 6 + 60) + 3 * 2**30 // 10


def test_no_prediction_from_the_command_line(tmp_path, untrained, raw):
    out = tmp_path / "o"
    arguments = [
        "run",
        raw,
        str(out),
        "--model",
        str(untrained),
        "--launcher",
        "local:0",
        "--json",
        "--fused",
    ]
    result = CliRunner().invoke(
        cli, [*arguments, "--seed-threshold", "0.335", "--foreground-threshold", "0.6"]
    )
    assert result.exit_code == 0, result.output
    steps = json.loads(result.stdout)["steps"]
    assert steps["segment"]["network_factor"] == 1.0, "one block, one tile"
    assert not (out / "prediction").exists()
    assert Records(out, "segment").head()["task"] == "nucseg.blockwise.fused:PredictAndSegment"
