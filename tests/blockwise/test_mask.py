"""A mask says where to look: outside there is background, voxel by voxel, and blocks outside are not predicted."""

import json

import numpy as np
import pytest
from blockwise_cases import labels_of, random_raw, save_prediction, save_raw
from click.testing import CliRunner
from scipy.ndimage import binary_dilation

from nucseg.blockwise.downsample import Downsample
from nucseg.blockwise.grid import Box
from nucseg.blockwise.launch import Local
from nucseg.blockwise.mask import Mask, OpenMask
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.run import run
from nucseg.blockwise.steps import segment
from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.volume import create_image, open_volume

HERE = Local(workers=0)
SHAPE = (27, 32, 41)
SETTLED = {"seed_threshold": 0.335, "foreground_threshold": 0.6, "max_halo": 64, "launcher": HERE}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return save_raw(tmp_path_factory.mktemp("raw") / "raw.zarr", random_raw(SHAPE, seed=8))


def save_mask(path, mask, scale_um=(0.6, 0.4, 0.2)):
    volume = create_image(path, shape=mask.shape, dtype=mask.dtype, scale_um=scale_um)
    volume.write((0, 0, 0), mask)
    return str(path)


def coarse() -> np.ndarray:
    """A mask of cells of 3 x 4 x 2 voxels."""
    mask = np.zeros((9, 8, 21), np.uint8)
    mask[2:7, 3:, 4:15] = 3
    mask[0, 0, 20] = 1
    return mask


def spread(mask: np.ndarray, factor: tuple[int, int, int]) -> np.ndarray:
    """The mask at the voxels of the volume."""
    for axis, times in enumerate(factor):
        mask = np.repeat(mask, times, axis)
    return mask[tuple(slice(0, n) for n in SHAPE)]


@pytest.mark.parametrize(("above", "grow"), [(0, 0), (1, 0), (0, 2), (-1, 0), (-1, 1)])
def test_any_box_of_a_mask_is_that_of_the_whole(tmp_path, raw, above, grow):
    mask = Mask(path=save_mask(tmp_path / "m.zarr", coarse()), above=above, grow=grow)
    inside = coarse() > above
    if grow:
        inside = binary_dilation(inside, np.ones((2 * grow + 1,) * 3))
    expected = spread(inside, (3, 4, 2))
    opened = OpenMask(mask, open_volume(raw))
    for box in (Box((0, 0, 0), SHAPE), Box((5, 7, 9), (6, 30, 40)), Box((26, 31, 40), SHAPE)):
        inner = tuple(slice(b, e) for b, e in zip(box.begin, box.end, strict=True))
        assert np.array_equal(opened.read(box), expected[inner])


def test_a_level_of_the_volume_itself_is_a_mask(tmp_path):
    data = random_raw((20, 22, 50), seed=3)
    path = save_raw(tmp_path / "raw.zarr", data)
    Downsample(volume=path, levels=2).blockwise(HERE)
    for level in (1, 2):
        values = open_volume(path, level=level).read()
        opened = OpenMask(Mask(path=path, level=level, above=0.3), open_volume(path))
        expected = values > 0.3
        for axis, factor in enumerate(opened.factor):
            expected = np.repeat(expected, factor, axis)
        assert np.array_equal(opened.read(Box((0, 0, 0), data.shape)), expected[:20, :22, :50])


@pytest.mark.parametrize("factor", [(5, 4, 2), (1, 1, 7)])
def test_masks_of_another_space_are_refused(tmp_path, raw, untrained, factor):
    mask = coarse()
    scale = tuple(f * s for f, s in zip(factor, (0.2, 0.1, 0.1), strict=True))
    task = Predict(
        volume=raw,
        out=str(tmp_path / "o"),
        model=str(untrained),
        mask=Mask(path=save_mask(tmp_path / "m", mask, scale)),
    )
    with pytest.raises(InputError, match=r"mask: expected an image of the space of \(27, 32, 41\)"):
        task.blockwise(HERE)
    assert not (tmp_path / "o").exists()


def test_masks_without_a_voxel_size_need_whole_multiples(tmp_path, raw):
    whole = np.ones((9, 8, 41), bool)
    np.save(tmp_path / "m.npy", whole)
    assert OpenMask(Mask(path=str(tmp_path / "m.npy")), open_volume(raw)).factor == (3, 4, 1)
    np.save(tmp_path / "m.npy", whole[:8])
    with pytest.raises(InputError, match="unknown size"):
        OpenMask(Mask(path=str(tmp_path / "m.npy")), open_volume(raw))
    np.save(tmp_path / "m.npy", np.ones((2, 9, 8, 41), bool))
    with pytest.raises(InputError, match="one channel"):
        OpenMask(Mask(path=str(tmp_path / "m.npy")), open_volume(raw))


@pytest.mark.parametrize("encoding", ["float32", "uint16"])
def test_labels_with_a_mask_are_those_of_the_masked_prediction_for_every_block(
    tmp_path, untrained, raw, encoding
):
    mask = Mask(path=save_mask(tmp_path / "m.zarr", coarse()))
    inside = spread(coarse() > 0, (3, 4, 2))
    whole = tmp_path / "whole"
    fields = {"volume": raw, "model": str(untrained), "encoding": encoding}
    Predict(**fields, out=str(whole), block=(16, 16, 16)).blockwise(HERE)
    maps = open_volume(whole / "prediction").read()
    maps[:, ~inside] = np.array([1, 0, 0, 0, 0, 0], np.float32)[:, None]
    path = save_prediction(tmp_path / "p.zarr", maps)
    expected = segment(path, str(tmp_path / "e"), head="three_label_cpv", whole=True, **SETTLED)
    assert expected.nuclei > 1
    fused = run(**fields, out=str(tmp_path / "f"), mask=mask, fused=True, block=(16, 16, 16), **SETTLED)
    assert fused.digest == expected.digest
    for number, block in enumerate(((16, 16, 16), (28, 16, 8))):
        out = tmp_path / f"o{number}"
        result = run(**fields, out=str(out), mask=mask, block=block, keep=("predictions",), **SETTLED)
        np.testing.assert_allclose(open_volume(out / "prediction").read(), maps, atol=1e-5)
        assert result.digest == expected.digest
        assert np.array_equal(labels_of(out), labels_of(tmp_path / "e"))
        assert not labels_of(out)[~inside].any()
        assert 0 < result.steps["predict"]["spared"] < result.steps["predict"]["blocks"]


def test_another_mask_is_another_run(tmp_path, untrained, raw):
    settled = {"volume": raw, "out": str(tmp_path / "o"), "model": str(untrained), "block": (16, 16, 16)}
    path = save_mask(tmp_path / "m.zarr", coarse())
    task = Predict(**settled, mask=Mask(path=path))
    task.blockwise(HERE)
    assert task.blockwise(HERE)["skipped"] == 12
    for other in (None, Mask(path=path, grow=1)):
        with pytest.raises(InputError, match=r"mask.*overwrite"):
            Predict(**settled, mask=other).blockwise(HERE)
    open_volume(path).write((0, 0, 0), np.ones_like(coarse()))
    with pytest.raises(InputError, match=r"inputs\.mask.*overwrite"):
        task.blockwise(HERE)


def test_masks_from_the_command_line(tmp_path, untrained, raw):
    path = save_mask(tmp_path / "m.zarr", coarse())
    arguments = [
        "predict",
        raw,
        str(tmp_path / "o"),
        "--model",
        str(untrained),
        "--launcher",
        "local:0",
        "--json",
    ]
    options = ["--mask", path, "--mask-above", "2", "--mask-grow", "1", "--block", "16", "16", "16"]
    result = CliRunner().invoke(cli, [*arguments, *options])
    assert result.exit_code == 0, result.output
    settled = {"volume": raw, "model": str(untrained), "block": (16, 16, 16)}
    again = Predict(**settled, out=str(tmp_path / "o"), mask=Mask(path=path, above=2, grow=1)).blockwise(HERE)
    assert again["skipped"] == again["blocks"] == json.loads(result.stdout)["blocks"]
    assert again["spared"] == json.loads(result.stdout)["spared"] > 0
