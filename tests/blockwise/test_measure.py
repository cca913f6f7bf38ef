"""The table of nuclei, against one pass over the whole volume with numpy."""

from pathlib import Path

import numpy as np
import pytest
from blockwise_cases import random_prediction, random_raw, save_prediction, save_raw

from nucseg.blockwise.launch import Local
from nucseg.blockwise.measure import Measure
from nucseg.blockwise.segment import Segment
from nucseg.errors import InputError
from nucseg.heads.scenario import Decoding
from nucseg.points import read_table
from nucseg.volume import create_labels, open_labels

HERE = Local(workers=0)
SHAPE = (20, 24, 30)


@pytest.fixture
def segmented(tmp_path):
    prediction = random_prediction(SHAPE, 5, density=-1.5)
    prediction[:, 8:11, 9:12, 10:15] = np.array([0.1, 0.8, 0.1])[:, None, None, None]
    path = save_prediction(tmp_path / "p.zarr", prediction)
    decoding = Decoding(seed_threshold=0.4, foreground_threshold=0.5, min_size=5)
    task = Segment(
        out=str(tmp_path / "o"), prediction=path, scenario="three_label", decoding=decoding, block=(9, 10, 11)
    )
    return task, task.blockwise(HERE)


def reference(labels: np.ndarray, raw: np.ndarray) -> dict[str, list]:
    """Slow and obvious."""
    rows: dict[str, list] = {}
    for label in np.unique(labels[labels > 0]):
        where = np.argwhere(labels == label)
        low, high = where.min(0), where.max(0) + 1
        row = {"id": label, "voxels": len(where), "volume_um3": len(where) * 0.2 * 0.1 * 0.1}
        row |= dict(zip(("z", "y", "x"), where.mean(0), strict=True))
        row |= dict(zip(("z_um", "y_um", "x_um"), where.mean(0) * (0.2, 0.1, 0.1), strict=True))
        row |= dict(zip(("z_begin", "y_begin", "x_begin"), low, strict=True))
        row |= dict(zip(("z_end", "y_end", "x_end"), high, strict=True))
        row["touches_border"] = bool((low == 0).any() or (high == labels.shape).any())
        if raw.ndim == 3:
            row["mean_intensity"] = raw[labels == label].mean(dtype=float)
            row["median_intensity"] = np.median(raw[labels == label].astype(float))
        else:
            row |= {f"mean_intensity_{c}": raw[c][labels == label].mean(dtype=float) for c in range(len(raw))}
            row |= {f"median_intensity_{c}": np.median(image[labels == label]) for c, image in enumerate(raw)}
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    return rows


@pytest.mark.parametrize("channels", [0, 2])
def test_the_table_equals_a_pass_over_the_whole(tmp_path, segmented, channels):
    raw = random_raw((channels, *SHAPE) if channels else SHAPE, seed=3)
    path = save_raw(tmp_path / "raw.zarr", raw)
    task, made = segmented
    result = Measure(volume=path, out=task.out).blockwise(HERE)
    expected = reference(open_labels(task.out).read(), raw)
    assert 3 < result["nuclei"] == made["nuclei"] == len(expected["id"])
    assert 0 < sum(expected["touches_border"]) < len(expected["id"])
    for suffix in ("csv", "parquet"):
        table = read_table(Path(task.out) / "tables" / f"nuclei.{suffix}")
        assert set(table) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(table[name], values, rtol=1e-6, err_msg=name)


def test_labels_made_elsewhere_without_a_voxel_size(tmp_path):
    labels = np.zeros(SHAPE, np.uint64)
    labels[2:4, 3:6, 5:9] = 2**40 + 1
    volume = create_labels(
        tmp_path / "l.zarr", shape=SHAPE, dtype="uint64", scale_um=None, shards=(10, 12, 15)
    )
    volume.write((0, 0, 0), labels)
    np.save(tmp_path / "raw.npy", np.full(SHAPE, 7, np.uint16))
    measure = Measure(
        volume=str(tmp_path / "raw.npy"), labels=str(tmp_path / "l.zarr"), out=str(tmp_path / "o")
    )
    assert measure.blockwise(HERE)["nuclei"] == 1
    table = read_table(tmp_path / "o" / "tables" / "nuclei.parquet")
    assert (table["id"][0], table["voxels"][0], table["mean_intensity"][0]) == (2**40 + 1, 24, 7)
    assert table["median_intensity"][0] == 7
    assert (table["z"][0], table["y"][0], table["x"][0]) == (2.5, 4, 6.5)
    assert "volume_um3" not in table


def test_without_any_nucleus_the_table_is_empty(tmp_path):
    create_labels(tmp_path / "l.zarr", shape=SHAPE, scale_um=(0.2, 0.1, 0.1))
    path = save_raw(tmp_path / "raw.zarr", random_raw(SHAPE, seed=3))
    measure = Measure(volume=path, labels=str(tmp_path / "l.zarr"), out=str(tmp_path / "o"))
    assert measure.blockwise(HERE)["nuclei"] == 0
    assert len(read_table(tmp_path / "o" / "tables" / "nuclei.csv")["id"]) == 0


def test_what_does_not_fit_is_told(tmp_path, segmented):
    task, _ = segmented
    other = save_raw(tmp_path / "raw.zarr", random_raw((8, 9, 10), seed=3))
    with pytest.raises(InputError, match="shape"):
        Measure(volume=other, out=task.out).blockwise(HERE)
    with pytest.raises(InputError, match="no segmentation"):
        Measure(volume=other, out=str(tmp_path / "empty")).blockwise(HERE)
    for file in (Path(task.out) / ".nucseg" / "sift").glob("blocks-*.jsonl"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    raw = save_raw(tmp_path / "fits.zarr", random_raw(SHAPE, seed=3))
    with pytest.raises(InputError, match="blocks missing"):
        Measure(volume=raw, out=task.out).blockwise(HERE)
