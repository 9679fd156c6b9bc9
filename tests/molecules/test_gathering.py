"""What is kept of molecules, what is counted, and what is said."""

import numpy as np
import pytest

pytest.importorskip("rdkit")
from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors

from ncgn_jax.data.report import Reading
from ncgn_jax.faults import DataError
from ncgn_jax.molecules.faults import Fault, Limits, parse_smiles
from ncgn_jax.molecules.gathering import Gathered, Rules, describe_contents
from ncgn_jax.molecules.rdkit_graphs import to_molecule
from ncgn_jax.molecules.sets import max_valences


def gather(texts, *, max_atoms=20, names=(), values=None, splits=None, **rules):
    gathered = Gathered(
        Reading("here", "molecules"), Limits(max_atoms), names, Rules(**rules)
    )
    for i, text in enumerate(texts):
        own = {} if values is None else dict(zip(names, values[i], strict=True))
        split = None if splits is None else splits[i]
        gathered.add(f"line {i + 1}", parse_smiles(text), own, split)
    gathered.say_all()
    return gathered


def told(gathered):
    report = gathered.reading.report({})
    return list(map(str, report.left_out)), list(report.notes)


# Symbols of all elements with hydrogens that people write, and usual groups.
ELEMENTS = [Chem.GetPeriodicTable().GetElementSymbol(n) for n in range(3, 104)]
TEXTS = [
    text
    for symbol in ELEMENTS
    for charge in ("", "+", "-", "+2")
    for num in ("", "H", "H2", "H3", "H4", "H5")
    for text in (f"C[{symbol}{num}{charge}]", f"C=[{symbol}{num}{charge}]")
]
TEXTS += [
    "O=[PH2]O", "C[ZnH]", "F[B-](F)(F)F", "FS(F)(F)(F)(F)F", "C[N+](C)(C)C", "F[Xe]F",
    "[O-][Cl+3]([O-])([O-])OC", "O=I(=O)c1ccccc1", "F[P-](F)(F)(F)(F)F", "C[Hg]C",
    "F[Si-2](F)(F)(F)(F)F", "C[Sn](C)(C)C", "c1cc[nH]c1", "C[SH](=O)=O",
]  # fmt: skip


def test_a_molecule_keeps_its_formula_or_is_counted():
    """Over all elements: what the arrays give back has the hydrogens and charge."""
    kept, counted, beyond = 0, 0, []
    for text in TEXTS:
        gathered = gather([text], repeated=True)
        left_out, _ = told(gathered)
        with rdBase.BlockLogs():
            wanted = Chem.MolFromSmiles(text)
        if left_out:
            counted += 1
            assert wanted is None or not len(gathered)
            continue
        kept += 1
        found = gathered.encode()
        back = to_molecule(found.atoms[0], found.bonds[0], found.classes)
        Chem.SanitizeMol(back)
        formula = rdMolDescriptors.CalcMolFormula
        assert formula(back) == formula(wanted), text
        assert Chem.MolToSmiles(back) == Chem.CanonSmiles(found.smiles[0]), text
        sums = found.bonds[0].sum(axis=1)[found.node_mask[0]]
        limits = max_valences(found.classes)[found.atoms[0][found.node_mask[0]]]
        beyond += [text] * bool(np.any(sums > limits))
    # No molecules of chemistry: repaired bonds cannot have them, others can.
    assert beyond == ["C=[Ne-]", "C=[Ar-]", "C=[Sc+2]", "C=[Kr-]", "C=[Y+2]",
                      "C=[La+2]", "C=[Ac+2]"]  # fmt: skip
    assert kept > 200
    assert counted > 1000


@pytest.mark.parametrize("text", ["C[SnH3]", "O=[PH2]O", "C[ZnH]", "C[PH4]", "C[SH3]"])
def test_hydrogens_that_bonds_do_not_determine_are_counted(text):
    left_out, _ = told(gather(["CC", text, "CO"]))
    assert left_out == ["1 with hydrogens that bonds do not determine (first line 2)"]
    with pytest.raises(DataError, match=r"line 1: with hydrogens .*usual valences"):
        gather([text], invalid="stop")


def test_stereo_marks_are_said_and_mirror_images_are_no_repetitions():
    """stereo.smi, and a true repetition."""
    texts = ["C[C@H](O)F", "C[C@@H](O)F", "F/C=C/F", r"F/C=C\F", "C[S@](=O)CC"]
    left_out, notes = told(gather(texts))
    assert left_out == [
        "2 equal to an earlier one but for marks that are not kept (first line 2)"
    ]
    (note,) = notes
    assert note.startswith("5 with stereo marks, which are not kept")
    # The same again, and written from its other end.
    left_out, _ = told(gather([*texts, "F[C@@H](C)O", "CC(O)F", "OC(F)C"]))
    assert left_out == [
        "3 equal to an earlier one but for marks that are not kept (first line 2)",
        "2 equal to an earlier one (first line 6)",
    ]


def test_marks_without_meaning_are_no_stereo():
    _, notes = told(gather(["C[C@H](C)O", "C/C=C"]))
    assert notes == []


def test_isotopes_and_maps_are_said():
    left_out, notes = told(gather(["[13CH3]N", "CN", "[CH3:7]F", "[2H]OC"]))
    assert left_out == [
        "1 equal to an earlier one but for marks that are not kept (first line 2)"
    ]
    assert notes == [
        "2 with isotopes, which are not kept (first line 1)",
        "1 with atom maps, which are not kept (first line 3)",
    ]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("CC(=O)[O-].[Na+]", "CC(=O)[O-]"),
        ("CCN.Cl", "CCN"),
        ("CCO.CCO", "CCO"),
        ("O.O.c1ccccc1", "c1ccccc1"),
        # Heavy atoms count: ethanol has fewer than propyne but more hydrogens and
        # is as heavy; of equal numbers the heavier is kept.
        ("CCN.CCO", "CCO"),
        ("CCO.CCN", "CCO"),
        ("CCCCCCCC.C(=O)(O)C(=O)OCCBr", "O=C(O)C(=O)OCCBr"),
    ],
)
def test_salts_are_reduced_to_their_largest_part(text, kept):
    gathered = gather([text, "CCCF"], salts="largest")
    left_out, notes = told(gathered)
    assert gathered.encode().smiles.tolist() == [Chem.CanonSmiles(kept), "CCCF"]
    assert left_out == []
    assert notes[0].startswith("1 of several fragments, reduced to the largest")
    left_out, notes = told(gather([text, "CCCF"]))
    assert (left_out, notes) == (["1 of several fragments (first line 1)"], [])


def test_repetitions_with_other_values_are_said():
    values = [["1"], ["1.0000001"], ["2"], ["nan"]]
    gathered = gather(["CCO", "OCC", "CCO", "CCO"], names=("gap",), values=values)
    left_out, notes = told(gathered)
    assert gathered.encode().properties["gap"].tolist() == [1]
    assert left_out == ["3 equal to an earlier one (first line 2)"]
    assert notes == [
        "1 that stand there again with another value of a property; the first is kept "
        "(first line 3)"
    ]


def test_a_molecule_of_several_splits_is_held_out():
    """It would be trained on and tested with; published test sets stay whole."""
    splits = ["train", "test", "train", "val"]
    gathered = gather(["CCO", "CCO", "CC", "CC"], splits=splits)
    assert gathered.splits == ["test", "val"]
    _, notes = told(gathered)
    assert notes[0].startswith("2 in several splits, kept in the last of train, val")


def test_the_field_that_would_keep_them_is_named():
    """500 of 15 to 26 atoms at the default of 9."""
    texts = ["C" * (15 + i % 12 - (i > 494)) + "O" * (i % 2) for i in range(500)]
    with pytest.raises(DataError, match=r"data\.max_atoms=9 heavy .*=2\d keeps"):
        gather(texts, max_atoms=9, repeated=True).encode()
    chains = ["C" * n for n in range(2, 102)]
    _, notes = told(gather(chains, max_atoms=50))
    assert notes == [
        "51 of 100 molecules have more than data.max_atoms=50 heavy atoms; 64, the "
        "largest possible, keeps 63.0%"
    ]
    many = [*["CC"] * 200, "C" * 9, "C" * 12]
    # One in a hundred is no matter for a note.
    assert told(gather(many, max_atoms=4, repeated=True))[1] == []
    some = [*["CC"] * 40, *["C" * 9] * 59, "C" * 12]
    _, (note,) = told(gather(some, max_atoms=4, repeated=True))
    assert note.endswith("data.max_atoms=9 keeps 99%, 12 all")


def test_contents_tell_sizes_atoms_and_properties():
    values = [["1"], [""], ["3"]]
    gathered = gather(["CCO", "CN", "CCCC"], names=("gap",), values=values)
    whole = gathered.encode()
    parts = [whole.take(slice(1)), whole.take(slice(1, 3))]
    assert describe_contents(parts) == (
        "2 to 4 heavy atoms (arrays of 20)",
        "atoms C 7, N 1, O 1",
        "gap 2 known, 1 unknown, 1 to 3",
    )


def test_faults_are_told_apart():
    gathered = Gathered(Reading("here", "molecules"), Limits(9))
    gathered.leave_out("line 3", Fault("odd", "x", "even"))
    assert told(gathered)[0] == ["1 odd (first line 3)"]
    with pytest.raises(DataError, match="here: no usable molecule; left out: 1 odd"):
        gathered.encode()
