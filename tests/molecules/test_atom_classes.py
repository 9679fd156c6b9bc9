"""Atom classes: names by hand and back, and the valences that RDKit accepts."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rdkit")
from rdkit import Chem, rdBase

from ncgn_jax.faults import DataError
from ncgn_jax.molecules.atom_classes import class_name, max_valences, split_class

NAMES = {
    **{"C": ("C", 0), "N+": ("N", 1), "O-": ("O", -1), "O-2": ("O", -2)},
    **{"Fe+2": ("Fe", 2), "Cl": ("Cl", 0), "Ti+4": ("Ti", 4)},
}
VALENCES = {
    **{"C": 4, "N": 3, "O": 2, "F": 1, "N+": 4, "O-": 1, "N-": 2, "C-": 3, "C+": 3},
    **{"S": 6, "P": 5, "Cl": 1, "B": 3, "B-": 4, "Si": 4, "Br": 1, "O+": 3, "P+": 4},
    **{"S-": 5, "F-": 0, "Fe+2": 8, "Na+": 0, "H": 1, "H+": 0},
}


def test_names_by_hand():
    for name, (symbol, charge) in NAMES.items():
        assert class_name(symbol, charge) == name
        assert split_class(name) == (symbol, charge)


@given(st.sampled_from(["C", "N", "Cl", "Fe"]), st.integers(-9, 9))
def test_names_come_back(symbol, charge):
    assert split_class(class_name(symbol, charge)) == (symbol, charge)


@pytest.mark.parametrize(
    "name",
    ["", "n", "N+1", "N+-", "+", "+N", "CCC", "O-0", "N+10", "N +", "Fe2+", "C\n"],
)
def test_bad_names_are_refused(name):
    with pytest.raises(DataError, match=r"atom class .*; allowed: 'C', 'N\+'"):
        split_class(name)


def test_valences_by_hand():
    assert dict(zip(VALENCES, max_valences(tuple(VALENCES)), strict=True)) == VALENCES
    assert max_valences([]).shape == (0,)
    with pytest.raises(DataError, match="'Xx': no element 'Xx'; allowed: symbols"):
        max_valences(["C", "Xx"])


@pytest.mark.parametrize(
    "name", [n for n in VALENCES if n not in ("Fe+2", "Na+", "H+")]
)
def test_valences_are_the_largest_that_rdkit_accepts(name):
    symbol, charge = split_class(name)
    accepted = []
    for num in range(10):
        mol = Chem.RWMol()
        atom = Chem.Atom(symbol)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(num)
        mol.AddAtom(atom)
        with rdBase.BlockLogs():
            problems = Chem.DetectChemistryProblems(mol)
        if not problems:
            accepted.append(num)
    assert max_valences([name]).tolist() == [max(accepted)]


def test_without_rdkit_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(DataError, match=r"need RDKit.*pip install 'ncgn_jax\[mol"):
        max_valences(["C"])
