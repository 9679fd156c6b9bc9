"""Records of .sdf files: literal text, whole, cut, joined and spoilt."""

from pathlib import Path

import pytest

pytest.importorskip("rdkit")
from rdkit import Chem

from ncgn_jax.molecules.files import load_molecules
from ncgn_jax.molecules.sdf_records import numbered, read_records

ETHANOL = """ethanol
  by hand

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0
    1.2000    0.0000    0.0000 C   0  0
    2.4000    0.0000    0.0000 O   0  0
  1  2  1  0
  2  3  1  0
M  END
> <logP>
-0.3

> <note>
two
lines

$$$$
"""
AMINE = ETHANOL.replace(" O  ", " N  ").replace("-0.3", "-0.1")


def load(tmp_path, text, **options):
    path = tmp_path / "a.sdf"
    path.write_bytes(text.encode())
    options = {"max_atoms": 9, "property_columns": ["logP"]} | options
    loaded = load_molecules(path, **options)
    left_out = ", ".join(map(str, loaded.reading.left_out))
    values = loaded.molecules.properties["logP"].tolist()
    pairs = zip(loaded.molecules.smiles.tolist(), values, strict=True)
    return [(text, round(value, 3)) for text, value in pairs], left_out


def test_properties_may_have_several_lines():
    (record,) = read_records(numbered(ETHANOL))
    assert record.values == {"logP": "-0.3", "note": "two\nlines"}


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_line_ends(tmp_path, ends):
    text = (ETHANOL + AMINE).replace("\n", ends)
    assert load(tmp_path, text) == ([("CCO", -0.3), ("CCN", -0.1)], "")


def test_a_record_never_gets_the_values_of_another(tmp_path):
    """missing_dollar_middle.sdf: two structures in what looks like one record."""
    joined = ETHANOL.replace("$$$$\n", "") + AMINE
    found, left_out = load(tmp_path, AMINE + joined + AMINE.replace(" N  ", " F  "))
    assert found == [("CCN", -0.1), ("CCF", -0.1)]
    assert left_out == "1 records without $$$$ between molecules (first line 19)"
    # The end of the first structure is lost as well.
    joined = joined.replace("M  END\n", "", 1)
    found, left_out = load(tmp_path, AMINE + joined)
    assert found == [("CCN", -0.1)]
    assert left_out == "1 records without $$$$ between molecules (first line 19)"


@pytest.mark.parametrize("lines", range(8, 19))
def test_a_file_that_is_cut_loses_its_last_record_and_no_more(tmp_path, lines):
    """A value that is cut would be another number: -0.1 for -0.12."""
    cut = "\n".join(AMINE.splitlines()[:lines])
    found, left_out = load(tmp_path, ETHANOL + cut)
    assert found[0] == ("CCO", -0.3)
    if len(found) > 1:
        assert found[1][0] == "CCN"
        # Behind the structure, a property, or all.
        assert lines in (10, 13, 17, 18)
    else:
        assert left_out == "1 records cut short (first line 19)"


def test_a_whole_last_record_without_its_end_is_kept(tmp_path):
    text = ETHANOL + AMINE.removesuffix("$$$$\n")
    assert load(tmp_path, text) == ([("CCO", -0.3), ("CCN", -0.1)], "")


def test_empty_records_and_double_values_are_counted(tmp_path):
    double = AMINE.replace("> <note>\ntwo\nlines", "> <logP>\n5")
    found, left_out = load(tmp_path, f"$$$$\n{ETHANOL}\n$$$$\n{double}")
    assert found == [("CCO", -0.3)]
    assert left_out == (
        "2 empty records (first line 1), 1 with two values of logP (first line 22)"
    )


def test_what_looks_like_a_property_in_a_title_is_none():
    text = ETHANOL.replace("ethanol", "> <logP>").replace("  by hand", "9")
    (record,) = read_records(numbered(text))
    assert record.values["logP"] == "-0.3"


def test_other_forms_of_records(tmp_path):
    """V3000 with explicit hydrogens, no atoms, and a single .mol."""
    mol = Chem.AddHs(Chem.MolFromSmiles("CC=O"))
    long = Chem.MolToV3KMolBlock(mol) + "> <logP>\n7\n\n$$$$\n"
    none = "\n\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n"
    found, left_out = load(tmp_path, ETHANOL + long + none)
    assert found == [("CCO", -0.3), ("CC=O", 7.0)]
    assert left_out.startswith("1 of fewer than 2 heavy atoms")
    Path(tmp_path, "a.mol").write_text(ETHANOL.partition("> <")[0])
    loaded = load_molecules(tmp_path / "a.mol", max_atoms=9)
    assert loaded.molecules.smiles.tolist() == ["CCO"]
    assert "without their coordinates" in loaded.about[0]
