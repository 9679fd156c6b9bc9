"""Tables in .parquet files, sound and damaged."""

import io

import pytest

pytest.importorskip("pyarrow")

import pyarrow as pa
from pyarrow import parquet

from ncgn_jax.data.parquet import open_parquet, read_batches
from ncgn_jax.faults import DataError


def test_columns_are_read_some_rows_at_a_time(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"x": [1, 2, 3], "y": ["a", "b", "c"]}), path)
    for source in (path, io.BytesIO(path.read_bytes())):
        with open_parquet(source, path) as file:
            batches = list(read_batches(file, path, 2, ["y"]))
            assert [b.to_pydict() for b in batches] == [{"y": ["a", "b"]}, {"y": ["c"]}]


def test_damage_that_is_met_while_reading_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"x": [1, 2, 3]}), path)
    content = path.read_bytes()
    # The first page follows the four letters of the format; the footer stays whole.
    path.write_bytes(content[:4] + b"\xff" * 16 + content[20:])
    with (
        open_parquet(path, path) as file,
        pytest.raises(DataError, match=r"a\.parquet: not readable as"),
    ):
        list(read_batches(file, path, 2))


def test_damaged_and_absent_files_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(DataError, match=r"a\.parquet: no such file"):
        open_parquet(path, path)
    path.write_bytes(b"PAR1 and so on PAR1")
    with pytest.raises(DataError, match=r"a\.parquet: not readable as \.parquet \(Arr"):
        open_parquet(path, path)
