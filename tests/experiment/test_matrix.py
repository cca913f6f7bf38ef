"""A small matrix that runs: killed and resumed it finds the same; what fails is named; StarDist beside it."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from experiment.experiment_cases import TINY

from nucseg.cli.main import cli
from nucseg.evaluate.matching import match
from nucseg.experiment import ExperimentConfig, run_experiment
from nucseg.volume import open_labels

pytestmark = pytest.mark.xdist_group("tensorflow")

ONE_THREAD = os.environ | dict.fromkeys(
    ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
)


def command(config, folder, *options):
    return [
        sys.executable,
        "-m",
        "nucseg",
        "experiment",
        str(config),
        "--folder",
        str(folder),
        *options,
        "--json",
    ]


def finished(config, folder, *options):
    result = subprocess.run(
        command(config, folder, *options),
        capture_output=True,
        text=True,
        env=ONE_THREAD,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def without_times(rows):
    timed = ("trained_s", "seconds")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def undisturbed(config):
    return finished(config, config.parent / "undisturbed", "--parallel", "0")[0]


def test_rows_of_the_matrix(undisturbed, config):
    kinds = [(r["scenario"], r["seed"], r["for"], r["seeds"]) for r in undisturbed["rows"]]
    assert kinds == [
        (scenario, seed, goal, seeds)
        for seed in (1, 2)
        for scenario, sources in (
            ("three_label", ["main"]),
            ("three_label_cpv", ["main", "vectors", "votes"]),
        )
        for goal in ("segmentation", "detection")
        for seeds in sources
    ]
    folder = config.parent / "undisturbed"
    volume = folder / "volumes" / "easy_32x48x64_25nuclei_seed3.zarr"
    for row in undisturbed["rows"]:
        assert (row["network"], row["iterations"], row["dataset"]) == ("tiny", 60, "worm")
        assert row["checkpoint"] in (40, 60)
        assert row["trained_s"] > 0
        assert row["av_ap"] == pytest.approx(np.mean(list(row["ap"].values())))
        assert [image["image"] for image in row["images"]] == ["easy_32x48x64_25nuclei_seed3"]
        if row["for"] == "segmentation":  # what is scored is what is kept
            kept = folder / "worm" / row["scenario"] / str(row["seed"]) / "instances" / "0"
            scores = match(open_labels(volume).read(), open_labels(kept, row["seeds"]).read())
            assert scores.ap[0.5] == row["ap"]["0.5"]
            assert scores.detection_ap == row["detection_ap"]
    assert max(row["ap"]["0.5"] for row in undisturbed["rows"]) > 0.2
    assert undisturbed["missing"] == undisturbed["failed"] == []
    page = (folder / "report.html").read_text()
    assert "Best test image" in page
    assert (folder / "figures" / "figure5_worm_a.png").is_file()
    assert (folder / "figures" / "figure6_worm_best_c.png").is_file()


def test_a_killed_matrix_goes_on_and_finds_the_same(config, undisturbed):
    folder = config.parent / "killed"
    process = subprocess.Popen(
        command(config, folder, "--parallel", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ONE_THREAD,
    )
    begun = folder / "worm" / "three_label_cpv" / "1" / "run" / "checkpoints" / "00000020"
    until = time.monotonic() + 600
    while not begun.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    first = (folder / "worm" / "three_label" / "1" / "cell.json").stat().st_mtime_ns
    assert not (folder / "worm" / "three_label_cpv" / "1" / "cell.json").exists()

    half, _ = finished(config, folder, "--collect")
    assert len(half["missing"]) == 3
    assert without_times(half["rows"]) == without_times(undisturbed["rows"][:2])
    whole, told = finished(config, folder, "--parallel", "0")
    assert "1 of 4 cells are done already" in told
    assert (folder / "worm" / "three_label" / "1" / "cell.json").stat().st_mtime_ns == first
    assert without_times(whole["rows"]) == without_times(undisturbed["rows"])
    assert whole["tables"] == undisturbed["tables"]


def test_a_failing_cell_is_named_and_the_others_go_on(config, undisturbed, tmp_path):
    diverging = "{snapshot_every = 99, optimizer = {learning_rate = 1e30}}"
    broken = f'{{name = "broken", heads = ["three_label"], training = {diverging}}}'
    text = TINY.replace('["three_label", "three_label_cpv"]', f'[{broken}, "three_label"]')
    text = text.replace("seeds = [1, 2]", "seeds = [1]").replace("iterations = 60", "iterations = 4")
    text = text.replace("checkpoint_every = 20", "checkpoint_every = 2")
    (tmp_path / "broken.toml").write_text(text)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "matrix.json").write_text("{}")
    (tmp_path / "out" / "volumes").symlink_to(config.parent / "undisturbed" / "volumes")
    arguments = [
        "experiment",
        str(tmp_path / "broken.toml"),
        "--folder",
        str(tmp_path / "out"),
        "--parallel",
        "0",
    ]
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [one["cell"] for one in found["failed"]] == ["worm/broken/1"]
    assert "worm/broken/1: the loss became" in result.stderr.splitlines()[-1]
    assert {row["scenario"] for row in found["rows"]} == {"three_label"}
    assert not (tmp_path / "out" / "worm" / "broken" / "1" / "cell.json").exists()


def test_seconds_become_iterations_once(config, undisturbed, tmp_path):
    text = TINY.replace('["three_label", "three_label_cpv"]', '["three_label"]')
    text = text.replace("seeds = [1, 2]", "seeds = [1]")
    (tmp_path / "seconds.toml").write_text(text.replace("iterations = 60", "seconds = 0.1"))
    settings = ExperimentConfig.from_toml(tmp_path / "seconds.toml")
    place = tmp_path / "out" / "worm" / "three_label"
    place.mkdir(parents=True)
    (tmp_path / "out" / "matrix.json").write_text("{}")
    (tmp_path / "out" / "volumes").symlink_to(config.parent / "undisturbed" / "volumes")
    found = run_experiment(settings, tmp_path / "out", parallel=0)
    budget = json.loads((place / "budget.json").read_text())
    assert found["rows"][0]["iterations"] == budget["iterations"] == 1  # compiling alone takes longer
    assert not (place / "1" / "probe").exists()
    (place / "budget.json").write_text(json.dumps(budget | {"iterations": 3}))
    more = settings.model_copy(update={"seeds": (1, 2)})
    assert run_experiment(more, tmp_path / "out", parallel=0)["rows"][-1]["iterations"] == 3
