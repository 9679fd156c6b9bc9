"""Reading numpy files: what was written comes back, and nothing else gets through."""

import contextlib
import io
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ncgn_jax.data import host_memory
from ncgn_jax.data.array_files import (
    look_at_npy,
    look_at_npz,
    open_npy,
    parse_npy,
    parse_npz,
    read_npz,
)
from ncgn_jax.faults import DataError

ARRAYS = {
    "numbers": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "columns": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    "names": np.array(["bed", "sofa"]),
    "nothing": np.zeros((0, 5), np.uint8),
    "one": np.array(7),
}
QUICK = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def to_bytes(save, *args, **kwargs):
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_come_back_as_written(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    arrays = read_npz(tmp_path / "a.npz", ("numbers", "names"))
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_mapped_as_written_and_read_only(tmp_path, name):
    np.save(tmp_path / "a.npy", ARRAYS[name])
    array = open_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(array, ARRAYS[name], strict=True)
    assert not array.flags.writeable


def test_an_array_is_mapped_and_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 8)))
    base = open_npy(tmp_path / "a.npy").base
    assert isinstance(base, np.memmap)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_headers_tell_shapes_and_types_without_the_numbers(tmp_path, version):
    content = to_bytes(np.lib.format.write_array, np.zeros((4, 8), np.int16), version)
    array = look_at_npy(io.BytesIO(content[:-50]))
    assert (array.shape, array.dtype, array.base.nbytes) == ((4, 8), np.int16, 2)
    with pytest.raises(DataError, match=r"not a readable \.npy file"):
        look_at_npy(io.BytesIO(content[:20]))
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
    looked_at = [(a.shape, a.dtype) for a in look_at_npz(tmp_path / "a.npz")]
    assert looked_at == [(a.shape, a.dtype) for a in ARRAYS.values()]
    (tmp_path / "a.npz").write_bytes(b"PK")
    assert not list(look_at_npz(tmp_path / "a.npz"))


def test_missing_files_and_arrays_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    with pytest.raises(
        DataError, match=r"a\.npz: no array z, y; found numbers, columns"
    ):
        read_npz(tmp_path / "a.npz", ("z", "numbers", "y"))
    for read in (read_npz, open_npy):
        with pytest.raises(DataError, match="absent: no such file; allowed: a file"):
            read(tmp_path / "absent")
        with pytest.raises(DataError, match="a folder; allowed: a file"):
            read(tmp_path)
    with zipfile.ZipFile(tmp_path / "empty.npz", "w"):
        pass
    with pytest.raises(DataError, match="an archive without arrays"):
        read_npz(tmp_path / "empty.npz")


def test_pickled_objects_are_never_read(tmp_path):
    objects = np.array([{"not": "numbers"}], dtype=object)
    np.savez(tmp_path / "a.npz", fine=np.zeros(2), bad=objects, allow_pickle=True)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npz, array 'bad': not .* are refused"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npy: not a readable .* are refused"):
        open_npy(tmp_path / "a.npy")
    # A bare pickle, which numpy would otherwise offer to load.
    (tmp_path / "b.npy").write_bytes(b"\x80\x04K\x07.")
    with pytest.raises(DataError, match=r"b\.npy: not a readable .* are refused"):
        open_npy(tmp_path / "b.npy")


def test_records_are_refused(tmp_path):
    records = np.zeros(3, dtype=[("x", "f4"), ("y", "i4")])
    np.save(tmp_path / "a.npy", records)
    np.savez(tmp_path / "a.npz", records=records)
    with pytest.raises(DataError, match=r"a\.npy: dtype \[\('x'.*allowed: arrays of"):
        open_npy(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"array 'records': dtype \[\('x'"):
        read_npz(tmp_path / "a.npz")


def test_an_archive_is_no_array_nor_the_other_way_round(tmp_path):
    np.savez(tmp_path / "a", np.zeros(3))
    with pytest.raises(DataError, match=r"a\.npz: not a readable \.npy file"):
        open_npy(tmp_path / "a.npz")
    np.save(tmp_path / "b", np.zeros(3))
    with pytest.raises(DataError, match=r"b\.npy: not a readable \.npz file"):
        read_npz(tmp_path / "b.npy")


def test_members_that_are_no_arrays_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", to_bytes(np.save, np.zeros(3)))
        archive.writestr("notes.txt", "hello")
    with pytest.raises(DataError, match=r"array 'notes\.txt': not a readable array"):
        read_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", to_bytes(np.save, np.zeros(3)) + b"more")
    with pytest.raises(DataError, match=r"array 'x': more bytes than shape \(3,\)"):
        read_npz(tmp_path / "b.npz")


def test_a_header_that_promises_too_much_is_refused(tmp_path):
    content = to_bytes(np.save, np.zeros(3))
    # As long as the shape it replaces, with the padding after it.
    greedy = content.replace(b"(3,), }" + b" " * 12, b"(8000000000000,), }")
    assert len(greedy) == len(content)
    assert b"8000000000000" in greedy
    (tmp_path / "a.npy").write_bytes(greedy)
    with pytest.raises(DataError, match=r"a\.npy: not a readable"):
        open_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", greedy)
    with pytest.raises(DataError, match=r"a\.npz, array 'x': not a readable"):
        read_npz(tmp_path / "a.npz")


def test_a_flipped_bit_is_noticed_by_the_checksum(tmp_path):
    content = bytearray(to_bytes(np.savez, x=np.zeros(1000, np.uint8)))
    content[len(content) // 2] ^= 1  # amid the zeros
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"array 'x': .*Bad CRC-32"):
        read_npz(tmp_path / "a.npz")


NPZ = to_bytes(np.savez, **ARRAYS)
SMALL_NPZ = to_bytes(np.savez_compressed, **ARRAYS)
NPY = to_bytes(np.save, ARRAYS["numbers"])


def read_or_refuse(path, content):
    path.write_bytes(content)
    for read in (read_npz, open_npy):
        # Anything else than DataError fails the test.
        with contextlib.suppress(DataError):
            read(path)


@QUICK
@given(content=st.binary(max_size=200), start=st.sampled_from([b"", NPY[:8], NPZ[:4]]))
def test_random_bytes_are_read_or_refused(tmp_path, content, start):
    read_or_refuse(tmp_path / "a", start + content)


@QUICK
@given(original=st.sampled_from([NPZ, SMALL_NPZ, NPY]), share=st.floats(0, 0.999))
def test_files_cut_short_are_refused(tmp_path, original, share):
    path = tmp_path / "a"
    path.write_bytes(original[: int(share * len(original))])
    for read in (read_npz, open_npy):
        with pytest.raises(DataError, match="not a readable"):
            read(path)


@QUICK
@given(data=st.data(), original=st.sampled_from([NPZ, SMALL_NPZ, NPY]))
def test_spoilt_bytes_are_read_or_refused(tmp_path, data, original):
    content = bytearray(original)
    places = st.integers(0, len(content) - 1)
    if original is NPY:
        places = st.integers(0, 127)  # the header, where there is most to misread
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    read_or_refuse(tmp_path / "a", bytes(content))


@pytest.mark.parametrize("in_memory", [False, True])
def test_arrays_that_would_not_fit_are_refused_unread(tmp_path, monkeypatch, in_memory):
    content = to_bytes(np.savez_compressed, x=np.zeros(2**20, np.uint8), y=np.ones(3))
    assert len(content) < 5000
    path = tmp_path / "a.npz"
    path.write_bytes(content)

    def read():
        return parse_npz(content, "a.npz") if in_memory else read_npz(path)

    monkeypatch.setattr(host_memory, "available_bytes", lambda: 2**21)
    assert list(read()) == ["x", "y"]
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 2**20)
    monkeypatch.setattr(np.lib.format, "read_array", None)
    with pytest.raises(DataError, match=r"a\.npz: its arrays take 0\.0 GiB"):
        read()


@pytest.mark.parametrize("read", [read_npz, open_npy])
def test_stand_ins_of_arrays_are_named(tmp_path, read):
    (tmp_path / "a").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match="a: a pointer to the file; `git lfs pull`"):
        read(tmp_path / "a")
    parse = parse_npz if read is read_npz else parse_npy
    with pytest.raises(DataError, match=r"x\.npy: a web page"):
        parse(b"<html>", "x.npy")


def test_hidden_files_of_an_archive_packed_on_a_mac_are_left_out(tmp_path):
    arrays = {"x": np.arange(3), ".y": np.arange(2)}
    content = io.BytesIO(to_bytes(np.savez, **arrays))
    with zipfile.ZipFile(content, "a") as file:
        file.writestr("__MACOSX/._x.npy", b"\0\5\26\7")
        file.writestr("._x.npy", b"\0\5\26\7")
        file.writestr(".DS_Store", b"\0")
    assert list(parse_npz(content.getvalue(), "a.npz")) == ["x", ".y"]
    (tmp_path / "a.npz").write_bytes(content.getvalue())
    assert len(list(look_at_npz(tmp_path / "a.npz"))) == 2
