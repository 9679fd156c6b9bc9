"""Reads molecules with RDKit, and finds what makes one unusable, in words.

>>> find_fault(parse_smiles("[Na+].[Cl-]"), Limits(max_atoms=9)).reason
'of several fragments'
>>> parse_smiles("C1CC").reason, count_atoms("CCO ethanol"), count_atoms("I1")
('unreadable SMILES', 3, 0)
"""

import re
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from ncgn_jax.molecules.atom_classes import atoms_of, bonds_of, import_chem

if TYPE_CHECKING:
    from rdkit.Chem import Mol

FRAGMENTS = "of several fragments"
MIN_ATOMS = 2  # heavy atoms of a usable molecule
_SHOWN = 60  # characters of a faulty entry in a message
_MAX_LENGTH = 20_000  # of a SMILES: RDKit takes minutes for much longer ones
# How a SMILES begins; numbers are told from it without RDKit.
_START = re.compile(r"[A-Za-z\[*]")
# What RDKit raises, besides its own subclasses, for what it did not expect.
RDKIT_ERRORS = (ValueError, RuntimeError, TypeError, KeyError, OverflowError)


class Fault(NamedTuple):
    """A reason why a molecule is not usable; equal reasons are counted together."""

    reason: str
    found: str
    allowed: str


class Limits(NamedTuple):
    """Limits of a usable molecule: heavy atoms and elements (None for all)."""

    max_atoms: int
    elements: tuple[str, ...] | None = None


def count_atoms(text: str) -> int:
    """Counts the atoms of a SMILES, of which a name may stand behind white space.

    Returns:
      Their number as written; 0 for what is no SMILES.
    """
    chem = import_chem()
    from rdkit import rdBase

    words = text.split(maxsplit=1)
    if not words or not _START.match(words[0]) or len(words[0]) > _MAX_LENGTH:
        return 0
    with rdBase.BlockLogs():
        try:
            mol = chem.MolFromSmiles(words[0], sanitize=False)
        except RDKIT_ERRORS:
            return 0
    return 0 if mol is None else mol.GetNumAtoms()


def parse_smiles(text: str) -> "Mol | Fault":
    """Reads one SMILES; returns a fault if it is not readable or not sound."""
    chem = import_chem()
    from rdkit import rdBase

    fault = Fault("unreadable SMILES", repr(text[:_SHOWN]), "SMILES")
    if not text:
        return Fault("without SMILES", "nothing", "SMILES")
    if len(text) > _MAX_LENGTH:
        return fault._replace(found=f"{len(text):,} characters")
    with rdBase.BlockLogs():
        try:
            mol = chem.MolFromSmiles(text, sanitize=False)
        except RDKIT_ERRORS:
            return fault
        return fault if mol is None else _sanitise(mol, text, chem)


def parse_record(text: str) -> "Mol | Fault":
    """Reads one record of an .sdf; returns a fault as `parse_smiles` does."""
    chem = import_chem()
    from rdkit import rdBase

    fault = Fault("unreadable records", repr(text.strip()[:_SHOWN]), "V2000 or V3000")
    with rdBase.BlockLogs():
        try:
            mol = chem.MolFromMolBlock(text, removeHs=False)
            if mol is not None:
                return mol
            # Once more, to tell what is unsound from what is unreadable.
            mol = chem.MolFromMolBlock(text, sanitize=False, removeHs=False)
        except RDKIT_ERRORS:
            return fault
        return fault if mol is None else _sanitise(mol, "record", chem)


def _sanitise(mol: "Mol", text: str, chem: ModuleType) -> "Mol | Fault":
    try:
        chem.SanitizeMol(mol)
    except RDKIT_ERRORS as error:  # those for valences and aromatic rings too
        found = f"{text[:_SHOWN]!r}: {error}"
        return Fault("unsound structure", found, "usual valences and rings")
    return mol


def largest_fragment(mol: "Mol") -> "Mol":
    """Returns the fragment with most heavy atoms, its charge unchanged.

    Of several that large it is the heaviest, and then the first by its SMILES: RDKit's
    own rule.
    """
    from rdkit import rdBase
    from rdkit.Chem.MolStandardize import rdMolStandardize

    parameters = rdMolStandardize.CleanupParameters()
    parameters.largestFragmentChooserCountHeavyAtomsOnly = True  # type: ignore
    with rdBase.BlockLogs():
        return rdMolStandardize.LargestFragmentChooser(parameters).choose(mol)


def find_fault(mol: "Mol", limits: Limits) -> Fault | None:
    """Returns why a sanitised molecule is not usable, or None if it is."""
    chem = import_chem()
    parts = len(chem.GetMolFrags(mol))
    if parts > 1:
        return Fault(FRAGMENTS, f"{parts} fragments", "one, or data.salts=largest")
    atoms = atoms_of(mol)
    if any(atom.GetNumRadicalElectrons() for atom in atoms):
        return Fault("with unpaired electrons", chem.MolToSmiles(mol), "none")
    if limits.elements is not None:
        symbols = {a.GetSymbol() for a in atoms if a.GetAtomicNum() != 1}
        symbols -= set(limits.elements)
    else:
        symbols = {a.GetSymbol() for a in atoms if a.GetAtomicNum() == 0}
    if symbols:
        allowed = ", ".join(limits.elements or ("any element",))
        return Fault("of other elements", ", ".join(sorted(symbols)), allowed)
    kinds = {bond.GetBondType().name for bond in bonds_of(mol)}
    if kinds - {"SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"}:
        allowed = "single, double, triple, aromatic"
        return Fault("with other bonds", ", ".join(sorted(kinds)), allowed)
    num = mol.GetNumHeavyAtoms()
    if num < MIN_ATOMS:
        allowed = f"{MIN_ATOMS} to {limits.max_atoms}"
        reason = f"of fewer than {MIN_ATOMS} heavy atoms"
        return Fault(reason, f"{num} heavy atoms", allowed)
    return None


def find_size_fault(num: int, limits: Limits) -> Fault | None:
    """Returns the fault of a molecule that is too large, or None if it is not."""
    if num <= limits.max_atoms:
        return None
    return Fault(
        f"of more than {limits.max_atoms} heavy atoms (data.max_atoms)",
        f"{num} heavy atoms",
        f"{MIN_ATOMS} to {limits.max_atoms}",
    )
