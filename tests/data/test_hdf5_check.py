"""A file that ends or stalls the HDF5 library ends in words here."""

import numpy as np
import pytest

from ncgn_jax.data import hdf5_check
from ncgn_jax.data.hdf5_check import check_hdf5
from ncgn_jax.faults import DataError


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", r"a\.h5: damaged.* SIGSEGV"),
        ("while True: pass", r"a\.h5: reading it did not end within 0\.5 s"),
        ("raise OSError('bad\\nheader')", r"a\.h5: not readable as HDF5 \(header\)"),
        ("import sys; sys.exit(3)", r"a\.h5: not readable as HDF5 \(no reason"),
    ],
)
def test_what_befalls_the_other_process_is_worded(program, message, monkeypatch):
    monkeypatch.setattr(hdf5_check, "_READ_ALL", program)
    with pytest.raises(DataError, match=message):
        check_hdf5("a.h5", timeout_seconds=0.5 if "while" in program else 60.0)


def test_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_group("a")["b"] = range(100)
        file["a"].attrs["unit"] = "mm"
    check_hdf5(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="not readable as HDF5 .*truncated"):
        check_hdf5(path)


@pytest.mark.parametrize("is_packed", [False, True])
def test_arrays_far_larger_than_what_is_stored_are_refused(
    tmp_path, monkeypatch, is_packed
):
    h5py = pytest.importorskip("h5py")
    path, shape = tmp_path / "a.h5", (2000, 50, 3)
    with h5py.File(path, "w") as file:
        if is_packed:
            zeros = np.zeros(shape)
            file.create_dataset("a/b", data=zeros, compression=9, chunks=(500, 50, 3))
        else:
            file.create_dataset("a/b", shape, "f8")  # filled, so that none is stored
        file["one"], file["none"] = 1.0, h5py.Empty("f4")
        file["nothing"], file["text"] = np.zeros((0, 3)), "words"
    check_hdf5(path)
    monkeypatch.setattr(hdf5_check, "_MAX_BYTES", 2 * 10**6)
    with pytest.raises(DataError, match=r"a/b: 2,400,000 bytes, of which [\d,]+ are"):
        check_hdf5(path)
    with pytest.raises(DataError, match=r"x\.h5: .* allowed: <= 2,000,000, or <= 200"):
        check_hdf5("x.h5", content=path.read_bytes())


def test_all_parts_of_an_array_are_read(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(hdf5_check, "_STEP_BYTES", 10**4)
    path = tmp_path / "a.h5"
    numbers = np.random.default_rng(0).normal(size=(1000, 30))
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=numbers, compression=1, chunks=(10, 30))
        last = file["a"].id.get_chunk_info(99)
    check_hdf5(path)
    content = bytearray(path.read_bytes())
    content[last.byte_offset : last.byte_offset + 50] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(DataError, match="not readable as HDF5"):
        check_hdf5(path)


def test_stand_ins_are_named(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    for content in (None, path.read_bytes()):
        with pytest.raises(DataError, match="a pointer to the file"):
            check_hdf5(path, content=content)
