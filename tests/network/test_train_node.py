"""KerasTrain: the run folder, resuming, and what it refuses."""

import csv
import shutil

import gunpowder as gp
import numpy as np
import pytest
from training_runs import LABELS, OUTPUT, RAW, SCENARIO, Patches, train

from nucseg.errors import InputError, NucsegError
from nucseg.network.checkpoint import find_checkpoint, list_checkpoints
from nucseg.network.model import TrainedModel
from nucseg.network.optimizer import Optimizer
from nucseg.network.record import RunRecord
from nucseg.network.train import KerasTrain
from nucseg.network.unet import unet
from nucseg.nodes.add_targets import target_keys, weight_keys
from nucseg.volume import open_volume


def test_the_run_folder_holds_what_it_should(straight):
    folder, losses = straight
    assert [c.iteration for c in list_checkpoints(folder)] == [3, 6]
    record = RunRecord.read(folder)
    assert record.scenario == SCENARIO
    assert record.network == unet("tiny")
    assert record.scale_um == (0.3, 0.1, 0.1)
    assert record.versions["backend"]
    with (folder / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["iteration", "loss", "three_label", "cpv", "seconds"]
    assert [int(r["iteration"]) for r in rows] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([float(r["loss"]) for r in rows], losses, rtol=1e-6)
    for row in rows:
        parts = sum(weight * float(row[name]) for name, weight in SCENARIO.loss_weights().items())
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-5)


def test_tensorboard_shows_the_losses(straight):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, losses = straight
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    shown = events.Scalars("loss")
    assert [e.step for e in shown] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([e.value for e in shown], losses, rtol=1e-6)
    assert {"three_label", "cpv"} <= set(events.Tags()["scalars"])


def test_snapshots_lie_over_each_other_in_one_ome_zarr(straight):
    folder, _ = straight
    assert sorted(p.name for p in (folder / "snapshots").iterdir()) == ["00000001.zarr", "00000004.zarr"]
    shape = unet("tiny").training_input_shape(OUTPUT)
    parts = (folder / "snapshots" / "00000004.zarr").iterdir()
    images = {path.name: open_volume(path) for path in parts if path.is_dir()}
    heads = {f"{kind}_{head.name}" for kind in ("target", "weight") for head in SCENARIO.heads}
    assert set(images) == {"raw", "labels", "prediction", *heads}
    for image in images.values():
        assert image.shape == shape
        assert image.scale_um == (0.3, 0.1, 0.1)
    prediction, border = images["prediction"].read(), unet("tiny").border
    inner = tuple(slice(n, -n) for n in border)
    np.testing.assert_allclose(prediction[(slice(0, 3), *inner)].sum(0), 1, rtol=1e-5)  # softmax
    prediction[(slice(None), *inner)] = 0
    assert not prediction.any()


def test_the_same_seed_gives_the_same_run_and_an_early_end_is_saved(straight, tmp_path):
    _, losses = train(tmp_path / "run", 2, tensorboard=False)
    assert losses == straight[1][:2]
    assert [c.iteration for c in list_checkpoints(tmp_path / "run")] == [2]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_killed_and_resumed_run_is_the_run_without_a_stop(straight, tmp_path):
    folder, losses = straight
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    # As a process killed while it saved checkpoint 6, and wrote a line, would leave it.
    (run / "checkpoints" / "00000006").rename(run / "checkpoints" / ".00000006")
    (run / "checkpoints" / ".00000006" / "state.json").unlink()
    (run / "losses.csv").write_text((run / "losses.csv").read_text() + "7,0.1")
    assert find_checkpoint(run).iteration == 3
    node, again = train(run, 3, resume=True)
    assert node.iteration == 6
    assert again == losses[3:]
    assert [c.iteration for c in list_checkpoints(run)] == [3, 6]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["00000003", "00000006"]
    assert _columns(run) == _columns(folder)
    ends = [find_checkpoint(f, 6) for f in (folder, run)]
    assert ends[0].state["weights_sha256"] == ends[1].state["weights_sha256"]
    with np.load(ends[0].path / "optimizer.npz") as a, np.load(ends[1].path / "optimizer.npz") as b:
        assert sorted(a.files) == sorted(b.files)
        assert all(np.array_equal(a[k], b[k]) for k in a.files)


def test_batches_of_two_channels_are_learned(tmp_path):
    steady = Optimizer(learning_rate=1e-2, warmup=0, clipnorm=1.0, schedule="constant")
    network = unet("tiny", input_channels=2)
    options = {"network": network, "batch": 2, "iterations": 30, "optimizer": steady, "checkpoint_every": 100}
    _, losses = train(tmp_path / "two", 30, raw_channels=2, **options)
    # The mean of random targets can be learned, no more.
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:2])
    assert TrainedModel.load(tmp_path / "two").input_channels == 2
    with pytest.raises(InputError, match=r"expected 2 channel\(s\)"):
        _unwrapped(lambda: train(tmp_path / "one", 1, **options))


def test_the_prediction_can_be_requested(tmp_path):
    PREDICTION = gp.ArrayKey("PREDICTION")
    node = KerasTrain(
        SCENARIO, unet("tiny"), raw=RAW, folder=tmp_path / "run", iterations=2, prediction=PREDICTION
    )
    pipeline = Patches(node) + node
    request = node.request(OUTPUT)
    request[PREDICTION] = request[node.targets["cpv"]].copy()
    with gp.build(pipeline):
        batch = pipeline.request_batch(request)
    assert batch[PREDICTION].data.shape == (6, *OUTPUT)
    assert batch[PREDICTION].spec.roi == request[PREDICTION].roi
    assert batch.iteration == 1


def test_default_keys_are_those_of_add_targets(tmp_path):
    node = KerasTrain(SCENARIO, unet("tiny"), raw=RAW, folder=tmp_path, iterations=1)
    assert node.targets == target_keys(SCENARIO)
    assert node.weights == weight_keys(SCENARIO)


def test_what_is_not_finite_names_the_iteration_and_is_not_saved(tmp_path):
    with pytest.raises(NucsegError, match=r"loss became nan at iteration 2 .*lower the learning rate"):
        _unwrapped(lambda: train(tmp_path / "loss", 3, bad="CPV_TARGET"))
    assert list_checkpoints(tmp_path / "loss") == []
    with pytest.raises(NucsegError, match=r"raw image of iteration 2 .*nucseg check"):
        _unwrapped(lambda: train(tmp_path / "raw", 3, bad="RAW"))
    assert [c.iteration for c in list_checkpoints(tmp_path / "raw")] == [1]


def test_another_run_is_never_overwritten(straight, tmp_path):
    folder, _ = straight
    with pytest.raises(InputError, match=r"folder of another training run.*resume"):
        _unwrapped(lambda: train(folder, 1))
    with pytest.raises(InputError, match="a run of network"):
        _unwrapped(lambda: train(folder, 1, network=unet("tiny", feature_maps=5), resume=True))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a folder that can be written"):
        _unwrapped(lambda: train(tmp_path / "file" / "run", 1))


@pytest.mark.parametrize("name", ["state.json", "model.keras", "optimizer.npz"])
def test_a_torn_checkpoint_is_named_and_the_one_before_it_can_be_used(straight, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(straight[0], run)
    torn = run / "checkpoints" / "00000006" / name
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"00000006/{name}: .*damaged.*delete the folder .*checkpoint 3\)"):
        train(run, 1, resume=True)
    shutil.rmtree(torn.parent)
    node = KerasTrain(SCENARIO, unet("tiny"), raw=RAW, folder=run, iterations=6, resume=True)
    assert node.iteration == 3


def test_an_incomplete_request_is_told_what_to_request(tmp_path):
    node = KerasTrain(SCENARIO, unet("tiny"), raw=RAW, folder=tmp_path / "run", iterations=1)
    pipeline = Patches(node) + node
    request = gp.BatchRequest()
    request[RAW] = node.request(OUTPUT)[RAW]
    with pytest.raises(InputError, match=r"CPV_TARGET.*train.request"), gp.build(pipeline):
        _unwrapped(lambda: pipeline.request_batch(request))
    with pytest.raises(InputError, match="one for each head: three_label, cpv"):
        KerasTrain(SCENARIO, unet("tiny"), raw=RAW, folder=tmp_path, iterations=1, targets={"cpv": LABELS})


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"warmup": 0, "schedule": "constant"}, [1e-3, 1e-3, 1e-3]),
        ({"warmup": 50, "schedule": "constant"}, [5e-4, 1e-3, 1e-3]),
        ({"warmup": 50}, [5e-4, 1e-3, 0.0]),
        ({"warmup": 0}, [1e-3 * (1 + np.cos(np.pi * 25 / 150)) / 2, 7.5e-4, 0.0]),
    ],
)
def test_learning_rate_schedules(settings, rates):
    import keras

    optimizer = Optimizer(learning_rate=1e-3, **settings).build(150)
    optimizer.build([keras.Variable(np.zeros(1))])
    for step, rate in zip((25, 50, 150), rates, strict=True):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate, abs=1e-9)


def _columns(folder):
    """losses.csv without its times."""
    return [line.rsplit(",", 1)[0] for line in (folder / "losses.csv").read_text().splitlines()]


def _unwrapped(call):
    """Gunpowder wraps what a node raises; raise the cause, as nucseg.training does."""
    try:
        return call()
    except Exception as error:
        found = error
        while found is not None and not isinstance(found, NucsegError):
            found = found.__cause__ or found.__context__
        raise (found or error) from None
