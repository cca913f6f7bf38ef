"""Reading MetaImage volumes (`.mhd` and its data file), as the authors' collection holds the raw images."""

import math
import zlib
from pathlib import Path

import numpy as np

from nucseg import InputError

_TYPES = {
    "MET_UCHAR": "u1",
    "MET_CHAR": "i1",
    "MET_USHORT": "u2",
    "MET_SHORT": "i2",
    "MET_UINT": "u4",
    "MET_INT": "i4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read_metaimage(path: Path) -> np.ndarray:
    """A volume (z, y, x) of one channel; the header gives the lengths in the order x, y, z.

    Args:
        path: The `.mhd` header; its data lie in one file beside it, or behind the header (`LOCAL`).

    Raises:
        InputError: No such header, not three axes of one channel, an unknown type, or data of another length.
    """
    header, behind = _header(path)
    lengths = [int(n) for n in header.get("DimSize", "").split() if n.isdigit()]
    kind, source = header.get("ElementType", ""), header.get("ElementDataFile", "")
    if len(lengths) != 3 or kind not in _TYPES or header.get("ElementNumberOfChannels", "1") != "1":
        raise InputError(
            str(path),
            expected=f"a MetaImage of 3 axes, one channel and a type of {', '.join(_TYPES)}",
            received=", ".join(f"{k} = {v}" for k, v in header.items() if not k.startswith("Transform"))
            or "nothing",
            remedy="save it as a TIFF stack instead",
        )
    if source == "LOCAL":
        data = behind
    else:
        file = _data_file(path, source)
        if file is None:
            raise InputError(
                str(path),
                expected="one data file beside the header",
                received=f"ElementDataFile = {source or 'none'}",
                remedy="put the data file there, or save the volume as a TIFF stack",
            )
        data = file.read_bytes()
    if header.get("CompressedData", "False").lower() == "true":
        try:
            data = zlib.decompress(data)
        except zlib.error as error:
            raise InputError(
                str(path), expected="zlib-compressed data", received=str(error), remedy="copy the files again"
            ) from error
    big = header.get("BinaryDataByteOrderMSB", header.get("ElementByteOrderMSB", "False")).lower() == "true"
    dtype = np.dtype((">" if big else "<") + _TYPES[kind])
    expected = math.prod(lengths) * dtype.itemsize
    if len(data) != expected:
        raise InputError(
            str(path),
            expected=f"{expected} bytes of {kind} for {' x '.join(map(str, lengths))} (x, y, z)",
            received=f"{len(data)} bytes",
            remedy="copy the data file again",
        )
    return np.frombuffer(data, dtype).reshape(lengths[::-1]).astype(dtype.newbyteorder("="))


def lacks_data(path: Path) -> bool:
    """Whether the data file that a header names is not beside it.

    Raises:
        InputError: No such header.
    """
    source = _header(path)[0].get("ElementDataFile", "")
    return source != "LOCAL" and _data_file(path, source) is None


def _data_file(path: Path, source: str) -> Path | None:
    """The one data file beside a header; None where it is not there or several are named."""
    file = path.with_name(source) if source else path
    return None if not source or "%" in source or source == "LIST" or not file.is_file() else file


def _header(path: Path) -> tuple[dict[str, str], bytes]:
    """Fields of the header, and what lies behind its last one, ElementDataFile."""
    fields: dict[str, str] = {}
    content, begin = path.read_bytes(), 0
    while begin < len(content) and "ElementDataFile" not in fields:
        end = content.find(b"\n", begin)
        end = len(content) if end < 0 else end
        line = content[begin:end].decode("latin-1")
        begin = end + 1
        key, equals, value = line.partition("=")
        if not equals:
            break
        fields[key.strip()] = value.strip()
    return fields, content[begin:]
