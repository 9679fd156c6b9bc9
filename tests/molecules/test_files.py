"""Files of molecules: what is read, what is left out and what is refused.

The files are written here by hand; the .sdf records are literal text.
"""

import gzip
import re

import numpy as np
import pytest

pytest.importorskip("rdkit")
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from ncgn_jax.faults import DataError
from ncgn_jax.molecules.export import write_sdf, write_smiles
from ncgn_jax.molecules.files import load_molecules

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


def read(path, **options):
    """Returns the molecules of a file, and what was left out."""
    loaded = load_molecules(path, **{"max_atoms": 4} | options)
    loaded.molecules.check()
    return loaded.molecules, ", ".join(map(str, loaded.reading.left_out))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.smi", "OCC ethanol\n\nC=O\tformaldehyde\n# a comment\n"),
        ("a.txt", "\ufeffSMILES name\nOCC ethanol 7\nC=O\n"),
        ("a.csv", 'name,Smiles\n"ethanol, pure",OCC\nformaldehyde,C=O\n'),
        ("a.CSV", "\ufeffsmiles\r\nOCC\r\nC=O\r\n"),
        ("a.tsv", "SMILES\tname\nOCC\tethanol\nC=O\tformaldehyde\n"),
        ("a.smiles", "OCC|1\nC=O|2\n"),
        ("a.smi", "OCC\rC=O\r"),
        ("a.csv", "id;SMILES;gap;;\r\n1;OCC;0,5;;\r\n2;C=O;1,5;;\r\n"),
        ("a.tab", "OCC\t1\nC=O\t2\n"),
    ],
)
def test_layouts(tmp_path, name, text):
    found, left_out = read(write(tmp_path / name, text))
    assert found.smiles.tolist() == ["CCO", "C=O"]
    assert found.classes == ("C", "O")
    assert found.atoms.tolist() == [[1, 0, 0, -1], [0, 1, -1, -1]]
    assert found.bonds[1, 0].tolist() == [0, 2, 0, 0]
    assert found.depictions is None
    assert left_out == ""


@pytest.mark.parametrize("pack", [gzip.compress, lambda content: content])
def test_compressed_files_are_recognised_by_their_bytes(tmp_path, pack):
    for name in ("a.smi.gz", "a.smi"):
        (tmp_path / name).write_bytes(pack(b"OCC\nC=O\n"))
        assert read(tmp_path / name)[0].smiles.tolist() == ["CCO", "C=O"]
    (tmp_path / "a.sdf.gz").write_bytes(pack(RECORD.encode()))
    assert read(tmp_path / "a.sdf.gz")[0].smiles.tolist() == ["C=O"]


def test_utf_16_and_latin_1_are_read_and_said(tmp_path):
    (tmp_path / "a.csv").write_bytes("smiles,name\nOCC,é\n".encode("utf-16"))
    assert read(tmp_path / "a.csv")[0].smiles.tolist() == ["CCO"]
    (tmp_path / "b.csv").write_bytes("smiles,name\nCO,a\nOCC,é\n".encode("latin-1"))
    loaded = load_molecules(tmp_path / "b.csv", max_atoms=4)
    assert loaded.molecules.smiles.tolist() == ["CO", "CCO"]
    (note,) = loaded.reading.report({}).notes
    assert note == "b.csv: not UTF-8 but Latin-1 (from line 3)"


def test_sdf(tmp_path):
    other = RECORD.replace("gap", "other").replace(" C  ", " N  ", 1)
    file = write(tmp_path / "a.sdf", RECORD + CUT + other)
    found, left_out = read(file, max_atoms=3, property_columns=["gap"], depict=True)
    assert found.smiles.tolist() == ["C=O", "N=O"]
    assert found.properties["gap"].tolist()[0] == 0.25
    assert np.isnan(found.properties["gap"][1])
    # The first record has twelve lines.
    assert left_out == "1 unreadable records (first line 13)"
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(found.depictions[0, :2], axis=0)), 1.5, rtol=1e-3
    )
    with pytest.raises(DataError, match=r"a\.sdf, line 13: unreadable records"):
        read(file, max_atoms=3, invalid="stop")
    with pytest.raises(DataError, match=r"no property 'HOMO'; allowed: gap, other"):
        read(file, max_atoms=3, property_columns=["HOMO"])
    unended = write(tmp_path / "b.sdf", RECORD.replace("$$$$\n", ""))
    assert len(read(unended, max_atoms=3)[0]) == 1


def test_properties(tmp_path):
    file = write(tmp_path / "a.csv", "smiles,gap,mu\nCC,0.5,1\nCN,,2\nCO,n/a,3\n")
    found, _ = read(file, max_atoms=2, property_columns=["mu", "gap"])
    assert list(found.properties) == ["mu", "gap"]
    assert found.properties["mu"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(found.properties["gap"], [0.5, np.nan, np.nan])
    assert found.properties["gap"].dtype == np.float32
    text = "smiles,gap\nCC,high\nCN,1\nCO,inf\nCF,>3\nCCl,1e39\n"
    file = write(tmp_path / "b.csv", text)
    found, left_out = read(file, max_atoms=2, property_columns=["gap"])
    assert found.smiles.tolist() == ["CN"]
    assert left_out == "4 with a bad gap (first line 2: 'high')"
    with pytest.raises(DataError, match=r"line 2: with a bad gap \('high'\); .*number"):
        read(file, max_atoms=2, property_columns=["gap"], invalid="stop")


def test_decimal_commas_are_read_and_said(tmp_path):
    file = write(tmp_path / "a.csv", "smiles;IC50 (nM)\nCCO;-0,5\nCC;2\n")
    loaded = load_molecules(file, max_atoms=4, property_columns=["IC50 (nM)"])
    assert loaded.molecules.properties["IC50 (nM)"].tolist() == [-0.5, 2]
    (note,) = loaded.reading.report({}).notes
    assert "commas in IC50 (nM) are decimal points" in note
    # Where some have points, a comma may divide thousands.
    write(tmp_path / "b.csv", "smiles;mw\nCCO;1,5\nCC;2.5\n")
    found, left_out = read(tmp_path / "b.csv", property_columns=["mw"])
    assert (found.smiles.tolist(), left_out) == (
        ["CC"],
        "1 with a bad mw (first line 2: '1,5')",
    )
    # So it may where all have three digits behind it.
    write(tmp_path / "c.csv", "smiles;mw\nCCO;1,500\nCC;\n")
    found, left_out = read(tmp_path / "c.csv", property_columns=["mw"])
    assert left_out == "1 with a bad mw (first line 2: '1,500')"


def test_chosen_column(tmp_path):
    file = write(tmp_path / "a.csv", "smiles,product\nCC,CCO\n")
    assert read(file)[0].smiles.tolist() == ["CC"]
    assert read(file, smiles_column="product")[0].smiles.tolist() == ["CCO"]


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
    ("CCCCC", "of more than 4 heavy atoms (data.max_atoms)", "5 heavy atoms"),
]


@pytest.mark.parametrize(("text", "reason", "found"), BAD)
def test_bad_molecules(tmp_path, text, reason, found, capfd):
    file = write(tmp_path / "a.smi", f"CO\nCN\n{text} name\nCC\n")
    kept, left_out = read(file)
    assert kept.smiles.tolist() == ["CO", "CN", "CC"]
    assert left_out == f"1 {reason} (first line 3)"
    said = re.escape(reason)
    pattern = rf"a\.smi, line 3: {said} \(.*{found}.*\); allowed: .*data.invalid=skip"
    with pytest.raises(DataError, match=pattern):
        read(file, invalid="stop")
    assert capfd.readouterr().err == "", "RDKit's own log is not silenced"


def test_bad_molecules_are_counted_by_reason(tmp_path):
    lines = ["CC", *(text for text, *_ in BAD), "CN", "C1CC"]
    file = write(tmp_path / "a.smi", "\n".join(lines))
    found, left_out = read(file)
    assert found.smiles.tolist() == ["CC", "CN"]
    assert left_out == (
        "3 unreadable SMILES (first line 2), "
        "2 unsound structure (first line 4), "
        "1 of several fragments (first line 6), "
        "1 with unpaired electrons (first line 7), "
        "1 of other elements (first line 8), "
        "2 of fewer than 2 heavy atoms (first line 9), "
        "1 of more than 4 heavy atoms (data.max_atoms) (first line 11)"
    )


def test_all_elements_and_other_bonds(tmp_path):
    file = write(tmp_path / "a.smi", "C[Si](C)(C)Cl\nC*\nN->[Cu+2]\nC[Se]C\n")
    found, left_out = read(file, max_atoms=5)
    assert found.smiles.tolist() == ["C[Si](C)(C)Cl", "C[Se]C"]
    assert "1 of other elements (first line 2)" in left_out
    assert "1 with other bonds (first line 3)" in left_out


def test_a_line_that_surprises_rdkit_is_counted(tmp_path, capfd):
    """fhf.smi: the hydrogen between two atoms is no atom of the graph."""
    file = write(tmp_path / "a.smi", "CCO ok\nF[H-]F bifluoride\nCCN ok\n")
    found, left_out = read(file)
    assert found.smiles.tolist() == ["CCO", "CCN"]
    assert left_out == "1 without a graph of heavy atoms (first line 2)"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("error", [RuntimeError("Pre-condition"), OverflowError("x")])
def test_whatever_rdkit_raises_for_a_line_is_counted(tmp_path, monkeypatch, error):
    """Its invariants end in RuntimeError, not in ValueError."""
    plain = Chem.MolFromSmiles

    def broken(text, **options):
        if text == "CN":
            raise error
        return plain(text, **options)

    monkeypatch.setattr(Chem, "MolFromSmiles", broken)
    found, left_out = read(write(tmp_path / "a.smi", "CCO\nCN\nCC\n"))
    assert found.smiles.tolist() == ["CCO", "CC"]
    assert left_out == "1 unreadable SMILES (first line 2)"


def test_nothing_left(tmp_path):
    file = write(tmp_path / "a.smi", "C1CC\nCCCCC\n")
    message = r"a\.smi: no usable molecule; left out: 1 unread.*, 1 of more than 4"
    with pytest.raises(DataError, match=message):
        read(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.smi", b"", "no molecules in it"),
        ("a.smi", b"SMILES name\n# none\n\n", "no molecules in it"),
        ("a.csv", b"", "no molecules in it"),
        ("a.csv", b"smiles,gap\n", "no molecules in it"),
        ("a.sdf", b"\n\n", "no molecules in it"),
        ("a.parquet", b"smiles\nCC\n", "not readable"),
        ("a.smi", b"CC\0\n", "not a text"),
        ("a.smi.gz", gzip.compress(bytes(range(99)), mtime=0)[:60], "not readable"),
        ("a.csv", b"name,gap\nethanol,1\n", "no column of SMILES.*name one of name, g"),
        ("a.csv", b"<!DOCTYPE html>\n<html>", "a web page in the place"),
        ("a.sdf", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.smi", CUT.encode(), r"records of \.sdf in it; give it that ending"),
        ("a.csv", b"smiles,smiles\nCC,CC\n", "several columns.*: smiles, smiles; name"),
        ("a.csv", b"smiles,canonical_smiles\nCC,CC\n", "several.*data.smiles_column"),
    ],
)
def test_unusable_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("a.xyz", "obabel FILE"),
        ("a", ".cxsmiles"),
        ("a.xlsx", "save it as .csv"),
        ("a.pkl", "may run code"),
        ("a.smi.xz", "unpack it"),
    ],
)
def test_other_endings_are_refused_with_a_way_out(tmp_path, name, way_out):
    file = write(tmp_path / name, "CC\n")
    with pytest.raises(DataError, match=rf"ending '.*'; allowed: \.smi, .*{way_out}"):
        read(file)


def test_absent_files_and_columns(tmp_path):
    with pytest.raises(DataError, match=r"absent\.smi: no such file"):
        read(tmp_path / "absent.smi")
    file = write(tmp_path / "a.csv", "smiles,gap\nCC,1\n")
    with pytest.raises(DataError, match=r"0 columns 'SMI' .*; allowed: one of smi"):
        read(file, smiles_column="SMI")
    with pytest.raises(DataError, match=r"0 columns 'mu' .*; allowed: one of smi"):
        read(file, property_columns=["mu"])
    with pytest.raises(DataError, match=r"0 columns 'part' \(data.split_column\)"):
        read(file, split_column="part")
    with pytest.raises(DataError, match=r"data.smiles_column='a'; allowed: for tables"):
        read(write(tmp_path / "a.sdf", RECORD), smiles_column="a")


@pytest.mark.parametrize("name", ["a.smi", "a.csv", "a.sdf"])
def test_an_empty_file_has_no_columns_to_miss(tmp_path, name):
    file = write(tmp_path / name, "\n")
    with pytest.raises(DataError, match="no molecules in it"):
        read(file, property_columns=["gap"])


def test_wrong_options(tmp_path):
    file = write(tmp_path / "a.smi", "CC\n")
    with pytest.raises(DataError, match=r"data.invalid='drop'; allowed: skip, stop"):
        read(file, invalid="drop")
    with pytest.raises(DataError, match=r"data.salts='all'; allowed: refuse, largest"):
        read(file, salts="all")
    with pytest.raises(DataError, match="max_atoms=1; allowed: >= 2"):
        read(file, max_atoms=1)
    with pytest.raises(DataError, match=r"data.split_column='a'; .*data.split=given"):
        read(file, split="random", split_column="a")


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
        found, left_out = read(folder / name, max_atoms=6, invalid="stop")
        assert found.smiles.tolist() == list(dict.fromkeys(smiles))
        repeated = len(smiles) - len(set(smiles))
        assert left_out.startswith(f"{repeated} equal" if repeated else "")
    reread = list(Chem.SDMolSupplier(str(folder / "a.sdf")))
    assert [Chem.MolToSmiles(mol) for mol in reread] == smiles


def test_written_sdf_has_coordinates_and_properties(tmp_path):
    mol = Chem.MolFromSmiles("CO")
    mol.SetProp("gap", "0.5")
    write_sdf(tmp_path / "deep" / "a.sdf", [mol])
    assert mol.GetNumConformers() == 0, "the input is changed"
    reread = next(iter(Chem.SDMolSupplier(str(tmp_path / "deep" / "a.sdf"))))
    places = reread.GetConformer().GetPositions()
    assert np.linalg.norm(places[0] - places[1]) == pytest.approx(1.5, rel=1e-3)
    found, _ = read(tmp_path / "deep" / "a.sdf", property_columns=["gap"])
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


def test_a_file_of_which_little_is_used_says_so(tmp_path):
    file = write(tmp_path / "a.txt", "CCO\nCC\n!\n! Salts\n[Cl,Br\n")
    loaded = load_molecules(file, max_atoms=4)
    assert loaded.reading.report({}).notes == ("only 2 of 5 are used",)


def test_what_is_not_read_of_a_file_is_said(tmp_path):
    file = write(tmp_path / "a.csv", "id,smiles,gap,mu\n1,CCO,2,3\n")
    loaded = load_molecules(file, max_atoms=4, property_columns=["gap"])
    assert loaded.about == ("SMILES in column 'smiles'", "columns not read: id, mu")
    loaded = load_molecules(write(tmp_path / "a.sdf", RECORD), max_atoms=4)
    assert loaded.about[1] == "properties not read: gap"


def test_names_without_a_letter_of_ascii_are_no_smiles(tmp_path):
    file = write(tmp_path / "a.smi", "CCO\nÉ\n\U0001f600 x\nCC\n")
    assert read(file)[1] == "2 unreadable SMILES (first line 2)"
