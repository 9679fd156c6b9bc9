"""QM9 from a wheel, a folder or an installed package, all written by the tests.

The counts of the whole set were taken from its tables without this reader. They are
checked where qm9pack is installed or NCGN_MOLECULES names its wheel or folder.
"""

import csv
import os
import time
import zipfile
from collections import Counter
from importlib import metadata

import numpy as np
import pytest

pytest.importorskip("rdkit")
from rdkit import Chem

from ncgn_jax.faults import DataError
from ncgn_jax.molecules import qm9
from ncgn_jax.molecules.qm9 import QM9_CLASSES, find_qm9, load_qm9, load_sample

COLUMNS = "XYZ_file,Index,SMILES,XYZ_Ang,Dipole_debye,Polarizability_bohr3"
HEADER = [*COLUMNS.split(","), "HOMO_LUMO_gap_au"]
# Geometries longer than a field that csv takes by default.
LONG = "[" + "0.5," * 50_000 + "]"
MOLECULES = (
    ("C", "CC", "c1cc[nH]c1", "C[N+](=O)[O-]"),
    ("C#N", "OC1CC1F", "CC(=O)[N-]C", "CCCl"),
    ("C[N+]#[C-]", "CCCCCCCCC", "CCCCCCCCCC", "CC.C"),
)
KEPT = ("CC", "c1cc[nH]c1", "C[N+](=O)[O-]", "C#N", "OC1CC1F", "CC(=O)[N-]C")
KEPT += ("C[N+]#[C-]", "CCCCCCCCC")
LEFT_OUT = (
    "1 of fewer than 2 heavy atoms (first qm9_part1.csv, line 2), "
    "1 of other elements (first qm9_part2.csv, line 5), "
    "1 of more than 9 heavy atoms (data.max_atoms) (first qm9_part3.csv, line 4), "
    "1 of several fragments (first qm9_part3.csv, line 5)"
)


def make_folder(folder, molecules=MOLECULES, header=HEADER):
    """Writes three tables; the properties of molecule i are i, 10 i and i / 8."""
    folder.mkdir(parents=True)
    number = 0
    for part, texts in enumerate(molecules, start=1):
        with (folder / f"qm9_part{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for text in texts:
                values = [f"{number}.", 10 * number, number / 8]
                writer.writerow([f"{number}.xyz", number, text, LONG, *values])
                number += 1
    return folder


def make_wheel(path, folder):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("qm9pack/__init__.py", "raise RuntimeError('imported')")
        for file in sorted(folder.glob("*.csv")):
            archive.write(file, f"qm9pack/data/{file.name}")
    return path


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "tables" / "qm9pack" / "data")


def joined(data):
    """All molecules by SMILES: atoms, bonds and properties."""
    found = {}
    for part in (data.train, data.validation, data.test):
        part.check()
        assert part.classes == QM9_CLASSES
        assert part.atoms.shape[1:] == (9,)
        for row, text in enumerate(part.smiles.tolist()):
            values = [float(part.properties[name][row]) for name in part.properties]
            found[text] = (int(part.num_atoms[row]), values, part.depictions[row])
    return found


def check_fake(data):
    found = joined(data)
    assert set(found) == {Chem.CanonSmiles(text) for text in KEPT}
    numbers = {text: i for i, text in enumerate(sum(MOLECULES, ()))}
    for text in KEPT:
        num, values, _ = found[Chem.CanonSmiles(text)]
        i = numbers[text]
        assert values == [i / 8, i, 10 * i], "gap, dipole, polarizability"
        assert num == Chem.MolFromSmiles(text).GetNumAtoms()
    assert [len(p) for p in (data.train, data.validation, data.test)] == [5, 2, 1]
    assert list(data.train.properties) == ["gap", "dipole", "polarizability"]
    assert ", ".join(map(str, data.report.left_out)) == LEFT_OUT
    assert [str(t) for t in data.report.found] == [
        "12 rows (first qm9_part1.csv, line 2)"
    ]
    assert data.report.num_repeated == 0


def test_folders_and_wheels(tmp_path, folder):
    sizes = {"num_train": 5, "num_validation": 2}
    check_fake(load_qm9(folder, **sizes))
    check_fake(load_qm9(tmp_path / "tables", **sizes))
    wheel = make_wheel(tmp_path / "qm9pack-1.0.3-py3-none-any.whl", folder)
    data = load_qm9(wheel, **sizes)
    check_fake(data)
    assert "qm9pack-1.0.3-py3-none-any.whl" in data.report.origin
    one = load_qm9(folder / "qm9_part2.csv", num_train=1, num_validation=1)
    assert set(joined(one)) == {Chem.CanonSmiles(text) for text in KEPT[3:6]}


def test_installed_package(tmp_path, monkeypatch, folder):
    site = tmp_path / "tables"
    (site / "qm9pack" / "__init__.py").write_text("raise RuntimeError('imported')")
    info = site / "qm9pack-1.0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: qm9pack\nVersion: 1.0.3\n")
    monkeypatch.syspath_prepend(str(site))
    assert find_qm9() == folder
    check_fake(load_qm9(num_train=5, num_validation=2))
    (folder / "qm9_part3.csv").unlink()
    assert find_qm9() is None


def test_what_to_do_without_it(tmp_path, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(qm9.metadata, "distribution", absent)
    assert find_qm9() is None
    how = r"`pip install qm9pack==1\.0\.3 --no-deps`, or data\.path="
    with pytest.raises(DataError, match=f"QM9 is not installed; {how}"):
        load_qm9()
    with pytest.raises(DataError, match=f"absent.whl: no such file or folder; {how}"):
        load_qm9(tmp_path / "absent.whl")
    (tmp_path / "bad.whl").write_bytes(b"no zip")
    with pytest.raises(DataError, match=f"bad.whl: not a wheel .*{how}"):
        load_qm9(tmp_path / "bad.whl")


def test_unusable_tables(tmp_path, folder):
    wheel = make_wheel(tmp_path / "a.whl", folder)
    (folder / "qm9_part2.csv").unlink()
    with pytest.raises(DataError, match=r"data: no qm9_part2\.csv in it; `pip"):
        load_qm9(folder)
    short = make_wheel(tmp_path / "b.whl", folder)
    with pytest.raises(DataError, match=r"b\.whl: no qm9_part2\.csv in it"):
        load_qm9(short)
    other = make_folder(tmp_path / "c", header=["x" + name for name in HEADER])
    with pytest.raises(DataError, match=r"part1\.csv: no column 'SMILES'; found: xXYZ"):
        load_qm9(other)
    with pytest.raises(DataError, match=r"num_train=100000, .* of 8 molecules leave"):
        load_qm9(wheel)
    file = tmp_path / "one.csv"
    file.write_text(",".join(HEADER) + "\na,1,CC,[],1,2,3\nb,2,CO,[],1,high,3\n")
    with pytest.raises(DataError, match=r"one\.csv, line 3: .*'high'"):
        load_qm9(file)
    file.write_text(",".join(HEADER) + "\n" + "a,1,CC,[],,2,3\nb,2,CO,[],1\n" * 3)
    data = load_qm9(file, num_train=2, num_validation=2)
    found = joined(data)
    np.testing.assert_array_equal(found["CC"][1], [3, np.nan, 2])
    np.testing.assert_array_equal(found["CO"][1], [np.nan, 1, np.nan])


def test_cache(tmp_path, monkeypatch, folder):
    options = {"num_train": 5, "num_validation": 2, "cache_dir": tmp_path / "cache"}
    first = load_qm9(folder, **options)
    with monkeypatch.context() as patch:
        patch.setattr(qm9, "_build", lambda tables: pytest.fail("built again"))
        second = load_qm9(folder, **options)
    for name in ("atoms", "bonds", "smiles", "depictions"):
        np.testing.assert_array_equal(
            getattr(first.train, name), getattr(second.train, name)
        )
    check_fake(second)
    # Half precision in the cache, but centred and to scale afterwards.
    drawn = joined(first)
    for num, _, places in drawn.values():
        np.testing.assert_allclose(places[:num].mean(axis=0), 0, atol=1e-6)
    assert first.train.depictions.dtype == np.float32
    length = np.linalg.norm(np.subtract(*drawn["CC"][2][:2]))
    assert length == pytest.approx(1.5, abs=2e-3)
    # Other tables are not answered out of the cache.
    changed = make_folder(tmp_path / "d", ((*MOLECULES[0], "CCN"), *MOLECULES[1:]))
    assert "CCN" in load_qm9(changed, **options).all_smiles()


def test_sample():
    data = load_sample()
    parts = (data.train, data.validation, data.test)
    assert [len(part) for part in parts] == [480, 60, 60]
    assert data.name == "QM9 sample"
    assert "not the whole of QM9" in str(data.report)
    found = joined(data)
    assert len(found) == len(data.all_smiles()) == 600
    assert sum(num <= 5 for num, *_ in found.values()) == 60
    assert max(num for num, *_ in found.values()) == 9
    # Hydrogen cyanide, from the tables.
    np.testing.assert_allclose(found["C#N"][1], [0.3796, 2.8937, 12.99], rtol=1e-6)


@pytest.fixture(scope="module")
def whole_set():
    path = os.environ.get("NCGN_MOLECULES") or find_qm9()
    if path is None:
        pytest.skip("qm9pack is not installed and NCGN_MOLECULES names no copy")
    start = time.perf_counter()
    data = load_qm9(path)
    print(f"\nQM9 read in {time.perf_counter() - start:.0f} s")
    return data


@pytest.mark.slow
def test_whole_set(whole_set):
    parts = (whole_set.train, whole_set.validation, whole_set.test)
    for part in parts:
        part.check()
    assert [len(part) for part in parts] == [100_000, 20_000, 10_828]
    # 130,831 rows, three of them with one heavy atom.
    (left_out,) = whole_set.report.left_out
    assert (left_out.count, left_out.kind) == (3, "of fewer than 2 heavy atoms")
    num = np.concatenate([part.num_atoms for part in parts])
    sizes = {2: 5, 3: 9, 4: 31, 5: 127, 6: 608, 7: 3138, 8: 17879, 9: 109031}
    assert Counter(num.tolist()) == sizes
    atoms = np.concatenate([part.atoms for part in parts])
    symbols = [name[0] for name in QM9_CLASSES]
    counts = Counter()
    for symbol, number in zip(symbols, np.bincount(atoms[atoms >= 0]), strict=True):
        counts[symbol] += int(number)
    # The rows left out are CH4, NH3 and H2O.
    assert counts == {"C": 831_924, "O": 183_264, "N": 132_497, "F": 3_036}
    assert np.any(atoms >= 4, axis=1).sum() == 580, "molecules with charges"
    assert len(whole_set.all_smiles() | {"C", "N", "O"}) == 130_744
    for part in parts:
        assert all(np.isfinite(v).all() for v in part.properties.values())


@pytest.mark.slow
def test_sample_is_part_of_the_whole_set(whole_set):
    known = {}
    for part in (whole_set.train, whole_set.validation, whole_set.test):
        for row, text in enumerate(part.smiles.tolist()):
            values = [part.properties[name][row] for name in part.properties]
            known.setdefault(text, []).append(values)
    sample = joined(load_sample())
    assert all(
        any(v == values for v in known[t]) for t, (_, values, _) in sample.items()
    )
