"""Odd input on the blockwise path: no numbers, constant parts, any dtype, read-only and remote stores, lost chunks."""

import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from blockwise_cases import balls, labels_of, random_prediction, random_raw, save_prediction, save_raw
from click.testing import CliRunner
from web_server import serving

from nucseg.blockwise.compact import Compact
from nucseg.blockwise.detect import Detect
from nucseg.blockwise.launch import Local
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.predictor import Predictor
from nucseg.blockwise.presence import check_labels
from nucseg.blockwise.run import run
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.steps import detect, segment
from nucseg.cli.main import cli
from nucseg.errors import BlocksFailed, InputError
from nucseg.heads.scenario import PointDecoding, Scenario
from nucseg.network.model import TrainedModel
from nucseg.points import read_table
from nucseg.volume import create_labels, open_volume

HERE = Local(workers=0)
SHAPE = (21, 26, 33)
BLOCK = (12, 14, 18)
SETTLED = {"block": (16, 16, 16), "seed_threshold": 0.335, "foreground_threshold": 0.6, "max_halo": 64}


def predicted(out: Path) -> np.ndarray:
    return open_volume(out / "prediction").read()


def whole_prediction(run_folder: Path, data: np.ndarray, bottom: float, top: float) -> np.ndarray:
    """One prediction of the whole volume; what is no number is 0, and so is what lies around."""
    model = TrainedModel.load(run_folder)
    values = (data.astype(np.float64) - bottom) / (top - bottom)
    values[~np.isfinite(values)] = 0
    padded = np.zeros(model.network.input_shape(data.shape), np.float32)
    inside = tuple(slice(c, c + n) for c, n in zip(model.context, data.shape, strict=True))
    padded[inside] = values
    return model.predict(padded)[(slice(None), *(slice(0, n) for n in data.shape))]


NUMBERS = [
    ("bool", 0, 1),
    ("int8", -100, 90),
    (">i2", -30000, 200),
    ("uint16", 60000, 5000),
    (">u4", 4_000_000_000, 900),
    ("int32", -2_000_000_000, 900),
    ("<i8", -(2**50), 1000),
    (">u8", 2**52, 1000),
    (">f2", 0, 100),
    (">f4", 100, 1e-3),
    ("float64", 1e9, 1.0),
]


@pytest.mark.parametrize(("dtype", "offset", "width"), NUMBERS)
def test_any_type_of_number_is_predicted_as_its_values(tmp_path, untrained, dtype, offset, width):
    """Values that float32 cannot tell apart, as far from 0 as they are, are normalised before they are rounded."""
    smooth = random_raw(SHAPE, seed=2)
    unit = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    data = (unit > 0.6) if dtype == "bool" else (offset + width * unit.astype(np.float64)).astype(dtype)
    stored = zarr.create_array(tmp_path / "raw.zarr", shape=SHAPE, dtype=data.dtype, chunks=(8, 9, 10))
    stored[:] = data
    task = Predict(
        volume=str(tmp_path / "raw.zarr"),
        out=str(tmp_path / "o"),
        model=str(untrained),
        block=BLOCK,
        encoding="float32",
    )
    assert task.blockwise(HERE)["nonfinite"] == 0
    bottom, top = (float(np.percentile(data.astype(np.float64), q)) for q in (1.0, 99.8))
    np.testing.assert_allclose(
        predicted(tmp_path / "o"), whole_prediction(untrained, data, bottom, top), atol=2e-5
    )


def test_types_that_are_no_numbers_or_too_wide_are_refused(tmp_path, untrained):
    for dtype in ("complex64", np.longdouble):
        np.save(tmp_path / "a.npy", np.zeros((8, 8, 8), dtype))
        with pytest.raises(InputError, match="at most 64 bits"):
            Predict(volume=str(tmp_path / "a.npy"), out=str(tmp_path / "o"), model=str(untrained)).blockwise(
                HERE
            )


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8"])
def test_raw_that_is_no_number_is_counted_and_dark(tmp_path, untrained, dtype):
    data = random_raw(SHAPE, seed=2).astype(dtype)
    data[3, 4, 5:8] = np.nan
    data[9:12, 12:, 2] = np.inf
    data[20, 25, 32] = -np.inf
    lost = int((~np.isfinite(data)).sum())
    np.save(tmp_path / "raw.npy", data)
    told: list[str] = []
    result = run(
        str(tmp_path / "raw.npy"),
        str(tmp_path / "o"),
        str(untrained),
        launcher=HERE,
        log=told.append,
        encoding="float32",
        keep=("predictions",),
        **SETTLED,
    )
    assert result.steps["predict"]["nonfinite"] == lost == 3 + 3 * 14 + 1
    assert f"predict: {lost} raw voxels are no number and were taken as 0, the low end of intensities" in told
    known = data[np.isfinite(data)].astype(np.float64)
    bottom, top = (float(np.percentile(known, q)) for q in (1.0, 99.8))
    expected = whole_prediction(untrained, data, bottom, top)
    np.testing.assert_allclose(predicted(tmp_path / "o"), expected, atol=2e-5)
    labels = labels_of(tmp_path / "o")
    assert result.nuclei > 0
    table = read_table(tmp_path / "o" / "tables" / "nuclei.csv")
    for label, mean in zip(table["id"], table["mean_intensity"], strict=True):
        values = data[labels == label].astype(np.float64)
        values = values[np.isfinite(values)]
        np.testing.assert_allclose(mean, values.mean() if len(values) else np.nan, rtol=1e-6, atol=1e-9)
    assert result.steps["measure"]["nonfinite"] == (~np.isfinite(data))[labels > 0].sum()


@pytest.mark.parametrize("intensity", [None, (0.0, 1.0)])
def test_a_volume_without_any_number_is_refused(tmp_path, untrained, intensity):
    data = np.full(SHAPE, np.nan, np.float32)
    data[::2] = np.inf
    path = save_raw(tmp_path / "raw.zarr", data)
    task = Predict(
        volume=path, out=str(tmp_path / "o"), model=str(untrained), intensity=intensity, block=BLOCK
    )
    with pytest.raises(InputError, match="no finite voxel"):
        task.blockwise(HERE)
    assert not (tmp_path / "o").exists()
    data[20, 0, 0] = 0.5
    np.save(tmp_path / "one.npy", data)
    one = task.model_copy(update={"volume": str(tmp_path / "one.npy"), "intensity": (0.0, 1.0)})
    assert one.blockwise(HERE)["nonfinite"] == data.size - 1


def test_the_mean_of_a_nucleus_is_of_its_numbers(tmp_path):
    labels = np.zeros((4, 6, 12), np.uint32)
    labels[1:3, 1:4, 1:11], labels[3, 5, 11], labels[0, 0, 0] = 7, 8, 9
    raw = np.stack([random_raw(labels.shape, seed=s) for s in (1, 2)])
    raw[0, 2, 2, 2:8], raw[1, 1, 1, 10], raw[0, 3, 5, 11] = np.nan, np.inf, np.nan
    created = create_labels(
        tmp_path / "l.zarr", shape=labels.shape, dtype="uint32", scale_um=None, shards=(4, 6, 6)
    )
    for begin, shape in created.blocks():
        created.write(begin, labels[tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))])
    task = Measure(
        volume=save_raw(tmp_path / "raw.zarr", raw), labels=str(tmp_path / "l.zarr"), out=str(tmp_path / "o")
    )
    result = task.blockwise(HERE)
    assert (result["blocks"], result["nonfinite"]) == (2, 8)
    table = read_table(tmp_path / "o" / "tables" / "nuclei.csv")
    for channel in range(2):
        for label, mean in zip((7, 8, 9), table[f"mean_intensity_{channel}"], strict=True):
            values = raw[channel][labels == label].astype(np.float64)
            values = values[np.isfinite(values)]
            np.testing.assert_allclose(mean, values.mean() if len(values) else np.nan, rtol=1e-6)


def test_constant_blocks_are_predicted_once_and_to_the_last_bit(tmp_path, untrained, monkeypatch):
    data = random_raw((16, 24, 80), seed=2)
    data[:, :, 30:] = 0.25  # what the detector gives without light; wider than a block with what is around it
    shape = (48, 48, 200)
    large = np.full(shape, 0.25, np.float32)
    large[16:32, 12:36, 20:100] = data
    path = save_raw(tmp_path / "raw.zarr", large)
    settled = {"volume": path, "model": str(untrained), "block": (16, 16, 16), "intensity": (0.25, 2.0)}
    result = Predict(out=str(tmp_path / "a"), **settled).blockwise(HERE)
    assert 20 < result["spared"] < result["blocks"]
    monkeypatch.setattr(
        Predictor, "_predicted", lambda self, raw: (self._model.predict(raw, self._mirrors), False)
    )
    computed = Predict(out=str(tmp_path / "b"), **settled).blockwise(HERE)
    assert computed["spared"] == 0
    assert np.array_equal(predicted(tmp_path / "a"), predicted(tmp_path / "b"))


def test_a_constant_volume_needs_to_know_its_intensities(tmp_path, untrained):
    path = save_raw(tmp_path / "raw.zarr", np.full(SHAPE, 7, np.uint16))
    with pytest.raises(InputError, match="every voxel at 7"):
        Predict(volume=path, out=str(tmp_path / "o"), model=str(untrained)).blockwise(HERE)
    result = Predict(
        volume=path, out=str(tmp_path / "o"), model=str(untrained), intensity=(7, 9), block=BLOCK
    ).blockwise(HERE)
    assert result["spared"] == result["blocks"] - 1
    expected = whole_prediction(untrained, np.full(SHAPE, 7.0), 7, 9)
    np.testing.assert_allclose(predicted(tmp_path / "o"), expected, atol=1e-5)
    assert Segment(out=str(tmp_path / "o"), block=BLOCK).blockwise(HERE)["blocks"] == 8


BACKGROUND = {
    "three_label": (1, 0, 0),
    "sdt": (1,),
    "affinities": (0, 0, 0, 0),
    "cpv": (0, 0, 0),
    "gauss": (0,),
}


def test_each_scenario_knows_its_background():
    for name in ("three_label", "sdt", "affinities_cpv", "three_label_cpv", "gauss"):
        main, *more = name.split("_cpv")
        scenario = Scenario.named(name)
        expected = BACKGROUND[main] + (BACKGROUND["cpv"] if more else ())
        assert scenario.background == expected
        maps = np.broadcast_to(np.float32(expected)[:, None, None, None], (len(expected), 2, 2, 2))
        if scenario.can_segment:
            _, seeds, foreground = scenario.decode(maps, scenario.default_decoding())
            assert not seeds.any()
            assert not foreground.any()


def damaged(shape: tuple[int, int, int], scenario: str) -> tuple[np.ndarray, np.ndarray]:
    """A prediction with values that are no numbers, in one channel or all, and where they are."""
    maps = random_prediction(
        shape, 5, "three_label_cpv" if "cpv" in scenario else "three_label", density=-0.5
    )
    if scenario == "sdt":
        maps = 1 - 2 * maps[1:2]
    maps = maps.copy()
    rng = np.random.default_rng(4)
    maps[-1, 4:7, 5:11, 6:30] = np.nan
    maps[0][rng.random(shape) < 0.01] = np.inf
    maps[:, 10, 10, 10] = -np.inf
    return maps, ~np.isfinite(maps).all(axis=0)


@pytest.mark.parametrize(
    ("scenario", "options"),
    [
        ("three_label", {}),
        ("three_label", {"dilate": 1}),
        ("sdt", {"foreground_threshold": 0.2, "seed_threshold": -0.3}),
        ("three_label_cpv", {"seeds": "votes", "seed_threshold": 1.2, "nucleus_um": 0.5}),
        ("three_label_cpv", {"seeds": "vectors", "seed_threshold": 1.2, "nucleus_um": 0.5}),
    ],
)
def test_what_is_no_number_in_a_prediction_is_background_for_every_block(tmp_path, scenario, options):
    maps, lost = damaged((20, 22, 36), scenario)
    clean = maps.copy()
    background = np.array(Scenario.named(scenario).background, np.float32)
    clean[:, lost] = background[:, None]
    settled = {"head": scenario, "launcher": HERE, "max_halo": 64, **options}
    good = save_prediction(tmp_path / "good.zarr", clean)
    expected = segment(good, str(tmp_path / "good"), whole=True, **settled)
    assert expected.nuclei > 3
    bad = save_prediction(tmp_path / "bad.zarr", maps)
    told: list[str] = []
    for number, how in enumerate(({"whole": True}, {"block": (7, 22, 9)}, {"block": (20, 10, 12)})):
        found = segment(bad, str(tmp_path / f"o{number}"), log=told.append, **settled, **how)
        assert found.digest == expected.digest
        assert found.steps["segment"]["nonfinite"] == lost.sum()
    assert f"segment: {lost.sum()} voxels of the prediction are no number and are background" in told
    if not options.get("dilate") and scenario != "sdt":  # which is grown by a voxel unless told otherwise
        assert not labels_of(tmp_path / "o1")[lost].any()


def test_no_point_lies_where_a_prediction_is_no_number(tmp_path):
    rng = np.random.default_rng(6)
    maps = rng.random((1, 16, 20, 24)).astype(np.float32)
    maps[0, 5:8, 6:9, 10:14] = np.nan
    maps[0, 0, 0, 0] = np.inf
    clean = np.where(np.isfinite(maps), maps, np.float32(0))
    decoding = PointDecoding(source="peaks", threshold=0.5, distance=2)
    found = []
    for name, data in (("bad", maps), ("clean", clean)):
        path = save_prediction(tmp_path / f"{name}.zarr", data)
        for block in ((16, 20, 24), (7, 9, 11)):
            out = str(tmp_path / f"{name}{block[0]}")
            task = Detect(prediction=path, out=out, scenario="gauss", decoding=decoding, block=block)
            result = task.blockwise(HERE)
            found.append(result["digest"])
            assert result["nonfinite"] == (3 * 3 * 4 + 1 if name == "bad" else 0)
    assert len(set(found)) == 1


def test_a_prediction_without_any_number_is_refused(tmp_path):
    path = save_prediction(tmp_path / "p.zarr", np.full((3, 16, 16, 32), np.nan, np.float32))
    with pytest.raises(InputError, match="no finite voxel"):
        segment(path, str(tmp_path / "o"), head="three_label", launcher=HERE)
    assert not (tmp_path / "o").exists()


def fingerprints(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_inputs_are_read_from_stores_that_can_only_be_read(tmp_path, untrained):
    raw = save_raw(tmp_path / "in" / "raw.zarr", random_raw((28, 32, 32), seed=8))
    before = fingerprints(tmp_path / "in")
    folders = [tmp_path / "in", *(p for p in (tmp_path / "in").rglob("*"))]
    for path in folders:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        result = run(raw, str(tmp_path / "o"), str(untrained), launcher=HERE, **SETTLED)
        if not os.access(tmp_path / "in", os.W_OK):  # root may write everywhere
            with pytest.raises((InputError, OSError)):
                open_volume(raw).write((0, 0, 0), np.zeros((28, 32, 32), np.float32))
    finally:
        for path in folders:
            path.chmod(0o755)
    assert result.nuclei > 0
    assert fingerprints(tmp_path / "in") == before


def test_a_run_from_a_url_is_the_run_from_the_folder(tmp_path, untrained):
    raw = save_raw(tmp_path / "raw.zarr", random_raw((28, 32, 32), seed=8))
    kept = {**SETTLED, "keep": ("predictions",)}
    local = run(raw, str(tmp_path / "local"), str(untrained), launcher=HERE, **kept)
    with serving(tmp_path) as url:
        remote = run(f"{url}/raw.zarr", str(tmp_path / "o"), str(untrained), launcher=HERE, **SETTLED)
        again = run(f"{url}/raw.zarr/", str(tmp_path / "o"), str(untrained), launcher=HERE, **SETTLED)
        prediction = f"{url}/local/prediction"
        only = segment(prediction, str(tmp_path / "s"), launcher=HERE, **SETTLED)
    assert remote.digest == again.digest == local.digest == only.digest
    assert again.skipped == again.blocks
    tables = [read_table(tmp_path / out / "tables" / "nuclei.csv") for out in ("local", "o")]
    assert all(np.array_equal(tables[0][name], tables[1][name]) for name in tables[0])


def test_a_lost_chunk_is_not_taken_for_zeros(tmp_path, untrained):
    """Zeros of a three-label prediction would be foreground, without an error."""
    raw = save_raw(tmp_path / "raw.zarr", random_raw((28, 32, 32), seed=8))
    out = tmp_path / "o"
    Predict(volume=raw, out=str(out), model=str(untrained), block=(16, 16, 16)).blockwise(HERE)
    shard = out / "prediction" / "0" / "c" / "0" / "1" / "0" / "1"
    data = shard.read_bytes()
    shard.unlink()
    with pytest.raises(
        BlocksFailed, match=r"\[16:28, 0:16, 16:32\]: expected the voxels.*1/0/1 is gone.*verify"
    ):
        Segment(out=str(out), block=(28, 32, 32)).blockwise(HERE)
    shard.write_bytes(data)
    assert segment(str(out / "prediction"), str(out), launcher=HERE, overwrite=True, **SETTLED).nuclei > 0
    labels = next(
        p for p in (out / "labels" / "nuclei" / "0").rglob("*") if p.is_file() and p.name != "zarr.json"
    )
    labels.unlink()
    with pytest.raises(BlocksFailed, match=r"expected the voxels that were written there.*verify"):
        Measure(volume=raw, out=str(out)).blockwise(HERE)


def test_a_lost_chunk_of_another_out_is_not_taken_for_zeros(tmp_path, untrained):
    raw = save_raw(tmp_path / "raw.zarr", random_raw((28, 32, 32), seed=8))
    out = tmp_path / "o"
    assert run(raw, str(out), str(untrained), launcher=HERE, keep=("predictions",), **SETTLED).nuclei > 0
    check_labels(out)
    shard = out / "prediction" / "0" / "c" / "0" / "1" / "0" / "1"
    kept = shard.read_bytes()
    shard.unlink()
    points = {"source": "votes", "threshold": 1.0, "block": (16, 16, 16)}
    for step, given in ((segment, SETTLED), (detect, points)):
        with pytest.raises(BlocksFailed, match=r"1/0/1 is gone.*verify OUT --repair"):
            step(str(out / "prediction"), str(tmp_path / step.__name__), launcher=HERE, **given)
    shard.write_bytes(kept)
    labels = next(p for p in (out / "labels/nuclei/0/c").rglob("*") if p.is_file())
    labels.unlink()
    with pytest.raises(BlocksFailed, match="expected the voxels that were written there"):
        Compact(labels=str(out / "labels" / "nuclei"), out=str(tmp_path / "c")).blockwise(HERE)
    with pytest.raises(BlocksFailed, match="expected the voxels that were written there"):
        Measure(volume=raw, labels=str(out / "labels" / "nuclei"), out=str(tmp_path / "m")).blockwise(HERE)
    for path in (out, out / "labels" / "nuclei"):
        result = CliRunner().invoke(cli, ["evaluate", str(path), str(out)])
        assert result.exit_code == 1
        assert "expected the voxels that were written there" in result.stderr


def test_scores_of_half_a_run_are_refused(tmp_path):
    prediction = save_prediction(tmp_path / "p.zarr", balls((16, 16, 64), [(8, 8, 8), (8, 8, 40)], 4))
    out = tmp_path / "o"
    Segment(prediction=prediction, out=str(out), scenario="three_label", block=(16, 16, 16)).blockwise(HERE)
    assert CliRunner().invoke(cli, ["evaluate", str(out), str(out)]).exit_code == 0
    lines = next((out / ".nucseg" / "segment").glob("blocks-*.jsonl"))
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))
    for command in (["evaluate", str(out), str(out)], ["report", str(out), "--truth", str(out)]):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 1
        assert "a segmentation with blocks missing" in result.stderr


def test_whole_numbers_beyond_float64_are_refused(tmp_path, untrained):
    data = (random_raw(SHAPE, seed=2) * 100).astype(np.uint64) + np.uint64(2**62)
    np.save(tmp_path / "raw.npy", data)
    for intensity in (None, (0.0, 2.0**50)):
        task = Predict(
            volume=str(tmp_path / "raw.npy"),
            out=str(tmp_path / "o"),
            model=str(untrained),
            intensity=intensity,
        )
        with pytest.raises((InputError, BlocksFailed), match=r"up to 2\^53"):
            task.blockwise(HERE)


def test_zeros_that_were_never_stored_are_not_lost(tmp_path):
    prediction = balls((16, 16, 64), [(8, 8, 8)], 4)
    path = save_prediction(tmp_path / "p.zarr", prediction)
    task = Segment(prediction=path, out=str(tmp_path / "o"), scenario="three_label", block=(16, 16, 16))
    assert task.blockwise(HERE)["nuclei"] == 1
    assert sum(p.is_file() for p in (tmp_path / "o" / "labels" / "nuclei" / "0" / "c").rglob("*")) == 1
    raw = save_raw(tmp_path / "raw.zarr", random_raw((16, 16, 64), seed=1))
    assert Measure(volume=raw, out=str(tmp_path / "o")).blockwise(HERE)["nuclei"] == 1
