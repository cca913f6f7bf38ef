"""The memory of a blockwise run: OUT/.nucseg says what was asked for and which blocks are done.

Whether a block is done is never read from the output array, where a missing chunk reads as zeros without an
error: a worker appends one line to its own file after the block is written and before it is given back. A run
that goes on reads these lines, and so does the digest of the whole.

    OUT/.nucseg/<task>.json           settings, identity of the inputs, versions, and a hash of these
    OUT/.nucseg/<task>/blocks-*.jsonl one line a block, one file a worker
    OUT/.nucseg/<task>/job.json       what workers read
    OUT/.nucseg/<task>/runs.jsonl     when it was worked on, by which process (history.py)
    OUT/.nucseg/<task>/tables.json    checksums of the tables it wrote (tables.py)
    OUT/.nucseg/<task>/logs/          what workers print
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zarr

from nucseg.blockwise.grid import Grid, Shape
from nucseg.blockwise.json_file import write_json
from nucseg.blockwise.lines import Lines, Places, read_lines
from nucseg.errors import InputError
from nucseg.storage import ome, remote
from nucseg.storage.pyramid import size_and_time

FOLDER = ".nucseg"
SET_ASIDE = "damaged"
"""Status of the line of a block that was done and was then found damaged."""
DROPPED = "dropped"
"""Status of the line of a block that was done, was dropped when nothing needed it, and is to be made again."""


def check_folder(out: Path) -> None:
    """Make sure that `out` does not exist yet, is empty, or is a folder of ours, with our records in it.

    Raises:
        InputError: It holds something else.
    """
    if not (out / FOLDER).is_dir() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            str(out),
            expected="a new or empty folder, or one that nucseg has begun",
            received="a folder with other content" if out.is_dir() else "a file",
            remedy="name another OUT; nothing was changed",
        )


def claim_folder(out: Path) -> None:
    """Make `out`, a zarr group with our records, unless it is one already.

    Raises:
        InputError: It cannot be written.
    """
    try:
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        probe = out / FOLDER / f"writable-{socket.gethostname()}-{os.getpid()}"
        probe.touch()
        probe.unlink()
        zarr.open_group(out, mode="a", zarr_format=3, use_consolidated=False)
    except OSError as error:
        raise InputError(
            str(out),
            expected="a folder that can be written",
            received=error.strerror or str(error),
            remedy="choose another place or change its permissions",
        ) from None


def hash_of(description: dict[str, Any]) -> str:
    """A short hash of anything that JSON can hold; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:32]


def identity(path: str | Path) -> dict[str, Any]:
    """What tells an input from another at the same path: the path, size and time of its file.

    For a zarr array or group these are its metadata file, which is new whenever the array is made anew, and number,
    bytes and newest time of its files (of an OME-Zarr image those of its finest level; label images and tables beside
    it do not matter, nor do levels that were added to it), which tell when chunks were changed in place. That takes
    some microseconds a file, and reads no voxel: a chunk that is changed with its size and time kept goes unnoticed.
    Of a URL it is a hash of the metadata: chunks that are changed in place go unnoticed.
    """
    if remote.is_remote(path):
        finest = ome.finest_level_at(os.fspath(path))
        names = (f"{finest}/{mark}" if finest else mark for mark in ome.MARKS)
        return remote.fingerprint(os.fspath(path), [*ome.MARKS, ".zattrs", *names])
    resolved = Path(path).resolve()
    array = _array_folder(resolved)
    chunks = {} if array is None else {"chunks": _files(array)}
    for mark in ("zarr.json", ".zattrs", ".zarray", ".zgroup"):
        if (resolved / mark).is_file():
            size, changed = size_and_time(resolved / mark)
            break
    else:
        file = resolved
        while not file.exists() and file != file.parent:  # file.h5:dataset, or a path inside a file
            file = file.parent / file.name.split(":", 1)[0] if ":" in file.name else file.parent
        size, changed = file.stat().st_size, file.stat().st_mtime_ns
    return {"path": str(resolved), "bytes": size, "changed_ns": changed, **chunks}


class Records:
    """The records of one task in one OUT.

    Args:
        out: The output folder.
        task: The task's name: `predict`, `segment`, ...
    """

    def __init__(self, out: str | Path, task: str) -> None:
        self.out = Path(out)
        self.folder = self.out / FOLDER / task
        self.path = self.folder.with_suffix(".json")
        self.job = self.folder / "job.json"
        self.logs = self.folder / "logs"

    def head(self) -> dict[str, Any] | None:
        """Settings, inputs, versions and hash of the run that lies there; None if there is none."""
        if not self.path.exists():
            return None
        head: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return head

    def begin(self, description: dict[str, Any], grid: Grid) -> None:
        """Write the head of a new run: from now on it can be continued."""
        head = {
            **description,
            "hash": hash_of(description),
            "blocks": len(grid),
            "grid": {"volume": grid.volume, "block": grid.block},
            "versions": {name: version(name) for name in ("nucseg", "daisy", "numba", "numpy", "zarr")},
            "python": platform.python_version(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.path, head)

    def check_same(self, description: dict[str, Any]) -> None:
        """Make sure that the run that lies there was asked for the same.

        Raises:
            InputError: It was not; names what differs.
        """
        head = self.head()
        if head is None or head["hash"] == hash_of(description):
            return
        old, new = _flat({k: head.get(k) for k in description}), _flat(description)
        changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        raise InputError(
            str(self.path.parent.parent),
            expected="the settings and inputs that its blocks were made with: "
            + ", ".join(f"{key} {old.get(key)}" for key in changed[:4]),
            received=", ".join(f"{key} {new.get(key)}" for key in changed[:4]),
            remedy="use another OUT, or start afresh with overwrite (--overwrite)",
        )

    def clear(self) -> None:
        """Forget the run, the head first, so that what is left half deleted is never continued."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def lines(self, status: str | None = None) -> Iterator[dict[str, Any]]:
        """All lines of all workers for the present hash; a line that a killed worker left torn is no line.

        Args:
            status: Only lines of this status.
        """
        return (line for _, _, line in self._placed(self._files(), status))

    def read(self, run: str | None = None) -> tuple[Lines, dict[Shape, str]]:
        """Done blocks (grid index to line), and why others failed.

        Args:
            run: Failures of this run only; they are tried again by the next.
        """
        files, places, failed = self._files(), Places(), dict[Shape, str]()
        for number, place, line in self._placed(files):
            z, y, x = line["block"]
            if line["status"] == "done":
                places.add((z, y, x), number, place)
            elif line["status"] == "failed" and line["run"] == run:
                failed[z, y, x] = line["error"]
        done = Lines(files, places)
        return done, {index: error for index, error in failed.items() if index not in done}

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("blocks-*.jsonl"))

    def _placed(
        self, files: list[Path], status: str | None = None
    ) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Number of the file, byte and line."""
        head = self.head()
        if head is None:
            return
        text = b"" if status is None else f'"status": "{status}"'.encode()
        for number, file in enumerate(files):
            for place, line in read_lines(file, text):
                if line.get("hash") == head["hash"] and status in (None, line["status"]):
                    yield number, place, line

    def complete(self) -> bool:
        """Whether there is a run and each of its blocks is done."""
        head = self.head()
        return head is not None and len(self.read()[0]) == head["blocks"]

    @contextmanager
    def held(self, alone: bool) -> Iterator[None]:
        """Hold the task: together with other workers, or alone, to delete and create outputs.

        A worker that outlives its scheduler still holds on until its block is done, so that outputs are never
        made anew under its hands. File systems without locks give no such guard.

        Raises:
            InputError: Wanted alone while somebody holds it.
        """
        with open(self.folder.with_suffix(".lock"), "w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
            except BlockingIOError:
                raise InputError(
                    str(self.path.parent.parent),
                    expected="no worker at work there",
                    received=f"workers of an earlier {self.folder.name} run",
                    remedy="wait until they have finished their blocks, then start again",
                ) from None
            except OSError:  # this file system has no locks
                pass
            yield


class Writer:
    """One worker's file of lines.

    Args:
        records: The task's records.
        key: Hash of the settings; goes into each line.
        run: Names this run among those that worked on the same OUT; goes into each line.
    """

    def __init__(self, records: Records, key: str, run: str) -> None:
        self.key, self.run = key, run
        name = f"blocks-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._file = open(records.folder / name, "a", encoding="utf-8")  # noqa: SIM115 - as long as the worker lives

    def append(self, index: Shape, status: str, **values: Any) -> None:
        """Write one line in one piece and hand it to the operating system, where no kill can reach it."""
        line = {
            "block": index,
            "status": status,
            "hash": self.key,
            "run": self.run,
            "pid": os.getpid(),
            **values,
        }
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _array_folder(path: Path) -> Path | None:
    """The zarr array that is read from a path: itself, or the finest level of an image; None: there is none."""
    if not ome.is_zarr(path):
        return None
    node = ome.open_node(str(path))
    if isinstance(node, zarr.Array):
        return path
    finest = ome.finest_level(node)
    return path / finest if finest is not None and ome.is_zarr(path / finest) else None


def _files(folder: Path) -> dict[str, int]:
    """Number, bytes and newest time of the files in a folder and below it."""
    number = size = newest = 0
    folders = [os.fspath(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                    continue
                stat = entry.stat()
                number, size, newest = number + 1, size + stat.st_size, max(newest, stat.st_mtime_ns)
    return {"files": number, "bytes": size, "newest_ns": newest}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}{key}.").items()}
    return {prefix.rstrip(".").removeprefix("fields."): value}
