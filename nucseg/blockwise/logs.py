"""Where daisy and its workers print to during a run: files, so that the terminal stays the user's."""

import contextlib
import fcntl
import functools
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO


def debugging() -> bool:
    """Whether all is to be shown on the terminal, as with --debug."""
    return logging.getLogger("nucseg").isEnabledFor(logging.DEBUG)


@contextmanager
def native_errors_to(path: Path | None) -> Iterator[None]:
    """Have daisy report to a file: its native part writes tracebacks of workers to the file descriptor of stderr.

    `sys.stderr` still reaches the user, and so does the progress bar. None changes nothing.
    """
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    native = logging.getLogger("daisy")
    handler, propagate = logging.FileHandler(path, encoding="utf-8"), native.propagate
    with ExitStack() as undo:
        undo.callback(handler.close)
        stream = _user_stream()
        user = stream.fileno()
        os.dup2(2, user)
        reading, writing = os.pipe()
        with contextlib.suppress(AttributeError, OSError):  # room, should daisy hold the GIL while it writes
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 2**20)
        keeper = threading.Thread(target=_keep, args=(reading, path), name="native errors", daemon=True)
        keeper.start()
        undo.callback(keeper.join, 5)
        undo.callback(os.close, writing)
        if _is_descriptor(sys.stderr, 2):
            sys.stderr.flush()
            undo.enter_context(redirect_stderr(stream))
        os.dup2(writing, 2)
        undo.callback(os.dup2, user, 2)
        native.addHandler(handler)
        native.propagate = False
        undo.callback(setattr, native, "propagate", propagate)
        undo.callback(native.removeHandler, handler)
        yield


@functools.cache
def _user_stream() -> TextIO:
    """The user's standard error under another file descriptor; never closed, as a logger may have taken hold of it."""
    return open(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _keep(reading: int, path: Path) -> None:
    """Append what comes out of a pipe to a file, as far as the disk has room: daisy panics where it cannot write."""
    with open(reading, "rb", buffering=0) as pipe:
        while data := pipe.read(65536):
            with contextlib.suppress(OSError), path.open("ab") as file:
                file.write(data)


def _is_descriptor(stream: Any, number: int) -> bool:
    try:
        return bool(stream.fileno() == number)
    except (AttributeError, OSError, ValueError):  # a stream of a notebook or a test
        return False


@contextmanager
def worker_logs(folder: Path | None) -> Iterator[None]:
    """Have daisy put what workers print into this folder; it keeps that in a setting of the whole process."""
    import daisy.logging as daisy_logging

    before: Any = daisy_logging.get_log_basedir()
    daisy_logging.set_log_basedir(folder)
    try:
        yield
    finally:
        daisy_logging.set_log_basedir(before)
