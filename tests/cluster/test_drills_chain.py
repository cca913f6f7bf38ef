"""Drill 16: prediction and segmentation go on together on the cluster, and predictions are dropped behind them."""

import os
import signal
from pathlib import Path

from nucseg.blockwise.chain import Chain
from nucseg.blockwise.records import Records


def test_16_a_worker_is_killed_while_predictions_are_dropped(drill, monkeypatch):
    cases = str(Path(__file__).parent.parent / "blockwise")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((cases, os.environ["PYTHONPATH"])))
    monkeypatch.syspath_prepend(cases)
    from blockwise_cases import Maps

    predict = Maps(out=str(drill.out), maps=drill.maps, block=(16, 16, 16))
    chain = Chain((predict, drill.task(prediction=None)))
    launcher = drill.launcher()
    running = drill._pool.submit(chain.blockwise, launcher, log=drill.lines.append, keep=())
    os.kill(drill.held()["pid"], signal.SIGKILL)
    predicted, segmented = running.result(timeout=240)
    drill.same(segmented)
    assert predicted["blocks"] == segmented["blocks"] == 16
    assert drill.again() == {(0, 1, 1): 2}
    assert len(Records(drill.out, "drop").read()[0]) == 16
    files = [file for file in (drill.out / "prediction" / "0" / "c").rglob("*") if file.is_file()]
    assert [file.stat().st_size for file in files] == [0] * 16
    for name in ("predict", "segment"):
        assert any(line.startswith(f"{name}: scheduler at") for line in drill.lines), "an array each"
    drill.note(16, "`kill -9` of a worker of two tasks that go on together, predictions dropped behind them")
