import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nucseg.errors import InputError
from nucseg.points import add_micrometers, read_points, read_table, write_table

finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.integers(0, 2**64 - 1), finite, finite, finite), max_size=6))
def test_both_files_give_every_value_back(tmp_path, rows):
    columns = {
        "id": np.array([row[0] for row in rows], dtype=np.uint64),
        **{axis: np.array([row[1 + k] for row in rows], dtype=np.float64) for k, axis in enumerate("zyx")},
    }
    parquet = write_table(tmp_path, "centers", columns)
    assert parquet == tmp_path / "tables" / "centers.parquet"
    for path in (parquet, parquet.with_suffix(".csv")):
        back = read_table(path)
        assert list(back) == ["id", "z", "y", "x"]
        assert back["id"].dtype == np.uint64
        for name, values in columns.items():
            np.testing.assert_array_equal(back[name], values)
        points = read_points(path)
        assert points.shape == (len(rows), 3)
        assert points.dtype == np.float64
        np.testing.assert_array_equal(points, np.stack([columns[axis] for axis in "zyx"], axis=1))


def test_csv_is_plain_text_that_a_spreadsheet_opens(tmp_path):
    path = write_table(tmp_path, "t", {"id": np.array([1, 2], "uint32"), "z": np.array([0.5, 2.0])})
    assert path.with_suffix(".csv").read_text() == "id,z\n1,0.5\n2,2\n"
    assert pq.read_table(path).schema.field("id").type == "uint32"


def test_writing_again_replaces_and_leaves_nothing_else(tmp_path):
    write_table(tmp_path, "t", {"z": np.arange(5.0)})
    write_table(tmp_path, "t", {"z": np.arange(2.0)})
    assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == ["t.csv", "t.parquet"]
    assert read_table(tmp_path / "tables" / "t.csv")["z"].size == 2


def test_columns_in_any_order_and_case_and_those_of_napari(tmp_path):
    (tmp_path / "a.csv").write_text("name, X,Y,Z\na,3,2,1\n")
    (tmp_path / "b.csv").write_text("index,axis-0,axis-1,axis-2\n0.0,1,2,3\n")
    for name in ("a.csv", "b.csv"):
        np.testing.assert_array_equal(read_points(tmp_path / name), [[1, 2, 3]])


def test_micrometers_are_added_where_the_voxel_size_is_known():
    columns = {axis: np.array([1.0, 4.0]) for axis in "zyx"}
    assert add_micrometers(columns, None) == columns
    added = add_micrometers(columns, (0.5, 0.25, 2.0))
    assert list(added) == ["z", "y", "x", "z_um", "y_um", "x_um"]
    np.testing.assert_array_equal(added["z_um"], [0.5, 2.0])
    np.testing.assert_array_equal(added["x_um"], [2.0, 8.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("z,y\n1,2\n", "rename x"),
        ("1,2,3\n4,5,6\n", "rename z, y, x"),
        ("z,y,x\n1,2,three\n", "column x: expected a finite number"),
        ("z,y,x\n1,,3\n", "column y: expected a finite number"),
        ("z,y,x\n1,2,nan\n", "column x: expected a finite number"),
        ("z,y,x\n1,2\n", "readable .csv table"),
        ("", "readable .csv table"),
    ],
)
def test_tables_that_hold_no_points(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_points(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "received"), [("no.csv", "nothing of that name"), ("a.txt", "another kind")]
)
def test_files_that_are_no_tables(tmp_path, name, received):
    (tmp_path / "a.txt").write_text("z,y,x\n")
    with pytest.raises(InputError, match=received):
        read_table(tmp_path / name)


@pytest.mark.parametrize("columns", [{}, {"a": np.zeros(2), "b": np.zeros(3)}, {"a": np.zeros((2, 2))}])
def test_columns_that_make_no_table(tmp_path, columns):
    with pytest.raises(InputError, match="1-D and of one length"):
        write_table(tmp_path, "t", columns)
    assert not list(tmp_path.iterdir())


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can be written"):
        write_table(tmp_path / "file", "t", {"a": np.zeros(2)})
