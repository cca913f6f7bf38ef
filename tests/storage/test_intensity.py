import numpy as np
import pytest
import zarr

from nucseg.errors import InputError
from nucseg.storage import volume as volume_module
from nucseg.volume import create_image, open_volume

SHAPE = (7, 8, 9)
SCALE = (0.5, 0.2, 0.25)


def ramp(shape=SHAPE, dtype="uint16"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int64", "float32", "float64"]
)
def test_intensity_range_equals_numpy(tmp_path, dtype):
    rng = np.random.default_rng(1)
    data = rng.normal(0, 300, (30, 40, 20))
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        data = np.clip(data * (1e4 if np.dtype(dtype).itemsize > 2 else 0.3), limits.min, limits.max)
    data = (data > 0) if dtype == "bool" else data.astype(dtype)
    image = create_image(tmp_path / "a", shape=data.shape, dtype=dtype, scale_um=None, shards=(7, 16, 16))
    for begin, shape in image.blocks():
        z, y, x = (slice(b, b + n) for b, n in zip(begin, shape, strict=True))
        image.write(begin, data[z, y, x])
    low, high = (0.0, 100.0) if dtype == "bool" else (1.0, 99.8)
    expected = np.percentile(data.astype(np.float64), [low, high])
    assert image.intensity_range(low, high) == pytest.approx(expected, rel=1e-12)
    if dtype != "bool":
        np.save(tmp_path / "a.npy", data)
        assert open_volume(tmp_path / "a.npy").intensity_range() == image.intensity_range(), "other blocks"


def test_intensity_range_ignores_what_is_not_finite(tmp_path):
    data = np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32)
    data[0, 0, :5] = np.nan, np.inf, -np.inf, np.nan, np.inf
    np.save(tmp_path / "a.npy", data)
    expected = np.percentile(data[np.isfinite(data)].astype(np.float64), [5, 95])
    assert open_volume(tmp_path / "a.npy").intensity_range(5, 95) == pytest.approx(expected, rel=1e-12)


def test_intensity_range_of_a_huge_volume_reads_every_nth_block(tmp_path, monkeypatch):
    image = create_image(tmp_path / "a", shape=(40, 4, 4), dtype="uint16", scale_um=None, shards=(4, 4, 4))
    for number, (begin, shape) in enumerate(image.blocks()):
        image.write(begin, (ramp(shape) + (0 if number % 3 == 0 else 5000)).astype("uint16"))
    monkeypatch.setattr(volume_module, "SAMPLED_VOXELS", 300)  # 640 voxels: every third block
    assert image.intensity_range(0, 100) == (0, 63)


def test_every_nth_block_of_a_volume_is_found_without_going_through_the_others(tmp_path):
    image = create_image(tmp_path / "a", shape=(9, 10, 11), dtype="uint8", scale_um=None, shards=(4, 4, 4))
    every = list(image.blocks())
    assert every[1] == ((0, 0, 4), (4, 4, 4))
    assert every[-1] == ((8, 8, 8), (1, 2, 3))
    assert len(every) == 27
    for step in (1, 2, 5, 27, 100):
        assert list(image.blocks(step)) == every[::step]
    zarr.create_array(tmp_path / "huge", shape=(200_000,) * 3, dtype="uint8", chunks=(64,) * 3)
    huge = open_volume(tmp_path / "huge")  # 3 x 10^10 chunks, none of them stored
    assert len(list(huge.blocks(10**9))) == 31
    with pytest.raises(InputError, match="every voxel at 0"):
        huge.intensity_range()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(SHAPE), "every voxel at 0"),
        (np.full(SHAPE, 7, "uint8"), "every voxel at 7"),
        (np.full(SHAPE, np.nan), "no finite voxel"),
        (np.eye(9)[None].repeat(9, 0) > 2, "every voxel at 0"),
        (np.pad(np.ones((1, 1, 1)), ((0, 9), (0, 9), (0, 9))), "further apart"),
    ],
)
def test_intensity_range_of_empty_and_constant_volumes(tmp_path, data, message):
    np.save(tmp_path / "a.npy", data)
    with pytest.raises(InputError, match=message):
        open_volume(tmp_path / "a.npy").intensity_range()


def test_percentiles_are_checked(tmp_path):
    np.save(tmp_path / "a.npy", ramp())
    with pytest.raises(InputError, match="0 <= low < high <= 100"):
        open_volume(tmp_path / "a.npy").intensity_range(99, 1)
