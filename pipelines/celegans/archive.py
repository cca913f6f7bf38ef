"""The archive of the public record: unpacked once, and compared with what is known of it."""

import hashlib
import zipfile
from pathlib import Path

from nucseg import InputError

NAME = "c_elegans_nuclei.zip"
BYTES = 84_403_531
MD5 = "7d616d91c4a6cce75a7d4dd37d7e666a"


def unpacked(download: Path, out: Path) -> Path:
    """The folder to look for worms in.

    An archive, or the folder in which `c_elegans_nuclei.zip` lies packed, is unpacked to `out/download`, once. A
    checksum other than the known one is printed, not refused: records get new versions.

    Raises:
        InputError: The archive is damaged.
    """
    packed = download / NAME
    if download.is_dir():
        if not packed.is_file() or (download / packed.stem).is_dir():
            return download
    elif download.suffix.lower() == ".zip" and download.is_file():
        packed = download
    else:
        return download
    target = out / "download"
    if target.is_dir():
        return target
    if packed.name == NAME:
        with packed.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        if digest != MD5:
            print(f"{packed}: {packed.stat().st_size} bytes, md5 {digest}; known is {BYTES} bytes, md5 {MD5}")
    partial = out / ".download.partial"
    partial.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(partial)
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(
            str(packed), expected="a zip archive", received=str(error), remedy="download it again"
        ) from error
    partial.rename(target)
    return target
