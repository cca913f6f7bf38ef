"""The package's promises at import, and of the command line's frame."""

import json
import subprocess
import sys

import pytest

import nucseg


def modules_after(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` ran in a fresh interpreter."""
    report = "import sys, json; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_import_is_light() -> None:
    loaded = modules_after("import nucseg")
    assert "nucseg" in loaded
    assert not loaded & {"tensorflow", "keras", "gunpowder", "daisy", "numpy", "zarr"}


def test_command_line_is_light() -> None:
    loaded = modules_after(
        "import sys, nucseg.cli\ntry:\n    nucseg.cli.main(['--help'])\nexcept SystemExit: pass"
    )
    assert "click" in loaded
    assert not loaded & {"tensorflow", "keras", "gunpowder", "daisy", "numpy", "zarr", "pydantic"}


def test_blockwise_driver_does_not_load_gunpowder() -> None:
    loaded = modules_after("import nucseg as ns\nns.Segment, ns.Predict, ns.TrainedModel, ns.run, ns.select")
    assert "daisy" in loaded or "pydantic" in loaded
    assert not loaded & {"tensorflow", "keras", "gunpowder"}


@pytest.mark.xdist_group("tensorflow")
def test_every_public_name_is_there() -> None:
    for name in nucseg.__all__:
        assert getattr(nucseg, name) is not None
    assert set(nucseg.__all__) <= set(dir(nucseg))
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        _ = nucseg.segmnt


def test_errors_cross_processes() -> None:
    import pickle

    error = nucseg.InputError("x.tif", expected="a file", received="none", remedy="check the path")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "x.tif: expected a file; received none; check the path"
    assert isinstance(again, ValueError)
    assert isinstance(again, nucseg.NucsegError)
