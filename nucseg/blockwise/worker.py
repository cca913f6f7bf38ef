"""A worker: takes one block after the other, does it, records it, gives it back.

`python -m nucseg.blockwise.worker JOB.json` is what a launcher starts; daisy's address is in the environment.
"""

import os
import resource
import signal
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nucseg.blockwise.gate import KEY, Passage, RunEnded, read_key
from nucseg.blockwise.gpu import claim_gpu
from nucseg.blockwise.grid import Shape
from nucseg.blockwise.job import read_job, task_of
from nucseg.blockwise.launch import short_error
from nucseg.blockwise.records import DROPPED, Records, Writer
from nucseg.blockwise.task import BlockRefused, Task
from nucseg.errors import InputError, NucsegError

if TYPE_CHECKING:
    from daisy.v2 import Block as DaisyBlock
    from daisy.v2 import Client, Context


_OTHERWISE = (
    "was dropped and is made again, but with other values (digest {now}, was {before}): what it was made from, or the "
    "hardware or libraries, changed since; start afresh (--overwrite)"
)


class Worker:
    """Does blocks of one task and records them.

    Args:
        task: A resolved task.
        records: Its records.
        key: Hash of its settings.
        run: The run that this worker belongs to.
        log: Gets the tracebacks of blocks that fail; None is standard error.
        stderr: The file that standard error goes to, to name it in the records of failed blocks.
    """

    def __init__(
        self,
        task: Task,
        records: Records,
        key: str,
        run: str,
        log: Path | None = None,
        stderr: Path | None = None,
    ) -> None:
        self.task, self.records, self.key, self.run, self.log = task, records, key, run, log
        named = log or stderr
        self._named = {"log": str(named.relative_to(records.folder))} if named else {}
        self.refusal: str | None = None
        self._refused: set[Shape] = set()
        self._dropped: dict[Shape, str] = {}
        self.grid = task.grid()
        self.done = 0
        self._open = ExitStack()

    def start(self) -> None:
        """Load what the task needs and open the file of records."""
        self._open.enter_context(self.records.held(alone=False))
        head = self.records.head()
        if head is None or head["hash"] != self.key:
            raise NucsegError(f"{self.records.path}: this run has been replaced by another; nothing to do")
        self._writer = Writer(self.records, self.key, self.run)
        self._open.callback(self._writer.close)
        for line in self.records.lines(DROPPED):
            if line.get("digest"):
                self._dropped[tuple(line["block"])] = line["digest"]
        self.task.start_worker()

    def start_or_refuse(self) -> None:
        """Start; if that fails as it would for every worker, each block is going to be marked failed for it.

        A worker that ended instead would be replaced by the next one, which would end likewise.
        """
        try:
            self.start()
        except (InputError, ImportError) as error:
            self._note()
            self.refusal = str(error) if isinstance(error, InputError) else short_error(error)

    def close(self) -> None:
        """Let go of the records."""
        self._open.close()

    def serve(self, block: "DaisyBlock") -> None:
        """Do one of daisy's blocks. A block that fails is marked so, and the worker lives on.

        The record is written when the block's output is, and before daisy hears of it.
        """
        from daisy.v2 import BlockStatus

        index = self._index(block)
        if self.refusal is not None or index in self._refused:
            self._refuse(block, index, self.refusal or "")
            return
        started = time.perf_counter()
        try:
            result = self.task.process(self.grid[index])
        except (BlockRefused, InputError) as refusal:
            self._refuse(block, index, str(refusal))
            return
        except Exception as error:
            self._note()
            self._fail(index, short_error(error))
            block.status = BlockStatus.FAILED
            return
        before = self._dropped.get(index)
        if before is not None and result["digest"] != before:
            self._refuse(block, index, _OTHERWISE.format(now=result["digest"], before=before))
            return
        self._writer.append(
            index,
            "done",
            begin=self.grid[index].begin,
            shape=self.grid[index].shape,
            seconds=round(time.perf_counter() - started, 4),
            peak_memory_bytes=peak_memory(),
            ended=round(time.time(), 3),
            **result,
        )
        self.done += 1

    def _refuse(self, block: "DaisyBlock", index: Shape, error: str) -> None:
        """Mark a block failed, for those that read it, too; if it comes again, it is not tried again here."""
        from daisy.v2 import BlockStatus

        block.status = BlockStatus.FAILED
        if index not in self._refused:
            self._refused.add(index)
            self._fail(index, error)

    def _index(self, block: "DaisyBlock") -> Shape:
        """The place of daisy's block in the grid.

        Raises:
            NucsegError: It is none of the grid's: whoever hands out blocks is not this run's scheduler.
        """
        offset = tuple(block.write_roi.offset)
        z, y, x = (o // b for o, b in zip(offset, self.grid.block, strict=True))
        inside = all(0 <= i < n for i, n in zip((z, y, x), self.grid.shape, strict=True))
        if not inside or offset != tuple(i * b for i, b in zip((z, y, x), self.grid.block, strict=True)):
            raise NucsegError(
                f"the scheduler offered a block at {offset}, which {self.task.name} does not have"
            )
        return z, y, x

    def _fail(self, index: Shape, error: str) -> None:
        self._writer.append(index, "failed", error=error, ended=round(time.time(), 3), **self._named)

    def _note(self) -> None:
        """Put the present traceback into the log."""
        if self.log is None:
            traceback.print_exc()
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)


def run_job(path: str | Path) -> dict[str, Any]:
    """Work on a job until there are no more blocks, or until the scheduler is gone.

    Args:
        path: The job file.

    Returns:
        `blocks`, the number done by this worker.

    Raises:
        InputError: No job, or nobody who hands out its blocks.
        RunEnded: The run that this worker was started for has ended, or is another one by now.
        NucsegError: The scheduler cannot be reached, or went away.
    """
    import daisy.v2 as daisy

    job = read_job(path)
    if daisy.Context.ENV_VARIABLE not in os.environ:
        raise InputError(
            "worker",
            expected=f"the scheduler's address in {daisy.Context.ENV_VARIABLE}",
            received="none",
            remedy="workers are started by a launcher; use `nucseg run` with --launcher",
        )
    context, passage = _through_gate(daisy.Context.from_env(), Path(path), job)
    task = task_of(job)
    if task.network:
        claim_gpu()
    records = Records(task.out, task.name)
    client = daisy.Client(context)
    worker = Worker(task, records, job["hash"], job["run"], stderr=_stderr_below(records.folder))
    if client.connected:
        worker.start_or_refuse()
    try:
        while client.connected and _serve_one(client, worker):
            pass
    finally:
        worker.close()
    if passage and passage.broken:
        raise _gone(worker, "the connection was lost")
    return {"blocks": worker.done}


def _gone(worker: Worker, how: object) -> NucsegError:
    return NucsegError(
        f"the scheduler is gone ({how}); this worker ends itself, its {worker.done} blocks are recorded"
    )


def _serve_one(client: "Client", worker: Worker) -> bool:
    """Do one block; False: there is none any more.

    Raises:
        NucsegError: The scheduler is gone; daisy's client says so by an error of the system or of its own.
    """
    own: BaseException | None = None
    try:
        with client.acquire_block() as block:
            if block is None:
                return False
            try:
                worker.serve(block)
            except BaseException as error:
                own = error
                raise
    except (RuntimeError, OSError) as error:
        if own is not None:
            raise
        raise _gone(worker, error) from None
    return True


def _through_gate(context: "Context", path: Path, job: dict[str, Any]) -> tuple["Context", Passage | None]:
    """The way to the scheduler: for a worker on another host through the gate, where the run's key lets it pass."""
    if "run" not in context:  # started by daisy itself, on this machine
        return context, None
    if context["run"] != job["run"]:
        raise RunEnded(f"{path} is the job of another run than this worker was started for, which has ended")
    gate = (context["hostname"], int(context["port"]))
    passage = Passage(gate, read_key(path.with_name(KEY)), float(context["patience"]))
    inner = context.copy()
    inner["hostname"], inner["port"] = passage.address
    return inner, passage


def _stderr_below(folder: Path) -> Path | None:
    """The file that standard error goes to, if it lies in a folder; whoever starts workers chose it."""
    try:
        path = Path(os.readlink("/proc/self/fd/2"))
    except OSError:  # no /proc
        return None
    return path if path.is_relative_to(folder) and path.is_file() else None


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes.

    Where there is /proc from there: `getrusage` would count the process that started this one too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches workers, too: end at once and say nothing
    try:
        run_job(sys.argv[1])
    except NucsegError as error:
        sys.exit(f"nucseg: {error}")
