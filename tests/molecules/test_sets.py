"""Molecules as arrays: hand-made graphs, and a way back that the tests write.

The way back builds each molecule atom by atom from the arrays, so that the encoder is
compared with RDKit's reading of the original SMILES and never with itself.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rdkit")
from rdkit import Chem, rdBase

from ncgn_jax.data.report import DataReport
from ncgn_jax.faults import DataError
from ncgn_jax.molecules.sets import (
    MoleculeDataset,
    encode_molecules,
    split_molecules,
)

ORDERS = {
    1: Chem.BondType.SINGLE,
    2: Chem.BondType.DOUBLE,
    3: Chem.BondType.TRIPLE,
}
# Rings, charges, zwitterions, cumulated and triple bonds, aromatic N with H.
SMILES = [
    "CC",
    "C#N",
    "C=O",
    "C=C=C",
    "c1ccccc1",
    "c1cc[nH]c1",
    "c1ccncc1",
    "Cc1nnn[nH]1",
    "C[N+](=O)[O-]",
    "[NH3+]CC(=O)[O-]",
    "C[N+]#[C-]",
    "C[NH+]1CC1",
    "CC(=O)[N-]C",
    "OC1C2CC1O2",
    "FC(F)(F)C#N",
    "CS(=O)(=O)O",
    "CP(=O)(O)O",
    "ClCBr",
    "C[Si](C)(C)C",
    "O=c1cc[nH]cn1",
    "N=C1C=CC=CC1=N",
    "C[B-](F)(F)F",
    "c1ccc2[nH]ccc2c1",
    "[CH2-][N+]#N",
    "O=[N+]([O-])c1ccoc1",
    "CC(C)(C)[O-]",
]
SYMBOLS = {"C", "N", "O", "F", "S", "P", "Cl", "Br", "Si", "B"}


def read(*smiles):
    return [Chem.MolFromSmiles(text) for text in smiles]


def rebuild(found, row):
    """Builds one molecule from the arrays and returns its canonical SMILES."""
    mol = Chem.RWMol()
    size = int((found.atoms[row] >= 0).sum())
    for index in found.atoms[row, :size]:
        name = found.classes[index]
        symbol = name.rstrip("+-0123456789")
        charge = name[len(symbol) :]
        atom = Chem.Atom(symbol)
        size_of = int(charge[1:] or 1) if charge else 0
        atom.SetFormalCharge(-size_of if charge.startswith("-") else size_of)
        mol.AddAtom(atom)
    for i in range(size):
        for j in range(i):
            if found.bonds[row, i, j]:
                mol.AddBond(i, j, ORDERS[int(found.bonds[row, i, j])])
    Chem.SanitizeMol(mol)
    return Chem.MolToSmiles(mol, isomericSmiles=False)


def test_round_trip():
    found = encode_molecules(read(*SMILES), depict=True)
    found.check()
    assert {name.rstrip("+-") for name in found.classes} == SYMBOLS
    for row, text in enumerate(SMILES):
        expected = Chem.MolToSmiles(Chem.MolFromSmiles(text))
        assert found.smiles[row] == expected
        assert rebuild(found, row) == expected


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SMILES), st.randoms(use_true_random=False))
def test_any_order_of_the_atoms_gives_the_same_molecule(text, random):
    mol = Chem.MolFromSmiles(text)
    order = list(range(mol.GetNumAtoms()))
    random.shuffle(order)
    found = encode_molecules([Chem.RenumberAtoms(mol, order)])
    found.check()
    assert rebuild(found, 0) == found.smiles[0] == Chem.MolToSmiles(mol)
    names = [found.classes[index] for index in found.atoms[0]]
    plain = encode_molecules([mol])
    for place, old in enumerate(order):
        assert names[place] == plain.classes[plain.atoms[0, old]]
        # Kekule forms may differ in the orders, not in who is bound to whom.
        bound = plain.bonds[0, old, order] > 0
        np.testing.assert_array_equal(found.bonds[0, place] > 0, bound)


def test_benzene_by_hand():
    found = encode_molecules(read("c1ccccc1"), max_atoms=8)
    assert found.classes == ("C",)
    assert found.atoms.tolist() == [[0] * 6 + [-1] * 2]
    ring = [int(found.bonds[0, i, (i + 1) % 6]) for i in range(6)]
    assert ring in ([1, 2] * 3, [2, 1] * 3)
    assert found.bonds.sum() == 2 * 9
    assert found.smiles.tolist() == ["c1ccccc1"]
    assert found.num_atoms.tolist() == [6]
    assert found.node_mask.tolist() == [[True] * 6 + [False] * 2]


def test_charges_by_hand():
    found = encode_molecules(read("C[N+](=O)[O-]", "[NH3+]CC(=O)[O-]", "[C-]#[N+]C"))
    assert found.classes == ("C", "N+", "O", "O-", "C-")
    assert found.atoms[0].tolist() == [0, 1, 2, 3, -1]
    assert found.bonds[0, 1].tolist() == [1, 0, 2, 1, 0]
    assert found.atoms[1].tolist() == [1, 0, 0, 2, 3]
    assert found.bonds[1, 2].tolist() == [0, 1, 0, 2, 1]
    assert found.atoms[2].tolist() == [4, 1, 0, -1, -1]
    assert found.bonds[2, 0].tolist() == [0, 3, 0, 0, 0]


def test_what_arrays_cannot_hold_is_dropped():
    texts = ["C/C=C/C", "C[C@H](N)O", "[2H]C([2H])O", "[13CH3]N", "[H]/N=C/C"]
    plain = ["CC=CC", "CC(N)O", "CO", "CN", "CC=N"]
    # An atom map, an unpaired electron, and more hydrogens than the bonds call for.
    texts += ["[CH3:7]F", "C[CH2]", "C[SH3]"]
    plain += ["CF", "CC", "CS"]
    mols = [*read(*texts), Chem.AddHs(Chem.MolFromSmiles("CCO"))]
    before = [Chem.MolToSmiles(mol) for mol in mols]
    found = encode_molecules(mols)
    assert found.smiles.tolist() == [*map(Chem.CanonSmiles, plain), "CCO"]
    assert found.num_atoms.tolist() == [4, 4, 2, 2, 3, 2, 2, 2, 3]
    assert [Chem.MolToSmiles(mol) for mol in mols] == before, "the input is changed"


def test_classes_are_those_asked_for():
    found = encode_molecules(read("NCC", "OC"), classes=("O", "C", "N"))
    assert found.classes == ("O", "C", "N")
    assert found.atoms.tolist() == [[2, 1, 1], [0, 1, -1]]
    # Found by how common they are, then by name.
    assert encode_molecules(read("OCN", "NC")).classes == ("C", "N", "O")
    assert encode_molecules(read("NO")).classes == ("N", "O")
    empty = encode_molecules([], classes=("C",), max_atoms=4)
    empty.check()
    assert empty.bonds.shape == (0, 4, 4)


def test_molecules_that_cannot_be_encoded():
    with pytest.raises(DataError, match=r"molecule 1 \(CF\): atom class 'F'; .*: C, O"):
        encode_molecules(read("CO", "CF"), classes=("C", "O"))
    with pytest.raises(DataError, match=r"molecule 0 \(CCO\): 3 atoms; allowed: max 2"):
        encode_molecules(read("CCO"), max_atoms=2)
    with pytest.raises(DataError, match="molecule 0: bond of type DATIVE.*SINGLE"):
        encode_molecules(read("N->[Fe+2]"))
    five = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    with rdBase.BlockLogs(), pytest.raises(DataError, match="molecule 0: .*C, 5"):
        encode_molecules([five])


def test_depictions():
    found = encode_molecules(read(*SMILES), depict=True)
    mask = found.node_mask
    assert found.depictions.dtype == np.float32
    np.testing.assert_array_equal(found.depictions[~mask], 0)
    np.testing.assert_allclose(found.depictions.sum(axis=1), 0, atol=1e-4)
    gaps = found.depictions[:, :, None] - found.depictions[:, None]
    lengths = np.linalg.norm(gaps, axis=-1)
    # Small rings with bridges are drawn with other lengths.
    ring = SMILES.index("c1ccccc1")
    bound = found.bonds[ring] > 0
    np.testing.assert_allclose(lengths[ring][bound], 1.5, rtol=1e-3)
    across = [lengths[ring, i, i + 3] for i in range(3)]
    np.testing.assert_allclose(across, 3.0, rtol=1e-3)
    assert np.median(lengths[found.bonds > 0]) == pytest.approx(1.5, rel=1e-3)
    assert encode_molecules(read("CC")).depictions is None


def numbered(num):
    found = encode_molecules(
        read(*["C" * (1 + i % 5) for i in range(num)]), depict=True
    )
    found.properties["number"] = np.arange(num, dtype=np.float32)
    return found


def test_take():
    found = numbered(7)
    some = found.take(np.array([4, 0]))
    some.check()
    assert len(some) == 2
    assert some.smiles.tolist() == ["CCCCC", "C"]
    assert some.num_atoms.tolist() == [5, 1]
    assert some.properties["number"].tolist() == [4, 0]
    np.testing.assert_array_equal(some.depictions[0], found.depictions[4])
    np.testing.assert_array_equal(some.bonds[0], found.bonds[4])
    assert found.take(found.num_atoms == 2).properties["number"].tolist() == [1, 6]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
def test_split_is_disjoint_and_complete(num_train, num_validation, num_test, seed):
    found = numbered(num_train + num_validation + num_test)
    parts = split_molecules(found, num_train, num_validation, seed)
    assert [len(part) for part in parts] == [num_train, num_validation, num_test]
    numbers = np.concatenate([part.properties["number"] for part in parts])
    assert sorted(numbers) == list(range(len(found)))


def test_split_depends_on_the_seed_alone():
    found = numbered(60)

    def split(seed):
        return split_molecules(found, 30, 20, seed)[0].properties["number"].tolist()

    assert split(1) == split(1)
    assert split(1) != split(2)
    assert sorted(split(1)) != list(range(30)), "not drawn"
    for sizes in ((60, 1), (0, 30), (30, 0), (30, 30)):
        with pytest.raises(DataError, match="of 60 molecules leave .*: each >= 1"):
            split_molecules(found, *sizes, seed=0)


def test_all_smiles():
    found = numbered(12)
    parts = found.take(slice(2)), found.take(slice(2, 4)), found.take([4, 5])
    data = MoleculeDataset("alkanes", DataReport("made here", "molecules", {}), *parts)
    assert data.all_smiles() == {"C", "CC", "CCC", "CCCC", "CCCCC"}


@pytest.mark.parametrize(
    ("field", "place", "value"),
    [("atoms", (0, 0), 9), ("bonds", (1, 0, 1), 3), ("bonds", (0, 0, 4), 1)],
)
def test_check_finds_what_is_wrong(field, place, value):
    found = numbered(5)
    found.check()
    getattr(found, field)[place] = value
    with pytest.raises(DataError, match=field):
        found.check()


def test_check_finds_places_in_the_padding():
    found = numbered(5)
    found.depictions[0, 4] = 1
    with pytest.raises(DataError, match="molecules: depictions not as described"):
        found.check()
