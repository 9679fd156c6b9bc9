"""Molecules as files: valid ones as decoded and repaired, each marked."""

import numpy as np
import pytest

pytest.importorskip("rdkit")
from rdkit import Chem

from ncgn_jax.molecules.export import smiles_to_molecules, write_sdf
from ncgn_jax.molecules.files import load_molecules
from ncgn_jax.molecules.pictures import usable_molecules
from ncgn_jax.molecules.sets import encode_molecules
from ncgn_jax.molecules.trained import Molecules


def decoded():
    """Four samples: right, with an atom too many bonds, in two pieces, never right.

    Repaired, the second is propane and the third ethanol.
    """
    mols = [Chem.MolFromSmiles(text) for text in ("CCF", "CCC", "CCO", "CCF")]
    found = encode_molecules(mols, classes=("C", "O", "F"))
    raw, repaired = found.bonds.copy(), found.bonds.copy()
    raw[1, 0, 1] = raw[1, 1, 0] = raw[1, 1, 2] = raw[1, 2, 1] = 3
    raw[2, 1, 2] = raw[2, 2, 1] = 0
    for bonds in (raw, repaired):
        bonds[3, 1, 2] = bonds[3, 2, 1] = 3
    return found.atoms, raw, repaired, found.classes


def test_a_sample_gives_its_molecule_as_decoded_else_repaired():
    atoms, raw, repaired, classes = decoded()
    samples = {"atoms": atoms, "bonds": raw, "bonds_valency": repaired}
    smiles, about = usable_molecules(samples, classes)
    assert smiles == ["CCF", "CCC", "CCO"]
    assert about == [("raw", 0), ("repaired", 1), ("repaired", 2)]
    # A valid molecule that the repair would change stays as it was decoded.
    changed = repaired.copy()
    changed[0, 0, 1] = changed[0, 1, 0] = 2
    smiles, about = usable_molecules({**samples, "bonds_valency": changed}, classes)
    assert (smiles[0], about[0]) == ("CCF", ("raw", 0))


def test_marks_stand_in_both_files_and_are_read_again(tmp_path):
    atoms, raw, repaired, classes = decoded()
    smiles = ("CCF", "CCC", "CCO", None)
    was_changed = (raw != repaired).any(axis=(1, 2))
    made = Molecules(smiles, atoms, repaired, classes, {}, was_changed)
    made.save(tmp_path / "a.smi")
    assert (tmp_path / "a.smi").read_text().splitlines() == [
        "CCF raw 0", "CCC repaired 1", "CCO repaired 2",
    ]  # fmt: skip
    made.save(tmp_path / "a.sdf")
    read = list(Chem.SDMolSupplier(str(tmp_path / "a.sdf")))
    assert [mol.GetProp("bonds") for mol in read] == ["raw", "repaired", "repaired"]
    assert [mol.GetIntProp("sample") for mol in read] == [0, 1, 2]
    for name in ("a.smi", "a.sdf"):
        loaded = load_molecules(tmp_path / name, max_atoms=4, invalid="stop")
        assert loaded.molecules.smiles.tolist() == ["CCF", "CCC", "CCO"]


def test_molecules_of_a_model_without_marks_are_raw(tmp_path):
    atoms, _, repaired, classes = decoded()
    made = Molecules(("CCF",), atoms[:1], repaired[:1], classes)
    made.save(tmp_path / "a.smi")
    assert (tmp_path / "a.smi").read_text() == "CCF raw 0\n"


def test_repetitions_are_molecules_of_their_own(tmp_path):
    about = [("raw", 0), ("repaired", 4)]
    write_sdf(tmp_path / "a.sdf", smiles_to_molecules(["CCO", "CCO"], about))
    read = list(Chem.SDMolSupplier(str(tmp_path / "a.sdf")))
    assert [mol.GetIntProp("sample") for mol in read] == [0, 4]
    assert [mol.GetProp("_Name") for mol in read] == ["CCO", "CCO"]
    assert np.ptp(read[0].GetConformer().GetPositions(), axis=0).max() > 1
