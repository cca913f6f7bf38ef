"""Zarr stores behind a URL, such as `https://host/image.zarr`, read through fsspec; nothing is ever written there."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from nucseg.errors import InputError

PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
"""What fsspec needs for a scheme, beside itself."""


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL (`https://`, `s3://`, ...) and not a file of this machine."""
    scheme, mark, _ = os.fspath(path).partition("://")
    return bool(mark) and scheme.isalnum()


def absolute(path: str | Path) -> str:
    """A path that means the same in every process and folder: a URL as it is, a file's without links and `..`."""
    return os.fspath(path).rstrip("/") if is_remote(path) else str(Path(path).resolve())


def joined(path: str | Path, name: str) -> str:
    """The path of what is inside a folder or URL."""
    return f"{absolute(path)}/{name}" if is_remote(path) else os.path.join(path, name)


def parent(path: str | Path) -> str:
    """The folder or URL that a path lies in."""
    return absolute(path).rpartition("/")[0] if is_remote(path) else str(Path(path).absolute().parent)


def last_name(path: str | Path) -> str:
    """The last part of a path or URL."""
    return absolute(path).rpartition("/")[2] if is_remote(path) else Path(path).name


def has_file(path: str | Path, name: str) -> bool:
    """Whether a folder or URL holds a file of this name."""
    return content(path, name) is not None if is_remote(path) else (Path(path) / name).is_file()


def content(url: str | Path, name: str) -> bytes | None:
    """The bytes of a small file below a URL; None: there is none.

    Raises:
        InputError: The server cannot be reached or refuses, or packages for this kind of URL are missing.
    """
    filesystem, where = _filesystem(os.fspath(url))
    try:
        data: bytes = filesystem.cat_file(f"{where.rstrip('/')}/{name}")
        return data
    except FileNotFoundError:
        return None
    except Exception as error:  # each file system has its own
        raise InputError(
            os.fspath(url),
            expected="a server that can be read",
            received=f"{type(error).__name__}: {' '.join(str(error).split())}",
            remedy="check the address, your network, and your right to read there",
        ) from error


def store(url: str) -> Any:
    """A zarr store of a URL that can only be read.

    Raises:
        InputError: Packages for this kind of URL are missing, or there is no such kind.
    """
    _filesystem(url)
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(absolute(url), read_only=True)


def require_parts(url: str) -> None:
    """See that a server sends parts of files, as shards need it.

    Raises:
        InputError: It sends whole files whatever is asked for.
    """
    filesystem, where = _filesystem(url)
    if len(filesystem.cat_file(f"{where.rstrip('/')}/zarr.json", start=0, end=1)) > 1:
        raise InputError(
            url,
            expected="a server that sends parts of files (HTTP Range requests), because the array is stored in shards",
            received="one that sends whole files, as Python's http.server does",
            remedy="serve the folder by nginx, Apache or an object store, or download the volume first",
        )


def fingerprint(url: str, files: list[str]) -> dict[str, Any]:
    """What tells a remote input from another at the same URL: a hash of its metadata files.

    Chunks that are changed in place go unnoticed: a server does not tell of them without a request for each.

    Args:
        url: The zarr group or array.
        files: Names of metadata files below it, such as `zarr.json` and `0/zarr.json`; missing ones count as empty.
    """
    digest = sha256()
    for name in files:
        digest.update(content(url, name) or b"")
        digest.update(b"\0")
    return {"path": absolute(url), "metadata": digest.hexdigest()[:32]}


def is_network_error(error: BaseException) -> bool:
    """Whether a failed read says nothing about the data, so that trying again is worth while."""
    return isinstance(error, TimeoutError | ConnectionError) or type(error).__module__.split(".")[0] in (
        "aiohttp",
        "botocore",
        "aiobotocore",
    )


def _filesystem(url: str) -> tuple[Any, str]:
    """The file system (fsspec) of a URL, and the path in it."""
    scheme = url.partition("://")[0]
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise InputError(
            url,
            expected=f"the packages that read {scheme}://: fsspec, {PACKAGES.get(scheme, 'and its back end')}",
            received=f"{error}",
            remedy="install them: pip install 'nucseg[remote]', or download the volume first",
        ) from None
    except ValueError as error:
        raise InputError(
            url,
            expected="http://, https://, s3:// or another kind of URL that fsspec reads",
            received=f"{scheme}:// ({error})",
            remedy="correct the address, or download the volume first",
        ) from None
