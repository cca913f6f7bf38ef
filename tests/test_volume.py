import multiprocessing
import pickle
import warnings

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nucseg.errors import InputError
from nucseg.volume import Volume, create_image, create_labels, open_labels, open_volume

SHAPE = (7, 8, 9)
SCALE = (0.5, 0.2, 0.25)


def ramp(shape=SHAPE, dtype="uint16"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", "uint32", "uint64", "float32", "float64", "bool"]
)
def test_image_is_read_back_as_written(tmp_path, dtype):
    data = ramp(dtype=dtype)
    made = create_image(tmp_path / "a.zarr", shape=SHAPE, dtype=dtype, scale_um=SCALE)
    made.write((0, 0, 0), data)
    opened = open_volume(tmp_path / "a.zarr")
    assert opened == made
    assert (opened.axes, opened.scale_um, opened.shape) == (("z", "y", "x"), SCALE, SHAPE)
    assert (opened.channels, opened.dtype) == (0, np.dtype(dtype))
    np.testing.assert_array_equal(opened.read(), data)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    begin=st.tuples(*[st.integers(-12, 12)] * 3),
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    fill=st.integers(0, 9),
)
def test_reading_beyond_the_border_fills(tmp_path, begin, shape, fill):
    path = tmp_path / "a.npy"
    if not path.exists():
        np.save(path, ramp((2, *SHAPE)))
    margin = 26
    reference = np.pad(ramp((2, *SHAPE)), [(0, 0)] + [(margin, margin)] * 3, constant_values=fill)
    z, y, x = (slice(margin + b, margin + b + n) for b, n in zip(begin, shape, strict=True))
    np.testing.assert_array_equal(open_volume(path).read(begin, shape, fill), reference[:, z, y, x])


def test_blocks_cover_the_volume_once(tmp_path):
    made = create_image(tmp_path / "a", shape=(10, 7, 5), dtype="uint8", scale_um=None, shards=(4, 4, 4))
    seen = np.zeros((10, 7, 5), dtype=int)
    for begin, shape in made.blocks():
        seen[tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("begin", "shape"),
    [((1, 0, 0), (4, 4, 4)), ((0, 0, 0), (3, 4, 4)), ((8, 4, 4), (3, 3, 1)), ((-4, 0, 0), (4, 4, 4))],
)
def test_writing_parts_of_shards_or_outside_is_refused(tmp_path, begin, shape):
    made = create_image(tmp_path / "a", shape=(10, 7, 5), dtype="uint8", scale_um=None, shards=(4, 4, 4))
    with pytest.raises(InputError, match="whole shards of \\(4, 4, 4\\)"):
        made.write(begin, np.ones(shape, dtype="uint8"))
    assert not made.read().any()


def test_writing_up_to_the_border_is_allowed(tmp_path):
    made = create_image(tmp_path / "a", shape=(10, 7, 5), dtype="uint8", scale_um=None, shards=(4, 4, 4))
    made.write((8, 4, 4), np.ones((2, 3, 1), dtype="uint8"))
    assert made.read((8, 4, 4)).all()
    assert made.read().sum() == 6


@pytest.mark.parametrize(
    "data",
    [np.full(SHAPE, 300, "uint16"), np.full(SHAPE, -1, "int8"), np.full(SHAPE, 1.5)],
    ids=["too large", "negative", "float"],
)
def test_values_that_would_change_are_not_written(tmp_path, data):
    made = create_image(tmp_path / "a", shape=SHAPE, dtype="uint8", scale_um=None)
    with pytest.raises(InputError, match="values that fit uint8"):
        made.write((0, 0, 0), data)
    made.write((0, 0, 0), np.full(SHAPE, 200, dtype="int64"))
    assert (made.read() == 200).all()


def test_writing_needs_zarr_and_all_channels(tmp_path):
    np.save(tmp_path / "a.npy", ramp())
    with pytest.raises(InputError, match="writable zarr"):
        open_volume(tmp_path / "a.npy").write((0, 0, 0), ramp())
    made = create_image(tmp_path / "a", shape=(2, *SHAPE), dtype="uint8", scale_um=None, axes=tuple("czyx"))
    with pytest.raises(InputError, match="all channels"):
        made.write((0, 0, 0), np.ones(SHAPE, "uint8"))
    with pytest.raises(InputError, match="all channels"):
        open_volume(made.path, channel=0).write((0, 0, 0), np.ones(SHAPE, "uint8"))


@pytest.mark.parametrize("kind", ["tif", "zlib.tif", "npy", "h5", "zarr"])
def test_volumes_travel_to_other_processes(tmp_path, kind):
    path = str(tmp_path / f"a.{kind}")
    data = ramp((40, 50, 60))
    if kind.endswith("tif"):
        compression = "zlib" if kind.startswith("zlib") else None
        tifffile.imwrite(path, data, photometric="minisblack", compression=compression)
    elif kind == "npy":
        np.save(path, data)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("raw", data=data, chunks=(8, 8, 8), compression="gzip")
        path += ":raw"
    else:
        create_image(path, shape=data.shape, dtype=data.dtype, scale_um=None).write((0, 0, 0), data)
    opened = open_volume(path, scale_um=(3, 2, 1))
    opened.read((0, 0, 0), (1, 1, 1))  # the parent's handle is open when the children fork
    copy = pickle.loads(pickle.dumps(opened))
    assert (copy.scale_um, copy.shape, copy.dtype) == ((3, 2, 1), opened.shape, opened.dtype)
    np.testing.assert_array_equal(copy.read(), data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, about forking with threads
        with multiprocessing.get_context("fork").Pool(2) as pool:
            planes = pool.starmap(_inherited_read, [(opened, z) for z in range(40)])
    assert planes == [int(plane.sum(dtype=np.int64)) for plane in data]


def _inherited_read(volume: Volume, z):
    return int(volume.read((z, 0, 0), (1, 50, 60)).sum(dtype=np.int64))


def test_missing_things_are_named(tmp_path):
    create_labels(tmp_path / "a.zarr", "cells", shape=SHAPE, scale_um=None)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = file["deep/mask"] = ramp()
    for name in ("a.tif", "b.zarr", "b.npy", "b.h5:raw", "b"):
        with pytest.raises(InputError, match=r"received (nothing|no file) of that name"):
            open_volume(tmp_path / name)
    with pytest.raises(InputError, match="deep/mask, raw; received 'row'"):
        open_volume(tmp_path / "a.h5:row")
    with pytest.raises(InputError, match="deep/mask, raw; received no dataset name"):
        open_volume(tmp_path / "a.h5")
    with pytest.raises(InputError, match="received labels cells"):
        open_labels(tmp_path / "a.zarr")
    with pytest.raises(InputError, match=r"a.zarr holds labels"):
        open_volume(tmp_path / "a.zarr" / "0")
    with pytest.raises(InputError, match=r"a zarr group holding labels; name what is wanted"):
        open_volume(tmp_path / "a.zarr")


def test_images_without_labels_say_so(tmp_path):
    create_image(tmp_path / "a.zarr", shape=SHAPE, dtype="uint8", scale_um=None)
    with pytest.raises(InputError, match="received no labels"):
        open_labels(tmp_path / "a.zarr")


def test_folder_that_is_no_zarr(tmp_path):
    with pytest.raises(InputError, match="received a folder that is no zarr"):
        open_volume(tmp_path)


def test_a_damaged_chunk_is_named_with_its_region(tmp_path):
    volume = create_image(tmp_path / "a.zarr", shape=SHAPE, dtype="uint16", scale_um=None, shards=SHAPE)
    volume.write((0, 0, 0), np.random.default_rng(0).integers(0, 9, SHAPE).astype("uint16"))
    (shard,) = (p for p in (tmp_path / "a.zarr" / "0" / "c").rglob("*") if p.is_file())
    stored = bytearray(shard.read_bytes())
    stored[10:60] = bytes(50)
    shard.write_bytes(stored)
    region = r"a\.zarr \[0:2, 0:2, 0:2\].*damaged data.*restore the file"
    with pytest.raises(InputError, match=region):
        open_volume(tmp_path / "a.zarr").read((0, 0, 0), (2, 2, 2))


@pytest.mark.parametrize("channel", [2, -1])
def test_channels_that_are_not_there(tmp_path, channel):
    np.save(tmp_path / "a.npy", ramp((2, *SHAPE)))
    with pytest.raises(InputError, match="channel: expected 0 to 1"):
        open_volume(tmp_path / "a.npy", channel=channel)


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_labels_must_be_integers(tmp_path, dtype):
    np.save(tmp_path / "a.npy", ramp(dtype=dtype))
    remedy = "save the ids as integers" if dtype == "float32" else "connected components"
    with pytest.raises(InputError, match=f"received dtype {dtype}.*{remedy}"):
        open_labels(tmp_path / "a.npy")


def test_labels_have_one_channel(tmp_path):
    np.save(tmp_path / "a.npy", ramp((1, *SHAPE)))
    np.save(tmp_path / "b.npy", ramp((2, *SHAPE)))
    assert open_labels(tmp_path / "a.npy").read().shape == SHAPE
    with pytest.raises(InputError, match="2 channels"):
        open_labels(tmp_path / "b.npy")
