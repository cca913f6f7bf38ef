"""A head that fails in training is told by its name, its method and its own words; the traceback is for --debug."""

import json

import pytest
from broken_heads import BrokenLoss, BrokenTarget, Unwritten, Working, WrongShape
from click.testing import CliRunner
from test_training import config, volume  # noqa: F401  # a fixture

from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.heads.calls import HeadFailed
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.scenario import Scenario
from nucseg.network.record import RunRecord
from nucseg.network.unet import unet
from nucseg.training import train


def settings(volume, head, workers):  # noqa: F811
    return config(volume, scenario=Scenario([head, CenterVectors()]), workers=workers, iterations=1)


@pytest.mark.parametrize(
    ("head", "workers", "message"),
    [
        (BrokenTarget, 0, r"`target` raised ZeroDivisionError: division by zero"),
        (BrokenTarget, 1, r"`target` raised ZeroDivisionError: division by zero"),
        (BrokenLoss, 0, r"`loss` raised KeyError: 'b'"),
        (
            WrongShape,
            1,
            r"`target` returned a target of shape \(12, 12, 12\) and a weight of shape .*, not \(1, ",
        ),
        (Unwritten, 0, r"`loss` is not written"),
    ],
)
def test_a_head_that_fails_is_named(volume, tmp_path, head, workers, message):  # noqa: F811
    with pytest.raises(
        HeadFailed, match=rf"^head {head.__name__} \(in broken_heads\): its method {message}"
    ) as told:
        train(settings(volume, head(), workers), tmp_path / "run")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 320


def test_a_head_that_works_trains(volume, tmp_path):  # noqa: F811
    assert train(settings(volume, Working(), 0), tmp_path / "run").iteration == 1


@pytest.mark.parametrize("debug", [False, True])
def test_the_command_says_one_line_and_debug_the_traceback(volume, tmp_path, debug):  # noqa: F811
    toml = tmp_path / "train.toml"
    toml.write_text(
        'network = "tiny"\niterations = 1\nworkers = 1\ntensorboard = false\n'
        '[scenario]\nheads = [{kind = "broken_heads:BrokenTarget"}, {kind = "center_vectors"}]\n'
        f"[data]\ntrain = [{json.dumps(volume)}]\n[patch]\noutput = [12, 12, 12]\n"
    )
    arguments = ["train", str(toml), "--folder", str(tmp_path / "run"), *["--debug"] * debug]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    if not debug:
        (line,) = result.stderr.splitlines()
        assert line.startswith(
            "nucseg: head BrokenTarget (in broken_heads): its method `target` raised ZeroDiv"
        )
    else:
        assert isinstance(result.exception, HeadFailed)
        told = result.exception.__cause__
        assert "broken_heads.py" in str(told)
        assert "1 / 0" in str(told)


def test_a_run_whose_head_is_not_installed_here_says_so(tmp_path):
    RunRecord(scenario=Scenario.named("gauss"), network=unet("tiny")).write(tmp_path)
    record = tmp_path / "run.json"
    good = record.read_text()
    record.write_text(good.replace('"gaussian_centers"', '"lab.heads:Blobs"'))
    with pytest.raises(
        InputError, match=r"run\.json: head 'lab\.heads:Blobs': .*that the package is installed here"
    ):
        RunRecord.read(tmp_path)
    record.write_text(good.replace('"seed": 0', '"seed": "none"'))
    with pytest.raises(
        InputError, match=r"expected the record of a training run; received seed = 'none'; use the"
    ):
        RunRecord.read(tmp_path)
