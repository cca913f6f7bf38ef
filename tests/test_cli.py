"""The command line as scripts use it: keys, exit statuses, one clear line for bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

import nucseg as ns

NUCSEG = [sys.executable, "-m", "nucseg"]


def nucseg(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    command = [*NUCSEG, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=300)


def refused(*arguments: object, says: str) -> None:
    """The command ends with status 1 and one line on stderr that contains `says`; stdout stays empty."""
    result = nucseg(*arguments)
    assert result.returncode == 1, result.stderr
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("nucseg: ")
    assert says in lines[0], lines[0]
    assert not result.stdout


@pytest.fixture(scope="module")
def worm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic worm, made by the command line."""
    path = tmp_path_factory.mktemp("cli") / "worm.zarr"
    result = nucseg("synth", path, "--shape", 40, 48, 72, "--nuclei", 40, "--seed", 3, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) | {"shape": [40, 48, 72], "nuclei": 40} == json.loads(result.stdout)
    return path


@pytest.fixture(scope="module")
def prediction(worm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a perfect network would predict for the worm: a three-label map made from its labels, float32."""
    labels = ns.open_labels(worm).read()
    same = np.ones(labels.shape, bool)
    for axis in range(3):
        for step in (1, -1):
            same &= np.roll(labels, step, axis) == labels
    interior = (labels > 0) & same
    maps = np.stack([labels == 0, interior, (labels > 0) & ~same]).astype(np.float32)
    path = tmp_path_factory.mktemp("maps") / "maps.zarr"
    zarr.save_array(path, maps * 0.9 + 0.03)
    return path


def test_version_and_help() -> None:
    assert ns.__version__ in nucseg("--version").stdout
    text = nucseg("--help").stdout
    for name in ("demo", "synth", "convert", "check", "scenarios", "train", "predict", "segment", "run"):
        assert name in text
    assert nucseg("no-such-verb").returncode == 2
    assert nucseg("synth", "x.zarr").returncode == 2


def test_scenarios() -> None:
    result = json.loads(nucseg("scenarios", "--json").stdout)
    assert {"three_label", "three_label_cpv"} <= set(result["scenarios"])


def test_layout_of_a_synthetic_volume(worm: Path) -> None:
    assert (worm / "labels" / "nuclei" / "0" / "zarr.json").is_file()
    assert len(ns.read_points(worm / "tables" / "centers.csv")) == 40


def test_convert_to_tiff_and_back(worm: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "worm.tif", tmp_path / "back.zarr"
    assert nucseg("convert", worm, there).returncode == 0
    result = nucseg("convert", there, back, "--labels", worm, "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["shape"] == [40, 48, 72]
    assert answer["scale_um"] == pytest.approx([0.122, 0.116, 0.116])
    np.testing.assert_array_equal(ns.open_volume(back).read(), ns.open_volume(worm).read())
    np.testing.assert_array_equal(ns.open_labels(back).read(), ns.open_labels(worm).read())


def test_check_has_findings_and_status(worm: Path, tmp_path: Path) -> None:
    good = nucseg("check", worm, "--labels", "nuclei", "--json")
    assert good.returncode == 0, good.stdout
    assert all(f["severity"] != "error" for f in json.loads(good.stdout)["findings"])
    raw = ns.open_volume(worm).read()
    tifffile.imwrite(tmp_path / "wrapped.tif", (raw % 256).astype(np.uint8))
    bad = nucseg("check", tmp_path / "wrapped.tif", "--json")
    assert bad.returncode == 1
    assert any(f["severity"] == "error" for f in json.loads(bad.stdout)["findings"])


def test_segment_maps_made_elsewhere(worm: Path, prediction: Path, tmp_path: Path) -> None:
    digests = set()
    for name, options in {
        "blocks": ("--block", 17, 24, 31, "--launcher", "local:2"),
        "whole": ("--whole",),
        "mahotas": ("--engine", "mahotas"),
    }.items():
        result = nucseg("segment", prediction, tmp_path / name, "--head", "three_label", *options, "--json")
        assert result.returncode == 0, result.stderr
        answer = json.loads(result.stdout)
        assert {"nuclei", "blocks", "skipped", "failed", "digest"} <= set(answer)
        assert answer["failed"] == 0
        digests.add(answer["digest"])
        labels = ns.open_volume(tmp_path / name / "labels" / "nuclei")
        assert labels.dtype == np.uint32
    assert len(digests) == 1
    again = json.loads(
        nucseg("segment", prediction, tmp_path / "whole", "--head", "three_label", "--whole", "--json").stdout
    )
    assert again["skipped"] == again["blocks"] == 1
    scores = json.loads(nucseg("evaluate", tmp_path / "blocks", worm, "--json").stdout)
    assert scores["n_true"] == 40
    assert scores["ap"]["0.5"] > 0.8
    assert {"av_ap", "detection_ap", "n_predicted", "tp", "fp", "fn"} <= set(scores)


def test_blocks_that_fail_are_named(prediction: Path, tmp_path: Path) -> None:
    maps = zarr.open_array(prediction, mode="r")[:]
    maps[:, :20] = np.array([0.03, 0.93, 0.03])[:, None, None, None]  # one object as large as half the volume
    zarr.save_array(tmp_path / "merged.zarr", maps)
    options = ("--head", "three_label", "--block", 20, 48, 24, "--max-halo", 4, "--json")
    result = nucseg("segment", tmp_path / "merged.zarr", tmp_path / "out", *options)
    assert result.returncode == 1
    answer = json.loads(result.stdout)
    assert answer["failed"] == len(answer["failed_blocks"]) > 0
    assert answer["blocks"] == 6
    assert answer["failed_blocks"][0] in result.stderr
    assert "--max-halo" in result.stderr


def test_report_of_an_out_folder(prediction: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert nucseg("segment", prediction, out, "--head", "three_label").returncode == 0
    result = nucseg("report", out, "--json")
    assert result.returncode == 0, result.stderr
    page = Path(json.loads(result.stdout)["path"])
    assert page.is_absolute()
    assert "<html" in page.read_text(encoding="utf-8")


class TestBadInput:
    """One clear line, exit status 1, and nothing half-written."""

    def test_missing_file(self, tmp_path: Path) -> None:
        for arguments in (
            ("convert", tmp_path / "no.tif", tmp_path / "out.zarr"),
            ("check", tmp_path / "no.tif"),
            ("segment", tmp_path / "no.zarr", tmp_path / "out.zarr", "--head", "three_label"),
            ("evaluate", tmp_path / "no.zarr", tmp_path / "no.zarr"),
            ("train", tmp_path / "no.toml", "--folder", tmp_path / "out.zarr"),
            ("run", tmp_path / "no.zarr", tmp_path / "out.zarr", "--model", tmp_path / "no"),
            ("report", tmp_path / "no"),
        ):
            refused(*arguments, says="no")
            assert not (tmp_path / "out.zarr").exists(), arguments

    def test_wrong_axes(self, tmp_path: Path) -> None:
        np.save(tmp_path / "flat.npy", np.ones((20, 20), np.uint8))
        refused("convert", tmp_path / "flat.npy", tmp_path / "out.zarr", says="flat.npy")
        assert not (tmp_path / "out.zarr").exists()

    def test_empty_labels(self, worm: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "empty.npy", np.zeros((40, 48, 72), np.uint16))
        result = nucseg("check", worm, "--labels", tmp_path / "empty.npy", "--json")
        assert result.returncode == 1
        assert any(f["severity"] == "error" for f in json.loads(result.stdout)["findings"])

    def test_misspelt_key(self, worm: Path, tmp_path: Path) -> None:
        config = tmp_path / "train.toml"
        config.write_text(f'scenario = "three_label"\niteratons = 5\n[data]\ntrain = ["{worm}"]\n')
        refused("train", config, "--folder", tmp_path / "run", says="iteratons")
        assert not (tmp_path / "run").exists()

    def test_channels_that_do_not_fit(self, prediction: Path, tmp_path: Path) -> None:
        refused("segment", prediction, tmp_path / "out", "--head", "three_label_cpv", says="channels")
        assert not (tmp_path / "out").exists()

    def test_foreign_folder(self, prediction: Path, worm: Path, tmp_path: Path) -> None:
        config = tmp_path.with_suffix(".toml")
        config.write_text(f'scenario = "three_label"\n[data]\ntrain = ["{worm}"]\n')
        (tmp_path / "notes.txt").write_text("months of work")
        for arguments in (
            ("segment", prediction, tmp_path, "--head", "three_label"),
            ("convert", worm, tmp_path),
            ("synth", tmp_path, "--shape", 32, 32, 32, "--nuclei", 3, "--seed", 1),
            ("demo", "--folder", tmp_path),
            ("train", config, "--folder", tmp_path),
        ):
            refused(*arguments, says=str(tmp_path))
        assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
        assert (tmp_path / "notes.txt").read_text() == "months of work"

    def test_unwritable_folder(self, prediction: Path, worm: Path) -> None:
        for arguments in (
            ("segment", prediction, "/proc/out", "--head", "three_label"),
            ("convert", worm, "/proc/out.zarr"),
            ("synth", "/proc/out.zarr", "--shape", 32, 32, 32, "--nuclei", 3, "--seed", 1),
        ):
            refused(*arguments, says="/proc")

    def test_unknown_launcher_and_head(self, prediction: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        refused("segment", prediction, out, "--head", "three_label", "--launcher", "moon:3", says="moon")
        refused("segment", prediction, out, "--head", "thre_label", says="thre_label")
        assert not out.exists()


def test_json_is_alone_on_stdout_and_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = nucseg("check", tmp_path / "no.tif", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "InputError" in result.stderr
    assert os.listdir(tmp_path) == []


def test_downsample_adds_levels_in_place_or_to_a_copy(worm, tmp_path):
    copy = tmp_path / "copy.zarr"
    command = ("downsample", worm, copy, "--labels", "nuclei", "--levels", 2, "--factor", 1, 2, 2)
    result = nucseg(*command, "--launcher", "local:0", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert {"levels", "digest", "blocks", "skipped", "failed", "mvox_per_s", "peak_memory_bytes"} <= set(
        found
    )
    assert [level["shape"] for level in found["levels"]] == [[40, 24, 36], [40, 12, 18]]
    labels, level = ns.open_labels(worm), ns.open_labels(copy, level=2)
    assert set(np.unique(level.read())) <= set(np.unique(labels.read()))
    assert level.scale_um == pytest.approx([s * f for s, f in zip(labels.scale_um, (1, 4, 4), strict=True)])
    assert not (worm / "labels" / "nuclei" / "1").exists()
    in_place = nucseg("downsample", copy, "--levels", 1, "--launcher", "local:0", "--json")
    assert json.loads(in_place.stdout)["levels"][0]["path"] == str(copy / "1")
    refused("downsample", worm, tmp_path / "copy.zarr" / "labels" / "nuclei", says="expected a copy of")
    refused("downsample", copy, "--factor", 1, 1, 1, says="one of them above 1")


@pytest.mark.parametrize(("name", "said"), [("detect", "Votes need it"), ("segment", "which need it")])
def test_help_says_that_votes_need_the_diameter(name, said):
    """As the verb says without it."""
    text = " ".join(nucseg(name, "--help").stdout.split())
    assert said in text[text.index("--nucleus-um") :]
    assert "made elsewhere has none" in text
