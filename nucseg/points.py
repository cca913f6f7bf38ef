"""Tables of nuclei and points, each as `tables/NAME.parquet` and `tables/NAME.csv`.

Columns z, y, x are voxel index coordinates (floats: the centre of the first voxel is 0), z_um, y_um, x_um the same
in micrometres from there, and id is the nucleus' id in the label image.
"""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from nucseg.errors import InputError
from nucseg.storage.stored import Float3


def write_table(folder: str | Path, name: str, columns: dict[str, np.ndarray]) -> Path:
    """Write `folder/tables/NAME.parquet` and `.csv`; each appears whole or not at all, replacing an older one.

    Args:
        folder: For example the OME-Zarr that the table belongs to; made if missing.
        name: Name of the table, without a suffix.
        columns: 1-D arrays of one length, by name.

    Returns:
        Path of the Parquet file.

    Raises:
        InputError: If there are no columns, they are not 1-D and of one length, or the folder cannot be written.
    """
    return write_columns(Path(folder) / "tables" / name, columns)


def write_columns(stem: str | Path, columns: dict[str, np.ndarray]) -> Path:
    """Write the table `STEM.parquet` and `STEM.csv`, as `write_table` does in a place of its own."""
    name, tables = Path(stem).name, Path(stem).parent
    arrays = {key: np.asarray(values) for key, values in columns.items()}
    if len({array.shape for array in arrays.values()}) != 1 or any(a.ndim != 1 for a in arrays.values()):
        raise InputError(
            f"table {name!r}",
            expected="columns that are 1-D and of one length",
            received=", ".join(f"{key} {array.shape}" for key, array in arrays.items()) or "no columns",
            remedy="correct the columns",
        )
    table = pa.table(arrays)
    parquet = tables / f"{name}.parquet"
    try:
        tables.mkdir(parents=True, exist_ok=True)
        text = io.BytesIO()
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(arrays)
        text.write(header.getvalue().encode())
        pyarrow.csv.write_csv(table, text, pyarrow.csv.WriteOptions(include_header=False))
        data = pa.BufferOutputStream()
        pyarrow.parquet.write_table(table, data)
        for path, content in ((tables / f"{name}.csv", text.getvalue()), (parquet, data.getvalue())):
            temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
            temporary.write_bytes(content)
            os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            str(tables),
            expected="a folder that can be written",
            received=f"{type(error).__name__}: {error.strerror or error}",
            remedy="choose another folder, or ask for the right to write there",
        ) from error
    return parquet


def read_table(path: str | Path) -> dict[str, np.ndarray]:
    """Read a `.csv` or `.parquet` table.

    Returns:
        Columns by name; a column without any value is float64 of NaN.

    Raises:
        InputError: If the file is missing, of another kind, or cannot be read.
    """
    file = Path(path)
    if not file.is_file() or file.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(
            str(path),
            expected="a .csv or .parquet file",
            received="another kind of file" if file.exists() else "nothing of that name",
            remedy="check the path's spelling" if not file.exists() else "save the table as one of these",
        )
    try:
        if file.suffix.lower() == ".parquet":
            table = pyarrow.parquet.read_table(file, partitioning=None)
        else:
            ids = pyarrow.csv.ConvertOptions(column_types={"id": pa.uint64()})
            table = pyarrow.csv.read_csv(file, convert_options=ids)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            str(path),
            expected=f"a readable {file.suffix.lower()} table with a line of column names",
            received=reason,
            remedy="open it in an editor and repair it",
        ) from error
    return {
        name.strip(): np.full(len(column), np.nan) if pa.types.is_null(column.type) else column.to_numpy()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def read_points(path: str | Path) -> np.ndarray:
    """Read points from a table with columns z, y, x in voxels (napari's axis-0, axis-1, axis-2 are accepted).

    Returns:
        (n, 3) float64, z, y, x.

    Raises:
        InputError: As `read_table`; if a column is missing, is no number, or is not finite somewhere.
    """
    table = {name.lower(): values for name, values in read_table(path).items()}
    names = ["z", "y", "x"]
    if not set(names) <= set(table) and {"axis-0", "axis-1", "axis-2"} <= set(table):
        names = ["axis-0", "axis-1", "axis-2"]
    missing = [name for name in names if name not in table]
    if missing:
        raise InputError(
            str(path),
            expected="columns z, y, x (voxel coordinates)",
            received=f"columns {', '.join(table) or 'none'}",
            remedy=f"add or rename {', '.join(missing)} in its first line",
        )
    for name in names:
        if table[name].dtype.kind not in "iuf" or not np.isfinite(table[name]).all():
            raise InputError(
                f"{path}: column {name}",
                expected="a finite number in every row",
                received=f"{table[name].dtype} with other values or gaps",
                remedy="complete the column or delete these rows",
            )
    return np.stack([table[name].astype(np.float64) for name in names], axis=1)


def add_micrometers(columns: dict[str, np.ndarray], scale_um: Float3 | None) -> dict[str, np.ndarray]:
    """The columns with z_um, y_um, x_um computed from z, y, x, if the voxel size is known.

    Args:
        columns: With z, y, x in voxels.
        scale_um: Voxel size (z, y, x) in micrometres, or None.
    """
    if scale_um is None:
        return dict(columns)
    lengths = {f"{axis}_um": columns[axis] * size for axis, size in zip("zyx", scale_um, strict=True)}
    return {**columns, **lengths}
