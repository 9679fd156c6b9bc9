"""Tables in .parquet files, sound and damaged."""

import base64
import io

import pytest

pytest.importorskip("pyarrow")

import pyarrow as pa
from pyarrow import parquet
from pyarrow.parquet import encryption

from ncgn_jax.data import host_memory
from ncgn_jax.data import parquet as reader
from ncgn_jax.data.parquet import open_parquet, read_all_rows, read_batches
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


def test_all_rows_come_back_with_the_types_of_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"x.y": range(3000), "s": ["a", None, "b"] * 1000,
                      "n": [{"v": i} for i in range(3000)]})  # fmt: skip
    parquet.write_table(table, path, row_group_size=700)
    with open_parquet(path, path) as file:
        assert read_all_rows(file, path).equals(table)
        assert read_all_rows(file, path, ["s"]).equals(table.select(["s"]))
    parquet.write_table(table.slice(0, 0), path)
    with open_parquet(path, path) as file:
        assert read_all_rows(file, path).equals(table.slice(0, 0))


def test_rows_that_would_not_fit_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    # A thousand equal rows are stored once, as the footer says of their size too.
    packed = pa.table({"x": ["a" * 10**4] * 10**4, "y": range(10**4)})
    parquet.write_table(packed, path)
    assert path.stat().st_size < 2 * 10**5
    read = []
    batches = reader.read_batches
    monkeypatch.setattr(
        reader, "read_batches", lambda *a: (read.append(b) or b for b in batches(*a))
    )
    for free, most in ((3 * 10**7, 3), (10**4, 0)):
        monkeypatch.setattr(host_memory, "available_bytes", lambda free=free: free)
        monkeypatch.setattr(reader, "available_bytes", lambda free=free: free)
        read.clear()
        with (
            open_parquet(path, path) as file,
            pytest.raises(DataError, match=r"a\.parquet: its rows take .* 80% of"),
        ):
            read_all_rows(file, path)
        assert len(read) == most
    monkeypatch.setattr(reader, "available_bytes", lambda: 2 * 10**8)
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 2 * 10**8)
    with open_parquet(path, path) as file:
        assert read_all_rows(file, path).num_rows == 10**4


def test_stand_ins_of_tables_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match="a pointer to the file"):
        open_parquet(path, path)


class Keys(encryption.KmsClient):
    """Keeps keys as they are."""

    def __init__(self, _):
        super().__init__()

    def wrap_key(self, key_bytes, _):
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key, _):
        return base64.b64decode(wrapped_key)


@pytest.mark.parametrize("columns", [None, ["x"]])
def test_encrypted_columns_are_refused_in_words(tmp_path, columns):
    """Asked for the size of such a column, pyarrow ends the program."""
    path, table = tmp_path / "a.parquet", pa.table({"x": [1, 2], "y": ["a", "b"]})
    properties = encryption.CryptoFactory(Keys).file_encryption_properties(
        encryption.KmsConnectionConfig(),
        encryption.EncryptionConfiguration(
            footer_key="footer", column_keys={"own": ["x"]}, plaintext_footer=True
        ),
    )
    with parquet.ParquetWriter(
        path, table.schema, encryption_properties=properties
    ) as writer:
        writer.write_table(table)
    with (
        open_parquet(path, path) as file,
        pytest.raises(DataError, match=r"a\.parquet.*[Cc]annot decrypt"),
    ):
        read_all_rows(file, path, columns)
