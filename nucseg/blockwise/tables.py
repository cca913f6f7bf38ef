"""Tables that a task wrote when its blocks were done, and their checksums."""

import hashlib
import json
from pathlib import Path

from nucseg.blockwise.records import Records, write_json


def note_tables(records: Records, outputs: list[Path]) -> None:
    """Keep checksums of those outputs that are files.

    Args:
        records: The task's records.
        outputs: What the task makes, files and folders.
    """
    sums = {path.name: _checksum(path) for path in outputs if path.is_file()}
    if sums and _noted(records) != sums:
        write_json(records.folder / "tables.json", sums)


def check_tables(records: Records, outputs: list[Path]) -> dict[Path, str | None]:
    """Each table that a task has finished, and what is wrong with it; None: nothing."""
    sums, found = _noted(records), {}
    for path in outputs:
        if path.name not in sums:
            continue
        cause = None
        try:
            if _checksum(path) != sums[path.name]:
                cause = f"{path} is not as it was written"
        except FileNotFoundError:
            cause = f"lost: {path} is gone"
        except OSError as error:
            cause = f"{path} cannot be read: {error.strerror or error}"
        found[path] = cause
    return found


def _noted(records: Records) -> dict[str, str]:
    path = records.folder / "tables.json"
    noted: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return noted


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
