import os
from itertools import product
from pathlib import Path

import cases
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from nucseg.check import check_volume, sample
from nucseg.check.alignment import fit
from nucseg.check.instances import parts
from nucseg.check.mask import count_bodies
from nucseg.check.sample import Box, boxes
from nucseg.check.wrapping import Wrapping, collect_scrambled, count_contours
from nucseg.errors import InputError
from nucseg.synthetic import synthesize
from nucseg.volume import create_image, create_labels, open_labels, open_volume

SHAPE = (40, 60, 70)
SCALE = (0.5, 0.25, 0.25)
CENTERS = [(z, y, x) for z in (10, 29) for y in (13, 30, 47) for x in (12, 35, 57)]


def nuclei(radius=6.0):
    """Instances of balls of about that radius at jittered places, ids 1 to 18."""
    rng = np.random.default_rng(2)
    grid = np.indices(SHAPE)
    labels = np.zeros(SHAPE, np.uint32)
    for index, center in enumerate(CENTERS, start=1):
        offset = rng.uniform(-2, 2, 3)
        distance = sum((g - c - o) ** 2 for g, c, o in zip(grid, center, offset, strict=True))
        labels[distance < (radius + rng.uniform(-1, 1)) ** 2] = index
    return labels


def image(labels, peak=3000.0):
    """Blurred nuclei of differing brightness over a background, with Poisson and Gaussian noise; float64."""
    rng = np.random.default_rng(4)
    brightness = np.concatenate([[0.1], rng.uniform(0.6, 1.0, labels.max())]) * peak
    blurred = ndimage.gaussian_filter(brightness[labels], (1.0, 1.5, 1.5))
    return rng.poisson(np.maximum(blurred, 0)) + rng.normal(0, peak / 100, SHAPE) + 0.05 * peak


def volume(folder, raw, labels=None, scale_um=SCALE, **of_labels):
    """Path of an OME-Zarr of these arrays."""
    path = Path(folder) / "a.zarr"
    axes = ("c", "z", "y", "x")[-raw.ndim :]
    create_image(path, shape=raw.shape, dtype=raw.dtype, scale_um=scale_um, axes=axes).write((0, 0, 0), raw)
    if labels is not None:
        of_labels = {"scale_um": scale_um, **of_labels}
        create_labels(path, shape=labels.shape, dtype=labels.dtype, **of_labels).write((0, 0, 0), labels)
    return path


def codes(findings, *severities):
    return {f.code for f in findings if f.severity in (severities or ("error", "warning"))}


def raw16(labels):
    return np.clip(image(labels), 0, 65535).astype(np.uint16)


# --- good volumes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_good_volume_yields_nothing(tmp_path, dtype):
    labels = nuclei()
    raw = image(labels)
    raw = np.clip(raw * 240 / raw.max(), 0, 255) if dtype == "uint8" else np.clip(raw, 0, None)
    assert check_volume(volume(tmp_path, raw.astype(dtype), labels)) == []


@pytest.mark.skipif("NUCSEG_DATA" not in os.environ, reason="needs the small real volumes")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ovule_1135", {"no_scale", "slivers"}),
        ("qcanet_8cell", {"no_scale"}),
        ("blastocyst_dapi_raw", {"no_scale"}),
    ],
)
def test_real_volumes_yield_what_is_known_of_them(name, expected):
    folder = Path(os.environ["NUCSEG_DATA"]) / name
    labels = folder / "labels.tif"
    findings = check_volume(folder / "raw.tif", labels if labels.exists() else None)
    assert codes(findings) == expected
    if name == "ovule_1135":
        text = {f.code: f.message for f in findings}
        assert "down to 9 voxels" in text["slivers"]
        assert "43 of 54 nuclei" in text["border"]


# --- the image ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "code"), [(0, "empty"), (7, "constant")])
def test_images_without_content(tmp_path, value, code):
    (found,) = check_volume(volume(tmp_path, np.full((8, 9, 10), value, np.uint8)))
    assert (found.code, found.severity) == (code, "error")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted_and_placed(tmp_path, value):
    raw = image(nuclei()).astype(np.float32)
    raw[5, 6, 7] = raw[8, 9, 10] = value
    (found,) = check_volume(volume(tmp_path, raw))
    assert (found.code, found.severity) == ("not_finite", "error")
    assert "received 2 voxels" in found.message
    assert found.where == "voxel (5, 6, 7)"


@pytest.mark.parametrize("excess", [1.3, 2.0, 4.0, 12.0])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_wrapped_intensities(tmp_path, excess, dtype):
    raw = image(nuclei(), peak=10000.0)
    raw = (raw / raw.max() * 255 * excess).astype(np.uint16).astype(np.uint8).astype(dtype)
    assert codes(check_volume(volume(tmp_path, raw))) == {"wrapped"}


def test_wrapped_at_16_bits(tmp_path):
    raw = image(nuclei(), peak=100000.0)
    assert "wrapped" in codes(check_volume(volume(tmp_path, raw.astype(np.uint32).astype(np.uint16))))


@pytest.mark.parametrize(
    "kind", ["noise", "bright", "few photons", "hard clip", "sharpened", "hot voxels", "mask"]
)
def test_difficult_but_true_intensities_are_not_called_wrapped(tmp_path, kind):
    rng = np.random.default_rng(0)
    labels = nuclei()
    raw = image(labels) / 3000 * 255
    raw = {
        "noise": lambda: rng.normal(128, 75, SHAPE),
        "bright": lambda: rng.normal(180, 60, SHAPE),
        "few photons": lambda: rng.poisson(2 + 3 * (labels > 0)) * 25,
        "hard clip": lambda: raw * 4 - 200,
        "sharpened": lambda: raw + 4 * (raw - ndimage.gaussian_filter(raw, 2)),
        "hot voxels": lambda: np.where(rng.random(SHAPE) < 0.01, 254, raw * 0.5),
        "mask": lambda: np.where(labels > 0, 245, 5) + rng.normal(0, 4, SHAPE),
    }[kind]()
    assert "wrapped" not in codes(check_volume(volume(tmp_path, np.clip(raw, 0, 255).astype(np.uint8))))


@pytest.mark.skipif("NUCSEG_DATA" not in os.environ, reason="needs the small real volumes")
def test_a_real_volume_is_called_wrapped_only_when_it_is(tmp_path):
    raw = tifffile.imread(Path(os.environ["NUCSEG_DATA"]) / "blastocyst_dapi_raw" / "raw.tif")[
        :120, :200, :200
    ]
    low, high = np.percentile(raw, [1, 99.8])
    scaled = np.clip((raw - low) / (high - low), 0, None)
    for gain in (0.8, 1.0, 3.0):  # clipped, as a proper conversion does
        wrapping = Wrapping(256)
        wrapping.add(np.clip(scaled * gain * 255, 0, 255))
        assert not wrapping.contours
        assert not wrapping.scrambled
    for gain in (1.2, 1.6, 2.4, 8.0, 20.0):
        wrapping = Wrapping(256)
        wrapping.add((scaled * gain * 255).astype(np.uint16) % 256)
        assert wrapping.contours or gain > 2
        assert wrapping.scrambled or gain < 2


def test_contours_are_counted_as_the_definition_says():
    rng = np.random.default_rng(5)
    data = rng.integers(0, 256, (19, 20, 21)).astype(np.uint16)
    expected = [0, 0]
    for axis in range(3):
        for line in np.moveaxis(data.astype(int), axis, -1).reshape(-1, data.shape[axis]):
            for six in np.lib.stride_tricks.sliding_window_view(line, 6):
                a, b, c, d, e, f = six if six[2] > six[3] else six[::-1]  # from the bright to the dark side
                if c - d <= 128 or c == 255 or d == 0 or min(a, b) <= 128 or max(e, f) >= 128:
                    continue
                expected[0] += a < b and e < f
                expected[1] += a > b and e > f
    assert count_contours(data, 256) == tuple(expected)
    assert min(expected) > 5


def test_scrambled_cubes_are_those_of_the_definition():
    rng = np.random.default_rng(6)
    data = np.where(rng.random((10, 13, 14)) < 0.5, rng.integers(0, 256, (10, 13, 14)), 100).astype(np.uint16)
    data[:4] = 100
    histogram, products, count = np.zeros(256, np.int64), np.zeros(2), 0
    expected, sums = np.zeros(256, np.int64), np.zeros(2)
    for z, y, x in product(range(0, 8, 4), range(0, 12, 4), range(0, 12, 4)):
        cube = data[z : z + 4, y : y + 4, x : x + 4].astype(float)
        if cube.std() > 0.21 * 256:
            count += 1
            expected += np.bincount(cube.astype(int).ravel(), minlength=256)
            off = cube - cube.mean()
            sums += (
                (off[:, 1:] * off[:, :-1]).mean() / 2 + (off[..., 1:] * off[..., :-1]).mean() / 2,
                off.var(),
            )
    assert collect_scrambled(data, 256, histogram, products) == count
    assert 0 < count < 18
    np.testing.assert_array_equal(histogram, expected)
    np.testing.assert_allclose(products, sums)


def test_saturation(tmp_path):
    raw = image(nuclei())
    clipped = np.clip(raw / np.percentile(raw, 97) * 255, 0, 255).astype(np.uint8)
    (found,) = check_volume(volume(tmp_path, clipped))
    assert (found.code, found.severity) == ("saturated", "warning")
    assert "at 255" in found.message


def test_findings_name_the_channel(tmp_path):
    raw = raw16(nuclei())
    found = check_volume(volume(tmp_path, np.stack([raw, np.zeros_like(raw)])))
    assert [(f.code, f.where) for f in found] == [("empty", "channel 1")]


# --- the voxel size -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "code", "severity"),
    [
        (None, "no_scale", "warning"),
        ((500.0, 250.0, 250.0), "odd_scale", "error"),
        ((5e-4, 2.5e-4, 2.5e-4), "odd_scale", "error"),
        ((10.0, 0.25, 0.25), "anisotropy", "error"),
        ((0.02, 0.02, 0.02), "nucleus_size", "error"),
        ((15.0, 15.0, 15.0), "nucleus_size", "error"),
    ],
)
def test_voxel_sizes_that_cannot_be_true(tmp_path, scale, code, severity):
    found = check_volume(volume(tmp_path, raw16(nuclei()), nuclei(), scale_um=scale))
    assert (code, severity) in {(f.code, f.severity) for f in found}
    assert code not in codes(check_volume(volume(tmp_path / "good", raw16(nuclei()), nuclei())))


def test_labels_of_another_voxel_size(tmp_path):
    path = volume(tmp_path, raw16(nuclei()), nuclei(), **{"scale_um": SCALE})
    create_labels(path, "other", shape=SHAPE, scale_um=(1, 0.5, 0.5)).write((0, 0, 0), nuclei())
    assert codes(check_volume(path, "other")) == {"labels_scale"}


# --- the labels ---------------------------------------------------------------------------------------


def test_labels_of_another_shape(tmp_path):
    raw, labels = raw16(nuclei()), nuclei()
    cut = volume(tmp_path / "cut", raw, np.ascontiguousarray(labels[:-1]))
    turned = volume(tmp_path / "turned", raw, np.ascontiguousarray(labels.transpose(2, 1, 0)))
    assert codes(check_volume(cut)) == {"labels_shape"}
    assert "transpose" in next(f for f in check_volume(turned) if f.code == "labels_shape").message


def test_labels_without_nuclei(tmp_path):
    assert codes(check_volume(volume(tmp_path, raw16(nuclei()), 0 * nuclei())), "error") == {"empty_labels"}


def test_negative_ids(tmp_path):
    labels = nuclei().astype(np.int32)
    labels[0] = -1
    assert codes(check_volume(volume(tmp_path, raw16(nuclei()), labels))) == {"negative_ids"}


@pytest.mark.parametrize("classes", [1, 2, 255])
def test_masks_of_classes_given_as_instances(tmp_path, classes):
    labels = nuclei()
    mask = (labels > 0).astype(np.uint8) * (255 if classes == 255 else 1)
    if classes == 2:  # interior 1, boundary 2
        mask[(mask > 0) & ~ndimage.binary_erosion(mask > 0)] = 2
    found = check_volume(volume(tmp_path, raw16(labels), mask))
    assert codes(found) == {"semantic"}
    assert "18 separate" in found[0].message or classes == 2


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Image and labels of 90 nuclei that touch: few connected components."""
    path = tmp_path_factory.mktemp("crowded") / "v.zarr"
    synthesize(path, shape=(56, 56, 130), nuclei=90, seed=1, difficulty="hard")
    labels = open_labels(path).read()[:, :, :80].copy()  # the crowded head
    assert ndimage.label(labels > 0, np.ones((3, 3, 3)))[1] < 10
    return open_volume(path).read()[:, :, :80].copy(), labels


@pytest.mark.parametrize("value", [1, 255, 2])
def test_masks_of_nuclei_that_touch(tmp_path, crowded, value):
    raw, labels = crowded
    mask = (labels > 0).astype(np.uint8) * (value if value == 255 else 1)
    if value == 2:  # interior 1, boundary 2
        mask[(mask > 0) & ~ndimage.binary_erosion(mask > 0, iterations=1)] = 2
    found = check_volume(volume(tmp_path, raw, mask, scale_um=(0.122, 0.116, 0.116)))
    assert codes(found, "error") == {"semantic"}


def test_few_true_nuclei_are_no_mask(tmp_path, crowded):
    raw, labels = crowded
    for number, kept in enumerate([[1], [40, 41, 42]]):
        some = np.where(np.isin(labels, kept), labels, 0)
        path = volume(tmp_path / str(number), raw, some, scale_um=(0.122, 0.116, 0.116))
        assert "semantic" not in codes(check_volume(path))
    grid = np.indices(SHAPE)
    bent = sum((g - c) ** 2 for g, c in zip(grid, (20, 20 + 15 * np.sin(grid[2] / 25), 35), strict=True))
    one = (bent < 7**2).astype(np.uint8) * 255
    assert count_bodies(one > 0, None) < 4
    assert codes(check_volume(volume(tmp_path / "one", raw16(nuclei()), one)), "error") <= {"shifted"}


@pytest.mark.parametrize("lines", [False, True])
def test_a_background_with_an_id(tmp_path, lines):
    labels = nuclei()
    shifted = labels + 1
    if lines:  # lines of 0 between the regions, as a watershed draws them
        shifted[ndimage.morphological_gradient(labels, 3) > 0] = 0
    (found,) = check_volume(volume(tmp_path, raw16(labels), shifted))
    assert (found.code, found.severity, found.where) == ("background", "error", "ids 1")
    assert "labels[labels == 1] = 0" in found.message
    everything = check_volume(volume(tmp_path / "all", raw16(labels), np.ones_like(labels)))
    assert codes(everything) == {"background"}


def test_a_nucleus_that_fills_its_crop_is_no_background(tmp_path):
    ball = sum((g - 9.5) ** 2 for g in np.indices((20, 20, 20))) < 10.5**2
    labels = ball.astype(np.uint16)
    labels[:3, :3, :3] = 2
    raw = np.random.default_rng(0).poisson(100 + 900 * ball).astype(np.uint16)
    assert not codes(check_volume(volume(tmp_path, raw, labels)), "error")
    halves = np.ones((20, 20, 20), np.uint16)
    halves[:, :, 10:] = 2  # cells without gaps: no background, and no mistake
    assert "background" not in codes(check_volume(volume(tmp_path / "halves", raw, halves)))


def test_fragments(tmp_path):
    labels = nuclei()
    raw = raw16(labels)
    labels[labels == 7] = 3
    labels[0, 0, 0] = 5
    (found,) = check_volume(volume(tmp_path, raw, labels))[:1]
    assert (found.code, found.severity, found.where) == ("fragments", "warning", "ids 3, 5")
    assert codes(check_volume(tmp_path / "a.zarr")) == {"fragments"}


def test_slivers(tmp_path):
    labels = nuclei()
    raw = raw16(labels)
    labels[20, 20, 20] = labels[0, 0, 5] = 0
    labels[20, 20, 20:23], labels[0, 0, 5] = 40, 41
    found = check_volume(volume(tmp_path, raw, labels))
    (sliver,) = (f for f in found if f.code == "slivers")
    assert sliver.where == "ids 40, 41"
    assert "received 2 smaller ones, down to 1 voxels, 1 of them at the volume's border" in sliver.message
    assert codes(found) == {"slivers"}
    assert "1 of 20 nuclei" in next(f for f in found if f.code == "border").message


def test_ids_that_do_not_fit_their_dtype(tmp_path):
    labels = np.zeros((40, 40, 40), np.uint16)
    for number, (z, y, x) in enumerate(product(range(1, 40, 5), repeat=3), start=1):
        labels[z : z + 3, y : y + 3, x : x + 3] = number
    raw = np.where(labels > 0, 900, 100).astype(np.uint16) + (np.arange(40) % 7).astype(np.uint16)
    assert codes(check_volume(volume(tmp_path, raw, labels))) <= {"saturated"}
    wrapped = labels.astype(np.uint8)
    found = check_volume(volume(tmp_path / "wrapped", raw, wrapped))
    assert ("narrow_dtype", "error") in {(f.code, f.severity) for f in found}
    full = np.where(labels <= 255, labels, 0).astype(np.uint8)
    found = check_volume(volume(tmp_path / "full", raw, full))
    assert ("narrow_dtype", "warning") in {(f.code, f.severity) for f in found}


@pytest.mark.parametrize("shift", [(2, 0, 0), (0, -3, 0), (0, 4, -5), (-2, 3, 6)])
@pytest.mark.parametrize("dark", [False, True])
def test_shifted_labels(tmp_path, shift, dark):
    labels = nuclei()
    raw = raw16(labels)
    raw = raw.max() - raw if dark else raw
    found = check_volume(volume(tmp_path, raw, np.roll(labels, shift, (0, 1, 2))))
    (moved,) = (f for f in found if f.code == "shifted")
    assert moved.severity == ("error" if max(map(abs, shift)) > 2 else "warning")
    assert f"move by {tuple(-s for s in shift)} voxels" in moved.message


@pytest.mark.parametrize("radius", [2.0, 3.0, 4.5, 8.0])
def test_labels_smaller_or_larger_than_the_nuclei_are_not_called_shifted(tmp_path, radius):
    path = volume(tmp_path, raw16(nuclei()), nuclei(radius))
    assert not {"shifted", "mirrored"} & codes(check_volume(path))


def test_a_few_nuclei_say_nothing_about_a_shift(tmp_path):
    labels = nuclei()
    labels[labels > 5] = 0
    path = volume(tmp_path, raw16(labels), np.roll(labels, 3, 1))
    assert codes(check_volume(path)) == set()


@pytest.mark.skipif("NUCSEG_DATA" not in os.environ, reason="needs the small real volumes")
@pytest.mark.parametrize("name", ["ovule_1135", "qcanet_8cell"])
def test_real_labels_are_called_shifted_only_when_they_are(tmp_path, name):
    folder = Path(os.environ["NUCSEG_DATA"]) / name
    labels = tifffile.imread(folder / "labels.tif")
    for shift in ((0, 0, 1), (0, 2, 0), (0, -5, 4)):
        np.save(tmp_path / "labels.npy", np.roll(labels, shift, (0, 1, 2)))
        found = codes(check_volume(folder / "raw.tif", tmp_path / "labels.npy"))
        assert ("shifted" in found) == (max(map(abs, shift)) > 1)


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 0, 0), (0, -1, 1)])
def test_labels_within_a_voxel_are_not_called_shifted(tmp_path, shift):
    labels = nuclei()
    assert codes(check_volume(volume(tmp_path, raw16(labels), np.roll(labels, shift, (0, 1, 2))))) == set()


def test_mirrored_labels(tmp_path):
    labels = nuclei()
    labels[labels % 3 == 1] = 0  # none at low x: not symmetric
    raw = raw16(labels)
    found = check_volume(volume(tmp_path, raw, np.ascontiguousarray(labels[:, :, ::-1])))
    assert "mirror the labels along x" in next(f for f in found if f.code == "mirrored").message
    assert codes(check_volume(volume(tmp_path / "good", raw, labels))) == set()


def test_the_channel_that_fits_is_the_one_that_counts(tmp_path):
    labels = nuclei()
    noise = np.random.default_rng(0).integers(100, 3000, SHAPE).astype(np.uint16)
    both = np.stack([noise, raw16(labels)])
    assert codes(check_volume(volume(tmp_path, both, labels))) == set()
    found = check_volume(volume(tmp_path / "b", both, np.roll(labels, 4, 1)))
    assert [(f.code, f.where) for f in found if f.severity == "error"] == [("shifted", "channel 1")]


def test_labels_are_found_by_name_or_file(tmp_path):
    labels = nuclei()
    path = volume(tmp_path, raw16(labels))
    np.save(tmp_path / "empty.npy", 0 * labels)
    create_labels(path, "cells", shape=SHAPE, scale_um=SCALE).write((0, 0, 0), labels)
    assert check_volume(path) == check_volume(path, "cells") == []
    assert codes(check_volume(path, tmp_path / "empty.npy")) == {"empty_labels"}
    with pytest.raises(InputError, match="one of the source's labels: cells"):
        check_volume(path, "nuclei")


# --- large volumes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(600, 700, 900), (40, 5000, 5000), (10**6, 300, 300), (408, 408, 408)])
def test_boxes_lie_inside_and_apart_and_are_the_same_every_time(shape):
    chosen = boxes(shape)
    assert chosen == boxes(shape)
    assert 1 < len(chosen) <= 8
    assert all(
        b + n <= length for box in chosen for b, n, length in zip(box.begin, box.shape, shape, strict=True)
    )
    assert len({box.begin for box in chosen}) == len(chosen)
    assert all(b % 256 == 0 for box in chosen for b in box.begin), "boxes of one grid do not overlap"
    assert boxes((400, 400, 400)) == [Box((0, 0, 0), (400, 400, 400), ((False, False),) * 3)]


def test_a_large_volume_is_sampled_and_says_so(tmp_path, monkeypatch):
    labels = nuclei()
    path = volume(tmp_path, raw16(labels), labels)
    monkeypatch.setattr(sample, "WHOLE", 2**10)
    monkeypatch.setattr(sample, "BOX", 32)
    found = check_volume(path)
    assert codes(found) == set(), "nuclei that a box cuts are neither slivers nor fragments"
    (said,) = (f for f in found if f.code == "sampled")
    assert "8 boxes" in said.message
    labels[2, 2, 38] = labels[6, 2, 38] = 99  # two pieces inside one box
    create_labels(path, shape=SHAPE, scale_um=SCALE, overwrite=True).write((0, 0, 0), labels)
    assert "fragments" in codes(check_volume(path))


# --- kernels against slow references --------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [cases.touching_pair(), cases.same_label_twice(), cases.on_corner(), cases.spanning(), cases.huge_ids()],
)
def test_parts_equal_a_slow_reference(labels):
    cut = ((True, False), (False, True), (False, False))
    found = parts(labels, Box((10, 20, 30), labels.shape, cut))
    expected = set()
    for label in np.unique(labels[labels > 0]):
        components, count = ndimage.label(labels == label, np.ones((3, 3, 3)))
        for index in range(1, count + 1):
            places = np.argwhere(components == index)
            faces = [(places[:, a] == e).any() for a, n in enumerate(labels.shape) for e in (0, n - 1)]
            first = tuple(int(p) for p in places[0] + (10, 20, 30))
            is_cut = bool(faces[0] or faces[3])
            border = bool(faces[1] or faces[2] or faces[4] or faces[5])
            expected.add((int(label), len(places), first, is_cut, border))
    rows = zip(found.label, found.size, found.place, found.cut, found.border, strict=True)
    assert {(int(i), int(n), tuple(p.tolist()), bool(c), bool(b)) for i, n, p, c, b in rows} == expected


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, -1, 3), (-2, 2, -3)])
def test_fit_is_a_correlation_with_the_image_as_a_whole(shift):
    rng = np.random.default_rng(1)
    image, mask = rng.normal(size=(12, 11, 13)).astype(np.float32), rng.random((12, 11, 13)) < 0.3
    core = (slice(2, 10), slice(2, 9), slice(3, 10))
    moved = tuple(slice(side.start + s, side.stop + s) for side, s in zip(core, shift, strict=True))
    expected = np.corrcoef(image[moved].ravel(), mask[core].ravel())[0, 1] * image[moved].std()
    assert fit(image, mask, core, shift) == pytest.approx(expected, abs=1e-6)
    assert fit(image, 0 * mask, core, shift) == 0
