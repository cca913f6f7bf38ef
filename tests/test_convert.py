import logging
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import yaozarrs
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from nucseg import convert as convert_module
from nucseg.convert import convert_volume
from nucseg.errors import InputError
from nucseg.points import read_points, read_table
from nucseg.volume import create_image, create_labels, open_labels, open_volume

SHAPE = (7, 30, 40)
SCALE = (0.5, 0.2, 0.25)


def noise(dtype="uint16", shape=SHAPE):
    rng = np.random.default_rng(3)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


@pytest.fixture
def example(tmp_path):
    """An OME-Zarr image of 2 channels with labels "cells"."""
    path = tmp_path / "in.zarr"
    image = create_image(
        path,
        shape=(2, *SHAPE),
        dtype="uint16",
        scale_um=SCALE,
        axes=tuple("czyx"),
        shards=(4, 16, 16),
        channel_names=["DAPI", "GFP"],
    )
    for begin, shape in image.blocks():
        z, y, x = (slice(b, b + n) for b, n in zip(begin, shape, strict=True))
        image.write(begin, noise(shape=(2, *SHAPE))[:, z, y, x])
    create_labels(path, "cells", shape=SHAPE, dtype="uint16", scale_um=SCALE).write((0, 0, 0), noise())
    return path


DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32"]


@pytest.mark.parametrize("dtype", [*DTYPES, "float64", "bool", ">u2", ">f4"])
def test_npy_to_zarr_keeps_voxels_dtype_and_scale(tmp_path, dtype):
    data = noise(np.dtype(dtype).name).astype(dtype)
    np.save(tmp_path / "a.npy", data)
    result = convert_volume(tmp_path / "a.npy", tmp_path / "a.zarr", scale_um=SCALE)
    native = np.dtype(dtype).newbyteorder("=")
    assert result == {"shape": list(SHAPE), "dtype": str(native), "scale_um": list(SCALE)}
    made = open_volume(tmp_path / "a.zarr")
    assert (made.dtype, made.scale_um) == (native, SCALE)
    np.testing.assert_array_equal(made.read(), data)
    yaozarrs.validate_zarr_store(str(tmp_path / "a.zarr"))
    np.testing.assert_array_equal(
        np.asarray(next(iter(Reader(parse_url(tmp_path / "a.zarr"))())).data[0]), data
    )


@pytest.mark.parametrize("slab", [2**29, 1], ids=["by layers", "by shards"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int16", "uint32", "float64"])
def test_round_trip_over_tiff(tmp_path, monkeypatch, dtype, slab):
    monkeypatch.setattr(convert_module, "_SLAB_BYTES", slab)
    np.save(tmp_path / "a.npy", noise(dtype))
    convert_volume(tmp_path / "a.npy", tmp_path / "a.zarr", scale_um=SCALE)
    convert_volume(tmp_path / "a.zarr", tmp_path / "a.tif")
    back = convert_volume(tmp_path / "a.tif", tmp_path / "b.zarr")
    assert back["dtype"] == dtype
    assert back["scale_um"] == pytest.approx(SCALE, rel=1e-9)
    np.testing.assert_array_equal(open_volume(tmp_path / "b.zarr").read(), noise(dtype))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), noise(dtype))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_imagej == (dtype in ("uint8", "uint16", "float32"))
        assert tiff.is_ome != tiff.is_imagej
    if dtype == "uint16":
        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            assert tiff.imagej_metadata["slices"] == SHAPE[0], "Fiji must see a z stack, not a time series"


@pytest.mark.parametrize("large", [False, True])
def test_channels_over_tiff(tmp_path, monkeypatch, example, large):
    if large:
        monkeypatch.setattr(convert_module, "_CLASSIC_TIFF_BYTES", 1000)
    assert convert_volume(example, tmp_path / "a.tif")["shape"] == [2, *SHAPE]
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert (tiff.is_bigtiff, tiff.is_ome, tiff.is_imagej) == (large, large, not large)
    made = open_volume(tmp_path / "a.tif")
    assert made.scale_um == pytest.approx(SCALE, rel=1e-9)
    assert isinstance(made.array, np.memmap)
    np.testing.assert_array_equal(made.read(), noise(shape=(2, *SHAPE)))


def test_unknown_voxel_size_stays_unknown(tmp_path):
    np.save(tmp_path / "a.npy", noise())
    convert_volume(tmp_path / "a.npy", tmp_path / "a.tif")
    assert convert_volume(tmp_path / "a.tif", tmp_path / "a.zarr")["scale_um"] is None
    assert open_volume(tmp_path / "a.zarr").scale_um is None


def test_labels_by_name_points_and_channel_names_travel_along(tmp_path, example):
    (tmp_path / "p.csv").write_text("z,y,x,score\n1,2,3.5,0.9\n6,29,39,0.1\n")
    convert_volume(example, tmp_path / "out.zarr", labels="cells", points=tmp_path / "p.csv")
    labels = open_labels(tmp_path / "out.zarr")
    assert labels.path.endswith("labels/nuclei")
    assert (labels.dtype, labels.scale_um) == (np.uint32, SCALE)
    np.testing.assert_array_equal(labels.read(), noise())
    table = read_table(tmp_path / "out.zarr" / "tables" / "centers.csv")
    assert list(table) == ["id", "z", "y", "x", "score", "z_um", "y_um", "x_um"]
    assert table["id"].tolist() == [1, 2]
    np.testing.assert_allclose(table["x_um"], [3.5 * 0.25, 39 * 0.25])
    np.testing.assert_array_equal(
        read_points(tmp_path / "out.zarr" / "tables" / "centers.parquet"), [[1, 2, 3.5], [6, 29, 39]]
    )
    assert open_volume(tmp_path / "out.zarr").channel_names == ("DAPI", "GFP")


@pytest.mark.parametrize("name", ["l.tif", "l.npy", "l.h5:deep/mask"])
@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_labels_from_a_file(tmp_path, name, dtype):
    data = np.abs(noise("int8").astype(int)).astype(dtype)
    np.save(tmp_path / "raw.npy", noise())
    if name.endswith("tif"):
        tifffile.imwrite(tmp_path / name, data, photometric="minisblack")
    elif name.endswith("npy"):
        np.save(tmp_path / name, data)
    else:
        with h5py.File(tmp_path / "l.h5", "w") as file:
            file["deep/mask"] = data
    convert_volume(tmp_path / "raw.npy", tmp_path / "out.zarr", labels=tmp_path / name)
    labels = open_labels(tmp_path / "out.zarr")
    assert labels.dtype == ("uint64" if dtype == "int64" else "uint32")
    np.testing.assert_array_equal(labels.read(), data)


@pytest.mark.parametrize(
    ("dtype", "written"), [("float16", "float32"), ("bool", "uint8"), ("uint64", "uint32")]
)
def test_dtypes_that_tiff_does_not_know_are_replaced_and_named(tmp_path, caplog, dtype, written):
    data = (noise("uint8") > 7).astype(dtype) if dtype == "bool" else noise("uint8").astype(dtype)
    np.save(tmp_path / "a.npy", data)
    with caplog.at_level(logging.WARNING, "nucseg.convert"):
        assert convert_volume(tmp_path / "a.npy", tmp_path / "a.tif")["dtype"] == written
    assert f"TIFF knows no {dtype}" in caplog.text
    np.testing.assert_array_equal(open_volume(tmp_path / "a.tif").read(), data)


@pytest.mark.parametrize("value", [2**32, -1])
def test_integers_that_tiff_cannot_hold_are_an_error(tmp_path, value):
    data = np.zeros(SHAPE, dtype="int64")
    data[3, 4, 5] = value
    np.save(tmp_path / "a.npy", data)
    with pytest.raises(InputError, match="values that fit uint32"):
        convert_volume(tmp_path / "a.npy", tmp_path / "a.tif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy"]


@pytest.mark.parametrize("out", ["out.zarr", "out.tif"])
def test_progress_counts_every_voxel(tmp_path, example, out):
    seen = []
    convert_volume(example, tmp_path / out, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (np.prod(SHAPE), np.prod(SHAPE))


def test_memory_does_not_grow_with_the_volume(tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_SLAB_BYTES", 2**16)
    np.save(tmp_path / "a.npy", noise("uint8", (64, 64, 64)))
    largest = []
    read = convert_module.Volume.read

    def watched(self, *args):
        data = read(self, *args)
        largest.append(data.nbytes)
        return data

    monkeypatch.setattr(convert_module.Volume, "read", watched)
    convert_volume(tmp_path / "a.npy", tmp_path / "a.tif")
    assert max(largest) <= 2**16
    assert sum(largest) == 64**3, "and nothing is read twice"


@pytest.mark.parametrize("out", ["out.zarr", "out.tif"])
def test_failing_in_the_middle_leaves_nothing(tmp_path, monkeypatch, example, out):
    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_volume(example, tmp_path / out, labels=None, progress=fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.zarr"]


def test_negative_labels_leave_nothing(tmp_path):
    np.save(tmp_path / "raw.npy", noise())
    np.save(tmp_path / "labels.npy", np.full(SHAPE, -1, "int32"))
    with pytest.raises(InputError, match=r"labels\.npy: labels: expected ids from 0.*down to -1"):
        convert_volume(tmp_path / "raw.npy", tmp_path / "out.zarr", labels=tmp_path / "labels.npy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.npy", "raw.npy"]


@pytest.mark.parametrize("out", ["there.tif", "there", "there.zarr"])
def test_what_is_there_is_never_replaced(tmp_path, example, out):
    if out == "there":
        (tmp_path / out).mkdir()
        (tmp_path / out / "notes.txt").write_text("mine")
    elif out.endswith(".zarr"):
        create_labels(tmp_path / out, shape=SHAPE, scale_um=None)
    else:
        (tmp_path / out).write_text("mine")
    before = {p: p.read_bytes() for p in (tmp_path / out).rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="something that is there already"):
        convert_volume(example, tmp_path / out)
    assert {p: p.read_bytes() for p in (tmp_path / out).rglob("*") if p.is_file()} == before
    assert not list(tmp_path.glob(".*"))


def test_an_empty_folder_and_missing_parents_may_be_used(tmp_path, example):
    (tmp_path / "empty").mkdir()
    convert_volume(example, tmp_path / "empty")
    convert_volume(example, tmp_path / "new" / "folder" / "a.zarr")
    assert open_volume(tmp_path / "empty").shape == open_volume(tmp_path / "new/folder/a.zarr").shape


def test_mistakes_are_named(tmp_path, example):
    np.save(tmp_path / "small.npy", noise(shape=(3, 3, 3)))
    (tmp_path / "file").write_text("")
    (tmp_path / "p.csv").write_text("z,y,x\n39,29,6\n")
    cases = [
        ({"labels": tmp_path / "small.npy"}, "out.zarr", r"expected the image's shape"),
        ({"labels": "cels"}, "out.zarr", r"one of the source's labels: cells"),
        ({"labels": "cells"}, "out.tif", r"expected an OME-Zarr"),
        ({"points": tmp_path / "p.csv"}, "out.zarr", r"1 of 1 outside, e.g. \[39.0, 29.0, 6.0\]"),
        ({"scale_um": (0, 1, 1)}, "out.zarr", r"three positive lengths"),
        ({}, "file/out.zarr", r"place that can be written"),
        ({}, "out.png", r"out\.png: expected the name of an OME-Zarr folder.*\.png"),
    ]
    before = sorted(os.listdir(tmp_path))
    for arguments, out, message in cases:
        with pytest.raises(InputError, match=message):
            convert_volume(example, tmp_path / out, **arguments)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif("NUCSEG_DATA" not in os.environ, reason="needs the small real volumes")
def test_real_stack(tmp_path):
    folder = Path(os.environ["NUCSEG_DATA"]) / "qcanet_8cell"
    scale = (1.75, 0.8, 0.8)
    convert_volume(
        folder / "raw.tif",
        tmp_path / "a.zarr",
        scale_um=scale,
        labels=folder / "labels.tif",
        points=folder / "centres.csv",
    )
    np.testing.assert_array_equal(
        open_volume(tmp_path / "a.zarr").read(), tifffile.imread(folder / "raw.tif")
    )
    labels = open_labels(tmp_path / "a.zarr").read()
    np.testing.assert_array_equal(labels, tifffile.imread(folder / "labels.tif"))
    centers = read_points(tmp_path / "a.zarr" / "tables" / "centers.csv")
    assert (labels[tuple(np.rint(centers).astype(int).T)] > 0).all(), "every annotated centre is in a nucleus"
