import h5py
import numpy as np
import pytest
import tifffile

from nucseg.errors import InputError
from nucseg.volume import open_volume

SHAPE = (7, 8, 9)
SCALE = (0.5, 0.2, 0.25)


def ramp(shape=SHAPE, dtype="uint16"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_imagej_tiff(tmp_path, unit, compression):
    path = tmp_path / "a.tif"
    metadata = {"axes": "ZYX", "spacing": 0.5, "unit": unit}
    resolution = (1 / 0.25, 1 / 0.2)  # x, y
    tifffile.imwrite(
        path, ramp(), imagej=True, metadata=metadata, resolution=resolution, compression=compression
    )
    opened = open_volume(path)
    assert opened.scale_um == pytest.approx(SCALE)
    assert isinstance(opened.array, np.memmap) == (compression is None)
    np.testing.assert_array_equal(opened.read((2, 3, 4), (3, 2, 5)), ramp()[2:5, 3:5, 4:9])
    assert opened.read().dtype == np.dtype("uint16").newbyteorder("="), "ImageJ's big-endian becomes native"


def test_imagej_without_unit_or_spacing_has_no_scale(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp(), imagej=True, metadata={"axes": "ZYX"}, resolution=(4, 5))
    tifffile.imwrite(
        tmp_path / "b.tif", ramp(), imagej=True, metadata={"axes": "ZYX", "spacing": 2, "unit": "pixel"}
    )
    assert open_volume(tmp_path / "a.tif").scale_um is None
    assert open_volume(tmp_path / "b.tif").scale_um is None


@pytest.mark.parametrize("axes", ["CZYX", "ZCYX"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_ome_tiff_channels_come_first(tmp_path, axes, compression):
    data = ramp((2, *SHAPE))
    stored = data if axes == "CZYX" else data.transpose(1, 0, 2, 3)
    sizes = {f"PhysicalSize{a}": s * 1000 for a, s in zip("ZYX", SCALE, strict=True)}
    units = {f"PhysicalSize{a}Unit": "nm" for a in "ZYX"}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", stored, metadata={"axes": axes, **sizes, **units}, compression=compression
    )
    opened = open_volume(tmp_path / "a.ome.tif")
    assert opened.scale_um == pytest.approx(SCALE)
    assert (opened.channels, opened.shape) == (2, SHAPE)
    np.testing.assert_array_equal(opened.read((1, 2, 3), (2, 2, 2)), data[:, 1:3, 2:4, 3:5])
    np.testing.assert_array_equal(open_volume(tmp_path / "a.ome.tif", channel=1).read(), data[1])


def test_plain_tiff_npy_and_hdf5(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp(), photometric="minisblack")
    tifffile.imwrite(tmp_path / "tiled.tif", ramp((20, 40, 50)), photometric="minisblack", tile=(16, 16))
    np.save(tmp_path / "a.npy", np.asfortranarray(ramp(dtype=">u2")))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = ramp()
        file["raw"].attrs["element_size_um"] = SCALE
        file["deep/channels"] = ramp((2, *SHAPE))
        file["last"] = np.moveaxis(ramp((2, *SHAPE)), 0, -1)
        file["last"].attrs["axes"] = "zyxc"
    for name in ("a.tif", "a.npy", "a.h5:raw"):
        opened = open_volume(tmp_path / name)
        np.testing.assert_array_equal(opened.read((1, 1, 1), (2, 2, 2)), ramp()[1:3, 1:3, 1:3])
        assert opened.dtype.isnative
        assert opened.scale_um == (SCALE if name.startswith("a.h5") else None)
    np.testing.assert_array_equal(open_volume(tmp_path / "tiled.tif").read(), ramp((20, 40, 50)))
    np.testing.assert_array_equal(open_volume(tmp_path / "a.h5:deep/channels").read(), ramp((2, *SHAPE)))
    np.testing.assert_array_equal(open_volume(tmp_path / "a.h5:last").read(), ramp((2, *SHAPE)))


def test_an_only_hdf5_dataset_needs_no_name(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = ramp()
    np.testing.assert_array_equal(open_volume(tmp_path / "a.h5").read(), ramp())


@pytest.mark.parametrize("shape", [(8, 9), (3, 4, 5, 6, 7), (40, 3, 3, 3), (0, 3, 3)])
def test_wrong_axes_of_npy(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(InputError, match=r"3 axes|at least one voxel"):
        open_volume(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        ("YX", (8, 9), "stack the planes"),
        ("TZYX", (2, 7, 8, 9), "axis t of length 1"),
        ("TYX", (7, 8, 9), "z, y, x"),
    ],
)
def test_wrong_axes_of_tiff(tmp_path, axes, shape, message):
    tifffile.imwrite(tmp_path / "a.tif", ramp(shape), imagej=True, metadata={"axes": axes})
    with pytest.raises(InputError, match=message):
        open_volume(tmp_path / "a.tif")


def test_time_axis_of_length_one_is_dropped(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", ramp((1, *SHAPE)), metadata={"axes": "TZYX"})
    assert open_volume(tmp_path / "a.ome.tif").shape == SHAPE


def test_several_series_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(ramp(), photometric="minisblack")
        tiff.write(ramp((3, 4, 5)), photometric="minisblack")
    with pytest.raises(InputError, match="expected one image series; received 2"):
        open_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.tif", "a.npy", "a.h5", "a.txt"])
def test_files_of_another_kind(tmp_path, name):
    (tmp_path / name).write_text("no volume")
    with pytest.raises(InputError, match=r"check the file|convert it"):
        open_volume(tmp_path / name)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("imagej", [True, False])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.85])
def test_a_tiff_that_is_cut_off_is_named_in_one_line(tmp_path, caplog, compression, imagej, kept):
    path, data = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 999, (20, 30, 40)).astype("uint16")
    how = {"metadata": {"axes": "ZYX"}, "photometric": "minisblack"}
    tifffile.imwrite(path, data, imagej=imagej, compression=compression, **how)
    np.testing.assert_array_equal(open_volume(path).read(), data)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(InputError, match=r"a\.tif"):
        open_volume(path).read()
    assert not caplog.messages


@pytest.mark.parametrize("shape", [(12, 20, 22, 3), (20, 22, 3)])
def test_colours_are_named(tmp_path, shape):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), photometric="rgb")
    with pytest.raises(InputError, match=r"a\.tif.*colours \(RGB\).*one channel"):
        open_volume(tmp_path / "a.tif")


def test_complex_numbers_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(SHAPE, dtype=complex))
    with pytest.raises(InputError, match="received dtype complex128"):
        open_volume(tmp_path / "a.npy")


def test_stored_scale_of_zero_is_refused_but_can_be_replaced(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = ramp()
        file["raw"].attrs["element_size_um"] = (0, 1, 1)
    with pytest.raises(InputError, match="--scale-um"):
        open_volume(tmp_path / "a.h5:raw")
    assert open_volume(tmp_path / "a.h5:raw", scale_um=SCALE).scale_um == SCALE
