r"""Writes molecules as .smi and .sdf.

>>> import pathlib, tempfile
>>> path = pathlib.Path(tempfile.mkdtemp()) / "made.smi"
>>> write_smiles(path, ["CCO", "CC=O"], [("raw", 0), ("repaired", 3)])
>>> path.read_text()
'CCO raw 0\nCC=O repaired 3\n'
"""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ncgn_jax.data.whole_files import write_whole
from ncgn_jax.molecules.atom_classes import import_chem

if TYPE_CHECKING:
    from rdkit.Chem import Mol

RAW, REPAIRED = "raw", "repaired"


def write_smiles(
    path: str | os.PathLike[str],
    smiles: Sequence[str],
    about: Sequence[Sequence[Any]] = (),
) -> None:
    """Writes SMILES, one per line; the whole file or none of it.

    Args:
      path: File to write.
      smiles: The molecules.
      about: Words behind each of them; none if empty.
    """
    behind = about or [()] * len(smiles)
    lines = [
        " ".join(map(str, (text, *words)))
        for text, words in zip(smiles, behind, strict=True)
    ]
    write_whole(path, "".join(f"{line}\n" for line in lines))


def write_sdf(path: str | os.PathLike[str], mols: "Iterable[Mol]") -> None:
    """Writes molecules with their properties; the whole file or none of it.

    Molecules without coordinates get two-dimensional ones from RDKit.
    """
    chem = import_chem()
    write_whole(path, "".join(chem.SDWriter.GetText(mol) for mol in mols))


def smiles_to_molecules(
    smiles: Sequence[str], about: Sequence[tuple[str, int]]
) -> "list[Mol]":
    """Reads canonical SMILES for `write_sdf`.

    Args:
      smiles: The molecules.
      about: RAW or REPAIRED, and the number of the sample, of each.

    Returns:
      Molecules with a drawing, their SMILES as name, and the properties `bonds` and
      `sample`.
    """
    chem = import_chem()
    from rdkit.Chem import rdDepictor

    molecules = []
    for text, (bonds, sample) in zip(smiles, about, strict=True):
        molecule = chem.MolFromSmiles(text)
        # What RDKit wrote itself it reads but for rare faults of its own.
        if molecule is None:
            continue
        rdDepictor.Compute2DCoords(molecule)
        molecule.SetProp("_Name", chem.MolToSmiles(molecule))
        molecule.SetProp("bonds", bonds)
        molecule.SetIntProp("sample", sample)
        molecules.append(molecule)
    return molecules
