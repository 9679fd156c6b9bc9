"""Finds what makes a molecule unusable, in words that can be counted.

>>> find_fault(parse_smiles("[Na+].[Cl-]"), Limits(max_atoms=9)).reason
'of several fragments'
>>> describe_faults([(3, parse_smiles("C1CC")), (7, parse_smiles("?"))])
'left out: 2 unreadable SMILES (first in line 3)'
"""

from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from ncgn_jax.molecules.atom_classes import import_chem

if TYPE_CHECKING:
    from rdkit.Chem import Mol

MIN_ATOMS = 2  # heavy atoms of a usable molecule
_SHOWN = 60  # characters of a faulty entry in a message


class Fault(NamedTuple):
    """A reason why a molecule is not usable; equal reasons are counted together."""

    reason: str
    found: str
    allowed: str


class Limits(NamedTuple):
    """Limits of a usable molecule: heavy atoms and elements (None for all)."""

    max_atoms: int
    elements: tuple[str, ...] | None = None


def describe_faults(faults: Iterable[tuple[int, Fault]]) -> str:
    """Counts faults by reason, and names the line of the first of each."""
    first: dict[str, int] = {}
    counts: dict[str, int] = {}
    for line, fault in faults:
        first.setdefault(fault.reason, line)
        counts[fault.reason] = counts.get(fault.reason, 0) + 1
    listed = [f"{counts[r]} {r} (first in line {first[r]})" for r in counts]
    return f"left out: {', '.join(listed) or 'none'}"


def parse_smiles(text: str) -> "Mol | Fault":
    """Reads one SMILES; returns a fault if it is not readable or not sound."""
    chem = import_chem()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        mol = chem.MolFromSmiles(text, sanitize=False) if text else None
        if mol is None:
            return Fault("unreadable SMILES", repr(text[:_SHOWN]), "SMILES")
        return _sanitise(mol, text, chem)


def parse_record(text: str) -> "Mol | Fault":
    """Reads one record of an .sdf; returns a fault as `parse_smiles` does."""
    chem = import_chem()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        supplier = chem.SDMolSupplier()
        supplier.SetData(text, sanitize=False, removeHs=False)
        mol = supplier[0] if len(supplier) else None
        if mol is None:
            found = repr(text.strip()[:_SHOWN])
            return Fault("unreadable records", found, "V2000 or V3000")
        return _sanitise(mol, "record", chem)


def _sanitise(mol: "Mol", text: str, chem: ModuleType) -> "Mol | Fault":
    try:
        chem.SanitizeMol(mol)
    except ValueError as error:  # RDKit's exceptions for valences and aromatic rings
        found = f"{text[:_SHOWN]!r}: {error}"
        return Fault("unsound structure", found, "usual valences and rings")
    return mol


def find_fault(mol: "Mol", limits: Limits) -> Fault | None:
    """Returns why a sanitised molecule is not usable, or None if it is."""
    chem = import_chem()
    parts = len(chem.GetMolFrags(mol))
    if parts > 1:
        return Fault("of several fragments", f"{parts} fragments", "one")
    if sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return Fault("with unpaired electrons", chem.MolToSmiles(mol), "none")
    symbols = {atom.GetSymbol() for atom in mol.GetAtoms() if atom.GetAtomicNum() != 1}
    if limits.elements is not None:
        symbols -= set(limits.elements)
    else:
        symbols = {a.GetSymbol() for a in mol.GetAtoms() if a.GetAtomicNum() == 0}
    if symbols:
        allowed = ", ".join(limits.elements or ("any element",))
        return Fault("of other elements", ", ".join(sorted(symbols)), allowed)
    kinds = {bond.GetBondType().name for bond in mol.GetBonds()}
    if kinds - {"SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"}:
        allowed = "single, double, triple, aromatic"
        return Fault("with other bonds", ", ".join(sorted(kinds)), allowed)
    num = mol.GetNumHeavyAtoms()
    sizes = f"{MIN_ATOMS} to {limits.max_atoms}"
    if num < MIN_ATOMS:
        reason = f"of fewer than {MIN_ATOMS} heavy atoms"
    elif num > limits.max_atoms:
        reason = f"of more than {limits.max_atoms} heavy atoms"
    else:
        return None
    return Fault(reason, f"{num} heavy atoms", sizes)
