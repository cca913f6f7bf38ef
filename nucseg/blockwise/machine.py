"""What this machine has: memory, or the share of it that its control group allows, and room on a disk."""

import os
from pathlib import Path
from typing import NamedTuple


class Room(NamedTuple):
    """What is free on the disk of a folder."""

    bytes: int
    files: int | None
    """Files that can still be made; None: the file system does not say."""


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process and its children may have together; None: unknown.

    The smallest of the machine's memory and the limits of the control groups (versions 1 and 2) that the process is in,
    such as those of a container or of a batch system's job.

    Args:
        root: Where `proc` and `sys` are.
    """
    limits = [_installed(root)]
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            limits += _limits(root / "sys/fs/cgroup", place, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(root / "sys/fs/cgroup/memory", place, "memory.limit_in_bytes")
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def room_at(path: Path) -> Room:
    """What is free where a file or folder is, or is going to be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    return Room(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def _installed(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _limits(mount: Path, place: str, name: str) -> list[int | None]:
    """Limits of a control group and of those above it; in a container the mount may be its own group."""
    folder, found = mount / place.lstrip("/"), []
    while True:
        text = "".join(_lines(folder / name)[:1]).strip()
        found.append(int(text) if text.isdecimal() else None)
        if folder in (mount, folder.parent):
            return found
        folder = folder.parent


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
