"""Scores of molecules against counts by hand and RDKit's own reading of SMILES."""

import builtins

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

Chem = pytest.importorskip("rdkit.Chem")

from ncgn_jax.faults import DataError  # noqa: E402
from ncgn_jax.metrics.table import format_table  # noqa: E402
from ncgn_jax.molecules.validity import (  # noqa: E402
    MOLECULE_COLUMNS,
    ChemNetStatistics,
    check_molecules,
    chemnet_statistics,
    frechet_chemnet_distance,
    molecule_histograms,
    molecule_scores,
    published_scores,
    size_and_element_distances,
    to_molecule,
)

CLASSES = ("C", "N", "O", "F", "N+", "O-", "N-", "C-")
VALENCES = (4, 3, 2, 1, 4, 1, 2, 3)
SMILES = [
    *("C", "CO", "C#N", "C[N+](=O)[O-]", "[NH3+]CC(=O)[O-]", "c1ccccc1", "c1cc[nH]c1"),
    *("c1cnoc1", "Cc1ccncc1F", "C1=CCC=C1", "O=c1cc[nH]cc1", "C1C2CC12", "Cc1cn[nH]c1"),
    *("N=c1[nH]cno1", "[C-]#[N+]C", "c1c[n-]c[nH+]1", "Oc1ccccc1F", "n1nn[nH]n1"),
]


def make_batch(graphs, num_atoms=None):
    """Graphs are (names of atoms, {(i, j): order}); padded to equal size."""
    size = num_atoms or max(len(names) for names, _ in graphs)
    atoms = np.full((len(graphs), size), -1)
    bonds = np.zeros((len(graphs), size, size), int)
    for k, (names, pairs) in enumerate(graphs):
        atoms[k, : len(names)] = [CLASSES.index(name) for name in names]
        for (i, j), order in pairs.items():
            bonds[k, i, j] = bonds[k, j, i] = order
    return atoms, bonds


def graph_of(smiles, rng):
    """The Kekule graph of SMILES with its atoms in random order."""
    molecule = Chem.MolFromSmiles(smiles)
    Chem.Kekulize(molecule, clearAromaticFlags=True)
    place = rng.permutation(molecule.GetNumAtoms()).tolist()
    names = [""] * len(place)
    for atom in molecule.GetAtoms():
        charge = {0: "", 1: "+", -1: "-"}[atom.GetFormalCharge()]
        names[place[atom.GetIdx()]] = atom.GetSymbol() + charge
    pairs = {
        (place[b.GetBeginAtomIdx()], place[b.GetEndAtomIdx()]): int(
            b.GetBondTypeAsDouble()
        )
        for b in molecule.GetBonds()
    }
    return names, pairs


def ring(names, first):
    """Alternating orders around a ring, `first` on the bond 0-1."""
    size = len(names)
    return names, {
        tuple(sorted((i, (i + 1) % size))): first if i % 2 == 0 else 3 - first
        for i in range(size)
    }


PENTAVALENT = (["C"] * 6, {(0, i): 1 for i in range(1, 6)})
METHANE, WATER = (["C"], {}), (["O"], {})
ETHANE_AND_WATER = (["O", "C", "C"], {(1, 2): 1})
METHANOL = (["O", "C"], {(0, 1): 1})
HAND_MADE = [METHANE, METHANE, WATER, METHANOL, PENTAVALENT, ETHANE_AND_WATER]


@pytest.fixture
def checks():
    return check_molecules(*make_batch(HAND_MADE), CLASSES, VALENCES)


def test_hand_made_molecules_are_checked(checks):
    assert checks.valid.tolist() == [True, True, True, True, False, True]
    assert checks.connected.tolist() == [True, True, True, True, True, False]
    assert checks.smiles == ["C", "C", "O", "CO", "", "CC"]
    assert checks.published_smiles == checks.smiles
    assert checks.num_atoms.tolist() == [1, 1, 1, 2, 6, 3]
    assert checks.num_in_valence.tolist() == [1, 1, 1, 2, 5, 3]


def test_scores_of_hand_made_molecules(checks):
    # Valid C, C, O, CO, CC: 4 distinct, of which O and CO, CC are new; CC is a piece.
    row = molecule_scores(checks, {"C", "CCC"}, {"CO", "C", "CC"})
    assert row == pytest.approx(
        {
            "valid": 5 / 6,
            "valid_connected": 4 / 6,
            "unique": 4 / 5,
            "novel": 3 / 4,
            "vun": 3 / 6,
            "unique_connected": 3 / 4,
            "novel_connected": 2 / 3,
            "in_known": 2 / 3,  # C and CO
            "held_out": 1 / 3,  # CO: C was trained on
            "num_generated": 6,
            "valence_ok": 13 / 14,
        }
    )
    assert row["vun"] == pytest.approx(row["valid"] * row["unique"] * row["novel"])


def test_scores_by_the_published_way(checks):
    # Of 5 valid, O, CO and CC occur once.
    row = published_scores(checks, {"CO", "C"})
    assert row == pytest.approx(
        {"published_valid": 5 / 6, "published_unique": 3 / 5, "published_novel": 2 / 3}
    )


def test_nothing_valid_scores_nothing():
    checks = check_molecules(*make_batch([PENTAVALENT, ([], {})]), CLASSES)
    assert checks.connected.tolist() == [True, False]
    row = molecule_scores(checks, {"C"}, set()) | published_scores(checks, {"C"})
    assert row.pop("num_generated") == 2
    assert "valence_ok" not in row
    assert set(row.values()) == {0.0}


@pytest.mark.parametrize("first", [1, 2])
def test_both_kekule_forms_are_one_molecule(first):
    pyridine = ["N", "C", "C", "C", "C", "C"]
    batch = make_batch([ring(["C"] * 6, first), ring(pyridine, first)])
    assert check_molecules(*batch, CLASSES).smiles == ["c1ccccc1", "c1ccncc1"]


def test_largest_fragment_goes_by_heavy_atoms():
    pieces = (["O", "C", "C", "N", "F"], {(1, 2): 1, (2, 3): 1})
    checks = check_molecules(*make_batch([pieces]), CLASSES)
    assert checks.smiles == checks.published_smiles == ["CCN"]


def test_smiles_equal_those_of_data():
    rng = np.random.default_rng(0)
    graphs = [graph_of(smiles, rng) for smiles in SMILES * 5]
    checks = check_molecules(*make_batch(graphs), CLASSES, VALENCES)
    expected = [Chem.MolToSmiles(Chem.MolFromSmiles(s)) for s in SMILES * 5]
    assert checks.smiles == expected
    assert checks.published_smiles == expected
    assert checks.connected.all()
    np.testing.assert_array_equal(checks.num_in_valence, checks.num_atoms)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_smiles_of_anything_can_be_looked_up(seed):
    rng = np.random.default_rng(seed)
    atoms = rng.integers(-1, len(CLASSES), (5, 6))
    bonds = np.triu(rng.choice(4, (5, 6, 6), p=[0.7, 0.2, 0.07, 0.03]), k=1)
    checks = check_molecules(atoms, bonds + bonds.swapaxes(1, 2), CLASSES)
    for text, valid in zip(checks.smiles, checks.valid, strict=True):
        assert valid == bool(text)
        assert "." not in text
        if valid:
            assert Chem.MolToSmiles(Chem.MolFromSmiles(text)) == text


def test_molecules_are_built_as_given():
    names, pairs = (["O-", "N+", "C", "O"], {(0, 1): 1, (1, 2): 1, (1, 3): 2})
    atoms, bonds = make_batch([(names, pairs)], num_atoms=6)
    order = [4, 0, 1, 5, 2, 3]  # padding in between
    molecule = to_molecule(atoms[0][order], bonds[0][np.ix_(order, order)], CLASSES)
    found = [(a.GetSymbol(), a.GetFormalCharge()) for a in molecule.GetAtoms()]
    assert found == [("O", -1), ("N", 1), ("C", 0), ("O", 0)]
    orders = {
        (b.GetBeginAtomIdx(), b.GetEndAtomIdx()): b.GetBondTypeAsDouble()
        for b in molecule.GetBonds()
    }
    assert orders == pairs


def test_histograms_by_hand():
    triangle_with_tail = (
        ["C", "C", "N", "O"],
        {(0, 1): 1, (1, 2): 1, (0, 2): 1, (2, 3): 2},  # not valid: N has 4
    )
    atoms, bonds = make_batch([triangle_with_tail, METHANOL, METHANE])
    found = {k: v.tolist() for k, v in molecule_histograms(atoms, bonds).items()}
    assert found == {
        "size": [0, 1, 1, 0, 1],
        "element": [4, 1, 2],
        "order": [0, 4, 1],
        "degree": [1, 3, 2, 1],
        "ring": [2, 0, 0, 1],
    }


def test_distances_by_hand():
    one = molecule_histograms(*make_batch([METHANE, METHANE, METHANOL]))
    other = molecule_histograms(*make_batch([METHANE, METHANOL, ring(["C"] * 6, 1)]))
    assert size_and_element_distances(one, other) == pytest.approx(
        {
            "distance_size": 1 / 3,  # 2/3, 1/3 against 1/3 each
            "distance_element": 1 / 4 - 1 / 9,
            "distance_order": 3 / 7,  # three of seven are double
            "distance_degree": 6 / 9,  # degree 2 is all new
            "distance_ring": 1 / 3,
        }
    )
    assert not any(size_and_element_distances(one, one).values())
    nothing = molecule_histograms(*make_batch([METHANE]))
    assert size_and_element_distances(nothing, one)["distance_order"] == 1
    assert size_and_element_distances(nothing, nothing)["distance_order"] == 0


def test_columns_fit_the_rows(checks):
    histograms = molecule_histograms(*make_batch(HAND_MADE))
    row = molecule_scores(checks, {"C"}, {"CO"}) | published_scores(checks, {"C"})
    row |= size_and_element_distances(histograms, histograms) | {"fcd": 1.234}
    keys = [column.key for column in MOLECULE_COLUMNS]
    assert len(set(keys)) == len(keys)
    assert set(row) - {"num_generated"} == set(keys)
    header, _, line = format_table({"model": row}, MOLECULE_COLUMNS).splitlines()[:3]
    assert header.count("|") == len(keys) + 2
    assert line.split("|")[2].strip() == "83.3"
    assert "1.23" in line


def test_faults():
    atoms, bonds = make_batch([METHANOL])
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(2, 2\)"):
        check_molecules(atoms, bonds[0], CLASSES)
    with pytest.raises(ValueError, match="symmetric"):
        check_molecules(atoms, np.triu(bonds), CLASSES)
    with pytest.raises(ValueError, match="diagonal"):
        check_molecules(atoms, bonds + np.eye(2, dtype=int)[None], CLASSES)
    with pytest.raises(ValueError, match="got 0 to 4"):
        check_molecules(atoms, 4 * bonds, CLASSES)
    with pytest.raises(DataError, match="atom class 'n'; allowed"):
        check_molecules(atoms, bonds, ("n",))
    with pytest.raises(ValueError, match="class 2, but 1 are named"):
        check_molecules(atoms, bonds, ("C",))


def test_a_missing_rdkit_is_named(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments):
        if name.split(".")[0] in ("rdkit", "fcd"):
            raise ModuleNotFoundError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=r"RDKit.*ncgn_jax\[molecules\]"):
        check_molecules(*make_batch([METHANE]), CLASSES)
    assert chemnet_statistics(["C", "CO"]) is None
    assert frechet_chemnet_distance(["C", "CO"], None) is None


# Frechet ChemNet distance.


def test_distance_of_gaussians_has_its_closed_form():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    a, b = rng.gamma(2, size=(2, 5))
    a[0] = 0  # singular, as of fewer molecules than features
    mean = rng.normal(size=(2, 5))
    one = ChemNetStatistics(mean[0], basis * a @ basis.T, 9)
    other = ChemNetStatistics(mean[1], basis * b @ basis.T, 9)
    expected = ((mean[0] - mean[1]) ** 2).sum() + ((a**0.5 - b**0.5) ** 2).sum()
    assert frechet_chemnet_distance(one, other) == pytest.approx(expected)
    # Without common axes: one dimension of two-dimensional ones turned by 45 degrees.
    slant = np.array([[1.0, 1.0], [1.0, 1.0]]) / 2
    flat = ChemNetStatistics(np.zeros(2), np.diag([4.0, 0.0]), 9)
    turned = ChemNetStatistics(np.zeros(2), slant, 9)
    expected = 4 + 1 - 2 * 2 * np.sqrt(0.5)
    assert frechet_chemnet_distance(flat, turned) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_chemnet_distance_of_sets():
    fcd = pytest.importorskip("fcd")
    alkanes = ["C" * n for n in range(1, 9)]
    acids = [f"O=C(O){'C' * n}" for n in range(1, 9)]
    reference = chemnet_statistics(alkanes)
    assert reference.num_molecules == 8
    assert frechet_chemnet_distance(alkanes, reference) == pytest.approx(0, abs=1e-3)
    near = frechet_chemnet_distance(alkanes[1:] + ["CC(C)C"], reference)
    far = frechet_chemnet_distance(acids, reference)
    assert 0.01 < near < far / 3
    network = fcd.load_ref_model()
    theirs = []
    for smiles in (alkanes, acids):
        features = fcd.get_predictions(network, smiles, n_jobs=0)
        theirs += [features.mean(axis=0), np.cov(features.T)]
    expected = fcd.calculate_frechet_distance(*theirs)
    assert far == pytest.approx(expected, rel=1e-2)


def test_sets_too_small_for_a_covariance():
    with pytest.raises(ValueError, match="1 SMILES, 0 of them empty"):
        chemnet_statistics(["C"])
    with pytest.raises(ValueError, match="2 SMILES, 1 of them empty"):
        frechet_chemnet_distance(["C", ""], ["C", "CC"])
