"""Names atom classes, an element with a formal charge: "N+".

>>> split_class("O-"), class_name("Fe", 2)
(('O', -1), 'Fe+2')
>>> max_valences(["C", "N+", "O-", "S"]).tolist()
[4, 4, 1, 6]
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from ncgn_jax.faults import DataError

if TYPE_CHECKING:
    from rdkit.Chem import Atom, Bond, Mol

# Limit for decoders, because RDKit's periodic table has no valence for metals.
METAL_VALENCE = 8
# Atomic numbers of P, S, As and Se, and the most electrons at which they take the
# valence of the element with as many (RDKit's valence model).
_HYPERVALENT = {15: 16, 16: 16, 33: 34, 34: 34}
_CLASS = re.compile(r"([A-Z][a-z]?)(?:([+-])([2-9])?)?")


def import_chem() -> ModuleType:
    """Imports `rdkit.Chem`, an optional extra.

    Raises:
      DataError: If RDKit does not import, with the command that installs it.
    """
    try:
        from rdkit import Chem
    except ImportError as error:
        raise DataError(
            f"molecules need RDKit, which does not import ({error}); "
            "`pip install 'ncgn_jax[molecules]'`"
        ) from error
    return Chem


def atoms_of(mol: "Mol") -> "list[Atom]":
    """Returns the atoms of a molecule.

    `GetAtoms` of RDKit asks for their number at every step, which takes longer than
    all else that is done with them.
    """
    return [mol.GetAtomWithIdx(i) for i in range(mol.GetNumAtoms())]


def bonds_of(mol: "Mol") -> "list[Bond]":
    """Returns the bonds of a molecule, for the same reason."""
    return [mol.GetBondWithIdx(i) for i in range(mol.GetNumBonds())]


@lru_cache(maxsize=1024)
def class_name(symbol: str, charge: int) -> str:
    """Names an atom class: "C", "O-", "Fe+2"."""
    size = str(abs(charge)) if abs(charge) > 1 else ""
    return symbol + "+-"[charge < 0] * (charge != 0) + size


def split_class(name: str) -> tuple[str, int]:
    """Splits the name of an atom class into element and formal charge.

    Raises:
      DataError: If `class_name` does not make such a name.
    """
    match = _CLASS.fullmatch(name)
    if match is None:
        raise DataError(f"atom class {name!r}; allowed: 'C', 'N+', 'O-', 'Fe+2', ...")
    symbol, sign, size = match.groups()
    return symbol, {None: 0, "+": 1, "-": -1}[sign] * int(size or 1)


def max_valences(classes: Sequence[str]) -> np.ndarray:
    """Returns the largest sum of bond orders of each class, int32 [class].

    This is the largest valence, in RDKit's periodic table, of the element with as many
    electrons: N+ counts as C and O- as F. If that element is Cl, Ar, Br or Kr, then P,
    S, As and Se keep their own valence plus the charge: 5 for S-. Metals without a
    valence in the table get `METAL_VALENCE`.

    Raises:
      DataError: If a class is no name or has an unknown element.
    """
    table = import_chem().GetPeriodicTable()
    valences = []
    for name in classes:
        symbol, charge = split_class(name)
        number = _atomic_number(symbol, name)
        electrons = max(number - charge, 0)
        found = max(table.GetValenceList(electrons)) if electrons else 0
        found = METAL_VALENCE if found < 0 else found
        if electrons > _HYPERVALENT.get(number, electrons):
            found = max(max(table.GetValenceList(number)) + charge, 0)
        valences.append(found)
    return np.asarray(valences, np.int32)


def _atomic_number(symbol: str, name: str) -> int:
    table = import_chem().GetPeriodicTable()
    symbols = {table.GetElementSymbol(number): number for number in range(1, 119)}
    if symbol not in symbols:
        raise DataError(
            f"atom class {name!r}: no element {symbol!r}; allowed: symbols of the "
            "periodic table, such as 'C' and 'Cl'"
        )
    return symbols[symbol]
