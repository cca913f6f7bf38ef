"""Where daisy and its workers print to during a run: files, so that the terminal stays the user's."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any


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
        user = os.dup(2)
        undo.callback(os.close, user)
        with path.open("ab") as file:
            if _is_descriptor(sys.stderr, 2):
                sys.stderr.flush()
                undo.enter_context(redirect_stderr(undo.enter_context(open(user, "w", closefd=False))))
            os.dup2(file.fileno(), 2)
        undo.callback(os.dup2, user, 2)
        native.addHandler(handler)
        native.propagate = False
        undo.callback(setattr, native, "propagate", propagate)
        undo.callback(native.removeHandler, handler)
        yield


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


def _is_descriptor(stream: Any, number: int) -> bool:
    try:
        return bool(stream.fileno() == number)
    except (AttributeError, OSError, ValueError):  # a stream of a notebook or a test
        return False
