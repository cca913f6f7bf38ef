"""Volumes behind a URL: the same voxels as from the folder, and what cannot be read is told."""

import pickle
import sys

import numpy as np
import pytest
import zarr
from web_server import Parts, Whole, serving

from nucseg.blockwise.records import identity
from nucseg.errors import InputError
from nucseg.storage import remote
from nucseg.storage.formats import real_path
from nucseg.volume import create_image, create_labels, find_labels, open_labels, open_volume


@pytest.fixture
def folder(tmp_path):
    data = np.random.default_rng(3).integers(0, 60000, (2, 9, 10, 12)).astype(np.uint16)
    image = create_image(
        tmp_path / "a.zarr",
        shape=data.shape,
        dtype="uint16",
        scale_um=(0.3, 0.1, 0.2),
        axes=("c", "z", "y", "x"),
        shards=(4, 4, 4),
        chunks=(2, 4, 2),
    )
    data[:, 4:8, 4:8, 4:8] = 0
    for begin, shape in image.blocks():
        inside = tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))
        if data[:, *inside].any():
            image.write(begin, data[:, *inside])
    labels = create_labels(tmp_path / "a.zarr", shape=data.shape[1:], dtype="uint64", scale_um=None)
    labels.write((0, 0, 0), np.arange(data[0].size, dtype=np.uint64).reshape(data.shape[1:]))
    return tmp_path, data


def test_an_image_behind_a_url_is_the_one_in_the_folder(folder):
    path, data = folder
    assert not (path / "a.zarr" / "0" / "c" / "0" / "1" / "1" / "1").exists(), (
        "a shard of zeros is not stored"
    )
    with serving(path) as url:
        for where in (f"{url}/a.zarr", f"{url}/a.zarr/"):
            volume = open_volume(where)
            assert (volume.shape, volume.channels, volume.scale_um) == ((9, 10, 12), 2, (0.3, 0.1, 0.2))
            assert np.array_equal(volume.read(), data)
        assert np.array_equal(
            open_volume(f"{url}/a.zarr/0", channel=1).read((2, 1, 3), (5, 6, 7)), data[1, 2:7, 1:7, 3:10]
        )
        assert np.array_equal(
            pickle.loads(pickle.dumps(volume)).read((0, 0, 0), (2, 3, 4)), data[:, :2, :3, :4]
        )
        labels = open_labels(f"{url}/a.zarr").read()
        assert np.array_equal(labels, find_labels(f"{url}/a.zarr", "nuclei").read())
        assert labels[8, 9, 11] == data[0].size - 1
        with pytest.raises(InputError, match="writable"):
            volume.write((0, 0, 0), data[:, :4, :4, :4])


def test_a_server_that_sends_whole_files_is_enough_for_chunks_but_not_for_shards(folder):
    path, data = folder
    chunked = zarr.create_array(path / "b.zarr", shape=(9, 10, 12), dtype=">u2", chunks=(4, 5, 6))
    chunked[:] = data[1]
    with serving(path, Whole) as url:
        assert np.array_equal(open_volume(f"{url}/b.zarr").read(), data[1])
        with pytest.raises(InputError, match=r"HTTP Range.*shards"):
            open_volume(f"{url}/a.zarr").read()


def test_identity_follows_the_metadata_behind_the_url(folder):
    path, _ = folder
    with serving(path) as url:
        first = identity(f"{url}/a.zarr")
        assert identity(f"{url}/a.zarr/") == first
        assert first["path"] == real_path(f"{url}/a.zarr/") == f"{url}/a.zarr"
        file = path / "a.zarr" / "0" / "zarr.json"
        file.write_text(file.read_text().replace('"fill_value": 0', '"fill_value": 1'))
        assert identity(f"{url}/a.zarr")["metadata"] != first["metadata"]


def test_what_is_not_there_or_does_not_answer_is_told(folder):
    path, _ = folder
    (path / "group").mkdir()
    with serving(path) as url:
        with pytest.raises(
            InputError, match=r"a zarr array or OME-Zarr image behind the URL; received no zarr"
        ):
            open_volume(f"{url}/none.zarr")
        with pytest.raises(InputError, match="zarr"):
            open_volume(f"{url}/group/a.tif")
    with pytest.raises(InputError, match=r"a server that can be read; received ClientConnector"):
        open_volume(f"{url}/a.zarr")
    with pytest.raises(InputError, match="fsspec reads; received nowhere://"):
        open_volume("nowhere://host/a.zarr")


def test_a_server_that_fails_for_a_while_is_no_damage(folder):
    path, data = folder
    handler = type("Failing", (Parts,), {})
    with serving(path, handler) as url:
        volume = open_volume(f"{url}/a.zarr")
        handler.broken = True
        with pytest.raises(Exception, match="503") as caught:
            volume.read()
        assert not isinstance(caught.value, InputError), "a block is tried again after such an error"
        handler.broken = False
        assert np.array_equal(volume.read(), data)


@pytest.mark.parametrize(("url", "package"), [("https://h/a.zarr", "aiohttp"), ("s3://b/a.zarr", "s3fs")])
def test_missing_packages_are_named(monkeypatch, url, package):
    for name in ("fsspec", "fsspec.core"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"{package}.*pip install 'nucseg\[remote\]'"):
        open_volume(url)


def test_files_are_no_urls(tmp_path):
    for path in ("a.zarr", "file.h5:raw", "C:\\a.zarr", tmp_path):
        assert not remote.is_remote(path)
    assert remote.absolute("https://h/x/a.zarr/") == "https://h/x/a.zarr"
    assert remote.parent("https://h/x/a.zarr/0") == "https://h/x/a.zarr"
    assert remote.joined("https://h/a.zarr/", "0") == "https://h/a.zarr/0"
    assert remote.joined(str(tmp_path), "0") == str(tmp_path / "0")
