"""Measures validity, uniqueness and novelty of generated molecules. Needs RDKit.

A batch is `atoms`, int [molecule, atom], the class of every atom, -1 = padding;
`bonds`, int [molecule, atom, atom], symmetric orders 0 (none) to 3 (Kekule form, no
aromatic order); and `classes`, names of symbol and formal charge: "C", "N+", "Fe+2".
V, U and N are counted as in EDM (arXiv 2203.17003) and DiGress (arXiv 2209.14734),
which accept fragments; connectedness is therefore counted too.

Example:
  >>> import numpy as np
  >>> atoms, bonds = np.array([[0, 0, 1]]), np.zeros((1, 3, 3), int)
  >>> bonds[0, [0, 1, 1, 2], [1, 0, 2, 1]] = 1
  >>> checks = check_molecules(atoms, bonds, ("C", "O"))
  >>> checks.smiles, molecule_scores(checks, {"CCO"}, set())["novel"]
  (['CCO'], 0.0)
"""

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.molecules.atom_classes import import_chem, split_class
from ncgn_jax.molecules.chemnet import (
    ChemNetStatistics,
    chemnet_statistics,
    frechet_chemnet_distance,
)
from ncgn_jax.molecules.rdkit_graphs import (
    build_molecule,
    check_batch,
    molecule_histograms,
    size_and_element_distances,
    to_molecule,
)

if TYPE_CHECKING:
    from rdkit.Chem import Mol, RWMol

__all__ = [
    "MOLECULE_COLUMNS",
    "ChemNetStatistics",
    "MoleculeChecks",
    "check_molecules",
    "chemnet_statistics",
    "frechet_chemnet_distance",
    "molecule_histograms",
    "molecule_scores",
    "published_scores",
    "size_and_element_distances",
    "to_molecule",
]

MOLECULE_COLUMNS = (
    Column("valid", "V %", 100, 1, "RDKit sanitises it; fragments pass"),
    Column("valid_connected", "VC %", 100, 1, "valid and in one piece"),
    Column("unique", "U %", 100, 1, "distinct over valid, largest fragments"),
    Column(
        "novel",
        "N %",
        100,
        1,
        "of the distinct, not trained on; on an enumerated data set right is the "
        "share held out, and more is outside the data",
    ),
    Column("vun", "VUN %", 100, 1, "V x U x N: novel distinct ones over generated"),
    Column("unique_connected", "U conn %", 100, 1, "U of valid connected ones alone"),
    Column("novel_connected", "N conn %", 100, 1, "N of valid connected ones alone"),
    Column(
        "in_known", "known %", 100, 1, "distinct connected ones that the data set has"
    ),
    Column(
        "held_out", "held-out %", 100, 1, "the same in its part not trained on; higher"
    ),
    Column("valence_ok", "atoms %", 100, 2, "atoms that keep to their valence"),
    Column(
        "fcd",
        "FCD",
        1,
        2,
        "Frechet ChemNet distance of the valid ones, repetitions kept; lower; biased "
        "upward in small sets, so compare equal sizes",
    ),
    Column(
        "published_valid",
        "paper V %",
        100,
        1,
        "RDKit reads the SMILES of the unsanitised molecule; fragments pass",
    ),
    Column(
        "published_unique",
        "paper U %",
        100,
        1,
        "SMILES that occur once, over valid; falls with the number generated",
    ),
    Column(
        "published_novel",
        "paper N %",
        100,
        1,
        "of those, not in the whole data set, held-out part included",
    ),
    Column("distance_size", "d size", 1, 3, "total variation of numbers of atoms"),
    Column("distance_element", "d elem", 1, 3, "the same of atom classes; lower"),
    Column("distance_order", "d order", 1, 3, "the same of orders of bonds; lower"),
    Column("distance_degree", "d degree", 1, 3, "the same of bonds of an atom; lower"),
    Column("distance_ring", "d ring", 1, 3, "the same of ring sizes; lower"),
)


class MoleculeChecks(NamedTuple):
    """Results of `check_molecules`, one per molecule of a batch."""

    valid: NDArray[np.bool_]  # sanitised without fault; fragments are allowed
    connected: NDArray[np.bool_]  # the graph has one fragment, valid or not
    smiles: list[str]  # canonical, of the largest fragment; "" = invalid
    published_smiles: list[str]  # the same as counted by `published_scores`
    num_atoms: NDArray[np.int64]
    num_in_valence: NDArray[np.int64] | None  # atoms within `max_valences`


def check_molecules(
    atoms: ArrayLike,
    bonds: ArrayLike,
    classes: Sequence[str],
    max_valences: ArrayLike | None = None,
) -> MoleculeChecks:
    """Sanitises every molecule of a batch and writes its SMILES.

    A molecule is valid if `Chem.SanitizeMol` accepts it. SMILES are those of the
    largest fragment (by heavy atoms), read and written once more, so that they equal
    `MolToSmiles(MolFromSmiles(s))` of data. A molecule without atoms is neither valid
    nor connected.

    Args:
      atoms: Class of every atom, [molecule, atom], -1 = padding.
      bonds: Orders, [molecule, atom, atom].
      classes: Symbol and formal charge of every class.
      max_valences: Largest sum of orders, [class]; None to count no atoms.

    Returns:
      The checks of each molecule.

    Raises:
      DataError: If RDKit is absent or a class is no name.
      ValueError: If shapes, orders or classes do not fit.
    """
    chem = import_chem()
    from rdkit import rdBase

    atoms, bonds = check_batch(atoms, bonds)
    names = [split_class(name) for name in classes]
    valid, connected, smiles, published = [], [], [], []
    with rdBase.BlockLogs():
        for kinds, orders in zip(atoms, bonds, strict=True):
            molecule = build_molecule(chem, kinds, orders, names)
            connected.append(len(chem.GetMolFrags(molecule)) == 1)
            published.append(_read_back(chem, molecule))
            smiles.append(_sanitised_smiles(chem, molecule))
            valid.append(bool(smiles[-1]))
    real = atoms >= 0
    in_valence = None
    if max_valences is not None:
        most = np.asarray(max_valences)[np.where(real, atoms, 0)]
        in_valence = (real & (bonds.sum(axis=-1) <= most)).sum(axis=1)
    return MoleculeChecks(
        np.array(valid, bool),
        np.array(connected, bool),
        smiles,
        published,
        real.sum(axis=1),
        in_valence,
    )


def molecule_scores(
    checks: MoleculeChecks,
    train_smiles: AbstractSet[str],
    held_out_smiles: AbstractSet[str],
) -> Row:
    """Counts validity, uniqueness and novelty, all as shares in [0, 1].

    QM9 is an enumeration: a perfect model of a split is novel only as often as it
    meets the held-out part, so `novel` far above that means molecules that are not
    in the data; read it beside `held_out` and the Frechet distance.

    Args:
      checks: From `check_molecules`.
      train_smiles: Canonical SMILES trained on, by `MolToSmiles(MolFromSmiles(s))`.
      held_out_smiles: The same of data not trained on; SMILES in both sets count as
        trained on.

    Returns:
      `valid`; `valid_connected`: valid and one fragment; `unique`: distinct SMILES
      over valid (largest fragments); `novel`: share of the distinct SMILES not trained
      on; `vun`: their product, novel distinct molecules over generated;
      `unique_connected` and `novel_connected`: the same of valid connected molecules
      only; of the distinct connected ones, `in_known`: in either set, `held_out`: in
      the held-out set; `num_generated`; `valence_ok`: atoms whose orders sum to at most
      the maximum, if `max_valences` was given. A share of nothing is 0.
    """
    num = len(checks.valid)
    smiles = [s for s in checks.smiles if s]
    both = zip(checks.smiles, checks.connected, strict=True)
    whole = [s for s, connected in both if s and connected]
    distinct, distinct_whole = set(smiles), set(whole)
    novel, novel_whole = distinct - train_smiles, distinct_whole - train_smiles
    held_out = novel_whole & held_out_smiles
    in_known = len(distinct_whole) - len(novel_whole - held_out)
    row: Row = {
        "valid": _share(len(smiles), num),
        "valid_connected": _share(len(whole), num),
        "unique": _share(len(distinct), len(smiles)),
        "novel": _share(len(novel), len(distinct)),
        "vun": _share(len(novel), num),
        "unique_connected": _share(len(distinct_whole), len(whole)),
        "novel_connected": _share(len(novel_whole), len(distinct_whole)),
        "in_known": _share(in_known, len(distinct_whole)),
        "held_out": _share(len(held_out), len(distinct_whole)),
        "num_generated": num,
    }
    if checks.num_in_valence is not None:
        in_valence = int(checks.num_in_valence.sum())
        row["valence_ok"] = _share(in_valence, int(checks.num_atoms.sum()))
    return row


def published_scores(checks: MoleculeChecks, all_smiles: AbstractSet[str]) -> Row:
    """Counts like the notebooks of the paper (arXiv 2501.03696).

    A molecule is valid if RDKit reads the SMILES of the unsanitised molecule back;
    loose atoms pass, and the largest fragment is kept. The paper draws 100 molecules of
    2 to 8 heavy atoms; uniqueness in this sense falls as that number grows.

    Args:
      checks: From `check_molecules`.
      all_smiles: Canonical SMILES of the whole data set, held-out parts included.

    Returns:
      `published_valid`; `published_unique`: SMILES that occur exactly once, over
      valid; `published_novel`: share of those not in the data set.
    """
    smiles = [s for s in checks.published_smiles if s]
    once = {s for s, count in Counter(smiles).items() if count == 1}
    return {
        "published_valid": _share(len(smiles), len(checks.published_smiles)),
        "published_unique": _share(len(once), len(smiles)),
        "published_novel": _share(len(once - all_smiles), len(once)),
    }


def _sanitised_smiles(chem: ModuleType, molecule: "RWMol") -> str:
    """Returns the SMILES of the largest fragment, "" if sanitising fails."""
    try:
        chem.SanitizeMol(molecule)
    except ValueError:
        return ""
    largest = chem.MolToSmiles(_largest(chem, molecule))
    again = chem.MolFromSmiles(largest)
    return largest if again is None else chem.MolToSmiles(again)


def _read_back(chem: ModuleType, molecule: "RWMol") -> str:
    """Returns the same after reading the molecule's own SMILES, "" if that fails."""
    read = chem.MolFromSmiles(chem.MolToSmiles(molecule))
    return "" if read is None else chem.MolToSmiles(_largest(chem, read))


def _largest(chem: ModuleType, molecule: "Mol") -> "Mol":
    if len(chem.GetMolFrags(molecule)) < 2:
        return molecule
    fragments = chem.GetMolFrags(molecule, asMols=True)
    return max(fragments, key=lambda fragment: fragment.GetNumHeavyAtoms())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
