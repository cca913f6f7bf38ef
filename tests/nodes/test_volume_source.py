import gunpowder as gp
import numpy as np
import pytest
import tifffile
from node_cases import LABELS, RAW, ask, request

from nucseg.errors import InputError
from nucseg.nodes.volume_source import VolumeSource
from nucseg.storage.normalization import Values
from nucseg.volume import create_image, create_labels, open_volume

SHAPE = (9, 11, 13)


def random_raw(channels=()):
    return np.random.default_rng(3).integers(0, 4000, (*channels, *SHAPE)).astype(np.uint16)


def zarr_volume(folder, raw, labels, scale_um=(0.5, 0.2, 0.1)):
    path = folder / "v.zarr"
    axes = ("z", "y", "x") if raw.ndim == 3 else ("c", "z", "y", "x")
    shape = raw.shape[-3:] if raw.ndim == 3 else raw.shape
    image = create_image(path, shape=shape, dtype=raw.dtype, scale_um=scale_um, axes=axes)
    image.write((0, 0, 0), raw)
    create_labels(path, shape=SHAPE, dtype="uint64", scale_um=scale_um).write((0, 0, 0), labels)
    return path


@pytest.mark.parametrize("in_memory", [True, False, None])
def test_reads_raw_normalised_and_labels_as_they_are(tmp_path, in_memory):
    raw = random_raw()
    labels = np.random.default_rng(0).integers(0, 2**40, SHAPE).astype(np.uint64)
    path = zarr_volume(tmp_path, raw, labels)
    source = VolumeSource(path, {RAW: "image", LABELS: "labels/nuclei"}, in_memory=in_memory)
    low, high = open_volume(path).intensity_range(1.0, 99.8)
    with gp.build(source + gp.Pad(RAW, None)) as pipeline:
        assert source.spec[RAW].roi == gp.Roi((0, 0, 0), SHAPE)
        assert source.spec[RAW].interpolatable
        assert not source.spec[LABELS].interpolatable
        assert source.spec[LABELS].dtype == np.uint64
        batch = pipeline.request_batch(request({RAW: ((2, 3, 4), (5, 6, 7)), LABELS: ((1, 0, 2), (3, 4, 5))}))
    expected = (raw.astype(np.float64) - low) / (high - low)
    assert batch[RAW].data.dtype == np.float32
    np.testing.assert_allclose(batch[RAW].data, expected[2:7, 3:9, 4:11], atol=1e-5)
    np.testing.assert_array_equal(batch[LABELS].data, labels[1:4, 0:4, 2:7])
    assert batch[RAW].attrs["scale_um"] == pytest.approx((0.5, 0.2, 0.1))


def test_channels_and_no_normalisation(tmp_path):
    raw = random_raw((2,))
    path = zarr_volume(tmp_path, raw, np.ones(SHAPE, np.uint64))
    with gp.build(VolumeSource(path, {RAW: "image"}, normalize=None) + gp.Pad(RAW, None)) as pipeline:
        data = ask(pipeline, {RAW: ((1, 1, 1), (4, 5, 6))})[RAW]
    np.testing.assert_array_equal(data, raw[:, 1:5, 1:6, 1:7].astype(np.float32))


def test_fixed_intensities_are_the_same_in_every_volume(tmp_path):
    raw = random_raw()
    path = zarr_volume(tmp_path, raw, np.ones(SHAPE, np.uint64))
    source = VolumeSource(path, {RAW: "image"}, normalize=Values(values=(10.0, 60.0)))
    with gp.build(source + gp.Pad(RAW, None)) as pipeline:
        data = ask(pipeline, {RAW: ((1, 1, 1), (4, 5, 6))})[RAW]
    np.testing.assert_allclose(data, (raw[1:5, 1:6, 1:7].astype(np.float64) - 10) / 50, atol=1e-5)


def test_label_tiff_beside_raw_tiff(tmp_path):
    labels = np.random.default_rng(1).integers(0, 9, SHAPE).astype(np.uint16)
    tifffile.imwrite(tmp_path / "raw.tif", random_raw())
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    source = VolumeSource(tmp_path / "raw.tif", {RAW: "image", LABELS: str(tmp_path / "labels.tif")})
    with gp.build(source + gp.Pad(RAW, None)) as pipeline:
        np.testing.assert_array_equal(ask(pipeline, {LABELS: ((0, 0, 0), SHAPE)})[LABELS], labels)


def test_changing_a_batch_leaves_the_volume_alone(tmp_path):
    path = zarr_volume(tmp_path, random_raw(), np.ones(SHAPE, np.uint64))
    with gp.build(VolumeSource(path, {LABELS: "labels/nuclei"}) + gp.Pad(LABELS, None)) as pipeline:
        ask(pipeline, {LABELS: ((0, 0, 0), SHAPE)})[LABELS][:] = 7
        assert (ask(pipeline, {LABELS: ((0, 0, 0), SHAPE)})[LABELS] == 1).all()


def test_labels_of_another_shape_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "raw.tif", random_raw())
    tifffile.imwrite(tmp_path / "labels.tif", np.ones((9, 11, 12), np.uint16))
    source = VolumeSource(tmp_path / "raw.tif", {RAW: "image", LABELS: str(tmp_path / "labels.tif")})
    with pytest.raises(InputError, match=r"labels.tif.*expected the image's shape \(9, 11, 13\)"):
        source.setup()


def test_a_source_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one dataset"):
        VolumeSource(tmp_path / "raw.tif", {})


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.zarr"):
        VolumeSource(tmp_path / "gone.zarr", {RAW: "image"})
