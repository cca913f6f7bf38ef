"""Prepare training batches in parallel processes, in a fixed order."""

import contextlib
import math
import multiprocessing
import queue
import signal
import threading
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any

import gunpowder as gp
import numpy as np

from nucseg.errors import InputError, NucsegError, own_cause


class WorkerFailed(NucsegError):
    """A process that prepares batches raised an error or died; the message holds its traceback."""


class PreCache(gp.BatchFilter):
    """Serve a reproducible stream of batches, prepared ahead by worker processes.

    Batch `i` depends on `seed` and `i` only: not on the number of workers, nor on whether the run began at 0
    or was resumed at `start`. The random seed of a request from downstream is replaced.

    Workers are forked in `setup`, when the nodes downstream, such as a training node that starts TensorFlow,
    are not set up yet; they share the sources' memory. Each prepares whole groups of consecutive batches, as
    many as `reuse` of the `Deform` upstream. A request that differs from the usual one, as for a snapshot, is
    served here, from the seed of its place in the stream; if it stays, the workers turn to it.

    Args:
        num_workers: How many processes; 0 prepares each batch when it is asked for.
        cache_size: How many finished batches are held at most.
        seed: Seed of the run.
        start: Index of the first batch.

    Raises:
        InputError: An argument is out of range.
        WorkerFailed: A worker raised an error or died. An error of nucseg itself (`NucsegError`) is raised as it is.
    """

    def __init__(self, num_workers: int = 2, cache_size: int = 8, seed: int = 0, start: int = 0) -> None:
        for name, value, least in (
            ("num_workers", num_workers, 0),
            ("cache_size", cache_size, 1),
            ("seed", seed, 0),
            ("start", start, 0),
        ):
            if value < least:
                raise InputError(
                    f"PreCache({name})",
                    expected=f"{least} or more",
                    received=f"{value}",
                    remedy="change it",
                )
        self.num_workers, self.cache_size = num_workers, cache_size
        self.seed, self.start = seed, start
        self._workers: list[_Worker] = []

    def setup(self) -> None:
        """Fork the workers; they wait for the first request."""
        self._stream = _Stream(self.get_upstream_provider(), self.seed)
        self._index = self.start
        self._usual: gp.BatchRequest | None = None
        self._last: gp.BatchRequest | None = None
        room = math.ceil(self.cache_size / max(1, self.num_workers))
        for number in range(self.num_workers):
            others = [worker.connection for worker in self._workers]
            self._workers.append(_Worker(self._stream, number, self.num_workers, room, others))
        for worker in self._workers:
            worker.listen()

    def teardown(self) -> None:
        """End the workers; what they prepared is dropped."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        """Batch number `start`, `start + 1`, ... of the stream."""
        index, self._index = self._index, self._index + 1
        last, self._last = self._last, request.copy()
        if not self._workers:
            return self._stream.batch(request, index)
        if self._usual is None or (request != self._usual and request == last):
            self._usual = request.copy()
            for worker in self._workers:
                worker.begin(self._usual, index)
        if request != self._usual:
            return self._stream.batch(request, index)
        owner = index // self._stream.group % self.num_workers
        return self._workers[owner].get(index)


class _Stream:
    """Batches of the pipeline upstream by their index."""

    def __init__(self, provider: gp.BatchProvider, seed: int) -> None:
        self.provider, self.seed = provider, seed
        self.listeners = [node for node in _upstream(provider) if hasattr(node, "begin_batch")]
        self.group = math.lcm(*(int(getattr(node, "reuse", 1)) for node in self.listeners))
        self._previous: tuple[gp.BatchRequest, int] | None = None

    def batch(self, request: gp.BatchRequest, index: int) -> gp.Batch:
        """Batch `index`; those of its group that come before it are made anew unless just made."""
        first = index - index % self.group
        if self._previous is not None:
            made, at = self._previous
            if first <= at == index - 1 and made == request:
                first = index
        self._previous = None
        for i in range(first, index + 1):
            for node in self.listeners:
                node.begin_batch(i)
            number = int(np.random.SeedSequence((self.seed, i)).generate_state(1)[0])
            batch = self.provider.request_batch(
                gp.BatchRequest(request.array_specs, request.graph_specs, random_seed=number)
            )
        self._previous = (request.copy(), index)
        return batch


def _upstream(provider: gp.BatchProvider) -> list[gp.BatchProvider]:
    found = [provider]
    for upstream in provider.get_upstream_providers():
        found += [node for node in _upstream(upstream) if node not in found]
    return found


class _Worker:
    """One process and what it has finished; messages are (job, index, batch or None, error or None).

    An error is its traceback as text, and what nucseg raised itself, if it did.
    """

    def __init__(self, stream: _Stream, number: int, of: int, room: int, others: list[Connection]) -> None:
        self.number = number
        self.connection, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(
            target=_work,
            args=(stream, number, of, theirs, [*others, self.connection]),
            daemon=True,
            name=f"nucseg-precache-{number}",
        )
        with warnings.catch_warnings():
            # Python warns of threads in the parent; the child runs numpy and numba only, and takes no lock
            # of TensorFlow's.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        theirs.close()
        self._job = 0
        self._ready: queue.Queue[tuple | None] = queue.Queue(room)
        self._stopped = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True, name=f"nucseg-reader-{number}")

    def listen(self) -> None:
        """Begin to take in finished batches (threads start when all processes have been forked)."""
        self._reader.start()

    def begin(self, request: gp.BatchRequest, index: int) -> None:
        """Turn to another request, from batch `index` on."""
        self._job += 1
        with contextlib.suppress(OSError):  # it died; `get` tells
            self.connection.send((self._job, request, index))

    def get(self, index: int) -> gp.Batch:
        """Batch `index`, which must be one of this worker's and not before the last one that was got."""
        while True:
            message = self._ready.get()
            if message is None:
                self._ready.put(None)
                self.process.join(5)
                raise WorkerFailed(self._obituary())
            job, at, batch, error = message
            if job != self._job or at < index:
                continue
            if error:
                text, cause = error
                failed = WorkerFailed(f"worker {self.number} failed at batch {at}:\n{text}")
                if cause is not None:
                    raise cause from failed
                raise failed
            return batch

    def stop(self) -> None:
        """End the process and the thread."""
        self._stopped.set()
        self.process.kill()
        self.process.join()
        if self._reader.ident is not None:
            self._reader.join()
        self.connection.close()
        self.process.close()

    def _read(self) -> None:
        while not self._stopped.is_set():
            try:
                message: Any = self.connection.recv()
            except (EOFError, OSError):
                message = None
            while not self._stopped.is_set():
                try:
                    self._ready.put(message, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if message is None:
                return

    def _obituary(self) -> str:
        code = self.process.exitcode
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        return (
            f"worker {self.number} of PreCache {how} without an error message; if memory ran out, lower "
            "num_workers or cache_size; num_workers=0 runs the same batches in this process"
        )


def _work(stream: _Stream, number: int, of: int, connection: Connection, others: list[Connection]) -> None:
    """What a worker process runs: wait for a request, then prepare every `of`-th group of its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    for other in others:
        other.close()
    try:
        while True:
            job, request, start = connection.recv()
            index = start
            while not connection.poll():
                if index // stream.group % of != number:
                    index += 1
                    continue
                message: tuple
                try:
                    message = (job, index, stream.batch(request, index), None)
                except Exception as error:
                    message = (job, index, None, (traceback.format_exc(), own_cause(error)))
                connection.send(message)
                if message[-1]:
                    break
                index += 1
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
