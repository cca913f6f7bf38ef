"""The record of a training run's losses: `losses.csv` and TensorBoard."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nucseg.errors import InputError

NAME = "losses.csv"
_FLUSH_SECONDS = 2.0


class LossLog:
    """Appends one row per iteration to `losses.csv`, and the same numbers to `tensorboard/`.

    The columns are `iteration`, `loss` (of all heads, weighted), one per head, and `seconds`: the time
    trained so far, over all resumptions. TensorBoard events are written with TensorBoard's own writer,
    whatever Keras' backend.

    Args:
        folder: The run folder.
        heads: Names of the heads.
        start: Iterations done; rows after it (of a process that went on beyond its last checkpoint) are
            dropped.
        tensorboard: Whether to write TensorBoard events too.

    Raises:
        InputError: `losses.csv` is of other heads, or TensorBoard is wanted and not installed.
    """

    def __init__(
        self, folder: str | Path, heads: Sequence[str], start: int = 0, tensorboard: bool = True
    ) -> None:
        self._path = Path(folder) / NAME
        self._columns = ("iteration", "loss", *heads, "seconds")
        self._seconds = self._truncate(start)
        self._file = self._path.open("a", encoding="utf-8")
        self._last = self._flushed = time.monotonic()
        self._events = _Events(Path(folder) / "tensorboard", start) if tensorboard else None

    def add(self, iteration: int, loss: float, heads: dict[str, float]) -> float:
        """Record one iteration.

        Returns:
            Seconds since the iteration before.
        """
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        self._seconds += elapsed
        values = [loss, *(heads[name] for name in self._columns[2:-1])]
        self._file.write(
            ",".join([str(iteration), *(f"{v:.8g}" for v in values), f"{self._seconds:.3f}"]) + "\n"
        )
        if now - self._flushed > _FLUSH_SECONDS:
            self.flush()
        if self._events is not None:
            self._events.add(iteration, dict(zip(self._columns[1:-1], values, strict=True)))
        return elapsed

    def flush(self) -> None:
        """Make what is recorded visible to other processes."""
        self._file.flush()
        self._flushed = time.monotonic()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _truncate(self, start: int) -> float:
        """Keep the rows up to `start`; returns the seconds trained until then."""
        header = ",".join(self._columns)
        rows: list[str] = []
        if start and self._path.is_file():
            found, *lines = self._path.read_text(encoding="utf-8").splitlines()
            if found != header:
                raise InputError(
                    str(self._path),
                    expected=f"the columns {header}",
                    received=found,
                    remedy="resume with the heads the run was started with, or start in a new folder",
                )
            # A killed process may have left half a last line: it is of an iteration after the checkpoint.
            complete = (line for line in lines if line.count(",") == header.count(","))
            rows = [line for line in complete if int(line.split(",", 1)[0]) <= start]
        partial = self._path.with_name(f".{NAME}")
        partial.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        os.replace(partial, self._path)
        return float(rows[-1].rsplit(",", 1)[1]) if rows else 0.0


class _Events:
    """TensorBoard scalars."""

    def __init__(self, folder: Path, start: int) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise InputError(
                "tensorboard",
                expected="the package tensorboard, to write events for it",
                received=f"not installed ({error})",
                remedy="pip install tensorboard, or set tensorboard = false",
            ) from error
        self._event, self._summary = Event, Summary
        self._writer: Any = EventFileWriter(str(folder))
        # Tells TensorBoard to forget what an earlier process wrote beyond this step.
        self._writer.add_event(
            Event(wall_time=time.time(), step=start + 1, session_log=SessionLog(status=SessionLog.START))
        )

    def add(self, iteration: int, values: dict[str, float]) -> None:
        summary = self._summary(value=[self._summary.Value(tag=k, simple_value=v) for k, v in values.items()])
        self._writer.add_event(self._event(wall_time=time.time(), step=iteration, summary=summary))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
