"""The stream of batches is the same for any number of workers and from any start; failures are told."""

import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path

import gunpowder as gp
import numpy as np
import pytest
from cases import crowded
from node_cases import LABELS, RAW, request, source

from nucseg.errors import InputError
from nucseg.heads.scenario import Scenario
from nucseg.nodes.add_targets import AddTargets, target_keys, weight_keys
from nucseg.nodes.deform import Deform
from nucseg.nodes.gaussian_noise import GaussianNoise
from nucseg.nodes.precache import PreCache
from nucseg.nodes.random_patch import RandomPatch

SCENARIO = Scenario.named("three_label_cpv")
VECTORS, WEIGHT = target_keys(SCENARIO)["cpv"], weight_keys(SCENARIO)["cpv"]
ROIS = {RAW: ((0, 0, 0), (16, 16, 16)), VECTORS: ((4, 4, 4), (8, 8, 8)), WEIGHT: ((4, 4, 4), (8, 8, 8))}


def sources(count=2):
    return tuple(source(crowded(i, (24, 26, 28)), seed=i) + RandomPatch((8, 8, 8)) for i in range(count))


def training(workers, *, reuse=1, samples=0, seed=1, start=0, cache=4):
    pipeline = sources() + gp.RandomProvider() + Deform(RAW, LABELS, reuse=reuse)
    pipeline += GaussianNoise(RAW)
    pipeline += AddTargets(LABELS, SCENARIO, margin=6)
    if samples:
        pipeline += gp.Stack(samples)
    return pipeline + PreCache(workers, cache, seed=seed, start=start)


def batches(pipeline, count, rois=ROIS):
    with gp.build(pipeline):
        made = [pipeline.request_batch(request(rois)) for _ in range(count)]
    return [{key: batch[key].data for key in rois} for batch in made]


def assert_same(one, other):
    assert len(one) == len(other)
    for i, (a, b) in enumerate(zip(one, other, strict=True)):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{key} of batch {i}")


@pytest.mark.parametrize(("reuse", "samples"), [(1, 0), (3, 0), (3, 2)])
def test_batch_i_depends_on_the_seed_and_i_only(reuse, samples):
    options = {"reuse": reuse, "samples": samples}
    inline = batches(training(0, **options), 10)
    for i in range(10):
        for j in range(i):
            assert not np.array_equal(inline[i][RAW], inline[j][RAW])
    assert_same(inline, batches(training(1, **options), 10))
    assert_same(inline, batches(training(2, **options), 10))
    assert_same(inline[4:], batches(training(0, start=4, **options), 6))
    assert_same(inline[4:], batches(training(2, start=4, **options), 6))


def test_another_seed_gives_another_stream():
    one, other = batches(training(0, seed=1), 2), batches(training(0, seed=2), 2)
    assert not np.array_equal(one[0][RAW], other[0][RAW])


def test_both_sources_serve():
    """The choice of the volume follows the batch's seed too."""

    class Mark(gp.BatchFilter):
        def __init__(self, value):
            self.value = value

        def process(self, batch, request):
            batch[RAW].data[:] = self.value

    pipeline = tuple(source(crowded()) + RandomPatch((8, 8, 8)) + Mark(i) for i in range(2))
    made = batches(pipeline + gp.RandomProvider() + PreCache(1, 2), 20, {RAW: ROIS[RAW]})
    assert {float(batch[RAW].flat[0]) for batch in made} == {0.0, 1.0}


def test_a_differing_request_keeps_its_place_in_the_stream():
    """As a snapshot asks now and then for one array more: what comes after does not change."""
    more = {**ROIS, LABELS: ((2, 2, 2), (12, 12, 12))}
    expected = batches(training(0), 8)
    for workers in (0, 1, 2):
        pipeline = training(workers)
        with gp.build(pipeline):
            made = [pipeline.request_batch(request(more if i in (2, 5) else ROIS)) for i in range(8)]
        assert LABELS in made[2].arrays
        assert made[2][LABELS].data.shape == (12, 12, 12)
        assert_same(expected, [{key: batch[key].data for key in ROIS} for batch in made])


def test_workers_follow_a_request_that_stays():
    large = {RAW: ((0, 0, 0), (18, 18, 18))}
    pipeline = training(2)
    with gp.build(pipeline):
        made = [pipeline.request_batch(request(ROIS if i < 3 else large))[RAW].data for i in range(9)]
    fresh = batches(training(0, start=3), 6, large)
    for got, expected in zip(made[3:], fresh, strict=True):
        np.testing.assert_array_equal(got, expected[RAW])


class Break(gp.BatchFilter):
    """Raises, or kills its process, at one of the requests it gets."""

    def __init__(self, at, kill=False):
        self.at, self.kill, self.count = at, kill, 0

    def process(self, batch, request):
        self.count += 1
        if self.count > self.at:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("the lamp is off")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_comes_with_its_traceback(workers):
    pipeline = sources(1)[0] + Break(2) + PreCache(workers, 2)
    with gp.build(pipeline):
        for _ in range(2):
            pipeline.request_batch(request({RAW: ROIS[RAW]}))
        with pytest.raises(gp.PipelineRequestError) as error:
            pipeline.request_batch(request({RAW: ROIS[RAW]}))
    assert "ValueError: the lamp is off" in str(error.value)
    assert "in process" in str(error.value)


def test_a_killed_worker_is_reported_at_once():
    pipeline = sources(1)[0] + Break(1, kill=True) + PreCache(2, 2)
    began = time.monotonic()
    with gp.build(pipeline), pytest.raises(gp.PipelineRequestError) as error:
        [pipeline.request_batch(request({RAW: ROIS[RAW]})) for _ in range(4)]
    assert "ended by SIGKILL" in str(error.value)
    assert "num_workers=0" in str(error.value)
    assert time.monotonic() - began < 20


def test_teardown_ends_the_workers():
    node = PreCache(2, 2)
    pipeline = sources(1)[0] + node
    with gp.build(pipeline):
        pipeline.request_batch(request({RAW: ROIS[RAW]}))
        running = [worker.process.pid for worker in node._workers]
        assert len(running) == 2
    for pid in running:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def _orphan_workers(sender):
    """Start a pipeline, tell its workers' process ids, and die without a farewell."""
    node = PreCache(2, 2)
    pipeline = sources(1)[0] + node
    with gp.build(pipeline):
        for _ in range(3):
            pipeline.request_batch(request({RAW: ROIS[RAW]}))
        sender.send([worker.process.pid for worker in node._workers])
        os.kill(os.getpid(), signal.SIGKILL)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_when_their_parent_is_killed():
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    parent = context.Process(target=_orphan_workers, args=(sender,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries in this process
        parent.start()
    workers = receiver.recv()
    parent.join()
    until = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(workers) == 2
    assert not any(map(alive, workers))


def test_a_pipeline_can_be_built_twice():
    pipeline = training(1)
    assert_same(batches(pipeline, 3), batches(pipeline, 3))


@pytest.mark.parametrize("options", [{"num_workers": -1}, {"cache_size": 0}, {"seed": -1}, {"start": -1}])
def test_wrong_arguments_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        PreCache(**options)
