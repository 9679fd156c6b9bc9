"""Properties that RDKit computes of a molecule, so that no file has to name them.

>>> [round(value, 2) for value in describe(["CCO", None], "logp").tolist()]
[-0.0, nan]
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ncgn_jax.faults import RequestError
from ncgn_jax.molecules.atom_classes import import_chem
from ncgn_jax.molecules.sets import MoleculeSet

if TYPE_CHECKING:
    from rdkit.Chem import Mol

DESCRIPTORS = {
    "logp": "octanol-water partition, Wildman and Crippen",
    "qed": "drug-likeness, Bickerton et al.",
    "tpsa": "topological polar surface, square angstroms",
}


def describe(smiles: Iterable[str | None], name: str) -> np.ndarray:
    """Computes a property of molecules.

    Args:
      smiles: The molecules, None where one is invalid.
      name: One of `DESCRIPTORS`.

    Returns:
      A number for each, float32 [molecule]; NaN where RDKit reads no molecule.

    Raises:
      RequestError: If the name is unknown.
    """
    if name not in DESCRIPTORS:
        raise RequestError(f"name: found {name!r}; allowed: {', '.join(DESCRIPTORS)}")
    chem, compute = import_chem(), _function_of(name)

    def value(text: str | None) -> float:
        molecule = None if text is None else chem.MolFromSmiles(text)
        return np.nan if molecule is None else compute(molecule)

    return np.asarray([value(text) for text in smiles], np.float32)


def with_descriptors(molecules: MoleculeSet, names: Sequence[str]) -> MoleculeSet:
    """Adds the properties among `names` that RDKit computes and the set lacks."""
    missing = [
        name
        for name in names
        if name in DESCRIPTORS and name not in molecules.properties
    ]
    computed = {name: describe(molecules.smiles, name) for name in missing}
    return dataclasses.replace(
        molecules, properties={**molecules.properties, **computed}
    )


def _function_of(name: str) -> "Callable[[Mol], float]":
    from rdkit.Chem import QED, rdMolDescriptors

    functions: dict[str, Callable[[Mol], float]] = {
        "logp": lambda mol: rdMolDescriptors.CalcCrippenDescriptors(mol)[0],
        "qed": QED.qed,
        "tpsa": rdMolDescriptors.CalcTPSA,
    }
    return functions[name]
