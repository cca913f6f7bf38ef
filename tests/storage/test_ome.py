import warnings

import numpy as np
import pytest
import yaozarrs
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from nucseg.errors import InputError
from nucseg.volume import create_image, create_labels, open_volume

with warnings.catch_warnings():  # ome-zarr uses its own deprecated class while it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from ome_zarr import format as ngff
    from ome_zarr import writer as ngff_writer

SHAPE = (7, 8, 9)
SCALE = (0.5, 0.2, 0.25)


def ramp(shape=SHAPE, dtype="uint16"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def test_independent_reader_and_validator_accept_image_and_labels(tmp_path):
    path = str(tmp_path / "a.zarr")
    data = ramp((2, *SHAPE))
    image = create_image(
        path, shape=(2, *SHAPE), dtype="uint16", scale_um=SCALE, axes=tuple("czyx"), channel_names=["a", "b"]
    )
    image.write((0, 0, 0), data)
    labels = create_labels(path, shape=SHAPE, scale_um=SCALE)
    labels.write((0, 0, 0), ramp())
    for inner in ("", "/labels", "/labels/nuclei"):
        yaozarrs.validate_zarr_store(path + inner)

    node = next(iter(Reader(parse_url(path))()))
    np.testing.assert_array_equal(np.asarray(node.data[0]), data)
    assert [axis.get("unit") for axis in node.metadata["axes"]] == [None, *["micrometer"] * 3]
    assert node.metadata["coordinateTransformations"] == [[{"type": "scale", "scale": [1.0, *SCALE]}]]
    assert node.metadata["channel_names"] == ["a", "b"] == list(open_volume(path).channel_names)
    nodes = list(Reader(parse_url(path + "/labels/nuclei"))())  # the image that they belong to comes first
    label = nodes[-1]
    np.testing.assert_array_equal(np.asarray(label.data[0]), ramp())
    assert dict(zarr.open_group(path + "/labels").attrs)["ome"]["labels"] == ["nuclei"]


@pytest.mark.parametrize("version", [ngff.FormatV04(), ngff.FormatV05()], ids=["0.4", "0.5"])
@pytest.mark.parametrize(("unit", "factor"), [("nanometer", 1e-3), ("millimeter", 1e3), ("micrometer", 1.0)])
def test_files_of_the_ome_zarr_package(tmp_path, version, unit, factor):
    data = ramp((1, 2, *SHAPE))
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version.zarr_format)
    ngff_writer.write_image(
        data,
        group,
        fmt=version,
        axes="tczyx",
        axes_units=dict.fromkeys("zyx", unit),
        scale={"t": 1, "c": 1, "z": 4, "y": 2, "x": 3},
        scale_factors=[],
    )
    opened = open_volume(tmp_path / "a.zarr")
    assert opened.scale_um == pytest.approx((4 * factor, 2 * factor, 3 * factor))
    assert (opened.channels, opened.shape) == (2, SHAPE)
    np.testing.assert_array_equal(opened.read(), data[0])
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr", channel=1).read(), data[0, 1])
    level = open_volume(tmp_path / "a.zarr" / sorted(key for key, _ in group.arrays())[0])
    assert level.scale_um == opened.scale_um, "an array inside an image has the image's scale"


def ome_zarr_04(path, axes, steps, data, extra=()):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("s0", data=data, chunk_key_encoding={"name": "v2", "separator": "/"})
    steps = [{"type": "scale", "scale": scale} for scale in steps]
    dataset = {"path": "s0", **({"coordinateTransformations": steps} if steps else {})}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [dataset], **dict(extra)}]


def test_scales_of_dataset_and_image_multiply(tmp_path):
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    whole = {"coordinateTransformations": [{"type": "scale", "scale": [10.0, 10.0, 10.0]}]}
    ome_zarr_04(tmp_path / "a.zarr", axes, [[50.0, 20.0, 25.0]], ramp(), whole)
    assert open_volume(tmp_path / "a.zarr").scale_um == pytest.approx(SCALE)


@pytest.mark.parametrize("unit", [{}, {"unit": "pixel"}])
def test_without_unit_or_scale_the_voxel_size_is_unknown(tmp_path, unit):
    bare = [{"name": axis, "type": "space", **unit} for axis in "zyx"]
    ome_zarr_04(tmp_path / "a.zarr", bare, [[2.0, 1.0, 1.0]], ramp())
    assert open_volume(tmp_path / "a.zarr").scale_um is None
    known = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    ome_zarr_04(tmp_path / "b.zarr", known, [], ramp())
    assert open_volume(tmp_path / "b.zarr").scale_um is None


def test_levels_of_a_pyramid(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    datasets = []
    for name, factor in (("fine", 1.0), ("coarse", 2.0)):
        group.create_array(name, data=ramp((int(8 / factor),) * 3))
        datasets.append(
            {"path": name, "coordinateTransformations": [{"type": "scale", "scale": [factor] * 3}]}
        )
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    assert open_volume(tmp_path / "a.zarr", level=1).scale_um == (2.0, 2.0, 2.0)
    assert open_volume(tmp_path / "a.zarr", level=1).shape == (4, 4, 4)
    with pytest.raises(InputError, match="level: expected 0 to 1; received 2"):
        open_volume(tmp_path / "a.zarr", level=2)


def test_bare_zarr_arrays(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=ramp(), chunks=(4, 4, 4))
    zarr.create_array(tmp_path / "v2.zarr", data=ramp(), zarr_format=2)
    zarr.create_array(tmp_path / "xyz.zarr", data=ramp(), dimension_names=["x", "y", "z"])
    zarr.create_array(tmp_path / "p.zarr", data=ramp((3, *SHAPE)))
    assert open_volume(tmp_path / "a.zarr").scale_um is None
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr").read(), ramp())
    np.testing.assert_array_equal(open_volume(tmp_path / "v2.zarr").read(), ramp())
    np.testing.assert_array_equal(open_volume(tmp_path / "xyz.zarr").read(), ramp().transpose(2, 1, 0))
    assert open_volume(tmp_path / "p.zarr").channels == 3


def test_broken_zarr_metadata(tmp_path):
    create_image(tmp_path / "a.zarr", shape=SHAPE, dtype="uint8", scale_um=None)
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="readable zarr"):
        open_volume(tmp_path / "a.zarr")
