"""Levels of images and labels: blocks against the whole, metadata against independent readers, going on."""

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr

from nucseg.blockwise.downsample import Downsample
from nucseg.blockwise.grid import Grid
from nucseg.blockwise.launch import Local
from nucseg.blockwise.level import default_factor, layout_of
from nucseg.blockwise.records import Records, identity
from nucseg.errors import InputError
from nucseg.instances.downsample import cell_means, frequent_labels
from nucseg.volume import create_image, create_labels, open_labels, open_volume

HERE = Local(workers=0)
SHAPE = (13, 22, 35)
SCALE = (1.0, 0.25, 0.25)
BLOCK = (4, 4, 8)


def image_at(path, shape=SHAPE, dtype="uint16", scale_um=SCALE, shards=(8, 8, 16), chunks=(4, 4, 8)):
    data = np.random.default_rng(7).integers(0, 200, shape).astype(dtype)
    axes = ("c", "z", "y", "x")[-len(shape) :]
    image = create_image(
        path, shape=shape, dtype=dtype, scale_um=scale_um, axes=axes, shards=shards, chunks=chunks
    )
    for begin, size in image.blocks():
        box = tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))
        image.write(begin, data[(..., *box)])
    return str(path), data


def labels_at(path, shape=SHAPE):
    data = np.random.default_rng(8).choice([0, 0, 5, 2**40, 2**40 + 1], shape).astype(np.uint64)
    labels = create_labels(path, shape=shape, dtype="uint64", scale_um=SCALE, shards=shape, chunks=shape)
    labels.write((0, 0, 0), data)
    return data


def whole(data, factors, reduce):
    """All levels from arrays in memory."""
    levels = []
    for factor in factors:
        data = np.stack([reduce(c, factor) for c in data]) if data.ndim == 4 else reduce(data, factor)
        levels.append(data)
    return levels


# voxels of 1 x .25 x .25 um: z stays until y and x have caught up
FACTORS = [(1, 2, 2), (1, 2, 2), (2, 2, 2)]


@pytest.mark.parametrize("block", [None, (3, 5, 7), (13, 4, 32), (100, 100, 100)])
def test_blocks_equal_the_whole_for_every_block(tmp_path, block):
    path, data = image_at(tmp_path / "a.zarr")
    expected = whole(data, FACTORS, cell_means)
    result = Downsample(volume=path, levels=3, block=block).blockwise(HERE)
    assert [level["shape"] for level in result["levels"]] == [[13, 11, 18], [13, 6, 9], [7, 3, 5]]
    for number, (level, made) in enumerate(zip(expected, result["levels"], strict=True), start=1):
        volume = open_volume(path, level=number)
        np.testing.assert_array_equal(volume.read(), level)
        assert volume.dtype == data.dtype
        assert made["path"] == str(tmp_path / "a.zarr" / str(number))
    reference = Downsample(volume=image_at(tmp_path / "b.zarr")[0], levels=3).blockwise(HERE)
    assert reference["digest"] == result["digest"], "the digest does not depend on the blocks"
    assert (result["skipped"], result["failed"]) == (0, 0)
    grids = [Grid(level.shape, open_volume(path, level=n + 1).write_unit) for n, level in enumerate(expected)]
    assert result["blocks"] == sum(map(len, grids))


def test_levels_are_stored_as_the_finest_is(tmp_path):
    path, _ = image_at(tmp_path / "a.zarr")
    Downsample(volume=path, levels=3).blockwise(HERE)
    stored = [open_volume(path, level=level).array for level in range(4)]
    assert [(a.chunks, a.shards) for a in stored] == [
        ((4, 4, 8), (8, 8, 16)),
        ((4, 4, 8), (8, 8, 16)),
        ((4, 4, 8), (8, 8, 16)),
        ((4, 3, 5), (8, 3, 5)),
    ]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bool"])
def test_channels_and_other_dtypes(tmp_path, dtype):
    path, data = image_at(tmp_path / "a.zarr", shape=(2, *SHAPE), dtype=dtype)
    result = Downsample(volume=path, levels=2, factor=(2, 3, 1)).blockwise(HERE)
    for number, level in enumerate(whole(data, [(2, 3, 1)] * 2, cell_means), start=1):
        np.testing.assert_array_equal(open_volume(path, level=number).read(), level)
    assert result["levels"][0]["scale_um"] == [2.0, 0.75, 0.25]
    np.testing.assert_array_equal(
        open_volume(path, level=1, channel=1).read(), cell_means(data[1], (2, 3, 1))
    )


def test_nan_is_left_out_and_digests_are_those_of_what_is_stored(tmp_path):
    path, data = image_at(tmp_path / "a.zarr", dtype="float32")
    data[2:5, 3:9, 4:12] = np.nan
    volume = open_volume(path)
    for begin, size in volume.blocks():
        box = tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))
        volume.write(begin, data[box])
    task = Downsample(volume=path, levels=1)
    task.blockwise(HERE)
    level = open_volume(path, level=1).read()
    np.testing.assert_array_equal(level, cell_means(data, (1, 2, 2)))
    assert 0 < np.isnan(level).sum() < np.isnan(data).sum()
    one, done = task.prepared(), Records(path, "downsample-1").read()[0]
    for block in one.grid():
        assert one.stored_digest(block) == done[block.index]["digest"]


@pytest.mark.parametrize("by", ["name", "path"])
def test_labels_are_not_mixed_and_the_image_stays_as_it_is(tmp_path, by):
    path, _ = image_at(tmp_path / "a.zarr")
    data = labels_at(path)
    inner = f"{path}/labels/nuclei"
    task = Downsample(volume=path, labels="nuclei") if by == "name" else Downsample(volume=inner)
    result = task.model_copy(update={"levels": 2, "block": (5, 6, 7)}).blockwise(HERE)
    for number, level in enumerate(whole(data, FACTORS[:2], frequent_labels), start=1):
        np.testing.assert_array_equal(open_labels(path, level=number).read(), level)
        assert set(np.unique(level)) <= set(np.unique(data))
    assert len(result["levels"]) == 2
    assert open_labels(path, level=1).scale_um == (1.0, 0.5, 0.5)
    with pytest.raises(InputError, match="level"):
        open_volume(path, level=1)
    yaozarrs.validate_zarr_store(inner)
    from ome_zarr_models.v05 import ImageLabel

    ImageLabel.from_zarr(zarr.open_group(inner, mode="r"))


def test_workers_give_the_same_as_this_process(tmp_path):
    path, data = image_at(tmp_path / "a.zarr")
    result = Downsample(volume=path, levels=1).blockwise(Local(workers=2))
    np.testing.assert_array_equal(open_volume(path, level=1).read(), cell_means(data, (1, 2, 2)))
    here = Downsample(volume=image_at(tmp_path / "b.zarr")[0], levels=1).blockwise(HERE)
    assert (result["digest"], result["blocks"]) == (here["digest"], here["blocks"])


def test_metadata_puts_each_voxel_where_its_cell_is(tmp_path):
    path, _ = image_at(tmp_path / "a.zarr", shape=(2, 16, 24, 32))
    Downsample(volume=path, levels=3).blockwise(HERE)
    multiscale = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]
    assert [dataset["path"] for dataset in multiscale["datasets"]] == ["0", "1", "2", "3"]
    assert multiscale["type"] == "mean"
    per_voxel = np.ones(3, int)
    for dataset, factor in zip(multiscale["datasets"][1:], FACTORS, strict=True):
        per_voxel *= factor
        scale, shift = dataset["coordinateTransformations"]
        assert (scale["type"], shift["type"]) == ("scale", "translation")
        assert scale["scale"] == [1.0, *(per_voxel * SCALE)]
        # the centre of the first cell: the mean of the places of its voxels
        centre = [np.mean(np.arange(n)) * s for n, s in zip(per_voxel, SCALE, strict=True)]
        np.testing.assert_allclose(shift["translation"], [0.0, *centre])
        level = open_volume(path, level=int(dataset["path"]))
        assert level.scale_um == tuple(per_voxel * SCALE)
        assert level.shape == tuple(-(-n // f) for n, f in zip((16, 24, 32), per_voxel, strict=True))
    yaozarrs.validate_zarr_store(path)
    from ome_zarr_models.v05 import Image

    assert len(Image.from_zarr(zarr.open_group(path, mode="r")).attributes.ome.multiscales[0].datasets) == 4


def test_a_translation_of_the_image_is_kept(tmp_path):
    path, _ = image_at(tmp_path / "a.zarr")
    group = zarr.open_group(path, mode="r+")
    ome = group.attrs["ome"]
    ome["multiscales"][0]["datasets"][0]["coordinateTransformations"].append(
        {"type": "translation", "translation": [10.0, 20.0, 30.0]}
    )
    group.attrs["ome"] = ome
    Downsample(volume=path, levels=1, factor=(2, 1, 4)).blockwise(HERE)
    made = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]["datasets"][1]
    assert made["coordinateTransformations"][1]["translation"] == [10.5, 20.0, 30.375]


@pytest.mark.parametrize("order", ["tczyx", "xyz"])
def test_an_image_of_version_04(tmp_path, order):
    from ome_zarr_models.v04 import Image

    lengths = {"t": 1, "c": 2, "z": 9, "y": 20, "x": 31}
    path = str(tmp_path / "a.zarr")
    data = np.random.default_rng(5).integers(0, 99, [lengths[a] for a in order]).astype(">u2")
    group = zarr.open_group(path, mode="w", zarr_format=2)
    encoding = {"name": "v2", "separator": "/"}
    chunks = tuple(min(lengths[a], {"z": 3, "y": 8, "x": 8}.get(a, 1)) for a in order)
    group.create_array("s0", data=data, chunks=chunks, chunk_key_encoding=encoding)
    kinds = {"t": {"type": "time"}, "c": {"type": "channel"}}
    axes = [{"name": a, **kinds.get(a, {"type": "space", "unit": "nanometer"})} for a in order]
    scale = [{"t": 1.0, "c": 1.0, "z": 300.0, "y": 100.0, "x": 100.0}[a] for a in order]
    steps = [{"type": "scale", "scale": scale}]
    datasets = [{"path": "s0", "coordinateTransformations": steps}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)
    assert (Path(path) / ".zmetadata").exists()

    before = open_volume(path).read()
    Downsample(volume=path, levels=2, block=(2, 9, 9)).blockwise(HERE)
    for number, level in enumerate(whole(before, [(1, 2, 2), (2, 2, 2)], cell_means), start=1):
        made = open_volume(path, level=number)
        np.testing.assert_array_equal(made.read(), level)
        assert made.array.metadata.zarr_format == 2
        assert made.array.dtype == data.dtype
    assert open_volume(path, level=2).scale_um == pytest.approx((0.6, 0.4, 0.4))
    assert not (Path(path) / ".zmetadata").exists(), "a consolidated copy would be outdated"
    if order == "tczyx":  # the specification asks for this order
        yaozarrs.validate_zarr_store(path)
        assert len(Image.from_zarr(zarr.open_group(path, mode="r")).attributes.multiscales[0].datasets) == 3


def test_a_level_shows_when_it_is_complete_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    calm = Downsample(volume=image_at(tmp_path / "calm.zarr")[0], levels=2, block=BLOCK).blockwise(HERE)
    path, data = image_at(tmp_path / "a.zarr")
    process, seen = Downsample.process, []

    def killed(self, block):
        if self.level == 2 and len(seen) == 3:
            raise KeyboardInterrupt
        if self.level == 2:
            seen.append(block.index)
        return process(self, block)

    monkeypatch.setattr(Downsample, "process", killed)
    with pytest.raises(KeyboardInterrupt):
        Downsample(volume=path, levels=2, block=BLOCK).blockwise(HERE)
    monkeypatch.setattr(Downsample, "process", process)
    assert open_volume(path, level=1).shape == (13, 11, 18)
    assert (Path(path) / "2").exists()
    with pytest.raises(InputError, match="expected 0 to 1; received 2"):
        open_volume(path, level=2)
    (Path(path) / "2" / "c" / "0.1.partial").write_bytes(b"half")
    result = Downsample(volume=path, levels=2, block=BLOCK).blockwise(HERE)
    first = len(Records(path, "downsample-1").read()[0])
    assert result["skipped"] == first + 3 < result["blocks"]
    assert result["digest"] == calm["digest"]
    assert not list(Path(path).rglob("*.partial"))
    np.testing.assert_array_equal(open_volume(path, level=2).read(), whole(data, FACTORS[:2], cell_means)[1])


def test_a_run_killed_between_array_and_records_begins_afresh_and_more_levels_are_added(tmp_path):
    path, _ = image_at(tmp_path / "a.zarr")
    Downsample(volume=path, levels=1).blockwise(HERE)
    (Path(path) / ".nucseg" / "downsample-1.json").unlink()
    again = Downsample(volume=path, levels=1).blockwise(HERE)
    assert again["skipped"] == 0
    more = Downsample(volume=path, levels=3).blockwise(HERE)
    assert more["skipped"] == again["blocks"] < more["blocks"]
    fewer = Downsample(volume=path, levels=2).blockwise(HERE)
    assert fewer["skipped"] == fewer["blocks"]
    assert open_volume(path, level=3).shape == (7, 3, 5)


def test_other_settings_are_refused_unless_overwritten(tmp_path):
    path, data = image_at(tmp_path / "a.zarr")
    Downsample(volume=path, levels=3).blockwise(HERE)
    other = Downsample(volume=path, levels=1, factor=(2, 2, 2))
    with pytest.raises(InputError, match=r"factor.*overwrite"):
        other.blockwise(HERE)
    assert open_volume(path, level=3).shape == (7, 3, 5)
    other.blockwise(HERE, overwrite=True)
    np.testing.assert_array_equal(open_volume(path, level=1).read(), cell_means(data, (2, 2, 2)))
    assert sorted(p.name for p in Path(path).iterdir()) == [".nucseg", "0", "1", "zarr.json"]
    with pytest.raises(InputError, match="expected 0 to 1"):
        open_volume(path, level=2)
    with Records(path, "downsample-1").held(alone=False), pytest.raises(InputError, match="workers of an"):
        other.blockwise(HERE, overwrite=True)
    assert open_volume(path, level=1).shape == (7, 11, 18)


def test_levels_of_other_origin_are_kept_unless_overwritten(tmp_path):
    path, _ = image_at(tmp_path / "a.zarr")
    Downsample(volume=path, levels=2).blockwise(HERE)
    shutil.rmtree(Path(path) / ".nucseg")  # as if somebody else had made them
    before = open_volume(path, level=1).read()
    with pytest.raises(InputError, match=r"a level of other origin.*overwrite"):
        Downsample(volume=path, levels=2, factor=(2, 2, 2)).blockwise(HERE)
    np.testing.assert_array_equal(open_volume(path, level=1).read(), before)
    result = Downsample(volume=path, levels=1, factor=(2, 2, 2)).blockwise(HERE, overwrite=True)
    assert result["levels"][0]["shape"] == [7, 11, 18]
    assert not (Path(path) / "2").exists()


def test_levels_do_not_make_an_image_another_input(tmp_path):
    path, _ = image_at(tmp_path / "a.zarr")
    before = identity(path)
    Downsample(volume=path, levels=1).blockwise(HERE)
    assert identity(path) == before
    Downsample(volume=path, levels=2).blockwise(HERE)
    assert identity(path) == before
    Downsample(volume=path, levels=1, factor=(2, 2, 2)).blockwise(HERE, overwrite=True)
    assert identity(path) == before
    group = zarr.open_group(path, mode="r+")
    group.attrs["ome"] = {**group.attrs["ome"], "note": "another voxel size, perhaps"}
    assert identity(path) != before


def test_when_levels_end(tmp_path):
    path, _ = image_at(tmp_path / "a.zarr", shape=(3, 40, 600), scale_um=None, shards=None, chunks=None)
    lines: list[str] = []
    result = Downsample(volume=path).blockwise(HERE, log=lines.append)
    assert [level["shape"] for level in result["levels"]] == [[2, 20, 300], [1, 10, 150]]
    assert [level["scale_um"] for level in result["levels"]] == [None, None]
    small, _ = image_at(tmp_path / "b.zarr")
    nothing = Downsample(volume=small).blockwise(HERE, log=lines.append)
    assert (nothing["levels"], nothing["blocks"]) == ([], 0)
    assert lines[-1].endswith("no level to add, the largest side is below 256 voxels")
    ends = Downsample(volume=small, levels=50, factor=(4, 4, 4)).blockwise(HERE)
    assert ends["levels"][-1]["shape"] == [1, 1, 1]
    assert len(ends["levels"]) == 3


def test_default_factors():
    assert default_factor((99, 99, 99), None) == (2, 2, 2)
    assert default_factor((99, 99, 99), (0.3, 0.2, 0.2)) == (2, 2, 2)
    assert default_factor((99, 99, 99), (0.31, 0.2, 0.2)) == (1, 2, 2)
    assert default_factor((99, 99, 99), (0.2, 0.2, 0.5)) == (2, 2, 1)
    assert default_factor((99, 1, 99), (1.0, 0.2, 1.0)) == (2, 1, 2), "a plane's own axis does not count"


def test_layouts_stay_when_they_are_asked_for_again():
    for shard in (None, (64, 128, 128)):
        for block in (None, (48, 64, 100), (10, 400, 64)):
            for shape in ((100, 300, 77), (5, 40, 129), (1, 1, 1)):
                layout = layout_of(shape, (16, 64, 64), shard, block)
                assert layout_of(shape, (16, 64, 64), shard, layout.block) == layout
                unit = layout.shard or layout.chunk
                assert all(b % u == 0 for b, u in zip(layout.block, unit, strict=True))
                assert all(u % c == 0 for u, c in zip(unit, layout.chunk, strict=True))
    assert layout_of((999, 999, 999), (1, 999, 999), None, None).block == (16, 999, 999), (
        "memory stays bounded"
    )


def test_what_cannot_get_levels_is_told(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(SHAPE, np.uint8))
    with pytest.raises(InputError, match=r"expected an OME-Zarr image.*another kind of file.*convert"):
        Downsample(volume=str(tmp_path / "a.npy")).blockwise(HERE)
    with pytest.raises(InputError, match="nothing of that name"):
        Downsample(volume=str(tmp_path / "none.zarr")).blockwise(HERE)
    path, _ = image_at(tmp_path / "a.zarr", dtype="float32")
    with pytest.raises(InputError, match="expected labels named 'nuclei' below it"):
        Downsample(volume=path, labels="nuclei").blockwise(HERE)
    with pytest.raises(InputError, match="integer ids"):
        Downsample(volume=path, method="most frequent").blockwise(HERE)
    with pytest.raises(ValueError, match="one of them above 1"):
        Downsample(volume=path, factor=(1, 1, 1))
    attributes = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())
    del attributes["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    (tmp_path / "a.zarr" / "zarr.json").write_text(json.dumps(attributes))
    with pytest.raises(InputError, match="a scale for every axis"):
        Downsample(volume=path).blockwise(HERE)
    assert sorted(os.listdir(path)) == ["0", "zarr.json"], "nothing was changed"
