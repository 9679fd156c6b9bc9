"""Builds RDKit molecules from atom classes and bond orders; counts histograms.

`validity` describes a batch and re-exports the public functions. RDKit is imported when
first used.

Example:
  >>> to_molecule([0, 1], [[0, 2], [2, 0]], ("C", "O")).GetNumBonds()
  1
"""

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncgn_jax.molecules.atom_classes import import_chem, split_class

if TYPE_CHECKING:
    from rdkit.Chem import RWMol

Histograms = dict[str, NDArray[np.int64]]
_MAX_ORDER = 3


def to_molecule(atoms: ArrayLike, bonds: ArrayLike, classes: Sequence[str]) -> "RWMol":
    """Builds one molecule as drawn: formal charges, no radicals, not sanitised.

    Args:
      atoms: Class of every atom, [atom], -1 = padding.
      bonds: Orders, [atom, atom], 0 to 3, symmetric; those of padding are ignored.
      classes: Symbol and formal charge of every class.

    Returns:
      An RDKit molecule whose atoms are the real ones, in order.

    Raises:
      DataError: If RDKit is absent or a class is no name.
      ValueError: If shapes, orders or classes do not fit.
    """
    atoms, bonds = check_batch(np.asarray(atoms)[None], np.asarray(bonds)[None])
    names = [split_class(name) for name in classes]
    return build_molecule(import_chem(), atoms[0], bonds[0], names)


def molecule_histograms(atoms: ArrayLike, bonds: ArrayLike) -> Histograms:
    """Counts the histograms that `size_and_element_distances` compares.

    Invalid molecules are counted too.

    Args:
      atoms: Class of every atom, [molecule, atom], -1 = padding.
      bonds: Orders, [molecule, atom, atom].

    Returns:
      Counts by value: `size` (atoms of a molecule), `element` (classes), `order` (of
      bonds), `degree` (bonds of an atom) and `ring` (sizes in the smallest set of
      smallest rings; a molecule without rings counts once as 0).
    """
    atoms, bonds = check_batch(atoms, bonds)
    real = atoms >= 0
    orders = np.triu(bonds)
    return {
        "size": np.bincount(real.sum(axis=1)),
        "element": np.bincount(atoms[real]),
        "order": np.bincount(orders[orders > 0]),
        "degree": np.bincount((bonds > 0).sum(axis=-1)[real]),
        "ring": np.bincount(_ring_sizes(atoms, bonds)),
    }


def size_and_element_distances(
    generated: Histograms, reference: Histograms
) -> dict[str, float]:
    """Measures the total variation, 1/2 sum |p - q|, between histograms of two sets.

    Args:
      generated: From `molecule_histograms`.
      reference: The same of real molecules.

    Returns:
      `distance_<name>` in [0, 1] for every histogram; 1 if only one of two is empty.
    """
    return {
        f"distance_{name}": _total_variation(counts, reference[name])
        for name, counts in generated.items()
    }


def check_batch(
    atoms: ArrayLike, bonds: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Checks a batch; returns integers without bonds at padding.

    Raises:
      ValueError: If shapes do not fit, if bonds are not symmetric or have a diagonal,
        or if an order is not 0 to 3.
    """
    atoms, bonds = np.asarray(atoms), np.asarray(bonds)
    if atoms.ndim != 2 or bonds.shape != (*atoms.shape, atoms.shape[1]):
        raise ValueError(
            "atoms must be [molecule, atom] and bonds [molecule, atom, atom]; got "
            f"{atoms.shape} and {bonds.shape}"
        )
    real = atoms >= 0
    bonds = np.where(real[:, :, None] & real[:, None, :], bonds, 0)
    loops = np.diagonal(bonds, axis1=1, axis2=2).any()
    if loops or (bonds != bonds.swapaxes(1, 2)).any():
        raise ValueError("bonds must be symmetric, with nothing on the diagonal")
    if bonds.size and not (bonds.min() >= 0 and bonds.max() <= _MAX_ORDER):
        raise ValueError(
            f"bond orders must be 0 to 3; got {bonds.min()} to {bonds.max()}"
        )
    return atoms.astype(np.int64), bonds.astype(np.int64)


def build_molecule(
    chem: ModuleType,
    atoms: NDArray[np.int64],
    bonds: NDArray[np.int64],
    names: list[tuple[str, int]],
) -> "RWMol":
    """Builds the molecule of `to_molecule` from checked arrays and parsed classes."""
    real = np.flatnonzero(atoms >= 0)
    kinds = chem.BondType
    types = (kinds.ZERO, kinds.SINGLE, kinds.DOUBLE, kinds.TRIPLE)
    molecule = chem.RWMol()
    for kind in atoms[real].tolist():
        if kind >= len(names):
            raise ValueError(f"an atom has class {kind}, but {len(names)} are named")
        symbol, charge = names[kind]
        atom = chem.Atom(symbol)
        atom.SetFormalCharge(charge)
        molecule.AddAtom(atom)
    compact = np.triu(bonds[np.ix_(real, real)])
    for i, j in np.argwhere(compact).tolist():
        molecule.AddBond(i, j, types[compact[i, j]])
    return molecule


def _ring_sizes(atoms: NDArray[np.int64], bonds: NDArray[np.int64]) -> list[int]:
    chem = import_chem()
    sizes = []
    for kinds, orders in zip(np.minimum(atoms, 0), bonds, strict=True):
        rings = chem.GetSSSR(build_molecule(chem, kinds, orders, [("C", 0)]))
        sizes += [len(ring) for ring in rings] or [0]
    return sizes


def _total_variation(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    size = max(len(a), len(b))
    a, b = (np.pad(counts, (0, size - len(counts))) for counts in (a, b))
    if not (a.any() and b.any()):
        return float(a.any() or b.any())
    return float(np.abs(a / a.sum() - b / b.sum()).sum() / 2)
