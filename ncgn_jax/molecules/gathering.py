r"""Gathers molecules from a reader: counts, leaves out and encodes them one by one.

Example:
  >>> from ncgn_jax.data.report import Reading
  >>> from ncgn_jax.molecules.faults import Limits, parse_smiles
  >>> gathered = Gathered(Reading("mine.smi", "molecules"), Limits(max_atoms=3))
  >>> for line, text in enumerate(["CCO", "OCC", "C[SnH3]"], start=1):
  ...     gathered.add(f"line {line}", parse_smiles(text))
  >>> gathered.encode().smiles.tolist()
  ['CCO']
  >>> print(*gathered.reading.left_out, sep="\n")
  1 equal to an earlier one (first line 2)
  1 with hydrogens that bonds do not determine (first line 3)
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import SPLITS
from ncgn_jax.faults import DataError
from ncgn_jax.molecules.atom_classes import atoms_of, bonds_of, import_chem
from ncgn_jax.molecules.faults import (
    FRAGMENTS,
    RDKIT_ERRORS,
    Fault,
    Limits,
    find_fault,
    find_size_fault,
    largest_fragment,
)
from ncgn_jax.molecules.sets import Graph, MoleculeSet, draw, encode_graphs, to_graph

if TYPE_CHECKING:
    from rdkit.Chem import Mol

INVALID = ("skip", "stop")
SALTS = ("refuse", "largest")
MOST_ATOMS = 64  # that `data.max_atoms` may be
_MANY_TOO_LARGE = 0.02  # of the molecules: a note names the field
_KEPT_SHARE = 0.99
_SHOWN_CLASSES = 12
_BAD = "with a bad"  # value; the first of them is shown


@dataclasses.dataclass(frozen=True)
class Rules:
    """How faulty, repeated and compound molecules are taken.

    Attributes:
      invalid: "skip" leaves unusable molecules out, "stop" refuses the data.
      salts: "refuse" holds several fragments for a fault, "largest" keeps the largest.
      repeated: Whether molecules that are there already are kept too.
      depict: Whether to draw the molecules, see `sets.encode_molecules`.
    """

    invalid: str = "skip"
    salts: str = "refuse"
    repeated: bool = False
    depict: bool = False


class WayOut(NamedTuple):
    """How more molecules could be kept.

    Attributes:
      words: A sentence for the end of a message; empty if there is no way.
      fields: Fields that do it, and their values.
    """

    words: str
    fields: dict[str, float | str]


class Gathered:
    """Takes molecules in their order.

    Attributes:
      reading: Counts what is left out.
      splits: Split of each molecule that is kept, None where there is none.
    """

    def __init__(
        self,
        reading: Reading,
        limits: Limits,
        names: Sequence[str] = (),
        rules: Rules = Rules(),  # noqa: B008  frozen
    ):
        """Prepares to take molecules.

        Args:
          reading: Counts what is left out.
          limits: Of a usable molecule.
          names: Properties, in the order of the values that are given.
          rules: How faulty, repeated and compound molecules are taken.
        """
        self.reading = reading
        self.splits: list[str | None] = []
        self._limits, self._names, self._rules = limits, tuple(names), rules
        self._graphs: list[Graph] = []
        self._values: list[tuple[float, ...]] = []
        self._known: dict[str, int] = {}
        self._known_exactly: set[str] = set()
        self._too_large: Counter[int] = Counter()
        self._first: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._graphs)

    @property
    def num_repeated(self) -> int:
        """Number of molecules that are kept and equal an earlier one."""
        return len(self._graphs) - len(self._known)

    def add(
        self,
        place: str,
        mol: "Mol | Fault",
        values: Mapping[str, str] | None = None,
        split: str | None = None,
    ) -> None:
        """Takes a molecule, or leaves it out with a reason.

        Args:
          place: Where it stands: "line 3".
          mol: As RDKit reads it, or why it does not.
          values: Text of each property.
          split: Split that it belongs to.

        Raises:
          DataError: If it is unusable and `rules.invalid` is "stop".
        """
        from rdkit import rdBase

        with rdBase.BlockLogs():
            self._add(place, mol, values or {}, split)

    def _add(
        self,
        place: str,
        mol: "Mol | Fault",
        values: Mapping[str, str],
        split: str | None,
    ) -> None:
        is_part = False
        if not isinstance(mol, Fault) and self._rules.salts == "largest":
            is_part, mol = _reduce(mol)
        fault = mol if isinstance(mol, Fault) else find_fault(mol, self._limits)
        numbers: list[float] = []
        if fault is None:
            numbers, fault = self._read_values(values)
        if isinstance(mol, Fault) or fault is not None:
            assert fault is not None
            self._leave_out(place, fault)
            return
        size_fault = find_size_fault(mol.GetNumHeavyAtoms(), self._limits)
        if size_fault is not None:
            self._too_large[mol.GetNumHeavyAtoms()] += 1
            self._leave_out(place, size_fault)
            return
        try:
            graph, plain = to_graph(mol)
        except DataError as error:
            fault = Fault("without a graph of heavy atoms", str(error), "with one")
            self._leave_out(place, fault)
            return
        if fault := _find_hydrogen_fault(mol, graph):
            self._leave_out(place, fault)
            return
        self._count("reduced", place, is_part)
        marks, exact = _find_marks(mol, graph)
        for mark in marks:
            self._count(mark, place)
        index = self._known.setdefault(graph.smiles, len(self._graphs))
        if index < len(self._graphs) and not self._rules.repeated:
            self._drop(place, index, exact, numbers, split)
            return
        self._known_exactly.add(exact)
        drawn = draw(plain) if self._rules.depict else None
        self._graphs.append(graph._replace(places=drawn))
        self._values.append(tuple(numbers))
        self.splits.append(split)

    def leave_out(self, place: str, fault: Fault) -> None:
        """Counts what is no molecule; arguments as those of `add`."""
        self._leave_out(place, fault)

    def encode(self, classes: Sequence[str] | None = None) -> MoleculeSet:
        """Returns the molecules that were kept, with their properties.

        Args:
          classes: Atom classes; None for those found, the commonest first.

        Raises:
          DataError: If there are none.
        """
        if not self._graphs:
            reasons = ", ".join(map(str, self.reading.left_out)) or "nothing"
            way_out = self.way_out()
            raise DataError(
                f"{self.reading.origin}: no usable molecule; left out: {reasons}"
                f"{way_out.words}",
                way_out.fields,
            )
        molecules = encode_graphs(
            self._graphs, classes, self._limits.max_atoms, depict=self._rules.depict
        )
        shape = len(self._graphs), len(self._names)
        columns = np.asarray(self._values, np.float32).reshape(shape).T
        molecules.properties.update(zip(self._names, columns.copy(), strict=True))
        return molecules

    def way_out(self) -> WayOut:
        """Returns how more of the molecules could be kept."""
        size = self._propose_size()
        words = f"; {size}" if size else ""
        if any(tally.kind == FRAGMENTS for tally in self.reading.left_out):
            words += "; data.salts=largest keeps the largest fragment of each"
        enough = min(self._enough_atoms(), MOST_ATOMS)
        if min(self._too_large, default=MOST_ATOMS + 1) > enough:
            return WayOut(words, {})
        return WayOut(words, {"data.max_atoms": enough})

    def say_all(self) -> None:
        """Notes what the molecules lost and what was decided about them."""
        say = {
            "stereo": "with stereo marks, which are not kept: forms that differ in "
            "these alone are one molecule",
            "isotope": "with isotopes, which are not kept",
            "map": "with atom maps, which are not kept",
            "reduced": "of several fragments, reduced to the largest (most heavy "
            "atoms, then heaviest, then first by SMILES) with its charges",
            "conflict": "that stand there again with another value of a property; the "
            "first is kept",
            "between": "in several splits, kept in the last of train, "
            "val, test that has them",
        }
        for key, words in say.items():
            if count := self._counts[key]:
                first = self._first[key]
                self.reading.say(f"{count:,} {words} (first {first})")
        large, all_sizes = sum(self._too_large.values()), self._all_sizes()
        if large > _MANY_TOO_LARGE * sum(all_sizes.values()):
            self.reading.say(self._propose_size())

    def _count(self, key: str, place: str, is_so: bool = True) -> None:
        if is_so:
            self._counts[key] += 1
            self._first.setdefault(key, place)

    def _leave_out(self, place: str, fault: Fault) -> None:
        if self._rules.invalid == "stop":
            raise DataError(
                f"{self.reading.origin}, {place}: {fault.reason} ({fault.found}); "
                f"allowed: {fault.allowed}, or data.invalid=skip"
            )
        shown = f": {fault.found}" if fault.reason.startswith(_BAD) else ""
        self.reading.leave_out(fault.reason, f"{place}{shown}")

    def _read_values(
        self, values: Mapping[str, str]
    ) -> tuple[list[float], Fault | None]:
        numbers = [read_number(values.get(name, "")) for name in self._names]
        for name, number in zip(self._names, numbers, strict=True):
            if number is None:
                text = repr(values[name][:60])
                return [], Fault(f"{_BAD} {name}", text, "a number or nothing")
        return [number for number in numbers if number is not None], None

    def _drop(
        self,
        place: str,
        index: int,
        exact: str,
        values: Sequence[float],
        split: str | None,
    ) -> None:
        """Leaves out a molecule that equals the one kept at `index`."""
        is_exact = exact in self._known_exactly
        self._known_exactly.add(exact)
        but = "" if is_exact else " but for marks that are not kept"
        self.reading.leave_out(f"equal to an earlier one{but}", place)
        self._count("conflict", place, _differ(self._values[index], values))
        kept = self.splits[index]
        if split is not None and kept is not None and split != kept:
            self._count("between", place)
            self.splits[index] = max(split, kept, key=SPLITS.index)

    def _all_sizes(self) -> Counter[int]:
        return self._too_large + Counter(len(graph.names) for graph in self._graphs)

    def _enough_atoms(self) -> int:
        """Returns the number of atoms that nearly all molecules have at most."""
        ordered = sorted(self._all_sizes().elements())
        return ordered[math.ceil(_KEPT_SHARE * len(ordered)) - 1] if ordered else 0

    def _propose_size(self) -> str:
        """Says which `data.max_atoms` would keep nearly all."""
        sizes, large = self._all_sizes(), sum(self._too_large.values())
        if not large:
            return ""
        ordered = sorted(sizes.elements())
        total, most = len(ordered), ordered[-1]
        enough = self._enough_atoms()
        start = (
            f"{large:,} of {total:,} molecules have more than "
            f"data.max_atoms={self._limits.max_atoms} heavy atoms"
        )
        if enough > MOST_ATOMS:
            kept = sum(size <= MOST_ATOMS for size in ordered) / total
            return f"{start}; {MOST_ATOMS}, the largest possible, keeps {kept:.1%}"
        rest = f", {most} all" if enough < most <= MOST_ATOMS else ""
        share = "all" if enough == most else f"{_KEPT_SHARE:.0%}"
        return f"{start}; data.max_atoms={enough} keeps {share}{rest}"


def read_number(text: str) -> float | None:
    """Reads a number; NaN for an empty field or a word for nothing, None for a fault.

    Example:
      >>> [read_number(text) for text in (" 1.5", "n/a", "high", "inf")]
      [1.5, nan, None, None]
    """
    text = text.strip()
    if text.lower() in ("", "nan", "na", "n/a", "<na>", "null", "none"):
        return math.nan
    try:
        number = float(text)
    except ValueError:
        return None
    # What float32 cannot hold is infinite there.
    is_fine = text.isascii() and "_" not in text and abs(number) < 3e38
    return number if is_fine else None


def describe_contents(parts: Sequence[MoleculeSet]) -> tuple[str, ...]:
    """Describes sizes, atom classes and properties of the parts of a set."""
    num_atoms = np.concatenate([part.num_atoms for part in parts])
    classes = parts[0].classes
    atoms = np.concatenate([part.atoms[part.node_mask] for part in parts])
    counts = np.bincount(atoms, minlength=len(classes))
    order = np.argsort(-counts, kind="stable")
    named = [f"{classes[i]} {counts[i]:,}" for i in order if counts[i]]
    rest = len(named) - _SHOWN_CLASSES
    if rest > 0:
        named = [*named[:_SHOWN_CLASSES], f"{rest} more"]
    size = parts[0].atoms.shape[1]
    found = [
        f"{num_atoms.min()} to {num_atoms.max()} heavy atoms (arrays of {size})",
        f"atoms {', '.join(named)}",
    ]
    for name in parts[0].properties:
        values = np.concatenate([part.properties[name] for part in parts])
        known = values[np.isfinite(values)]
        spread = f", {known.min():g} to {known.max():g}" if known.size else ""
        missing = len(values) - len(known)
        unknown = f", {missing:,} unknown" if missing else ""
        found.append(f"{name} {len(known):,} known{unknown}{spread}")
    return tuple(found)


def _reduce(mol: "Mol") -> "tuple[bool, Mol | Fault]":
    """Returns whether a molecule had several fragments, and the largest of them."""
    if len(import_chem().GetMolFrags(mol)) < 2:
        return False, mol
    try:
        return True, largest_fragment(mol)
    except RDKIT_ERRORS as error:
        return True, Fault("beyond RDKit", str(error), "others")


def _find_hydrogen_fault(mol: "Mol", graph: Graph) -> Fault | None:
    """Returns the fault of a molecule whose hydrogens the graph does not tell."""
    heavy = [atom for atom in atoms_of(mol) if atom.GetAtomicNum() != 1]
    wanted = tuple(atom.GetTotalNumHs(includeNeighbors=True) for atom in heavy)
    if wanted == graph.num_hydrogens:
        return None
    from rdkit.Chem import rdMolDescriptors

    formula = rdMolDescriptors.CalcMolFormula(mol)
    return Fault(
        "with hydrogens that bonds do not determine", formula, "usual valences"
    )


def _find_marks(mol: "Mol", graph: Graph) -> tuple[list[str], str]:
    """Finds what a molecule has besides its graph.

    Returns:
      The kinds, and a text that equals that of another molecule only if stereo and
      isotopes are equal too.
    """
    chem = import_chem()
    kinds = chem.rdchem
    atoms, bonds = atoms_of(mol), bonds_of(mol)
    isotope = any(atom.GetIsotope() for atom in atoms)
    mapped = any(atom.GetAtomMapNum() for atom in atoms)
    stereo = any(
        atom.GetChiralTag() != kinds.ChiralType.CHI_UNSPECIFIED for atom in atoms
    ) or any(
        bond.GetBondDir() in (kinds.BondDir.ENDUPRIGHT, kinds.BondDir.ENDDOWNRIGHT)
        or bond.GetStereo() > kinds.BondStereo.STEREOANY
        for bond in bonds
    )
    exact = graph.smiles
    if isotope or stereo:
        plain = chem.Mol(mol)
        for atom in atoms_of(plain):
            atom.SetAtomMapNum(0)
        try:
            chem.AssignStereochemistry(plain, cleanIt=True, force=True)
            exact = chem.MolToSmiles(chem.RemoveHs(plain))
        except RDKIT_ERRORS:
            exact = f"{graph.smiles} with marks"
        stereo = any(mark in exact for mark in "@/\\")
    found = {"stereo": stereo, "isotope": isotope, "map": mapped}
    return [name for name, is_there in found.items() if is_there], exact


def _differ(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = zip(one, other, strict=True)
    return any(
        math.isfinite(a) and math.isfinite(b) and not math.isclose(a, b, rel_tol=1e-6)
        for a, b in pairs
    )
