"""Importing the C. elegans volumes: every layout, and everything that can be wrong with a download."""

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from scipy import ndimage

import nucseg as ns

HERE = Path(__file__).resolve().parents[2] / "pipelines" / "celegans"
sys.path.insert(0, str(HERE))

from import_volumes import import_worms, options_of, options_parser  # noqa: E402
from layouts import Split, assign, find_worms, read_split  # noqa: E402
from metaimage import read_metaimage  # noqa: E402

SPLIT = tomllib.loads((HERE / "split.toml").read_text(encoding="utf-8"))
FOLDERS = {"train": "train", "validation": "val", "test": "test"}
SOME = {"train": "C18G1_2L1_1", "validation": "pha4I2L_0408071", "test": "mir61L1_1229062"}


def worm(seed=0):
    """Raw and labels of a tiny worm; no two axes have the same length."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (6, 8, 20), dtype=np.uint8)
    labels = np.zeros(raw.shape, np.uint32)
    labels[1:4, 2:7, 3:9] = 4
    labels[2:5, 1:5, 11:17] = 70_000
    labels[0, 6:, 18:] = 9
    return raw, labels


def centers_text(labels, dz=0.0):
    """A table as the authors have it: label, name, x, y, z, radii."""
    ids = np.unique(labels)[1:]
    rows = []
    for number, (z, y, x) in zip(ids, ndimage.center_of_mass(labels > 0, labels, ids), strict=True):
        rows.append(f"{number} NAME{number} {x:.3f} {y:.3f} {z + dz:.3f} 3 2 1")
    return "\n".join(reversed(rows)) + "\n"


def write_parts(folder, names=SOME):
    """The public archive's layout, with what macOS adds to it."""
    for part, name in names.items():
        raw, labels = worm(len(name))
        for kind, data in (("images", raw), ("masks", labels)):
            place = folder / FOLDERS[part] / kind
            place.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(place / f"{name}.tif", data)
            (place / f"._{name}.tif").write_bytes(b"\0")
    (folder / "readme.md").write_text("about")
    junk = folder.parent / "__MACOSX" / folder.name / "train" / "images"
    junk.mkdir(parents=True, exist_ok=True)
    return folder


def write_mhd(path, data, packed=False):
    import zlib

    content = data.astype(data.dtype.newbyteorder("<")).tobytes()
    path.with_suffix(".raw").write_bytes(zlib.compress(content) if packed else content)
    z, y, x = data.shape
    kind = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT"}[data.dtype.name]
    path.write_text(
        f"ObjectType = Image\nNDims = 3\nCompressedData = {packed}\nDimSize = {x} {y} {z}\n"
        f"ElementType = {kind}\nElementDataFile = {path.stem}.raw\n"
    )


def write_curated(folder, names=None):
    """The authors' own layout: MetaImage or TIFF, curated labels, centres, and aligned copies to be ignored."""
    names = names or SOME.values()
    for place in ("imagesAsMhdRaw", "imagesAsTiff", "groundTruthInstanceSeg"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        raw, labels = worm(len(name))
        if index:
            write_mhd(folder / "imagesAsMhdRaw" / f"{name}.mhd", raw, packed=index == 1)
        else:
            tifffile.imwrite(folder / "imagesAsTiff" / f"{name}.tiff", raw)
        truth = folder / "groundTruthInstanceSeg"
        suffix = ".TIFF" if index else ".tiff"
        tifffile.imwrite(truth / f"{name}.ano.curated{suffix}", labels)
        tifffile.imwrite(truth / f"{name}.ano.curated.aligned.tiff", labels[::-1])
        (truth / f"{name}.ano.curated.txt").write_text(centers_text(labels))
        (truth / f"{name}.ano.curated.aligned.txt").write_text("1 A 0 0 0\n")
    return folder


def imported(download, out, *options):
    given = options_parser("").parse_args([str(download), str(out), *options])
    return import_worms(given.download, given.out, options_of(given))


def check_volume(path, name):
    """Voxels, voxel size, labels and centres are those of `worm`."""
    raw, labels = worm(len(name))
    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["0"][:], raw)
    np.testing.assert_array_equal(group["labels/nuclei/0"][:], labels)
    assert group["labels/nuclei/0"].dtype == np.uint32
    assert ns.open_volume(path).scale_um == (0.122, 0.116, 0.116)
    assert ns.open_labels(path).scale_um == (0.122, 0.116, 0.116)
    table = ns.read_table(path / "tables" / "centers.csv")
    np.testing.assert_array_equal(table["id"], [4, 9, 70_000])
    expected = ndimage.center_of_mass(labels > 0, labels, [4, 9, 70_000])
    np.testing.assert_allclose(np.stack([table[a] for a in "zyx"], 1), expected, atol=6e-4)
    np.testing.assert_allclose(table["z_um"], table["z"] * 0.122)
    return table


def test_the_published_split_and_the_experiment_name_the_same_28_worms():
    split = read_split(HERE / "split.toml")
    assert [len(split.parts[part]) for part in ("train", "validation", "test")] == [18, 3, 7]
    assert len({name for names in split.parts.values() for name in names} | set(split.left_out)) == 30
    experiment = tomllib.loads((HERE / "experiment.toml").read_text(encoding="utf-8"))
    (data,) = experiment["datasets"]
    for part, names in split.parts.items():
        assert data[part] == [f"volumes/{name}.zarr" for name in names]


def test_the_experiment_has_the_published_settings():
    experiment = tomllib.loads((HERE / "experiment.toml").read_text(encoding="utf-8"))
    data = {"train": ["unread"]}
    config = ns.TrainConfig.model_validate(
        experiment["training"] | {"scenario": "three_label_cpv", "data": data}
    )
    assert config.network == ns.unet("paper")
    assert config.network.training_input_shape(config.patch.output) == (228, 228, 204)
    assert (config.iterations, config.checkpoint_every, config.patch.batch) == (400_000, 10_000, 1)
    rates = [float(config.optimizer.build(config.iterations).learning_rate)]
    assert rates == pytest.approx([1e-4])
    assert config.optimizer.schedule == "constant"
    assert config.augment.deform == 1
    assert len(experiment["scenarios"]) == 7
    assert len(experiment["seeds"]) == 3


def test_the_archives_layout_as_folder_and_as_zip(tmp_path, capsys):
    write_parts(tmp_path / "data" / "c_elegans_nuclei")
    for place in (tmp_path / "data", tmp_path / "data" / "c_elegans_nuclei"):
        out = tmp_path / f"out{len(place.parts)}"
        summary = imported(place, out, "--partial")
        for part, name in SOME.items():
            assert summary[part] == [f"volumes/{name}.zarr"]
            assert "name" not in check_volume(out / "volumes" / f"{name}.zarr", name)
        assert json.loads((out / "split.json").read_text()) == summary
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with zipfile.ZipFile(downloads / "c_elegans_nuclei.zip", "w") as archive:
        for path in sorted((tmp_path / "data").rglob("*")):
            archive.write(path, path.relative_to(tmp_path / "data"))
    capsys.readouterr()
    imported(downloads, tmp_path / "zip", "--partial")
    assert "known is 84403531 bytes" in capsys.readouterr().out
    check_volume(tmp_path / "zip" / "volumes" / f"{SOME['test']}.zarr", SOME["test"])
    imported(downloads / "c_elegans_nuclei.zip", tmp_path / "zip", "--partial")
    assert capsys.readouterr().out.count("there already") == 3


def test_the_authors_layout_with_centres(tmp_path, capsys):
    summary = imported(write_curated(tmp_path / "in"), tmp_path / "out", "--partial")
    assert summary["how"]["layout"] == "curated"
    for part, name in SOME.items():
        assert summary[part] == [f"volumes/{name}.zarr"]
        table = check_volume(tmp_path / "out" / "volumes" / f"{name}.zarr", name)
        assert list(table["name"]) == ["NAME4", "NAME9", "NAME70000"]
    assert "centres from file" in capsys.readouterr().out


def test_a_flat_folder_is_split_by_name_and_the_two_worms_are_left_out(tmp_path, capsys):
    flat = tmp_path / "flat"
    names = [name for part in ("train", "validation", "test", "left_out") for name in SPLIT[part]]
    assert len(names) == 30
    for kind in ("images", "masks"):
        (flat / kind).mkdir(parents=True)
    for name in names:
        raw, labels = worm(len(name))
        tifffile.imwrite(flat / "images" / f"{name}.tif", raw)
        tifffile.imwrite(flat / "masks" / f"{name}.tif", labels)
    kind, worms = find_worms(flat)
    parts, left_out = assign(worms, read_split(HERE / "split.toml"))
    assert kind == "flat"
    assert {part: [w.name for w in found] for part, found in parts.items()} == {
        part: sorted(SPLIT[part]) for part in parts
    }
    assert sorted(left_out) == sorted(SPLIT["left_out"])
    for name in names[1:]:
        (flat / "images" / f"{name}.tif").unlink()
        (flat / "masks" / f"{name}.tif").unlink()
    with pytest.raises(
        ns.InputError, match=r"27 of 28 worms missing: cnd1threeL1_1213061, .*unc54L1_0123071"
    ):
        imported(flat, tmp_path / "out")
    assert not (tmp_path / "out" / "volumes").exists()


def test_an_axis_order_that_is_named(tmp_path):
    flat = write_parts(tmp_path / "in", {"test": SOME["test"]})
    raw, labels = worm(len(SOME["test"]))
    for kind, data in (("images", raw), ("masks", labels)):
        tifffile.imwrite(flat / "test" / kind / f"{SOME['test']}.tif", data.transpose(2, 0, 1))
    with pytest.raises(ns.InputError, match=r"long axis last.*\(20, 6, 8\) as z, y, x.*--axes"):
        imported(flat, tmp_path / "out", "--partial")
    imported(flat, tmp_path / "out2", "--partial", "--axes", "xzy")
    check_volume(tmp_path / "out2" / "volumes" / f"{SOME['test']}.zarr", SOME["test"])


def test_a_tiff_that_calls_its_planes_channels_is_read_as_planes(tmp_path):
    flat = write_parts(tmp_path / "in", {"test": SOME["test"]})
    raw, _ = worm(len(SOME["test"]))
    path = flat / "test" / "images" / f"{SOME['test']}.tif"
    tifffile.imwrite(path, raw, imagej=True, metadata={"axes": "CYX"})
    with tifffile.TiffFile(path) as tiff:
        assert tiff.series[0].axes == "CYX"
    imported(flat, tmp_path / "out", "--partial")
    check_volume(tmp_path / "out" / "volumes" / f"{SOME['test']}.zarr", SOME["test"])


def break_shape(folder, name):
    tifffile.imwrite(folder / "images" / f"{name}.tif", worm()[0][:, :7])


def break_labels_type(folder, name):
    tifffile.imwrite(folder / "masks" / f"{name}.tif", worm()[1].astype(np.float32))


def break_labels_mask(folder, name):
    tifffile.imwrite(folder / "masks" / f"{name}.tif", (worm()[1] > 0).astype(np.uint8))


def break_dimensions(folder, name):
    tifffile.imwrite(folder / "masks" / f"{name}.tif", worm()[1][0])


def break_file(folder, name):
    (folder / "images" / f"{name}.tif").write_bytes(b"no tiff")


def lose_labels(folder, name):
    (folder / "masks" / f"{name}.tif").unlink()
    tifffile.imwrite(folder / "masks" / "other.tif", worm()[1])


def twice(folder, name):
    tifffile.imwrite(folder / "images" / f"{name}.tiff", worm()[0])


def twice_in_parts(folder, name):
    write_parts(folder.parent, {"train": name})


def unknown(folder, name):
    for kind in ("images", "masks"):
        (folder / kind / f"{name}.tif").rename(folder / kind / "worm_31.tif")


def other_part(folder, name):
    write_parts(folder.parent, {"test": SOME["train"]})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_shape, r"image and labels of one shape; received image \(6, 7, 20\), labels \(6, 8, 20\)"),
        (break_labels_type, "labels of an integer type; received labels float32"),
        (break_labels_mask, "labels of several nuclei, 0 for background; received the values 0, 1"),
        (break_dimensions, "one stack of three axes"),
        (break_file, "a readable TIFF stack"),
        (lose_labels, "images without labels: mir61L1_1229062; labels without an image: other"),
        (twice, "several files: mir61L1_1229062"),
        (twice_in_parts, "several files: mir61L1_1229062 .*test.*"),
        (unknown, "worm_31 in the folder of test, by name in no part"),
        (other_part, "C18G1_2L1_1 in the folder of test, by name train"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, spoil, message):
    folder = write_parts(tmp_path / "in", {"test": SOME["test"]})
    spoil(folder / "test", SOME["test"])
    with pytest.raises(ns.InputError, match=message):
        imported(folder, tmp_path / "out", "--partial")
    assert not list((tmp_path / "out").glob("volumes/*"))


def test_all_that_is_missing_is_named_at_once(tmp_path):
    folder = write_parts(tmp_path / "in")
    for part, kind in (("train", "masks"), ("validation", "images"), ("test", "masks")):
        (folder / FOLDERS[part] / kind / f"{SOME[part]}.tif").unlink()
    with pytest.raises(ns.InputError) as told:
        imported(folder, tmp_path / "out")
    assert f"images without labels: {SOME['train']}, {SOME['test']}; " in told.value.received
    assert f"labels without an image: {SOME['validation']}; " in told.value.received
    missing = [n for part in FOLDERS for n in SPLIT[part] if n not in SOME.values()]
    assert told.value.received.endswith(f"25 of 28 worms missing: {', '.join(missing)}")
    curated = write_curated(tmp_path / "curated")
    lost = [SOME["validation"], SOME["test"]]
    for name in lost:
        (curated / "imagesAsMhdRaw" / f"{name}.raw").unlink()
    (curated / "groundTruthInstanceSeg" / f"{SOME['train']}.ano.curated.txt").unlink()
    with pytest.raises(ns.InputError) as told:
        imported(curated, tmp_path / "out", "--partial", "--centers", "file")
    assert f"headers without their data file: {', '.join(sorted(lost))}; " in told.value.received
    assert told.value.received.endswith(f"needs none): {SOME['train']}")
    assert not (tmp_path / "out" / "volumes").exists()


def test_folders_or_names_alone_when_they_disagree(tmp_path):
    folder = write_parts(tmp_path / "in", {"test": SOME["train"]})
    by_folder = imported(folder, tmp_path / "folders", "--partial", "--split", "folders")
    by_name = imported(folder, tmp_path / "names", "--partial", "--split", "names")
    assert by_folder["test"] == by_name["train"] == [f"volumes/{SOME['train']}.zarr"]
    assert not by_folder["train"]


def test_without_partial_every_part_is_needed(tmp_path):
    folder = write_parts(tmp_path / "in", {"test": SOME["test"]})
    with pytest.raises(ns.InputError, match="no worm for train, validation"):
        imported(folder, tmp_path / "out", "--split", "folders")


def test_no_layout_or_two(tmp_path):
    (tmp_path / "in" / "stuff").mkdir(parents=True)
    with pytest.raises(ns.InputError, match=r"train, val, test with images and masks.*folders stuff"):
        imported(tmp_path / "in", tmp_path / "out")
    write_parts(tmp_path / "in" / "a")
    write_curated(tmp_path / "in" / "b")
    with pytest.raises(ns.InputError, match=r"parts in .*; curated in "):
        imported(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ns.InputError, match="no folder of that name"):
        imported(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("NAME4 ", "NAME4 NaN "), "line 3.*label, name, x, y, z"),
        (
            lambda text: text.replace("9 NAME9", "8 NAME9"),
            "centres without a label: 8; labels without a centre: 9",
        ),
        (lambda text: text + text.splitlines()[0] + "\n", "ids twice: 70000"),
        (lambda text: "\n".join(text.splitlines()[1:]), "2 lines; labels without a centre: 70000"),
    ],
)
def test_a_wrong_table_of_centres_is_refused(tmp_path, change, message):
    name = SOME["test"]
    folder = write_curated(tmp_path / "in", (name,))
    table = folder / "groundTruthInstanceSeg" / f"{name}.ano.curated.txt"
    table.write_text(change(table.read_text()))
    with pytest.raises(ns.InputError, match=message):
        imported(folder, tmp_path / "out", "--partial")
    imported(folder, tmp_path / "out2", "--partial", "--centers", "labels")
    check_volume(tmp_path / "out2" / "volumes" / f"{name}.zarr", name)


def test_centres_in_another_order_are_refused_and_the_order_is_named(tmp_path):
    name = SOME["test"]
    folder = write_curated(tmp_path / "in", (name,))
    table = folder / "groundTruthInstanceSeg" / f"{name}.ano.curated.txt"
    rows = [line.split() for line in table.read_text().splitlines()]
    table.write_text("".join(f"{a} {b} {z} {y} {x} 1 1 1\n" for a, b, x, y, z, *_ in rows))
    with pytest.raises(ns.InputError, match="they do with x, y, z in place of z, y, x"):
        imported(folder, tmp_path / "out", "--partial")


def test_the_shift_of_centres_is_reported(tmp_path, capsys):
    name = SOME["test"]
    folder = write_curated(tmp_path / "in", (name,))
    table = folder / "groundTruthInstanceSeg" / f"{name}.ano.curated.txt"
    table.write_text(centers_text(worm(len(name))[1], dz=0.25))
    imported(folder, tmp_path / "out", "--partial")
    assert "(median +0.25 +0.00 +0.00 from the centres of mass)" in capsys.readouterr().out


def test_other_options_in_the_same_folder_are_refused(tmp_path):
    folder = write_parts(tmp_path / "in")
    imported(folder, tmp_path / "out", "--partial")
    with pytest.raises(ns.InputError, match="give the same options, or another folder"):
        imported(folder, tmp_path / "out", "--partial", "--scale-um", "1", "1", "1")


def test_a_split_of_ones_own(tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text('train = ["a", "b"]\nvalidation = ["c"]\ntest = ["a"]\n')
    with pytest.raises(ns.InputError, match="each name once; received twice: a"):
        read_split(bad)
    bad.write_text('train = ["a"]\n')
    with pytest.raises(ns.InputError, match="lists of names: train, validation, test"):
        read_split(bad)
    assert Split({"train": ("a",), "validation": (), "test": ()}, ("b",)).part_of("b") == "left_out"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("packed", [False, True])
def test_metaimage(tmp_path, dtype, packed):
    data = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (3, 4, 5), dtype=dtype)
    write_mhd(tmp_path / "a.mhd", data, packed)
    np.testing.assert_array_equal(read_metaimage(tmp_path / "a.mhd"), data)


def test_metaimage_that_cannot_be_read(tmp_path):
    data = np.zeros((3, 4, 5), np.uint8)
    write_mhd(tmp_path / "a.mhd", data)
    header = (tmp_path / "a.mhd").read_text()
    (tmp_path / "a.raw").write_bytes(bytes(59))
    with pytest.raises(
        ns.InputError, match=r"60 bytes of MET_UCHAR for 5 x 4 x 3 \(x, y, z\); received 59 bytes"
    ):
        read_metaimage(tmp_path / "a.mhd")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(ns.InputError, match="one data file beside the header"):
        read_metaimage(tmp_path / "a.mhd")
    (tmp_path / "a.mhd").write_text(header.replace("5 4 3", "5 4"))
    with pytest.raises(ns.InputError, match="DimSize = 5 4"):
        read_metaimage(tmp_path / "a.mhd")
    local = header.replace("a.raw", "LOCAL").encode() + bytes(range(60))
    (tmp_path / "a.mha").write_bytes(local)
    np.testing.assert_array_equal(read_metaimage(tmp_path / "a.mha").ravel(), np.arange(60))


def test_one_command_imports_and_names_the_experiment(tmp_path):
    write_parts(tmp_path / "in")
    command = [
        sys.executable,
        HERE / "reproduce.py",
        tmp_path / "in",
        tmp_path / "out",
        "--partial",
        "--import-only",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        f"$ nucseg experiment {tmp_path}/out/experiment.toml --folder {tmp_path}/out/results" in done.stdout
    )
    imported = json.loads((tmp_path / "out" / "split.json").read_text())
    whole, copied = (
        tomllib.loads(path.read_text())
        for path in (HERE / "experiment.toml", tmp_path / "out" / "experiment.toml")
    )
    for part in ("train", "validation", "test"):
        assert sorted(copied["datasets"][0].pop(part)) == sorted(imported[part]) != []
        assert set(whole["datasets"][0].pop(part)) > set(imported[part])
    assert copied == whole  # all else
    refused = subprocess.run([*command[:-2]], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("reproduce.py: the split of the worms: expected every worm in one part")
