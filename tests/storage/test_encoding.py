"""Stored codes and the values that they stand for; whatever opens an encoded array gets values."""

import json

import numpy as np
import pytest
import zarr

from nucseg.blockwise.downsample import Downsample
from nucseg.blockwise.launch import Local
from nucseg.errors import InputError
from nucseg.storage.encoding import Encoding
from nucseg.volume import create_image, open_volume

RANGES = [(0.0, 1.0), (-3.0, 3.0), (-2.0, 5.0), (1.0, 5.0), (0.0, 7.0)]
SHAPE = (6, 8, 10)


def values_within(ranges, shape, seed=3):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(low, high, shape) for low, high in ranges]).astype(np.float32)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_code_is_the_nearest_of_all_codes(dtype):
    encoding = Encoding.of_ranges(dtype, RANGES)
    values = values_within(RANGES, (2, 3, 4))
    codes, beyond = encoding.encode(values)
    assert codes.dtype == dtype
    assert beyond == 0
    decoded = encoding.decode(codes)
    assert decoded.dtype == np.float32
    for channel, (scale, zero) in enumerate(zip(encoding.scale, encoding.zero_point, strict=True)):
        every = (np.arange(np.iinfo(dtype).max + 1.0) - zero) * scale
        for place in np.ndindex(2, 3, 4):
            nearest = np.abs(every - values[(channel, *place)]).argmin()
            assert abs(int(codes[(channel, *place)]) - nearest) <= (dtype == "uint16")  # halves, in float32
            assert decoded[(channel, *place)] == np.float32(every[codes[(channel, *place)]])
    np.testing.assert_array_equal(
        encoding.encode(decoded)[0], codes, "values that were read are stored alike"
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_zero_and_the_ends_of_a_range_are_kept(dtype):
    encoding = Encoding.of_ranges(dtype, RANGES[:2])
    ends = np.array([[0, 1, 0, 1], [-3, 3, 0, 0]], np.float32).reshape(2, 1, 2, 2)
    np.testing.assert_array_equal(encoding.decode(encoding.encode(ends)[0]), ends)
    for channel, (low, high) in enumerate(RANGES[:2]):
        assert encoding.limits(channel)[0] <= low
        assert encoding.limits(channel)[1] == pytest.approx(high)


def test_values_beyond_are_counted_and_become_the_nearest():
    encoding = Encoding.of_ranges("uint8", [(0.0, 1.0), (-3.0, 3.0)])
    values = np.array([[1.5, 0.5], [-9.0, 4.0]], np.float32).reshape(2, 1, 1, 2)
    codes, beyond = encoding.encode(values)
    assert beyond == 3
    found = encoding.decode(codes).reshape(2, 2)
    assert found[0, 0] == 1.0
    assert found[1, 0] <= -3.0
    assert found[1, 1] == pytest.approx(3.0)
    codes, beyond = Encoding(dtype="float16").encode(np.full((1, 1, 1, 2), 1e6, np.float32))
    assert beyond == 2
    assert np.isfinite(codes).all()
    for kind in (encoding, Encoding(dtype="float16")):
        with pytest.raises(InputError, match="1 values that are NaN or infinite"):
            kind.encode(np.where(values == 0.5, np.float32("nan"), values))


def test_an_encoding_that_is_none_is_refused():
    for fields in ({"dtype": "uint8"}, {"dtype": "float16", "scale": (1.0,), "zero_point": (0,)}):
        with pytest.raises(ValueError, match="integers have a scale"):
            Encoding(**fields)
    with pytest.raises(ValueError, match="positive"):
        Encoding(dtype="uint8", scale=(0.0,), zero_point=(0,))
    with pytest.raises(InputError, match="lower one first"):
        Encoding.of_ranges("uint8", [(1.0, 1.0)])


@pytest.mark.parametrize("dtype", ["float16", "uint16", "uint8"])
def test_an_encoded_volume_reads_as_values(tmp_path, dtype):
    ranges = [(0.0, 1.0), (-3.0, 3.0)]
    encoding = Encoding.of_ranges(dtype, ranges)
    values = values_within(ranges, SHAPE)
    volume = create_image(
        tmp_path / "v.zarr",
        shape=(2, *SHAPE),
        dtype="float32",
        scale_um=None,
        axes=("c", "z", "y", "x"),
        shards=(3, 4, 5),
        encoding=encoding,
    )
    volume.write((0, 0, 0), values[:, :3])
    volume.write((3, 0, 0), values[:, 3:])
    read = open_volume(tmp_path / "v.zarr")
    assert read.dtype == np.float32
    stored = zarr.open_array(tmp_path / "v.zarr" / "0", mode="r")  # as anybody may read it
    assert stored.dtype == dtype
    said = stored.attrs["nucseg"]["encoding"]
    plain = stored[:].astype(np.float64)
    if dtype != "float16":
        for channel in range(2):
            plain[channel] = (plain[channel] - said["zero_point"][channel]) * said["scale"][channel]
    np.testing.assert_array_equal(read.read(), plain.astype(np.float32))
    step = max(said["scale"], default=2.0**-9)
    assert 0 < np.abs(read.read() - values).max() <= step / 2 * 1.001
    part = (slice(2, 5), slice(1, 7), slice(0, 9))
    np.testing.assert_array_equal(read.read((2, 1, 0), (3, 6, 9)), read.read()[(slice(None), *part)])
    for path in (tmp_path / "v.zarr", tmp_path / "v.zarr" / "0"):
        one = open_volume(path, channel=1)
        np.testing.assert_array_equal(one.read((2, 1, 0), (3, 6, 9)), read.read()[(1, *part)])
    assert one.read((-1, 0, 0), (1, 2, 2)).max() == 0, "beyond the volume is the value 0"


def test_values_that_do_not_fit_are_not_written(tmp_path):
    encoding = Encoding.of_ranges("uint8", [(0.0, 1.0)])
    fields = {"dtype": "float32", "scale_um": None, "axes": ("c", "z", "y", "x"), "encoding": encoding}
    volume = create_image(tmp_path / "v.zarr", shape=(1, *SHAPE), **fields)
    with pytest.raises(InputError, match=r"uint8 can hold; received 1 values"):
        volume.write((0, 0, 0), np.pad([[[[1.5]]]], [(0, 0), *((0, n - 1) for n in SHAPE)]))


def test_a_damaged_note_is_refused(tmp_path):
    encoding = Encoding.of_ranges("uint8", [(0.0, 1.0)])
    fields = {"dtype": "float32", "scale_um": None, "axes": ("c", "z", "y", "x"), "encoding": encoding}
    create_image(tmp_path / "v.zarr", shape=(1, *SHAPE), **fields)
    file = tmp_path / "v.zarr" / "0" / "zarr.json"
    document = json.loads(file.read_text())
    for said in ({"dtype": "uint16", "scale": [1.0], "zero_point": [0]}, {"dtype": "uint8", "scale": [1.0]}):
        document["attributes"]["nucseg"]["encoding"] = said
        file.write_text(json.dumps(document))
        with pytest.raises(InputError, match=r"attribute nucseg\.encoding"):
            open_volume(tmp_path / "v.zarr")


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_coarser_levels_are_encoded_alike(tmp_path, dtype):
    ranges = [(0.0, 1.0), (-3.0, 3.0)]
    encoding = Encoding.of_ranges(dtype, ranges)
    fields = {"dtype": "float32", "scale_um": (1.0, 1.0, 1.0), "axes": ("c", "z", "y", "x")}
    volume = create_image(tmp_path / "v.zarr", shape=(2, *SHAPE), encoding=encoding, **fields)
    volume.write((0, 0, 0), values_within(ranges, SHAPE))
    Downsample(volume=str(tmp_path / "v.zarr"), levels=1).blockwise(Local(workers=0))
    fine, coarse = open_volume(tmp_path / "v.zarr").read(), open_volume(tmp_path / "v.zarr", level=1)
    means = fine.reshape(2, 3, 2, 4, 2, 5, 2).mean((2, 4, 6))
    assert zarr.open_array(tmp_path / "v.zarr" / "1", mode="r").dtype == dtype
    steps = np.array([*encoding.scale] or [0.001, 0.002])[:, None, None, None]
    assert (np.abs(coarse.read() - means) <= steps / 2 * 1.001).all()
