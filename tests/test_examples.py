"""Every example and every pipeline script runs, as its docstring says, with fewer iterations."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import nucseg as ns
from nucseg.experiment.config import ExperimentConfig

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.xdist_group("examples")


def script(path: str, *arguments: object, cwd: Path | None = None) -> str:
    """Run a script of the project; what it printed."""
    command = [sys.executable, str(ROOT / path), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=900)
    assert result.returncode == 0, f"{path}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a first segmentation."""
    folder = tmp_path_factory.mktemp("first")
    printed = script("examples/01_first_segmentation.py", folder, "--iterations", 16)
    assert "nuclei found, 320 are there" in printed
    assert "AP at IoU .5" in printed
    return folder


def test_first_segmentation_leaves_what_it_says(first: Path) -> None:
    assert (first / "out.zarr" / "report.html").stat().st_size > 10_000
    assert ns.open_labels(first / "out.zarr").shape == (64, 88, 160)


def test_own_augmentation(tmp_path: Path) -> None:
    assert "keeps the contract" in script("examples/02_own_augmentation.py", tmp_path)


def test_python_and_command_line_agree(first: Path, tmp_path: Path) -> None:
    printed = script("examples/03_python_and_command_line.py", first / "test.zarr", first / "run", tmp_path)
    digests = {line.split("digest ")[1][:32] for line in printed.splitlines() if "digest" in line}
    assert len(digests) == 1


def test_pipelines(first: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    (tmp_path / "volumes").symlink_to(first)
    for name in ("three_label", "three_label_cpv"):
        config = tmp_path / "pipelines" / f"{name}.toml"
        script("pipelines/train.py", config, tmp_path / name, "--iterations", 4)
        assert ns.TrainedModel.load(tmp_path / name).scenario.name == name
    volume, out = first / "test.zarr", tmp_path / "out.zarr"
    printed = script("pipelines/predict_segment.py", volume, out, first / "run", "--block", 64, 64, 64)
    assert "nuclei, digest" in printed
    assert len(ns.read_table(out / "tables" / "nuclei.csv")["id"]) == int(
        printed.split(" nuclei, digest")[0].split()[-1]
    )


def test_own_head(tmp_path: Path) -> None:
    printed = script("examples/05_own_head.py", tmp_path)
    assert "Foreground keeps the contract of a head" in printed
    assert "150 iterations of foreground_cpv" in printed
    assert "nuclei found, 60 are there" in printed
    assert float(printed.split("AP at IoU .3 ")[1].split()[0]) > 0.8
    assert "train longer" not in printed


def test_vectors_on_your_model(tmp_path: Path) -> None:
    printed = script("examples/06_vectors_on_your_model.py", tmp_path, "--steps", 100)
    alone, votes = (
        float(line.split("AP at IoU .3 ")[1]) for line in printed.splitlines() if "AP at IoU .3" in line
    )
    assert votes > alone + 0.3


def test_own_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    z, y, x = np.indices((32, 32, 64))
    interior = np.exp(-((z - 14) ** 2 + (y - 17) ** 2 + (x % 32 - 15) ** 2) / 60)
    maps = np.stack([1 - interior, interior**2, interior * (1 - interior)]).astype(np.float32)
    np.save(tmp_path / "maps.npy", maps)
    printed = script("examples/07_own_launcher.py", tmp_path / "maps.npy", tmp_path / "out")
    own, here = printed.split("nuclei, digest ")[1].splitlines()[0].split("; in this process digest ")
    assert own == here
    assert "2 workers left a log" in printed

    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join((str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")))
    )
    command = ["segment", tmp_path / "maps.npy", tmp_path / "again", "--head", "three_label", "--json"]
    command += ["--block", 32, 32, 32, "--launcher", "own_launcher:start:1"]
    result = subprocess.run(
        [sys.executable, "-m", "nucseg", *map(str, command)], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout)["digest"] == own


def test_own_task(tmp_path: Path) -> None:
    raw = np.random.default_rng(1).integers(0, 1000, (40, 70, 90)).astype(np.uint16)
    np.save(tmp_path / "raw.npy", raw)
    printed = script("examples/08_own_task.py", tmp_path / "raw.npy", tmp_path / "out")
    assert "4 blocks, 0 of them done before" in printed
    assert "4 blocks, 4 of them done before" in script(
        "examples/08_own_task.py", tmp_path / "raw.npy", tmp_path / "out", "--workers", 0
    )
    whole = gaussian_filter(raw.astype(np.float32), 1.5, mode="nearest", radius=6)
    np.testing.assert_allclose(ns.open_volume(tmp_path / "out" / "smooth").read(), whole, rtol=1e-5)
    assert f"brightest voxel {whole.max():.4f}" in printed


def test_every_configuration_is_valid() -> None:
    experiments = sorted((ROOT / "pipelines").rglob("experiment*.toml"))
    assert [path.parent.name for path in experiments] == ["celegans", "pipelines", "pipelines", "ovule"]
    for path in experiments:
        assert ExperimentConfig.from_toml(path).seeds
    cluster = ROOT / "pipelines" / "cluster.toml"
    assert ns.Slurm.from_toml(cluster).resources("predict").gpus == 1
    known = {*experiments, cluster}
    configurations = [p for p in sorted((ROOT / "pipelines").glob("*.toml")) if p not in known]
    assert len(configurations) >= 3
    for path in configurations:
        config = ns.TrainConfig.from_toml(path)
        assert config.data.train
        if path.stem in ns.scenario_names():
            assert config.scenario.name == path.stem


@pytest.mark.skipif(
    "NUCSEG_DATA" not in os.environ, reason="NUCSEG_DATA names no folder with the real volumes"
)
def test_real_volumes(tmp_path: Path) -> None:
    """The two small ones: a network after 8 steps merges the large one into objects that take minutes to flood."""
    names = ("ovule_test", "qcanet_8cell")
    data = os.environ["NUCSEG_DATA"]
    printed = script("examples/04_real_volumes.py", data, tmp_path, "--iterations", 8, "--volumes", *names)
    for name in names:
        assert f"{name}: " in printed
        assert (tmp_path / f"{name}_out.zarr" / "report.html").is_file()
