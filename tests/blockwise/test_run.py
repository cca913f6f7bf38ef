"""`run`, from a volume to a table: resumes, and ends in the same digest after a kill."""

import json
import shutil
import subprocess
import sys

import pytest
from blockwise_cases import random_raw, save_raw
from test_kill import wait_for

from nucseg.blockwise.launch import Local
from nucseg.blockwise.records import Records
from nucseg.blockwise.run import run
from nucseg.errors import InputError
from nucseg.network.checkpoint import list_checkpoints
from nucseg.points import read_table
from nucseg.volume import open_labels

SETTLED = {"block": (16, 16, 16), "seed_threshold": 0.335, "foreground_threshold": 0.6, "max_halo": 64}

DRIVER = """
import json, sys
from nucseg.blockwise.launch import Local
from nucseg.blockwise.run import run
run(*sys.argv[1:4], launcher=Local(workers=1), **json.loads(sys.argv[4]))
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return save_raw(tmp_path_factory.mktemp("raw") / "raw.zarr", random_raw((28, 32, 32), seed=8))


def test_a_run_from_the_volume_to_the_table_and_again_after_a_kill(tmp_path, untrained, raw, capsys):
    messages: list[str] = []
    here = Local(workers=0)
    calm = run(raw, str(tmp_path / "calm"), str(untrained), launcher=here, log=messages.append, **SETTLED)
    assert "memory a worker" in messages[0]
    assert "on disk" in messages[0]
    assert capsys.readouterr().out == ""
    labels = open_labels(tmp_path / "calm").read()
    table = read_table(tmp_path / "calm" / "tables" / "nuclei.csv")
    assert calm.nuclei == len(table["id"]) == len(set(labels[labels > 0].tolist())) > 0
    assert calm.skipped == calm.failed == 0
    assert calm.blocks == 3 * 8
    assert calm.mvox_per_s > 0

    out = tmp_path / "killed"
    arguments = [raw, str(out), str(untrained), json.dumps(SETTLED)]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: next(Records(out, "predict").lines(), None), "the first predicted block")
    finally:
        driver.kill()
        driver.wait()
    resumed = run(raw, str(out), str(untrained), launcher=here, **SETTLED)
    assert 0 < resumed.skipped < resumed.blocks
    assert resumed.digest == calm.digest
    assert resumed.nuclei == calm.nuclei

    again = run(raw, str(out), str(untrained), launcher=here, **SETTLED)
    assert again.skipped == again.blocks
    assert again.digest == calm.digest
    with pytest.raises(InputError, match=r"decoding\.seed_threshold 0\.335.*overwrite"):
        run(raw, str(out), str(untrained), launcher=here, **{**SETTLED, "seed_threshold": 0.34})


def test_a_run_of_a_model_selected_for_points_says_that_its_instances_take_defaults(
    tmp_path, untrained, raw, caplog
):
    model, out = tmp_path / "model", str(tmp_path / "o")
    shutil.copytree(untrained, model)
    (checkpoint, *_) = list_checkpoints(model)
    points = {"source": "votes", "threshold": 1.0, "distance": 3, "reach": 9, "foreground_threshold": 0.5}
    selected = {"checkpoint": checkpoint.iteration, "decoding": None, "points": points}
    (model / "selected.json").write_text(json.dumps(selected))
    found = run(raw, out, str(model), launcher=Local(workers=0), block=(28, 32, 32))
    assert list(found.steps) == ["predict", "segment", "measure"]
    assert (
        caplog.text.count("selected for points only (votes): its instances take the default seed threshold")
        == 1
    )


def test_a_missing_volume_or_model_is_told_and_leaves_nothing(tmp_path, untrained, raw):
    for volume, model in ((str(tmp_path / "none.tif"), untrained), (raw, tmp_path / "no run")):
        with pytest.raises(InputError):
            run(volume, str(tmp_path / "o"), str(model), launcher=Local(workers=0))
    assert not (tmp_path / "o").exists()
