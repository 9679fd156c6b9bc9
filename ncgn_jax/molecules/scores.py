"""Measures generated molecules, and the anchors to read them beside."""

from collections.abc import Mapping

import numpy as np

from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.molecules.autoencoder_task import reconstruction_scores
from ncgn_jax.molecules.sets import MoleculeDataset, max_valences
from ncgn_jax.molecules.validity import (
    MOLECULE_COLUMNS,
    ChemNetStatistics,
    MoleculeChecks,
    check_molecules,
    chemnet_statistics,
    frechet_chemnet_distance,
    molecule_histograms,
    molecule_scores,
    published_scores,
    size_and_element_distances,
)

# The paper draws 100 molecules, of 2 to 8 atoms equally often.
PUBLISHED_SIZES = (2, 8)
PUBLISHED_NUM = 100

# The table shows these; its JSON and CSV hold all.
_SHOWN = (
    "valid",
    "valid_connected",
    "unique",
    "novel",
    "vun",
    "in_known",
    "held_out",
    "fcd",
    "published_valid",
    "published_unique",
    "published_novel",
)
COLUMNS = (
    *(column for column in MOLECULE_COLUMNS if column.key in _SHOWN),
    Column(
        "repaired_valid_connected",
        "tree VC %",
        100,
        1,
        "VC with bonds decoded within valences and in one piece",
    ),
    Column("repaired_unique", "tree U %", 100, 1, "U, decoded so"),
    Column("repaired_novel", "tree N %", 100, 1, "N, decoded so"),
    Column("repaired_fcd", "tree FCD", 1, 2, "FCD, decoded so"),
    Column("control_valid", "noise V %", 100, 1, "V of pure noise, same decoder"),
    Column("control_valid_connected", "noise VC %", 100, 1, "the same in one piece"),
    Column("control_fcd", "noise FCD", 1, 2, "FCD of pure noise, same decoder"),
    Column(
        "decoded_molecule",
        "decoded %",
        100,
        1,
        "test molecules decoded from their latents in every atom and order",
    ),
)


def evaluate_molecules(
    dataset: MoleculeDataset,
    samples: Mapping[str, Mapping[str, np.ndarray]],
    max_reference: int,
) -> dict[str, Row]:
    """Measures sets of generated molecules.

    Novelty is against the training molecules; what is held out is the rest of the
    data. Frechet distances are between at most `max_reference` molecules of a set and
    as many test molecules.

    Args:
      dataset: The data.
      samples: Arrays of `MoleculeTask.sample` by name of the set.
      max_reference: Most molecules that Frechet distances take.

    Returns:
      A row for each set; `train` and `held_out`, as many training and validation
      molecules in the place of generated ones.
    """
    scores = _Scores(dataset, max_reference)
    count = max(len(arrays["atoms"]) for arrays in samples.values())
    rows = {name: scores.row(arrays) for name, arrays in samples.items()}
    for name, molecules in (
        ("train", dataset.train),
        ("held_out", dataset.validation),
    ):
        chosen = np.random.default_rng(0).permutation(len(molecules))[:count]
        own = molecules.take(chosen)
        rows[name] = scores.generated(own.atoms, own.bonds)
    return rows


class _Scores:
    """Measures sets of molecules against references that are prepared once."""

    def __init__(self, dataset: MoleculeDataset, max_reference: int):
        self._dataset = dataset
        self._classes = dataset.train.classes
        self._valences = max_valences(self._classes)
        # Canonical by the same code as those of generated molecules.
        self._train = frozenset(dataset.train.smiles.tolist())
        self._held_out = dataset.all_smiles() - self._train
        self._max_reference = max_reference
        test = dataset.test.take(slice(max_reference))
        self._histograms = molecule_histograms(test.atoms, test.bonds)
        self._reference = _chemnet(test.smiles.tolist())

    def row(self, arrays: Mapping[str, np.ndarray]) -> Row:
        """Measures one set in every way its arrays allow."""
        row = self.generated(arrays["atoms"], arrays["bonds"])
        repaired = self.generated(arrays["atoms"], arrays["bonds_valency"])
        row |= {f"repaired_{key}": value for key, value in repaired.items()}
        control = self.generated(arrays["control_atoms"], arrays["control_bonds"])
        row |= {f"control_{key}": value for key, value in control.items()}
        if "published_atoms" in arrays:
            checks = self._check(arrays["published_atoms"], arrays["published_bonds"])
            row |= self._published(checks)
        if "decoded_atoms" in arrays:
            decoded = {key: arrays[f"decoded_{key}"] for key in ("atoms", "bonds")}
            found = reconstruction_scores(decoded, self._dataset.test)
            row |= {f"decoded_{key}": value for key, value in found.items()}
        return row

    def generated(self, atoms: np.ndarray, bonds: np.ndarray) -> Row:
        """Measures molecules as such."""
        checks = self._check(atoms, bonds)
        row = molecule_scores(checks, self._train, self._held_out)
        # As many as the reference at most: ChemNet takes a minute for 5,000.
        smiles = [text for text in checks.smiles if text][: self._max_reference]
        if self._reference is not None and len(smiles) > 1:
            distance = frechet_chemnet_distance(smiles, self._reference)
            if distance is not None:
                row["fcd"] = distance
        histograms = molecule_histograms(atoms, bonds)
        return row | size_and_element_distances(histograms, self._histograms)

    def _check(self, atoms, bonds) -> MoleculeChecks:
        return check_molecules(atoms, bonds, self._classes, self._valences)

    def _published(self, checks: MoleculeChecks) -> Row:
        """Averages the published protocol over sets of a hundred molecules."""
        known = self._train | self._held_out
        texts = checks.published_smiles
        sets = [
            checks._replace(published_smiles=texts[start : start + PUBLISHED_NUM])
            for start in range(0, len(texts), PUBLISHED_NUM)
        ]
        if len(sets) > 1 and len(sets[-1].published_smiles) < PUBLISHED_NUM:
            sets.pop()  # shares of distinct molecules are larger in smaller sets
        rows = [published_scores(own, known) for own in sets]
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _chemnet(smiles: list[str]) -> ChemNetStatistics | None:
    return chemnet_statistics(smiles) if len(smiles) > 1 else None
