"""KerasPredict: any request, a scan, and blocks from daisy equal one prediction of the whole volume."""

import threading
import time

import gunpowder as gp
import numpy as np
import pytest
from daisy_relay import FOLDER, relay

from nucseg.errors import InputError
from nucseg.network.model import TrainedModel
from nucseg.network.predict import KerasPredict

RAW, PREDICTION = gp.ArrayKey("RAW"), gp.ArrayKey("PREDICTION")
SHAPE = (30, 37, 41)


class Source(gp.BatchProvider):
    """A volume that begins at `begin`."""

    def __init__(self, data, begin=(0, 0, 0)):
        self.data, self.begin = data, gp.Coordinate(begin)

    def setup(self):
        roi = gp.Roi(self.begin, self.data.shape)
        self.provides(RAW, gp.ArraySpec(roi=roi, voxel_size=(1, 1, 1), dtype=np.float32, interpolatable=True))

    def provide(self, request):
        batch = gp.Batch()
        roi = request[RAW].roi
        spec = self.spec[RAW].copy()
        spec.roi = roi
        crop = (roi - self.begin).to_slices()
        batch[RAW] = gp.Array(self.data[crop], spec, {"scale_um": (0.3, 0.1, 0.1)})
        return batch


@pytest.fixture(scope="module")
def model(straight):
    return TrainedModel.load(straight[0])


@pytest.fixture(scope="module")
def volume():
    return np.random.default_rng(7).random(SHAPE, dtype=np.float32)


@pytest.fixture(scope="module")
def whole(model, volume):
    """One prediction of the whole volume, zeros around it."""
    padded = np.zeros(model.network.input_shape(SHAPE), np.float32)
    context = model.context
    padded[tuple(slice(c, c + n) for c, n in zip(context, SHAPE, strict=True))] = volume
    return model.predict(padded)[(slice(None), *(slice(0, n) for n in SHAPE))]


@pytest.mark.parametrize("block", [(8, 12, 16), (7, 11, 13)])
def test_a_scan_equals_the_whole(model, volume, whole, block):
    reference = gp.BatchRequest()
    reference.add(PREDICTION, block)
    pipeline = Source(volume) + KerasPredict(model, RAW, PREDICTION)
    pipeline += gp.Scan(reference, progress_callback=None)
    request = gp.BatchRequest()
    request[PREDICTION] = gp.ArraySpec(roi=gp.Roi((0, 0, 0), SHAPE))
    with gp.build(pipeline):
        scanned = pipeline.request_batch(request)[PREDICTION].data
    np.testing.assert_allclose(scanned, whole, atol=1e-5)


@pytest.mark.parametrize("begin", [(0, 0, 0), (5, -3, 8)])
def test_any_region_equals_the_whole(model, volume, whole, begin):
    wanted = gp.Roi((3, 0, 19), (9, 36, 22))
    pipeline = Source(volume, begin) + KerasPredict(model, RAW, PREDICTION)
    request = gp.BatchRequest()
    request[PREDICTION] = gp.ArraySpec(roi=wanted + gp.Coordinate(begin))
    with gp.build(pipeline):
        assert pipeline.spec[PREDICTION].roi == gp.Roi(begin, SHAPE)
        array = pipeline.request_batch(request)[PREDICTION]
    np.testing.assert_allclose(array.data, whole[(slice(None), *wanted.to_slices())], atol=1e-5)
    assert array.attrs["scale_um"] == (0.3, 0.1, 0.1)


def test_daisys_blocks_equal_the_whole(model, volume, whole, tmp_path, monkeypatch):
    """A real scheduler of daisy 2; its worker hands its place to this process, where the network is."""
    import daisy.v2 as daisy

    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    total, block = daisy.Roi((0, 0, 0), SHAPE), daisy.Roi((0, 0, 0), (16, 20, 24))
    task = daisy.Task("predict", total, block, block, relay, fit="shrink", max_workers=1)
    scheduler = threading.Thread(target=daisy.run_blockwise, args=([task],), kwargs={"progress": False})
    scheduler.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "context").exists():
        assert scheduler.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    monkeypatch.setenv("DAISY_CONTEXT", (tmp_path / "context").read_text())
    done = []
    collected = np.full(whole.shape, np.nan, np.float32)
    reference = gp.BatchRequest()
    reference.add(PREDICTION, (16, 20, 24))
    pipeline = Source(volume) + KerasPredict(model, RAW, PREDICTION) + _Collect(collected)
    pipeline += gp.DaisyRequestBlocks(
        reference, {PREDICTION: "write_roi"}, block_done_callback=lambda *args: done.append(args)
    )
    try:
        with gp.build(pipeline):
            pipeline.request_batch(gp.BatchRequest())
    finally:
        (tmp_path / "done").touch()
        scheduler.join(60)
    assert len(done) == 8
    np.testing.assert_allclose(collected, whole, atol=1e-5)


def test_wrong_pipelines_are_told(straight, volume):
    with (
        pytest.raises(gp.PipelineSetupError) as caught,
        gp.build(_Nothing() + KerasPredict(straight[0], RAW, PREDICTION)),
    ):
        pass
    assert isinstance(caught.value.__cause__, InputError)
    with pytest.raises(InputError, match="no such folder"):
        KerasPredict("nowhere", RAW, PREDICTION)


class _Nothing(gp.BatchProvider):
    def setup(self):
        self.provides(PREDICTION, gp.ArraySpec(roi=gp.Roi((0, 0, 0), SHAPE), voxel_size=(1, 1, 1)))


class _Collect(gp.BatchFilter):
    def __init__(self, into):
        self.into = into

    def process(self, batch, request):
        array = batch[PREDICTION]
        self.into[(slice(None), *array.spec.roi.to_slices())] = array.data
