from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr

from nucseg.errors import InputError
from nucseg.volume import create_image, create_labels, open_labels, open_volume

SHAPE = (7, 8, 9)
SCALE = (0.5, 0.2, 0.25)


def ramp(shape=SHAPE, dtype="uint16"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in Path(folder).rglob("*")
    }


def test_arrays_are_sharded_and_zstd_compressed(tmp_path):
    made = create_image(
        tmp_path / "a", shape=(300, 20, 20), dtype="uint8", scale_um=None, shards=(128, 20, 20)
    )
    assert made.array.shards == (128, 20, 20)
    assert made.array.chunks == (64, 20, 20)
    assert made.write_unit == (128, 20, 20)
    assert "Zstd" in str(made.array.compressors)
    assert made.scale_um is None


@pytest.mark.parametrize("shards", [(67, 13, 1), (97, 131, 64), (1, 1, 1), (128, 94, 262)])
def test_any_shard_shape_works_and_chunks_divide_it(tmp_path, shards):
    made = create_image(tmp_path / "a", shape=(70, 9, 11), dtype="uint8", scale_um=None, shards=shards)
    assert made.write_unit == shards
    assert all(shard % chunk == 0 for shard, chunk in zip(shards, made.array.chunks, strict=True))
    assert all(chunk >= min(shard, 16) for shard, chunk in zip(shards, made.array.chunks, strict=True)), (
        "a prime shard must not fall into single voxels"
    )
    begin, shape = next(made.blocks())
    made.write(begin, np.full(shape, 7, dtype="uint8"))
    assert (made.read(begin, shape) == 7).all()


def test_labels_in_a_bare_group_stand_where_the_command_line_says(tmp_path):
    labels = create_labels(tmp_path / "out", shape=SHAPE, scale_um=SCALE, dtype="uint64")
    assert zarr.open_array(tmp_path / "out" / "labels" / "nuclei" / "0").shape == SHAPE
    assert open_labels(tmp_path / "out") == labels == open_labels(labels.path)
    create_labels(tmp_path / "out", "cells", shape=SHAPE, scale_um=SCALE)
    assert zarr.open_group(tmp_path / "out" / "labels").attrs["ome"]["labels"] == ["nuclei", "cells"]
    yaozarrs.validate_zarr_store(str(tmp_path / "out" / "labels"))


def test_image_joins_labels_made_first(tmp_path):
    create_labels(tmp_path / "out", shape=SHAPE, scale_um=SCALE)
    create_image(tmp_path / "out", shape=SHAPE, dtype="uint8", scale_um=SCALE)
    assert open_volume(tmp_path / "out").dtype == np.uint8
    assert open_labels(tmp_path / "out").dtype == np.uint32


def test_run_records_and_tables_do_not_make_a_folder_foreign(tmp_path):
    (tmp_path / "out" / ".nucseg").mkdir(parents=True)
    (tmp_path / "out" / "tables").mkdir()
    create_labels(tmp_path / "out", shape=SHAPE, scale_um=None)
    assert open_labels(tmp_path / "out").shape == SHAPE


@pytest.mark.parametrize("scale", [(0, 1, 1), (-1, 1, 1), (1, 1), (np.nan, 1, 1)])
def test_impossible_voxel_sizes(tmp_path, scale):
    with pytest.raises(InputError, match="three positive lengths"):
        create_image(tmp_path / "a", shape=SHAPE, dtype="uint8", scale_um=scale)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("create", [create_image, create_labels])
def test_foreign_folders_stay_untouched(tmp_path, create):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    before = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds chapter.txt; choose another folder"):
            create(tmp_path / "thesis", shape=SHAPE, dtype="uint8", scale_um=None, overwrite=overwrite)
    assert tree(tmp_path) == before


def test_existing_images_and_labels_are_kept_unless_asked(tmp_path):
    path = tmp_path / "a.zarr"
    create_image(path, shape=SHAPE, dtype="uint8", scale_um=None).write((0, 0, 0), np.ones(SHAPE, "uint8"))
    create_labels(path, shape=SHAPE, scale_um=None).write((0, 0, 0), np.ones(SHAPE, "uint32"))
    before = tree(path)
    for create in (create_image, create_labels):
        with pytest.raises(InputError, match="nothing was changed"):
            create(path, shape=SHAPE, dtype="uint8", scale_um=None)
    assert tree(path) == before
    create_image(path, shape=(3, 4, 5), dtype="uint16", scale_um=SCALE, overwrite=True)
    assert open_volume(path).shape == (3, 4, 5)
    assert not open_volume(path).read().any()
    assert open_labels(path).read().all(), "labels stay when the image is replaced"
    create_labels(path, shape=(3, 4, 5), scale_um=SCALE, overwrite=True)
    assert not open_labels(path).read().any()
    assert zarr.open_group(path / "labels").attrs["ome"]["labels"] == ["nuclei"]


def test_labels_never_replace_something_else(tmp_path):
    create_image(tmp_path / "a.zarr" / "labels" / "nuclei", shape=SHAPE, dtype="uint8", scale_um=None)
    before = tree(tmp_path)
    zarr.open_group(tmp_path / "a.zarr" / "labels", mode="a")
    zarr.open_group(tmp_path / "a.zarr", mode="a")
    with pytest.raises(InputError, match="something that is no label image"):
        create_labels(tmp_path / "a.zarr", shape=SHAPE, scale_um=None, overwrite=True)
    assert before.items() <= tree(tmp_path).items()


def test_ome_zarr_04_is_not_mixed_with_05(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2).attrs["multiscales"] = [{"version": "0.4"}]
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"0.5"):
        create_labels(tmp_path / "a.zarr", shape=SHAPE, scale_um=None)
    assert tree(tmp_path) == before


def test_unwritable_places(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a folder that can be written"):
        create_image(tmp_path / "file" / "a.zarr", shape=SHAPE, dtype="uint8", scale_um=None)
    with pytest.raises(InputError, match="a folder that can be written"):
        create_labels(tmp_path / "file", shape=SHAPE, scale_um=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (0, 3, 3)}, "positive lengths"),
        ({"shape": (3, 3)}, "positive lengths"),
        ({"shape": (2, 3, 3, 3)}, "positive lengths"),
        ({"axes": tuple("xyz")}, "positive lengths"),
        ({"dtype": "complex64"}, "dtype"),
        ({"shards": (4, 4, 4), "chunks": (3, 4, 4)}, "divide the shards"),
        ({"shards": (0, 4, 4)}, "three positive lengths"),
        ({"channel_names": ["a"]}, "one name a channel"),
    ],
)
def test_impossible_images(tmp_path, changes, message):
    arguments = {"shape": SHAPE, "dtype": "uint8", "scale_um": None, **changes}
    with pytest.raises(InputError, match=message):
        create_image(tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_impossible_label_names(tmp_path, name):
    with pytest.raises(InputError, match="plain name"):
        create_labels(tmp_path / "a", name, shape=SHAPE, scale_um=None)
