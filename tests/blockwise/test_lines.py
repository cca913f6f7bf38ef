"""Records that stay on disk read like a dictionary of all of them; instances over several blocks are counted once."""

import json
import tracemalloc

import numpy as np
import pytest
from scipy.ndimage import label

from nucseg.blockwise.across_blocks import contained, count_instances, too_small
from nucseg.blockwise.grid import Grid
from nucseg.blockwise.lines import InOrder, Lines, Places, read_lines
from nucseg.blockwise.records import DROPPED, Records, Writer
from nucseg.errors import NucsegError


def records_of(folder, grid: Grid, files: int = 3) -> tuple[Records, dict]:
    """Lines of random blocks in several files, some twice, some failed; and what a dictionary would hold."""
    rng = np.random.default_rng(1)
    records = Records(folder, "doubled")
    records.begin({"fields": {}, "inputs": {}}, grid)
    key, wanted = records.head()["hash"], {}
    writers = [Writer(records, key, f"run{i}") for i in range(files)]
    names = sorted(range(files), key=lambda i: writers[i]._file.name)
    for i in names:  # in the order in which files are read
        for block in grid:
            if rng.uniform() < 0.6:
                value = rng.integers(0, 2**62, int(rng.integers(0, 30))).tolist()
                writers[i].append(block.index, "done", value=value)
                wanted[block.index] = value
            elif rng.uniform() < 0.2:
                writers[i].append(block.index, "failed", error=f"{block.index} in {i}")
        writers[i]._file.write('{"block": [0, 0, 0], "status": "do')  # torn
        writers[i].close()
    return records, wanted


def test_lines_are_those_of_a_dictionary(tmp_path):
    grid = Grid((30, 40, 50), (9, 7, 11))
    records, wanted = records_of(tmp_path, grid)
    done, failed = records.read("run1")
    assert dict(done.items()).keys() == wanted.keys() == set(done)
    assert list(done) == sorted(wanted), "in the grid's order"
    assert {index: line["value"] for index, line in done.items()} == wanted
    assert len(done) == len(wanted) < len(grid)
    missing = next(block.index for block in grid if block.index not in wanted)
    assert missing not in done
    assert "x" not in {index: 0 for index in done}
    with pytest.raises(KeyError):
        done[missing]
    assert {tuple(line["block"]) for line in done.by_file()} == wanted.keys()
    assert set(failed) == set(failed) - wanted.keys()
    assert all(error.endswith("in 1") for error in failed.values())
    mask = np.zeros(grid.shape, np.uint8)
    done.mark(mask)
    assert {tuple(index) for index in np.argwhere(mask).tolist()} == wanted.keys()


def test_lines_of_one_status(tmp_path):
    records = Records(tmp_path, "doubled")
    records.begin({"fields": {}, "inputs": {}}, Grid((4, 4, 4), (2, 2, 2)))
    writer = Writer(records, records.head()["hash"], "r")
    writer.append((0, 0, 1), "done", note='"status": "dropped"')
    writer.append((0, 1, 0), DROPPED)
    other = Writer(records, "another", "r")
    other.append((1, 1, 1), DROPPED)
    writer.close(), other.close()
    assert [line["block"] for line in records.lines(DROPPED)] == [[0, 1, 0]]
    assert sorted(line["block"] for line in records.lines()) == [[0, 0, 1], [0, 1, 0]]


def test_all_blocks_in_order(tmp_path):
    grid = Grid((6, 5, 7), (2, 2, 3))
    lines = {block.index: {"n": i} for i, block in enumerate(grid)}
    ordered = InOrder(lines, grid)
    everything = list(range(len(grid)))
    assert [line["n"] for line in ordered] == everything
    assert [line["n"] for line in ordered] == everything, "as often as is wanted"
    assert [ordered[i]["n"] for i in everything] == everything
    assert ordered[-1]["n"] == len(grid) - 1
    assert [line["n"] for line in ordered[2:9:3]] == [2, 5, 8]
    with pytest.raises(IndexError):
        ordered[len(grid)]


def test_what_is_held_of_a_block_does_not_grow_with_its_line(tmp_path):
    file = tmp_path / "blocks-a.jsonl"
    with file.open("w") as stream:
        for i in range(2000):
            stream.write(json.dumps({"block": [i, 0, 0], "ids": list(range(300))}) + "\n")
    tracemalloc.start()
    places = Places()
    for place, line in read_lines(file):
        places.add(tuple(line["block"]), 0, place)
    lines = Lines([file], places)
    del places, line
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(lines) == 2000
    assert lines[1999, 0, 0]["ids"][-1] == 299
    assert held < 200 * 2000, "its values alone would be 300 x 8 bytes"


def test_files_that_change_meanwhile_are_noticed(tmp_path):
    file = tmp_path / "blocks-a.jsonl"
    file.write_text('{"block": [0, 0, 0]}\n{"block": [0, 0, 1]}\n')
    places = Places()
    for place, line in read_lines(file):
        places.add(tuple(line["block"]), 0, place)
    lines = Lines([file], places)
    file.write_text('{"block": [0, 0, 0], "more": 1}\n{"block": [0, 0, 1]}\n')
    with pytest.raises(NucsegError, match="changed while it was read"):
        lines[0, 0, 1]


def lines_of(labels: np.ndarray, grid: Grid) -> list[dict]:
    lines = []
    for block in grid:
        part = labels[tuple(slice(b, e) for b, e in zip(block.begin, block.end, strict=True))]
        ids, sizes = np.unique(part[part > 0], return_counts=True)
        lines.append({"block": list(block.index), "ids": ids.tolist(), "sizes": sizes.tolist()})
    return lines


@pytest.mark.parametrize("block", [(4, 5, 6), (1, 40, 3), (17, 23, 29), (17, 3, 29)])
@pytest.mark.parametrize("home", [True, False])
def test_instances_over_blocks_are_counted_and_measured_once(block, home):
    """Ids are the first voxel of an instance, or, as grouping by vectors may have it, a voxel anywhere."""
    rng = np.random.default_rng(3)
    shape = (17, 23, 29)
    found, number = label(rng.uniform(size=shape) < 0.31)
    flat = found.reshape(-1)
    ids = np.zeros(number + 1, np.int64)
    if home:
        ids[1:] = [np.flatnonzero(flat == i)[0] + 1 for i in range(1, number + 1)]
    else:
        ids[1:] = rng.choice(flat.size, number, replace=False) + 1
    labels, grid = ids[found], Grid(shape, block)
    lines = lines_of(labels, grid)
    assert count_instances(lines, grid) == number > 100
    every, sizes = np.unique(labels[labels > 0], return_counts=True)
    for size in (1, 2, 5, 40, 10**6):
        small = too_small(lines, size)
        assert small.dtype == np.uint64
        assert small.tolist() == every[sizes < size].tolist()


def test_contained_is_isin():
    rng = np.random.default_rng(2)
    every = np.unique(rng.integers(0, 200, 60).astype(np.uint64))
    ids = rng.integers(0, 220, 90).astype(np.uint64)
    assert np.array_equal(contained(ids, every), np.isin(ids, every))
    assert not contained(ids, every[:0]).any()
    assert contained(ids[:0], every).shape == (0,)
