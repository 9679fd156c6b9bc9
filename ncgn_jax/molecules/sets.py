"""Stores molecules as arrays: a class for every atom, an order for every bond.

Hydrogens are left out, because they follow from the bonds; aromatic rings are stored in
one Kekule form. Stereo marks, isotopes and radicals are dropped, and the SMILES are
those of the stored graph.

>>> from rdkit import Chem
>>> molecules = encode_molecules([Chem.MolFromSmiles("C[N+](=O)[O-]")], depict=True)
>>> molecules.classes, molecules.atoms.tolist()
(('C', 'N+', 'O', 'O-'), [[0, 1, 2, 3]])
>>> molecules.bonds[0, 1].tolist(), max_valences(molecules.classes).tolist()
([1, 0, 2, 1], [4, 4, 2, 1])
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ncgn_jax.data.report import DataReport
from ncgn_jax.faults import DataError
from ncgn_jax.molecules.atom_classes import (
    atoms_of,
    bonds_of,
    class_name,
    import_chem,
)
from ncgn_jax.molecules.atom_classes import max_valences as max_valences
from ncgn_jax.molecules.faults import RDKIT_ERRORS

if TYPE_CHECKING:
    from rdkit.Chem import Bond, Mol, RWMol

BOND_ORDERS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class MoleculeSet:
    """Molecular graphs of heavy atoms, padded to the largest.

    Attributes:
      atoms: Class of each atom, int8 [molecule, atom]; -1 in the padding.
      bonds: Order of each bond, 0 for none, int8 [molecule, atom, atom], symmetric.
      classes: Name of each class, element and formal charge: "C", "N+", "Fe+2".
      smiles: Canonical SMILES of each graph, unicode [molecule].
      properties: Numbers by name, float32 [molecule]; NaN where unknown.
      depictions: Place of each atom in a drawing with bonds of length 1.5, float32
        [molecule, atom, 2], mean 0, padding 0; None without drawings.
    """

    atoms: np.ndarray
    bonds: np.ndarray
    classes: tuple[str, ...]
    smiles: np.ndarray
    properties: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    depictions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def node_mask(self) -> np.ndarray:
        """Returns False for padding, bool [molecule, atom]."""
        return self.atoms >= 0

    @property
    def num_atoms(self) -> np.ndarray:
        """Returns the number of heavy atoms of each molecule, int32 [molecule]."""
        return self.node_mask.sum(axis=1, dtype=np.int32)

    def take(self, index: np.ndarray | slice) -> "MoleculeSet":
        """Returns the molecules at `index` (numbers, a mask or a slice)."""
        drawn = None if self.depictions is None else self.depictions[index]
        return dataclasses.replace(
            self,
            atoms=self.atoms[index],
            bonds=self.bonds[index],
            smiles=self.smiles[index],
            properties={name: v[index] for name, v in self.properties.items()},
            depictions=drawn,
        )

    def check(self) -> None:
        """Raises DataError if shapes or values contradict the attributes above."""
        num, size = self.atoms.shape
        mask = self.node_mask
        pairs = mask[:, :, None] & mask[:, None, :] & ~np.eye(size, dtype=bool)
        places = (
            np.zeros((num, size, 2)) if self.depictions is None else self.depictions
        )
        rules = {
            "atoms": self.atoms.dtype == np.int8
            and np.all((self.atoms >= -1) & (self.atoms < len(self.classes)))
            and np.all(mask[:, :-1] >= mask[:, 1:]),
            "bonds": self.bonds.shape == (num, size, size)
            and self.bonds.dtype == np.int8
            and np.all((self.bonds >= 0) & (self.bonds <= max(BOND_ORDERS)))
            and np.all(self.bonds == self.bonds.swapaxes(1, 2))
            and not self.bonds[~pairs].any(),
            "classes": len(set(self.classes)) == len(self.classes),
            "smiles": self.smiles.shape == (num,) and self.smiles.dtype.kind == "U",
            "properties": all(v.shape == (num,) for v in self.properties.values()),
            "depictions": places.shape == (num, size, 2)
            and np.all(np.isfinite(places))
            and not places[~mask].any(),
        }
        wrong = [name for name, holds in rules.items() if not holds]
        if wrong:
            raise DataError(f"molecules: {', '.join(wrong)} not as described")


@dataclasses.dataclass(frozen=True)
class MoleculeDataset:
    """Training, validation and test molecules with the same classes and padding.

    Attributes:
      name: Name in every table, e.g. "QM9".
      report: How the molecules were read.
      train: Molecules to learn from.
      validation: Molecules to choose models by.
      test: Molecules to report on.
    """

    name: str
    report: DataReport
    train: MoleculeSet
    validation: MoleculeSet
    test: MoleculeSet

    def all_smiles(self) -> frozenset[str]:
        """Returns the distinct SMILES of the three parts."""
        parts = (self.train, self.validation, self.test)
        return frozenset(text for part in parts for text in part.smiles.tolist())


class Graph(NamedTuple):
    """A molecule between RDKit and the arrays.

    Attributes:
      names: Class of each atom.
      bonds: Begin, end and order of each bond, int8 [bond, 3].
      smiles: Canonical SMILES of what is stored.
      num_hydrogens: Hydrogens of each atom, as they follow from its bonds.
      places: Place of each atom in a drawing, [atom, 2]; None without one.
    """

    names: tuple[str, ...]
    bonds: np.ndarray
    smiles: str
    num_hydrogens: tuple[int, ...]
    places: np.ndarray | None = None


def encode_molecules(
    mols: Iterable["Mol"],
    classes: Sequence[str] | None = None,
    max_atoms: int | None = None,
    *,
    depict: bool = False,
) -> MoleculeSet:
    """Converts RDKit molecules to arrays; heavy atoms keep their order.

    Args:
      mols: Sanitised molecules, read one by one and not changed.
      classes: Atom classes to use; None for those found, the commonest first.
      max_atoms: Atoms to pad to; None for those of the largest molecule.
      depict: Whether to draw the molecules too (RDKit's 2-D coordinates).

    Returns:
      The molecules, without properties.

    Raises:
      DataError: If a molecule, numbered from 0 in the message, is too large, has an
        atom of another class, a bond that is not single, double or triple, or a
        valence that is too high.
    """
    graphs = []
    for index, mol in enumerate(mols):
        try:
            graph, plain = to_graph(mol)
        except DataError as error:
            raise DataError(f"molecule {index}: {error}") from error
        graphs.append(graph._replace(places=draw(plain)) if depict else graph)
    return encode_graphs(graphs, classes, max_atoms, depict=depict)


def encode_graphs(
    graphs: Sequence[Graph],
    classes: Sequence[str] | None = None,
    max_atoms: int | None = None,
    *,
    depict: bool = False,
) -> MoleculeSet:
    """Converts graphs to arrays; arguments as those of `encode_molecules`."""
    if classes is None:
        counts = Counter(name for graph in graphs for name in graph.names)
        classes = sorted(counts, key=lambda name: (-counts[name], name))
    if max_atoms is None:
        max_atoms = max((len(graph.names) for graph in graphs), default=0)
    atoms = np.full((len(graphs), max_atoms), -1, np.int8)
    bonds = np.zeros((len(graphs), max_atoms, max_atoms), np.int8)
    places = np.zeros((len(graphs), max_atoms, 2), np.float32)
    indices = {name: index for index, name in enumerate(classes)}
    for row, graph in enumerate(graphs):
        _check_graph(graph, row, indices, max_atoms)
        atoms[row, : len(graph.names)] = [indices[name] for name in graph.names]
        begin, end, order = graph.bonds.T
        bonds[row, begin, end] = bonds[row, end, begin] = order
        if graph.places is not None:
            places[row, : len(graph.names)] = graph.places
    smiles = np.asarray([graph.smiles for graph in graphs], np.str_)
    drawn = places if depict else None
    return MoleculeSet(atoms, bonds, tuple(classes), smiles, {}, drawn)


def _check_graph(
    graph: Graph, row: int, indices: dict[str, int], max_atoms: int
) -> None:
    where = f"molecule {row} ({graph.smiles})"
    if len(graph.names) > max_atoms:
        raise DataError(f"{where}: {len(graph.names)} atoms; allowed: max {max_atoms}")
    unknown = sorted(set(graph.names) - set(indices))
    if unknown:
        raise DataError(
            f"{where}: atom class {unknown[0]!r}; allowed: {', '.join(indices)}"
        )


def to_graph(mol: "Mol") -> "tuple[Graph, RWMol]":
    """Converts a sanitised molecule, which is not changed.

    Returns:
      The graph, and the molecule that it stands for.

    Raises:
      DataError: If it has a bond that is not single, double or triple, a valence that
        is too high, or is otherwise beyond RDKit.
    """
    chem = import_chem()
    try:
        plain = _strip_molecule(mol, chem)
        bonds = [_to_bond(bond) for bond in bonds_of(plain)]
        atoms = atoms_of(plain)
        names = tuple(class_name(a.GetSymbol(), a.GetFormalCharge()) for a in atoms)
        chem.SanitizeMol(plain)
        smiles = chem.MolToSmiles(plain)
    except RDKIT_ERRORS as error:
        raise DataError(str(error)) from error
    num_hydrogens = tuple(atom.GetTotalNumHs() for atom in atoms)
    array = np.asarray(bonds, np.int8).reshape(-1, 3)
    return Graph(names, array, smiles, num_hydrogens), plain


def _strip_molecule(mol: "Mol", chem: ModuleType) -> "RWMol":
    """Copies elements, charges and Kekule bonds; hydrogens follow from these."""
    plain = chem.RWMol(mol)
    chem.RemoveStereochemistry(plain)
    atoms = atoms_of(plain)
    for atom in atoms:
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
    if any(atom.GetAtomicNum() == 1 for atom in atoms):
        plain = chem.RWMol(chem.RemoveHs(plain))
    chem.Kekulize(plain, clearAromaticFlags=True)
    for atom in atoms_of(plain):
        atom.SetNoImplicit(False)
        atom.SetNumExplicitHs(0)
        atom.SetNumRadicalElectrons(0)
    return plain


def _to_bond(bond: "Bond") -> tuple[int, int, int]:
    order = bond.GetBondTypeAsDouble()
    if order not in BOND_ORDERS or bond.GetBondType().name.startswith("DATIVE"):
        raise DataError(
            f"bond of type {bond.GetBondType().name}; allowed: SINGLE, DOUBLE, TRIPLE"
        )
    return bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), int(order)


def draw(mol: "Mol") -> np.ndarray:
    """Draws a molecule; returns the place of each atom, float32 [atom, 2], mean 0."""
    from rdkit.Chem import rdDepictor

    # RDKit's own algorithm, whatever the session's default, so that runs agree.
    rdDepictor.Compute2DCoords(mol, canonOrient=True, forceRDKit=True)
    places = mol.GetConformer().GetPositions()[:, :2]
    return (places - places.mean(axis=0)).astype(np.float32)


def split_molecules(
    molecules: MoleculeSet, num_train: int, num_validation: int, seed: int
) -> tuple[MoleculeSet, MoleculeSet, MoleculeSet]:
    """Draws training and validation molecules; the rest are the test molecules.

    Raises:
      DataError: If one of the three parts would be empty.
    """
    left = len(molecules) - num_train - num_validation
    if min(num_train, num_validation, left) < 1:
        raise DataError(
            f"num_train={num_train}, num_validation={num_validation} of "
            f"{len(molecules)} molecules leave {left} to test; allowed: each >= 1"
        )
    order = np.random.default_rng(seed).permutation(len(molecules))
    train, validation, test = (
        molecules.take(part)
        for part in np.split(order, [num_train, num_train + num_validation])
    )
    return train, validation, test
