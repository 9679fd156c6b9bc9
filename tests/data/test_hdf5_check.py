"""A file that ends or stalls the HDF5 library ends in words here."""

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
