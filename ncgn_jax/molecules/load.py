"""Loads the molecules that a configuration names."""

import dataclasses
import os
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.faults import DataError
from ncgn_jax.molecules.descriptors import with_descriptors
from ncgn_jax.molecules.files import EXTENSIONS, load_molecules
from ncgn_jax.molecules.qm9 import find_qm9, load_qm9, load_sample
from ncgn_jax.molecules.sets import MoleculeDataset, split_molecules

# NCGN_DATA names clouds or cells.
DATA_VARIABLE = "NCGN_MOLECULES"


def load_dataset(config: ConfigDict) -> MoleculeDataset:
    """Loads the molecules of a configuration, with depictions, and splits them.

    The source `auto` is `data.path` (or the variable NCGN_MOLECULES), a file of
    molecules or the QM9 wheel; else an installed QM9; else the molecules that come with
    the package. A molecule that a file repeats is kept once. Conditions that are
    `descriptors.DESCRIPTORS` and that the data lacks are computed for the training
    molecules, and the report says so.

    Raises:
      DataError: If the molecules are missing, faulty, or too few for the split.
    """
    dataset = _load_dataset(config.data)
    # The autoencoder by itself has no conditions.
    conditions = config.model.conditions if "model" in config else ()
    train = with_descriptors(dataset.train, conditions)
    computed = sorted(set(train.properties) - set(dataset.train.properties))
    source = dataset.source
    if computed:
        source += f"; {', '.join(computed)} computed by RDKit"
    return dataclasses.replace(dataset, train=train, source=source)


def _load_dataset(data: ConfigDict) -> MoleculeDataset:
    path = data.path or os.environ.get(DATA_VARIABLE)
    source = data.source
    if source == "auto":
        is_file = path and Path(path).suffix.lower() in EXTENSIONS
        source = "file" if is_file else "qm9" if path or find_qm9() else "sample"
    if source == "sample":
        return load_sample()
    if source == "qm9":
        return load_qm9(
            path, data.cache_dir or None, data.num_train, data.num_validation
        )
    if not path:
        raise DataError(
            f"data.source='file' needs a file: set data.path or {DATA_VARIABLE}"
        )
    molecules, report = load_molecules(
        path,
        max_atoms=data.max_atoms,
        invalid=data.invalid,
        smiles_column=data.smiles_column,
        property_columns=tuple(data.properties),
        depict=True,
    )
    # The same molecule must not be both trained on and held out.
    _, first = np.unique(molecules.smiles, return_index=True)
    if len(first) < len(molecules):
        report += f"; {len(molecules) - len(first)} more were repetitions"
        molecules = molecules.take(np.sort(first))
    # A small file is split into 80, 10 and 10 %.
    num_train = min(data.num_train, max(1, int(0.8 * len(molecules))))
    num_validation = min(data.num_validation, max(1, int(0.1 * len(molecules))))
    parts = split_molecules(molecules, num_train, num_validation, seed=0)
    return MoleculeDataset(Path(path).name, report, *parts)
