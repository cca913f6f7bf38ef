"""Masks, ignored labels, tables of points: what of a volume is annotated."""

import numpy as np
import pytest
import tifffile

from nucseg.annotation import AnnotatedLabels, AnnotationMask, annotated_points, is_name, open_mask
from nucseg.errors import InputError
from nucseg.points import write_table
from nucseg.volume import create_image, create_labels, open_labels, open_volume

SHAPE = (6, 7, 9)


@pytest.fixture
def volume(tmp_path):
    """An image with labels (-1 where nothing is annotated), a mask among its labels, and two tables."""
    path = tmp_path / "v.zarr"
    rng = np.random.default_rng(0)
    create_image(path, shape=SHAPE, dtype="uint16", scale_um=(0.5, 0.2, 0.2))
    labels = rng.integers(-1, 4, SHAPE).astype(np.int32)
    create_labels(path, shape=SHAPE, dtype="int32", scale_um=None, shards=(3, 4, 5)).write((0, 0, 0), labels)
    mask = rng.integers(0, 3, SHAPE).astype(np.uint8)
    create_labels(path, "seen", shape=SHAPE, dtype="uint8", scale_um=None).write((0, 0, 0), mask)
    for name, z in (("centers", 1.0), ("others", 2.0)):
        write_table(path, name, {"z": np.array([z]), "y": np.array([2.5]), "x": np.array([3.0])})
    return open_volume(path), labels, mask


@pytest.mark.parametrize("use", ["none", "mask", "label", "both"])
def test_what_is_annotated(volume, use):
    image, labels, mask = volume
    stored = open_mask(image, "seen") if use in ("mask", "both") else None
    known = open_labels(image.path)
    ignore = -1 if use in ("label", "both") else None
    made = AnnotationMask(SHAPE, mask=stored, labels=known, ignore_label=ignore)
    expected = np.ones(SHAPE, bool)
    if stored is not None:
        expected &= mask > 0
    if ignore is not None:
        expected &= labels != -1
    assert made.read().dtype == np.uint8
    np.testing.assert_array_equal(made.read(), expected)
    assert made.annotated() == expected.sum()
    assert made.stored == (use != "none")
    padded = np.pad(expected, 4)
    for begin, shape in [((-4, 2, -1), (9, 3, 12)), ((5, -3, 7), (5, 4, 6)), ((8, 8, 10), (2, 2, 2))]:
        part = padded[tuple(slice(b + 4, b + 4 + n) for b, n in zip(begin, shape, strict=True))]
        np.testing.assert_array_equal(made.read(begin, shape), part)
    both = AnnotatedLabels(known, made)
    np.testing.assert_array_equal(both.read(), np.where(expected, labels, 0))
    np.testing.assert_array_equal(
        both.read((1, 2, 3), (4, 3, 5)), np.where(expected, labels, 0)[1:5, 2:5, 3:8]
    )
    assert (both.shape, both.dtype, both.path) == (SHAPE, labels.dtype, known.path)
    whole = np.zeros(SHAPE, labels.dtype)
    for begin, shape in both.blocks():
        whole[tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))] = both.read(begin, shape)
    np.testing.assert_array_equal(whole, both.read())


def test_masks_by_path_and_by_name(volume, tmp_path):
    image, _, mask = volume
    np.save(tmp_path / "mask.npy", mask > 0)
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    for given in (tmp_path / "mask.npy", tmp_path / "mask.tif", "seen", tmp_path / "v.zarr/labels/seen"):
        np.testing.assert_array_equal(open_mask(image, given).read() != 0, mask > 0)
    assert is_name("seen")
    assert not any(map(is_name, ("./seen", "seen.npy", "a/seen", "file:seen", "a\\seen", "")))


def test_masks_that_do_not_fit_are_refused(volume, tmp_path):
    image, _, mask = volume
    np.save(tmp_path / "short.npy", mask[1:])
    np.save(tmp_path / "real.npy", mask.astype(np.float32))
    np.save(tmp_path / "two.npy", np.stack([mask, mask]))
    with pytest.raises(
        InputError, match=r"short\.npy.*the shape of .*v\.zarr, \(6, 7, 9\); received \(5, 7, 9\)"
    ):
        open_mask(image, tmp_path / "short.npy")
    with pytest.raises(InputError, match=r"real\.npy.*integer or boolean.*received dtype float32"):
        open_mask(image, tmp_path / "real.npy")
    with pytest.raises(InputError, match=r"two\.npy.*2 channels"):
        open_mask(image, tmp_path / "two.npy")
    with pytest.raises(InputError, match=r"mask 'sen'.*nuclei, seen; received no such"):
        open_mask(image, "sen")
    with pytest.raises(InputError, match=r"gone\.tif"):
        open_mask(image, tmp_path / "gone.tif")
    with pytest.raises(InputError, match=r"short\.npy.*the shape of the image"):
        AnnotationMask(SHAPE, mask=open_volume(tmp_path / "short.npy"))


def test_points_by_path_by_volume_and_by_name(volume, tmp_path):
    image, _, _ = volume
    (tmp_path / "p.csv").write_text("z,y,x\n5,6,7.25\n")
    for given, z in ((image.path, 1.0), ("centers", 1.0), ("others", 2.0)):
        points, table = annotated_points(image, given)
        np.testing.assert_array_equal(points, [(z, 2.5, 3.0)])
        assert table.endswith(f"tables/{'others' if z == 2 else 'centers'}.csv")
    np.testing.assert_array_equal(annotated_points(image, tmp_path / "p.csv")[0], [(5, 6, 7.25)])
    (tmp_path / "v.zarr" / "tables" / "others.csv").unlink()
    assert annotated_points(image, "others")[1].endswith("others.parquet")
    with pytest.raises(InputError, match=r"points 'center'.*centers, others; received no such table"):
        annotated_points(image, "center")
    with pytest.raises(InputError, match=r"none\.csv.*nothing of that name"):
        annotated_points(image, tmp_path / "none.csv")
    create_image(tmp_path / "bare.zarr", shape=SHAPE, dtype="uint8", scale_um=None)
    with pytest.raises(InputError, match=r"points 'centers' of .*bare\.zarr.*nucseg convert --points"):
        annotated_points(image, tmp_path / "bare.zarr")
