"""Median intensities are those of numpy and scipy on the whole volume, however nuclei lie over blocks."""

import json
from pathlib import Path

import numpy as np
import pytest
from blockwise_cases import Doubled, random_prediction, random_raw, save_prediction, save_raw
from scipy import ndimage

from nucseg.blockwise import measure, medians
from nucseg.blockwise.launch import Local
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.medians import Medians, group_of, pieces_file
from nucseg.blockwise.records import Records
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.status import run_status
from nucseg.blockwise.task import BlockRefused
from nucseg.blockwise.verify import verify
from nucseg.errors import BlocksFailed, InputError, NucsegError
from nucseg.heads.scenario import Decoding
from nucseg.points import read_table
from nucseg.volume import create_labels, open_labels, open_volume

HERE = Local(workers=0)
SHAPE = (13, 14, 17)


@pytest.fixture(autouse=True)
def small_groups():
    """Several blocks in the second pass, too, of the small volumes here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(medians, "GROUP", 1)
        yield


def scattered(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Boxes of a few ids, uint64, some over many blocks, some in several parts, some of one voxel, one of 392."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint64)
    ids = rng.integers(1, 2**40, 20, dtype=np.uint64)
    for _ in range(45):
        begin, size = [rng.integers(0, n) for n in shape], rng.integers(1, 7, 3)
        labels[tuple(slice(b, b + s) for b, s in zip(begin, size, strict=True))] = rng.choice(ids)
    labels[2:9, 3:10, 4:12] = 2**41 + 2
    labels[-1, -1, -1], labels[0, 0, 0] = 2**41, 2**41 + 1
    return labels


def saved(path: Path, labels: np.ndarray) -> str:
    volume = create_labels(path, shape=labels.shape, dtype=labels.dtype, scale_um=None, shards=labels.shape)
    volume.write((0, 0, 0), labels)
    return str(path)


def whole(labels: np.ndarray, raw: np.ndarray) -> list[float]:
    """Median of the finite values of each label, ids ascending."""
    found = []
    for label in np.unique(labels[labels > 0]):
        values = raw[labels == label]
        values = values[np.isfinite(values)]
        found.append(np.median(values.astype(np.float64)) if len(values) else np.nan)
    return found


def table_of(out: Path, suffix: str = "parquet") -> dict[str, np.ndarray]:
    return read_table(out / "tables" / f"nuclei.{suffix}")


@pytest.mark.parametrize("block", [None, (5, 6, 7), (1, 14, 17), (13, 1, 17), (13, 14, 1), (4, 3, 2)])
def test_every_block_shape_has_the_medians_of_the_whole(tmp_path, block):
    labels, raw = scattered(1), random_raw(SHAPE, seed=3)
    np.save(tmp_path / "raw.npy", raw)
    out = tmp_path / "o"
    task = Measure(
        volume=str(tmp_path / "raw.npy"), labels=saved(tmp_path / "l.zarr", labels), out=str(out), block=block
    )
    result = task.blockwise(HERE)
    ids = np.unique(labels[labels > 0])
    expected = ndimage.median(raw.astype(np.float64), labels, ids)
    sizes = np.array([np.count_nonzero(labels == label) for label in ids])
    assert {0, 1} == set(sizes % 2)
    assert (sizes == 1).any()
    for suffix in ("parquet", "csv"):
        table = table_of(out, suffix)
        np.testing.assert_array_equal(table["id"], ids)
        np.testing.assert_array_equal(table["median_intensity"], expected)
    second = Records(out, "medians").head()
    assert (second is None) == (block is None), "no second pass where no nucleus lies in several blocks"
    assert result["table"] == str(out / "tables" / "nuclei.parquet")


def raw_of(dtype: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.random(SHAPE) < 0.5
    if kind == "f":
        raw = (rng.standard_normal(SHAPE) * 1000).astype(dtype)
        raw[rng.random(SHAPE) < 0.2] = np.nan
        raw[rng.random(SHAPE) < 0.1] = -np.inf
        return raw
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, SHAPE, dtype=dtype, endpoint=True)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "uint16", "int32", "uint64", "int64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("counted", [False, True])
def test_every_dtype_is_exact(tmp_path, monkeypatch, dtype, counted):
    if counted:  # as if a block had room for 4 values only
        monkeypatch.setattr(medians, "LEAST", 4)
        monkeypatch.setattr(medians, "prod", lambda block: 4)
        monkeypatch.setattr(medians, "PART", 3)
    labels, raw = scattered(2), raw_of(dtype, seed=5)
    raw[labels == labels[0, 0, 0]] = np.nan if raw.dtype.kind == "f" else 1
    np.save(tmp_path / "raw.npy", raw)
    task = Measure(
        volume=str(tmp_path / "raw.npy"),
        labels=saved(tmp_path / "l.zarr", labels),
        out=str(tmp_path / "o"),
        block=(5, 6, 7),
    )
    task.blockwise(HERE)
    expected = whole(labels, raw)
    assert np.isnan(expected).any() == (raw.dtype.kind == "f")
    np.testing.assert_array_equal(table_of(tmp_path / "o")["median_intensity"], expected)


@pytest.mark.parametrize("counted", [False, True])
def test_a_nucleus_without_a_number_and_several_channels(tmp_path, monkeypatch, counted):
    if counted:
        monkeypatch.setattr(medians, "LEAST", 4)
        monkeypatch.setattr(medians, "prod", lambda block: 4)
        monkeypatch.setattr(medians, "PART", 3)
    labels = scattered(3)
    labels[2:9, 3:9, 4:12] = 3
    raw = np.stack([random_raw(SHAPE, seed=s) for s in (1, 2, 3)])
    raw[1][labels == 3] = np.nan
    raw[2, 4, :, 6] = np.inf
    out = tmp_path / "o"
    fields = {"volume": save_raw(tmp_path / "raw.zarr", raw), "labels": saved(tmp_path / "l.zarr", labels)}
    Measure(**fields, out=str(out), block=(5, 6, 7)).blockwise(HERE)
    table = table_of(out)
    assert [name for name in table if "intensity" in name] == [
        *(f"mean_intensity_{c}" for c in range(3)), *(f"median_intensity_{c}" for c in range(3))
    ]  # fmt: skip
    for channel in range(3):
        np.testing.assert_array_equal(table[f"median_intensity_{channel}"], whole(labels, raw[channel]))
    assert np.isnan(table["median_intensity_1"][table["id"] == 3]).all()
    Measure(**fields, out=str(tmp_path / "one"), channel=1, block=(5, 6, 7)).blockwise(HERE)
    np.testing.assert_array_equal(table_of(tmp_path / "one")["median_intensity"], table["median_intensity_1"])


@pytest.fixture
def task(tmp_path):
    labels, raw = scattered(4), raw_of("uint16", seed=6)
    np.save(tmp_path / "raw.npy", raw)
    return Measure(
        volume=str(tmp_path / "raw.npy"),
        labels=saved(tmp_path / "l.zarr", labels),
        out=str(tmp_path / "o"),
        block=(5, 6, 7),
    )


def bytes_of(out: Path) -> list[bytes]:
    return [(out / "tables" / f"nuclei.{suffix}").read_bytes() for suffix in ("csv", "parquet")]


def test_tables_do_not_depend_on_workers_or_blocks(tmp_path, task, monkeypatch):
    task.blockwise(HERE)
    other = task.model_copy(update={"out": str(tmp_path / "workers")})
    result = other.blockwise(Local(workers=2))
    assert bytes_of(tmp_path / "workers") == bytes_of(tmp_path / "o")
    assert result["seconds"] > 0 < result["mvox_per_s"]
    other = task.model_copy(update={"out": str(tmp_path / "blocks"), "block": (4, 9, 3)})
    other.blockwise(HERE)
    assert bytes_of(tmp_path / "blocks") == bytes_of(tmp_path / "o")
    monkeypatch.setattr(medians, "GROUP", 2**24)
    other = task.model_copy(update={"out": str(tmp_path / "group")})
    other.blockwise(HERE)
    assert bytes_of(tmp_path / "group") == bytes_of(tmp_path / "o")
    counts = [
        Records(tmp_path / out, "medians").head()["blocks"] for out in ("o", "workers", "blocks", "group")
    ]
    assert counts == [8, 8, 8, 1]


def test_blocks_of_the_second_pass_are_whole_blocks_of_the_first(monkeypatch):
    assert group_of((256, 256, 256), (1000, 1000, 1000)) == (512, 512, 512)
    monkeypatch.setattr(medians, "GROUP", 2**24)
    assert group_of((64, 64, 64), (1000, 1000, 1000)) == (256, 256, 256)
    assert group_of((128, 128, 128), (200, 1000, 1000)) == (200, 256, 256)
    assert group_of((1, 4096, 4096), (500, 4096, 9000)) == (8, 4096, 4096)
    assert group_of((5, 6, 7), (13, 14, 17)) == (13, 14, 17)


@pytest.mark.parametrize("room", [100, 10**6])
def test_what_is_held_is_bounded_by_a_block_of_the_first_pass(tmp_path, task, monkeypatch, room):
    monkeypatch.setattr(medians, "LEAST", room)
    read, gathered, counted = Medians._read, Medians._gathered, Medians._counted
    held, large = [], []

    def reading(self, box):
        first, last = (np.array(corner) // (5, 6, 7) for corner in (box.begin, np.array(box.end) - 1))
        assert (first == last).all(), "one block"
        return read(self, box)

    def gathering(self, ids, sizes, pieces):
        held.append(sizes.sum())
        return gathered(self, ids, sizes, pieces)

    def counting(self, ids, sizes, pieces):
        large.append(sizes.sum())
        return counted(self, ids, sizes, pieces)

    monkeypatch.setattr(Medians, "_read", reading)
    monkeypatch.setattr(Medians, "_gathered", gathering)
    monkeypatch.setattr(Medians, "_counted", counting)
    task.blockwise(HERE)
    most = max(room, 5 * 6 * 7)
    assert max(held) <= most
    assert bool(large) == (room == 100)
    assert min(large, default=most + 1) > most
    raw = open_volume(task.volume).read()
    np.testing.assert_array_equal(table_of(tmp_path / "o")["median_intensity"], whole(scattered(4), raw))


def test_it_goes_on_wherever_it_was_killed(tmp_path, task, monkeypatch):
    out, tried = tmp_path / "o", []
    whole_table = task.model_copy(update={"out": str(tmp_path / "whole")})
    whole_table.blockwise(HERE)
    process, write = Medians.process, measure.write_table

    def third_fails(self, block):
        tried.append(block.index)
        if len(tried) > 2:
            raise BlockRefused("no luck")
        return process(self, block)

    def nowhere(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Medians, "blockwise", nowhere)  # between both passes
    with pytest.raises(KeyboardInterrupt):
        task.blockwise(HERE)
    assert Records(out, "measure").complete()
    assert not (out / "tables").exists()
    monkeypatch.undo()
    monkeypatch.setattr(Medians, "process", third_fails)  # within the second
    with pytest.raises(BlocksFailed, match="medians"):
        task.blockwise(HERE)
    assert not (out / "tables").exists()
    assert {t.task: t.state for t in run_status(out).tasks} == {"measure": "done", "medians": "failed"}
    done = len(Records(out, "medians").read()[0])
    assert done == 2
    monkeypatch.undo()
    monkeypatch.setattr(measure, "write_table", nowhere)  # behind it
    with pytest.raises(KeyboardInterrupt):
        task.blockwise(HERE)
    assert not (out / "tables").exists()
    assert verify(out, launcher=HERE).damaged == []
    monkeypatch.setattr(measure, "write_table", write)
    assert task.blockwise(HERE)["skipped"] == 27
    assert bytes_of(out) == bytes_of(tmp_path / "whole")
    runs = {line["run"] for line in Records(out, "medians").read()[0].values()}
    assert len(runs) == 2, "what was done stays done"


def test_blocks_of_the_first_pass_that_were_lost_are_measured_again(tmp_path, task):
    task.blockwise(HERE)
    before = bytes_of(tmp_path / "o")
    for file in (tmp_path / "o" / ".nucseg" / "measure").glob("blocks-*.jsonl"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:5]))
    (tmp_path / "o" / "tables" / "nuclei.csv").unlink()
    assert task.blockwise(HERE)["skipped"] == 5
    assert bytes_of(tmp_path / "o") == before


def test_overwriting_with_another_channel_begins_both_passes_afresh(tmp_path, task):
    task.blockwise(HERE)
    raw = np.stack([raw_of("uint16", seed=s) for s in (8, 9)])
    np.save(tmp_path / "two.npy", raw)
    other = task.model_copy(
        update={"volume": save_raw(tmp_path / "two.zarr", raw), "channel": 1, "block": (4, 5, 6)}
    )
    with pytest.raises(InputError, match="overwrite"):
        other.blockwise(HERE)
    other.blockwise(HERE, overwrite=True)
    np.testing.assert_array_equal(table_of(tmp_path / "o")["median_intensity"], whole(scattered(4), raw[1]))
    assert Records(tmp_path / "o", "medians").head()["fields"]["channel"] == 1


def test_records_without_medians_are_completed(tmp_path, task):
    task.blockwise(HERE)
    out = tmp_path / "o"
    expected = bytes_of(out)
    Records(out, "medians").clear()
    pieces = len(np.load(pieces_file(out)))
    for file in (out / ".nucseg" / "measure").glob("blocks-*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            del line["median"]
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert task.blockwise(HERE)["skipped"] == 27
    assert len(np.load(pieces_file(out))) > pieces
    assert bytes_of(out) == expected


def test_labels_that_change_between_the_passes_are_told(tmp_path, task, monkeypatch):
    blockwise = Medians.blockwise
    other = scattered(4)
    other[other > 0] = other.max()

    def changed(self, *args, **kwargs):
        path = Path(self.labels)
        create_labels(path, shape=SHAPE, dtype="uint64", scale_um=None, shards=SHAPE, overwrite=True).write(
            (0, 0, 0), other
        )
        return blockwise(self, *args, **kwargs)

    monkeypatch.setattr(Medians, "blockwise", changed)
    with pytest.raises(NucsegError, match="nuclei of other sizes"):
        task.blockwise(HERE)
    assert not (tmp_path / "o" / "tables").exists()


def test_a_damaged_table_is_found_and_written_again(tmp_path, task):
    task.blockwise(HERE)
    out = tmp_path / "o"
    before = bytes_of(out)
    found = verify(out, launcher=HERE)
    assert (found.checked, found.damaged, list(found.tasks)) == (2, [], ["measure", "medians"])
    table = out / "tables" / "nuclei.csv"
    table.write_bytes(before[0][:-5])
    (damage,) = verify(out, launcher=HERE).damaged
    assert (damage.task, damage.file) == ("measure", str(table))
    assert verify(out, repair=True, launcher=HERE).remaining == []
    assert bytes_of(out) == before
    table.write_bytes(before[0][:-5])
    with pytest.MonkeyPatch.context() as patch:

        def refuse(self, launcher=None, **kwargs):
            raise InputError("raw", expected="an image", received="none", remedy="bring it back")

        patch.setattr(Medians, "blockwise", refuse)
        assert len(verify(out, repair=True, launcher=HERE).remaining) == 1
    assert len(verify(out, launcher=HERE).damaged) == 1, "a repair that failed leaves it known as damaged"


def test_behind_a_segmentation_in_a_chain(tmp_path):
    prediction = save_prediction(tmp_path / "p.zarr", random_prediction((20, 24, 30), 5, density=-1.5))
    raw = random_raw((20, 24, 30), seed=3)
    path, out = save_raw(tmp_path / "raw.zarr", raw), tmp_path / "o"
    np.save(tmp_path / "small.npy", np.arange(64, dtype=np.int32).reshape(4, 4, 4))
    decoding = Decoding(seed_threshold=0.4, foreground_threshold=0.5, min_size=5)
    segment = Segment(
        out=str(out), prediction=prediction, scenario="three_label", decoding=decoding, block=(9, 10, 11)
    )
    chain = (
        segment
        + Measure(volume=path, out=str(out))
        + Doubled(volume=str(tmp_path / "small.npy"), out=str(out))
    )
    _, measured, doubled = chain.blockwise(HERE)
    assert (doubled["sum"], measured["nuclei"]) == (2016, len(table_of(out)["id"]))
    assert Records(out, "medians").complete()
    labels = open_labels(out).read()
    np.testing.assert_array_equal(table_of(out)["median_intensity"], whole(labels, raw))
    assert [r["skipped"] for r in chain.blockwise(HERE)][:2] == [27, 27]
