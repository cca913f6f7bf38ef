"""Compact labels are those that numpy.unique numbers, whatever the blocks; tables follow."""

import json
from pathlib import Path

import numpy as np
import pytest
from blockwise_cases import labels_of, random_prediction, random_raw, save_prediction, save_raw
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nucseg.blockwise import id_files
from nucseg.blockwise.collect_ids import original_ids
from nucseg.blockwise.compact import Compact, new_ids, renumber
from nucseg.blockwise.detect_instances import DetectInstances
from nucseg.blockwise.id_files import merge_ids, write_ids
from nucseg.blockwise.launch import Local
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.records import Records
from nucseg.blockwise.steps import segment
from nucseg.blockwise.verify import verify
from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.instances.digest import block_digest, combine
from nucseg.points import read_table
from nucseg.volume import create_labels, open_labels, open_volume

HERE = Local(workers=0)
SHAPE = (18, 20, 30)


def numbered(labels: np.ndarray, min_size: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What numpy makes of labels: numbers from 1, background 0; and the ids that they were."""
    ids, sizes = np.unique(labels, return_counts=True)
    small = ids[(sizes < min_size) & (ids > 0)]
    labels = np.where(np.isin(labels, small), 0, labels)
    with_background = np.concatenate([np.zeros(1, labels.dtype), labels.ravel()])
    ids, inverse = np.unique(with_background, return_inverse=True)
    return inverse[1:].reshape(labels.shape), ids[1:]


def random_labels(shape: tuple[int, int, int], dtype: str, seed: int) -> np.ndarray:
    """Boxes of any ids, many of which reach over several blocks."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype)
    largest = np.iinfo(dtype).max
    for _ in range(40):
        begin = [rng.integers(0, n) for n in shape]
        size = rng.integers(1, 9, 3)
        place = tuple(slice(b, b + s) for b, s in zip(begin, size, strict=True))
        labels[place] = rng.integers(1, largest, endpoint=True, dtype=dtype)
    labels[-1, -1, -1] = largest
    return labels


def save_labels(path: Path, labels: np.ndarray, shard: tuple[int, int, int]) -> str:
    volume = create_labels(
        path, shape=labels.shape, dtype=labels.dtype, scale_um=(0.2, 0.1, 0.1), shards=shard, chunks=shard
    )
    for begin, shape in volume.blocks():
        volume.write(begin, labels[tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))])
    return str(path)


@settings(max_examples=100, deadline=None)
@example([dict.fromkeys((2, 5, 6, 7, 10), 1)], 0, (1, 2))  # a range within a range whose end it shares
@given(
    st.lists(
        st.dictionaries(st.integers(1, 2**64 - 1) | st.integers(1, 40), st.integers(1, 9), max_size=30),
        max_size=6,
    ),
    st.integers(0, 12),
    st.sampled_from([(1, 2), (3, 2), (5, 4), (2**22, 2**12)]),
)
def test_merged_ids_are_each_once_and_ascend(tmp_path_factory, blocks, min_size, limits):
    folder = tmp_path_factory.mktemp("ids")
    sizes: dict[int, int] = {}
    for number, block in enumerate(blocks):
        for label, size in block.items():
            sizes[label] = sizes.get(label, 0) + size
        ids = np.array(sorted(block), np.uint64)
        write_ids(folder / f"{number}.npy", ids, np.array([block[int(i)] for i in ids], np.int64))
    before = id_files.BUCKET, id_files.BINS
    try:
        id_files.BUCKET, id_files.BINS = limits
        count = merge_ids(sorted(folder.glob("*.npy")), folder / "out" / "all.npy", min_size)
    finally:
        id_files.BUCKET, id_files.BINS = before
    expected = sorted(label for label, size in sizes.items() if size >= min_size)
    merged = np.load(folder / "out" / "all.npy")
    assert merged.dtype == np.uint64
    assert merged.tolist() == expected
    assert count == len(expected)
    assert [path.name for path in (folder / "out").iterdir()] == ["all.npy"]


def test_no_more_ids_are_merged_at_a_time_than_the_bucket_holds(tmp_path, monkeypatch):
    """Ids that lie close together in a few places, as those of a slab do."""
    rng = np.random.default_rng(1)
    files = []
    for number, start in enumerate((1, 10**6, 10**12, 2**63)):
        ids = np.unique(np.uint64(start) + rng.integers(0, 3000, 500).astype(np.uint64))
        files.append(tmp_path / f"{number}.npy")
        write_ids(files[-1], ids, np.ones(len(ids)))
    monkeypatch.setattr(id_files, "BUCKET", 100)
    monkeypatch.setattr(id_files, "BINS", 16)
    counted = []
    merged = id_files._merged

    def counting(*args):
        kept = merged(*args)
        counted.append(len(kept))
        return kept

    monkeypatch.setattr(id_files, "_merged", counting)
    count = merge_ids(files, tmp_path / "all.npy")
    assert count == sum(counted) == sum(np.load(file).shape[1] for file in files)
    assert max(counted) <= 100
    assert len(counted) < 60, "ranges are as large as they may be"


def test_more_than_uint32_can_number_are_refused(tmp_path, monkeypatch):
    write_ids(tmp_path / "a.npy", np.arange(1, 8), np.ones(7))
    monkeypatch.setattr(id_files, "MOST", 7)
    assert merge_ids([tmp_path / "a.npy"], tmp_path / "all.npy") == 7
    monkeypatch.setattr(id_files, "MOST", 6)
    with pytest.raises(InputError, match=r"at most 6 instances.*leave out --compact"):
        merge_ids([tmp_path / "a.npy"], tmp_path / "more.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "all.npy"]
    assert id_files.MOST < 2**32


def test_ids_that_are_not_known_become_background():
    every = np.array([3, 7, 2**63], np.uint64)
    ids = np.array([2, 3, 8, 2**63, 2**64 - 1], np.uint64)
    assert new_ids(ids, every).tolist() == [0, 1, 0, 3, 0]
    assert new_ids(ids, every[:0]).tolist() == [0] * 5
    labels = np.array([[[0, 3, 3, 8, 2**63, 0, 3]]], np.uint64)
    assert renumber(labels, ids, new_ids(ids, every)).tolist() == [[[0, 1, 1, 0, 3, 0, 1]]]


@pytest.mark.parametrize("dtype", ["uint64", "int64", "uint32", "int16", "uint8"])
@pytest.mark.parametrize("min_size", [0, 40])
def test_labels_are_numbered_as_numpy_does(tmp_path, dtype, min_size):
    labels = random_labels(SHAPE, dtype, seed=3)
    expected, ids = numbered(labels, min_size)
    path = save_labels(tmp_path / "in.zarr", labels, (9, 10, 10))
    digests = set()
    for block in (None, (18, 20, 30), (5, 20, 7)):
        out = tmp_path / f"o{block}"
        result = Compact(labels=path, out=str(out), min_size=min_size, block=block).blockwise(HERE)
        found = open_labels(out)
        assert found.dtype == np.uint32
        assert found.scale_um == (0.2, 0.1, 0.1)
        assert np.array_equal(found.read(), expected)
        assert np.array_equal(np.load(original_ids(out)), ids)
        assert result["nuclei"] == len(ids) > 10
        digests.add(result["digest"])
    assert digests == {combine([block_digest(expected, (0, 0, 0), SHAPE)], SHAPE)}


def drop_records(out: Path, task: str, keep: int) -> None:
    """As if the run had been killed after some blocks."""
    for file in (out / ".nucseg" / task).glob("blocks-*.jsonl"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:keep]))


def test_both_passes_go_on_where_they_stopped(tmp_path):
    labels = random_labels(SHAPE, "uint64", seed=4)
    path, out = save_labels(tmp_path / "in.zarr", labels, (9, 10, 10)), tmp_path / "o"
    task = Compact(labels=path, out=str(out))
    first = task.blockwise(HERE)
    assert (first["blocks"], first["skipped"]) == (24, 0)
    drop_records(out, "compact", 5)
    assert task.blockwise(HERE)["skipped"] == 12 + 5
    drop_records(out, "collect_ids", 3)
    drop_records(out, "compact", 0)
    again = task.blockwise(HERE)
    assert again["skipped"] == 3
    assert again["digest"] == first["digest"]
    assert task.blockwise(HERE)["skipped"] == 24
    with pytest.raises(InputError, match=r"min_size.*overwrite"):
        task.model_copy(update={"min_size": 9}).blockwise(HERE)
    next((out / ".nucseg" / "ids").glob("*.npy")).unlink()
    with pytest.raises(InputError, match="the ids of a block"):
        task.blockwise(HERE)
    assert task.blockwise(HERE, overwrite=True)["digest"] == first["digest"]


@pytest.mark.parametrize("min_size", [0, 30])
def test_a_segmentation_is_renumbered_in_one_go_and_tables_follow(tmp_path, min_size):
    maps = random_prediction(SHAPE, 5, density=-1.0)
    path = save_prediction(tmp_path / "p.zarr", maps)
    settled = {
        "head": "three_label",
        "launcher": HERE,
        "max_halo": 64,
        "seed_threshold": 0.4,
        "foreground_threshold": 0.5,
    }
    plain = segment(path, str(tmp_path / "plain"), block=(9, 10, 11), min_size=min_size, **settled)
    expected, ids = numbered(labels_of(tmp_path / "plain"))
    digests = set()
    for block in ((9, 10, 11), (18, 20, 30)):
        out = tmp_path / f"o{block[0]}"
        result = segment(path, str(out), block=block, min_size=min_size, compact=True, **settled)
        assert np.array_equal(labels_of(out), expected)
        assert open_labels(out).dtype == np.uint32
        assert np.array_equal(np.load(original_ids(out)), ids)
        assert result.nuclei == plain.nuclei == len(ids) > 3
        assert result.steps["segment"]["dropped"] == plain.steps["segment"].get("dropped", 0)
        digests.add(result.digest)
    assert len(digests) == 1
    assert plain.digest not in digests, "the digest is that of the values, and these are others"
    again = segment(path, str(out), block=block, min_size=min_size, compact=True, **settled)
    assert (again.skipped, again.blocks, again.digest) == (1, 1, result.digest)

    raw = save_raw(tmp_path / "raw.zarr", random_raw(SHAPE, seed=3))
    tables = []
    for where in (tmp_path / "plain", out):
        Measure(volume=raw, out=str(where)).blockwise(HERE)
        DetectInstances(out=str(where)).blockwise(HERE)
        tables.append([read_table(where / "tables" / f"{name}.csv") for name in ("nuclei", "points")])
    for before, after in zip(*tables, strict=True):
        assert after["id"].tolist() == list(range(1, len(ids) + 1))
        assert np.array_equal(ids[np.array(after["id"]) - 1], before["id"])
        for name in ("z", "y", "x"):
            assert np.array_equal(after[name], before[name])
    checked = verify(out)
    assert checked.damaged == []
    assert checked.tasks["compact"]["checked"] == 1
    with pytest.raises(InputError, match=r"compact True; received compact False"):
        segment(path, str(out), block=block, min_size=min_size, **settled)


def test_damaged_compact_labels_are_found_and_made_again(tmp_path):
    path = save_prediction(tmp_path / "p.zarr", random_prediction(SHAPE, 5, density=-1.0))
    out = tmp_path / "o"
    segment(path, str(out), head="three_label", block=(18, 20, 10), max_halo=64, compact=True, launcher=HERE)
    before = labels_of(out)
    shard = out / "labels" / "nuclei" / "0" / "c" / "0" / "0" / "1"
    shard.unlink()
    original_ids(out).write_bytes(b"")
    found = verify(out)
    assert sorted((damage.task, damage.block) for damage in found.damaged) == [
        ("collect_ids", None),
        ("compact", (0, 0, 1)),
    ]
    mended = verify(out, repair=True, launcher=HERE)
    assert (mended.repaired, mended.remaining) == (2, [])
    assert np.array_equal(labels_of(out), before)


def test_labels_of_another_out_and_no_others(tmp_path):
    maps = save_prediction(tmp_path / "p.zarr", random_prediction(SHAPE, 5))
    segment(maps, str(tmp_path / "s"), head="three_label", block=(18, 20, 15), max_halo=64, launcher=HERE)
    before = labels_of(tmp_path / "s")
    for own in (tmp_path / "s", tmp_path / "s" / "labels" / "nuclei"):
        with pytest.raises(InputError, match=r"another OUT.*--compact"):
            Compact(labels=str(own), out=str(tmp_path / "s")).blockwise(HERE, overwrite=True)
    assert np.array_equal(labels_of(tmp_path / "s"), before)
    assert Compact(labels=str(tmp_path / "s"), out=str(tmp_path / "o")).blockwise(HERE)["nuclei"] > 0
    drop_records(tmp_path / "s", "segment", 1)
    assert not Records(tmp_path / "s", "segment").complete()
    with pytest.raises(InputError, match="complete labels"):
        Compact(labels=str(tmp_path / "s"), out=str(tmp_path / "o2")).blockwise(HERE)


def test_from_the_command_line(tmp_path):
    labels = random_labels(SHAPE, "uint64", seed=6)
    expected, _ = numbered(labels, 20)
    path = save_labels(tmp_path / "in.zarr", labels, (18, 20, 30))
    command = ["compact", path, str(tmp_path / "o"), "--min-size", "20", "--launcher", "local:0", "--json"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["nuclei"] == expected.max()
    assert np.array_equal(open_volume(tmp_path / "o" / "labels" / "nuclei").read(), expected)
    maps = save_prediction(tmp_path / "p.zarr", random_prediction(SHAPE, 5))
    command = [
        "segment",
        maps,
        str(tmp_path / "s"),
        "--head",
        "three_label",
        "--compact",
        "--launcher",
        "local:0",
    ]
    result = CliRunner().invoke(cli, [*command, "--json"])
    assert result.exit_code == 0, result.output
    assert labels_of(tmp_path / "s").max() == json.loads(result.stdout)["nuclei"]
