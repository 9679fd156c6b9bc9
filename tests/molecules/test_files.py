"""Files of molecules: what is read, what is left out and what is refused.

The files are written here by hand; the .sdf records are literal text.
"""

import numpy as np
import pytest

pytest.importorskip("rdkit")
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from ncgn_jax.faults import DataError
from ncgn_jax.molecules.files import load_molecules, write_sdf, write_smiles

# Formaldehyde with a property, and a record whose atom block is cut short.
RECORD = """formaldehyde
  by hand

  2  1  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0
    1.2000    0.0000    0.0000 O   0  0
  1  2  2  0
M  END
>  <gap>  (1)
0.25

$$$$
"""
CUT = "cut\n  by hand\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.smi", "OCC ethanol\n\nC=O\tformaldehyde\n# a comment\n"),
        ("a.txt", "\ufeffSMILES name\nOCC ethanol 7\nC=O\n"),
        ("a.csv", 'name,Smiles\n"ethanol, pure",OCC\nformaldehyde,C=O\n'),
        ("a.CSV", "\ufeffsmiles\r\nOCC\r\nC=O\r\n"),
        ("a.tsv", "SMILES\tname\nOCC\tethanol\nC=O\tformaldehyde\n"),
    ],
)
def test_layouts(tmp_path, name, text):
    found, report = load_molecules(write(tmp_path / name, text), max_atoms=4)
    found.check()
    assert found.smiles.tolist() == ["CCO", "C=O"]
    assert found.classes == ("C", "O")
    assert found.atoms.tolist() == [[1, 0, 0, -1], [0, 1, -1, -1]]
    assert found.bonds[1, 0].tolist() == [0, 2, 0, 0]
    assert found.depictions is None
    assert report == f"{tmp_path / name}: 2 molecules; left out: none"


def test_sdf(tmp_path):
    file = write(tmp_path / "a.sdf", RECORD + CUT + RECORD.replace("gap", "other"))
    found, report = load_molecules(
        file, max_atoms=3, property_columns=["gap"], depict=True
    )
    found.check()
    assert found.smiles.tolist() == ["C=O", "C=O"]
    assert found.properties["gap"].tolist()[0] == 0.25
    assert np.isnan(found.properties["gap"][1])
    # The first record has twelve lines.
    assert report.endswith("left out: 1 unreadable records (first in line 13)")
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(found.depictions[0, :2], axis=0)), 1.5, rtol=1e-3
    )
    with pytest.raises(DataError, match=r"a\.sdf, line 13: unreadable records"):
        load_molecules(file, max_atoms=3, invalid="stop")
    with pytest.raises(DataError, match=r"no property 'HOMO'; allowed: gap, other"):
        load_molecules(file, max_atoms=3, property_columns=["HOMO"])
    unended = write(tmp_path / "b.sdf", RECORD.replace("$$$$\n", ""))
    assert len(load_molecules(unended, max_atoms=3)[0]) == 1


def test_properties(tmp_path):
    file = write(tmp_path / "a.csv", "smiles,gap,mu\nCC,0.5,1\nCN,,2\nCO,nan,3\n")
    found, _ = load_molecules(file, max_atoms=2, property_columns=["mu", "gap"])
    assert list(found.properties) == ["mu", "gap"]
    assert found.properties["mu"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(found.properties["gap"], [0.5, np.nan, np.nan])
    assert found.properties["gap"].dtype == np.float32
    file = write(tmp_path / "b.csv", "smiles,gap\nCC,high\nCN,1\nCO,inf\n")
    found, report = load_molecules(file, max_atoms=2, property_columns=["gap"])
    assert found.smiles.tolist() == ["CN"]
    assert report.endswith("left out: 2 with a bad gap (first in line 2)")
    with pytest.raises(DataError, match=r"line 2: with a bad gap \('high'\); .*number"):
        load_molecules(file, max_atoms=2, property_columns=["gap"], invalid="stop")


def test_chosen_column(tmp_path):
    file = write(tmp_path / "a.csv", "smiles,product\nCC,CCO\n")
    assert load_molecules(file, max_atoms=3)[0].smiles.tolist() == ["CC"]
    found, _ = load_molecules(file, max_atoms=3, smiles_column="product")
    assert found.smiles.tolist() == ["CCO"]


BAD = [
    ("C1CC", "unreadable SMILES", r"'C1CC'"),
    ("what?", "unreadable SMILES", r"'what\?'"),
    ("CC(C)(C)(C)C", "unsound structure", r"Explicit valence for atom # 1 C, 5"),
    ("c1cccc1", "unsound structure", r"Can't kekulize"),
    ("CC.O", "of several fragments", "2 fragments"),
    ("C[CH2]", "with unpaired electrons", r"\[CH2\]C"),
    ("C*", "of other elements", r"\*"),
    ("O", "of fewer than 2 heavy atoms", "1 heavy atoms"),
    ("[H][H]", "of fewer than 2 heavy atoms", "0 heavy atoms"),
    ("CCCCC", "of more than 4 heavy atoms", "5 heavy atoms"),
]


@pytest.mark.parametrize(("text", "reason", "found"), BAD)
def test_bad_molecules(tmp_path, text, reason, found, capfd):
    file = write(tmp_path / "a.smi", f"CO\nCN\n{text} name\nCC\n")
    kept, report = load_molecules(file, max_atoms=4)
    assert kept.smiles.tolist() == ["CO", "CN", "CC"]
    assert report == f"{file}: 3 molecules; left out: 1 {reason} (first in line 3)"
    pattern = rf"a\.smi, line 3: {reason} \(.*{found}.*\); allowed: .*invalid='skip'"
    with pytest.raises(DataError, match=pattern):
        load_molecules(file, max_atoms=4, invalid="stop")
    assert capfd.readouterr().err == "", "RDKit's own log is not silenced"


def test_bad_molecules_are_counted_by_reason(tmp_path):
    lines = ["CC", *(text for text, *_ in BAD), "CN", "C1CC"]
    file = write(tmp_path / "a.smi", "\n".join(lines))
    found, report = load_molecules(file, max_atoms=4)
    assert found.smiles.tolist() == ["CC", "CN"]
    assert report.split("left out: ")[1] == (
        "3 unreadable SMILES (first in line 2), "
        "2 unsound structure (first in line 4), "
        "1 of several fragments (first in line 6), "
        "1 with unpaired electrons (first in line 7), "
        "1 of other elements (first in line 8), "
        "2 of fewer than 2 heavy atoms (first in line 9), "
        "1 of more than 4 heavy atoms (first in line 11)"
    )
    assert "\n" not in report


def test_all_elements_and_other_bonds(tmp_path):
    file = write(tmp_path / "a.smi", "C[Si](C)(C)Cl\nC*\nN->[Cu+2]\nC[Se]C\n")
    found, report = load_molecules(file, max_atoms=5)
    assert found.smiles.tolist() == ["C[Si](C)(C)Cl", "C[Se]C"]
    assert "1 of other elements (first in line 2)" in report
    assert "1 with other bonds (first in line 3)" in report


def test_nothing_left(tmp_path):
    file = write(tmp_path / "a.smi", "C1CC\nCCCCC\n")
    message = r"a\.smi: no usable molecule; left out: 1 unread.*, 1 of more than 4"
    with pytest.raises(DataError, match=message):
        load_molecules(file, max_atoms=4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.smi", b"", "no molecules in it"),
        ("a.smi", b"SMILES name\n# none\n\n", "no molecules in it"),
        ("a.csv", b"", "no molecules in it"),
        ("a.csv", b"smiles,gap\n", "no molecules in it"),
        ("a.sdf", b"\n\n", "no molecules in it"),
        ("a.smi", b"CC\xff\n", "not a text in UTF-8"),
        ("a.csv", b'smiles,gap\n"CC,1\n', "not a text in UTF-8"),
        ("a.csv", b"smiles,gap\nCC,1\nCO\n", "line 3: 1 fields; allowed: 2 as"),
        ("a.csv", b"molecule,gap\nCC,1\n", "0 columns 'smiles'; .* molecule, gap"),
        ("a.tsv", b"smiles,gap\nCC,1\n", "0 columns 'smiles'; .* smiles,gap"),
        ("a.csv", b"smiles,smiles\nCC,CC\n", "2 columns 'smiles'; allowed: one of"),
    ],
)
def test_unusable_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        load_molecules(tmp_path / name, max_atoms=4)


def test_absent_files_columns_and_unknown_endings(tmp_path):
    with pytest.raises(DataError, match=r"absent\.smi: no such file"):
        load_molecules(tmp_path / "absent.smi", max_atoms=4)
    for name in ("a.xyz", "a", "a.smi.gz"):
        file = write(tmp_path / name, "CC\n")
        with pytest.raises(DataError, match=r"ending '.*'; allowed: \.smi, .*\.sdf"):
            load_molecules(file, max_atoms=4)
    file = write(tmp_path / "a.csv", "smiles,gap\nCC,1\n")
    with pytest.raises(
        DataError, match=r"0 columns 'SMI'; allowed: one of smiles, gap"
    ):
        load_molecules(file, max_atoms=4, smiles_column="SMI")
    with pytest.raises(DataError, match=r"0 columns 'mu'; allowed: one of smiles, gap"):
        load_molecules(file, max_atoms=4, property_columns=["mu"])


def test_wrong_options(tmp_path):
    file = write(tmp_path / "a.smi", "CC\n")
    with pytest.raises(DataError, match="invalid='drop'; allowed: skip, stop"):
        load_molecules(file, max_atoms=4, invalid="drop")
    with pytest.raises(DataError, match="max_atoms=1; allowed: >= 2"):
        load_molecules(file, max_atoms=1)
    with pytest.raises(DataError, match=r"smiles_column='a'; allowed: in \.csv and"):
        load_molecules(file, max_atoms=4, smiles_column="a")
    with pytest.raises(DataError, match=r"property_columns=\['gap'\]; .* and \.sdf"):
        load_molecules(file, max_atoms=4, property_columns=["gap"])


POOL = ("CC", "C=O", "C#N", "c1ccccc1", "C[N+](=O)[O-]", "OC1CC1", "CC(=O)[O-]")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(POOL), min_size=1, max_size=8))
def test_written_files_come_back(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("written")
    smiles = [Chem.CanonSmiles(text) for text in texts]
    write_smiles(folder / "a.smi", smiles)
    assert (folder / "a.smi").read_text().splitlines() == smiles
    write_sdf(folder / "a.sdf", [Chem.MolFromSmiles(text) for text in texts])
    for name in ("a.smi", "a.sdf"):
        found, report = load_molecules(folder / name, max_atoms=6, invalid="stop")
        assert found.smiles.tolist() == smiles
        assert "left out: none" in report
    read = list(Chem.SDMolSupplier(str(folder / "a.sdf")))
    assert [Chem.MolToSmiles(mol) for mol in read] == smiles


def test_written_sdf_has_coordinates_and_properties(tmp_path):
    mol = Chem.MolFromSmiles("CO")
    mol.SetProp("gap", "0.5")
    write_sdf(tmp_path / "deep" / "a.sdf", [mol])
    assert mol.GetNumConformers() == 0, "the input is changed"
    read = next(iter(Chem.SDMolSupplier(str(tmp_path / "deep" / "a.sdf"))))
    places = read.GetConformer().GetPositions()
    assert np.linalg.norm(places[0] - places[1]) == pytest.approx(1.5, rel=1e-3)
    found, _ = load_molecules(
        tmp_path / "deep" / "a.sdf", max_atoms=2, property_columns=["gap"]
    )
    assert found.properties["gap"].tolist() == [0.5]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_smiles(tmp_path / "a.smi", ["CC"])

    def broken(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", broken)
        with pytest.raises(OSError, match="disk full"):
            write_smiles(tmp_path / "a.smi", ["CO"] * 9)
    assert (tmp_path / "a.smi").read_text() == "CC\n"
    assert [file.name for file in tmp_path.iterdir()] == ["a.smi"]
