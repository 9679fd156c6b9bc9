"""Trained models of molecules: sample, with properties and sizes asked for."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ncgn_jax.faults import RequestError, did_you_mean
from ncgn_jax.molecules.descriptors import describe
from ncgn_jax.molecules.export import (
    RAW,
    REPAIRED,
    smiles_to_molecules,
    write_sdf,
    write_smiles,
)
from ncgn_jax.molecules.model import MoleculeModel
from ncgn_jax.molecules.rdkit_graphs import to_molecule
from ncgn_jax.molecules.validity import check_molecules
from ncgn_jax.tasks.trained import TrainedModel, at_least, in_range_of_seeds

if TYPE_CHECKING:
    from rdkit.Chem import Mol

FORMATS = (".png", ".sdf", ".smi")


@dataclasses.dataclass(frozen=True)
class Molecules:
    """Molecules that a model made.

    Attributes:
      smiles: Canonical SMILES of each, of its largest part; None where it is invalid.
      atoms: Class of each atom, int [molecule, atom], -1 in the padding.
      bonds: Order of each bond, int [molecule, atom, atom].
      classes: Name of each atom class.
      asked: Value of each property that was asked for.
      repaired: Whether the bonds differ from the most likely ones, to keep to valences
        and in one piece, bool [molecule]; None where that is not known.
    """

    smiles: tuple[str | None, ...]
    atoms: np.ndarray
    bonds: np.ndarray
    classes: tuple[str, ...]
    asked: dict[str, float] = dataclasses.field(default_factory=dict)
    repaired: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.smiles)

    @property
    def valid(self) -> tuple[str, ...]:
        """SMILES of the valid molecules."""
        return tuple(text for text in self.smiles if text is not None)

    def to_rdkit(self) -> "list[Mol | None]":
        """Returns RDKit molecules, sanitised; None where one is invalid."""
        from rdkit import Chem

        return [
            None if text is None else Chem.MolFromSmiles(text) for text in self.smiles
        ]

    def reached(self, name: str) -> np.ndarray:
        """Computes what was reached of a property, to be read beside `asked`.

        Args:
          name: One of `descriptors.DESCRIPTORS`. Others, such as the gap of QM9, are
            measured or simulated and not computed here.

        Returns:
          A number for each molecule, float32 [molecule]; NaN where it is invalid.
        """
        return describe(self.smiles, name)

    def drawn(self) -> "list[Mol]":
        """Returns RDKit molecules as decoded, invalid ones too, not sanitised."""
        pairs = zip(self.atoms, self.bonds, strict=True)
        return [to_molecule(*pair, self.classes) for pair in pairs]

    def _headline(self) -> str:
        """Says how many molecules there are, and what was asked for."""
        asked = "".join(f", {name} = {x:g} asked for" for name, x in self.asked.items())
        return f"{len(self)} molecules, {len(self.valid)} of them valid{asked}"

    def save(self, path: str | Path) -> list[Path]:
        """Writes the valid molecules as .smi or .sdf, or draws all as .png.

        Behind each SMILES stands `raw` or `repaired`, and the number of the molecule
        from 0; in .sdf these are the properties `bonds` and `sample`.

        Args:
          path: File; its ending chooses the format.

        Returns:
          The file written.

        Raises:
          RequestError: If the format is neither.
        """
        path = Path(path)
        if path.suffix.lower() not in FORMATS:
            raise RequestError(
                f"path: found {path.name!r}; allowed: {', '.join(FORMATS)}"
            )
        if path.suffix.lower() == ".png":
            from ncgn_jax.molecules.draw_molecules import draw_molecule_sheet

            return [draw_molecule_sheet(self.drawn(), path, title=self._headline())]
        changed = np.zeros(len(self), bool) if self.repaired is None else self.repaired
        about = [
            (REPAIRED if changed[i] else RAW, i)
            for i, text in enumerate(self.smiles)
            if text is not None
        ]
        if path.suffix.lower() == ".smi":
            write_smiles(path, self.valid, about)
        else:
            write_sdf(path, smiles_to_molecules(self.valid, about))
        return [path]


class TrainedMolecules(TrainedModel[MoleculeModel]):
    """A trained model of molecules."""

    domain = "molecules"
    formats = FORMATS

    @property
    def properties(self) -> tuple[str, ...]:
        """Properties that can be asked for."""
        return tuple(own.name for own in self.model.codec.facts.properties)

    def sample(
        self,
        num: int,
        *,
        properties: Mapping[str, float] | None = None,
        num_atoms: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        seed: int = 0,
    ) -> Molecules:
        """Generates molecules.

        Args:
          num: Number of molecules.
          properties: Values that are asked for, by name, in the units of the training
            data. Those left out may be anything.
          num_atoms: Heavy atoms of each; None to draw sizes as in training.
          steps: Sampler steps; None for those of the model's configuration.
          sampler: One of `process.SAMPLERS`; None for that of the configuration.
          guidance: How far to move on from what is predicted without properties.
          seed: Seed of the noise. The same call gives the same molecules.

        Returns:
          The molecules, valid or not.

        Raises:
          RequestError: If an argument is not possible, or a property lies outside of
            what the training molecules have.
        """
        seed = in_range_of_seeds(seed)
        num, model = at_least("num", num, 1), self.model
        sampling = self._settings(steps=steps, sampler=sampler, guidance=guidance)
        asked = self._asked(properties or {})
        if sampling.guidance and not asked:
            raise RequestError("guidance: found it without properties to guide to")
        sizes = model.draw_sizes(num, seed)
        if num_atoms is not None:
            count = at_least("num_atoms", num_atoms, 1)
            counts = model.codec.facts.size_counts
            if count >= len(counts) or not counts[count]:
                known = np.flatnonzero(counts)
                raise RequestError(
                    f"num_atoms: found {count}; the training molecules have "
                    f"{known[0]} to {known[-1]}"
                )
            sizes = np.full(num, count)
        codec = self.model_state["codec"]
        wanted = [asked.get(name, np.nan) for name in self.properties] if asked else ()
        latents = model.sample(self.params, codec, sizes, seed, sampling, wanted=wanted)
        found = model.codec.decode_all(codec, latents, model.codec.mask_of(sizes))
        classes, bonds = model.codec.classes, found["bonds_valency"]
        checks = check_molecules(found["atoms"], bonds, classes)
        smiles = tuple(text or None for text in checks.smiles)
        repaired = (bonds != found["bonds"]).any(axis=(1, 2))
        return Molecules(smiles, found["atoms"], bonds, classes, asked, repaired)

    def _asked(self, properties: Mapping[str, float]) -> dict[str, float]:
        """Returns the values in the model's order."""
        known = self.model.codec.facts.properties
        names = [own.name for own in known]
        unknown = [name for name in properties if name not in names]
        if unknown:
            listed = ", ".join(names) or "none: it was trained without conditions"
            hint = did_you_mean(unknown[0], names)
            raise RequestError(
                f"properties: found {unknown[0]!r}; allowed: {listed}{hint}"
            )
        missing = [name for name in names if name not in properties]
        if properties and missing and not self.model.condition_dropout:
            raise RequestError(
                f"properties: {', '.join(missing)} needed too, because the model was "
                "trained with model.condition_dropout=0"
            )
        for own in known:
            if own.name not in properties:
                continue
            value = float(properties[own.name])
            if not own.low <= value <= own.high:
                raise RequestError(
                    f"properties: found {own.name} {value:g}; the training molecules "
                    f"have {own.low:g} to {own.high:g}"
                )
        return {name: float(properties[name]) for name in names if name in properties}
