"""Loads the molecules that a configuration names."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.data.splits import SPLITS
from ncgn_jax.faults import DataError
from ncgn_jax.molecules.descriptors import with_descriptors
from ncgn_jax.molecules.files import Loaded, load_molecules, looks_like_molecules
from ncgn_jax.molecules.gathering import describe_contents
from ncgn_jax.molecules.qm9 import QM9_COLUMNS, find_qm9, is_qm9, load_qm9, load_sample
from ncgn_jax.molecules.sets import MoleculeDataset, MoleculeSet, split_molecules
from ncgn_jax.tasks.settings import data_path

# NCGN_DATA names clouds or cells.
DATA_VARIABLE = "NCGN_MOLECULES"
# Fields that only files read, and the values that say nothing.
_OF_FILES = {
    "max_atoms": 9,
    "invalid": "skip",
    "salts": "refuse",
    "smiles_column": None,
    "split": "given",
    "split_column": None,
}
# A set without splits, and a training set without others, is split so.
_TRAIN_SHARE, _HELD_OUT_SHARE = 0.8, 0.1


def load_dataset(config: ConfigDict) -> MoleculeDataset:
    """Loads the molecules of a configuration, with depictions, and splits them.

    The source `auto` is `data.path` (or the variable NCGN_MOLECULES), a file, folder or
    archive of molecules or the QM9 wheel; else an installed QM9; else the molecules
    that come with the package. A molecule that a file repeats is kept once. Conditions
    that are `descriptors.DESCRIPTORS` and that the data lacks are computed for the
    training molecules, and the report says so.

    Raises:
      DataError: If the molecules are missing, faulty, or too few for the split, or if a
        field is set that the source does not read.
    """
    dataset = _load_dataset(config)
    # The autoencoder by itself has no conditions.
    conditions = config.model.conditions if "model" in config else ()
    train = with_descriptors(dataset.train, conditions)
    computed = sorted(set(train.properties) - set(dataset.train.properties))
    report = dataset.report
    if computed:
        report = report.with_notes([f"{', '.join(computed)}: computed by RDKit"])
    return dataclasses.replace(dataset, train=train, report=report)


def recognise(path: Path) -> dict[str, Any] | None:
    """Returns the fields that load a path, None if it does not look like molecules.

    Endings that other data have too are looked into.
    """
    if is_qm9(path):
        return {"data.source": "qm9"}
    return {"data.source": "file"} if looks_like_molecules(path) else None


def _load_dataset(config: ConfigDict) -> MoleculeDataset:
    data = config.data
    path = data_path(config, (DATA_VARIABLE,))
    source = data.source
    if source == "auto":
        is_file = path and not is_qm9(Path(path))
        source = "file" if is_file else "qm9" if path or find_qm9() else "sample"
    if source != "file":
        _check_unread(data, source)
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
    loaded = load_molecules(
        path,
        max_atoms=data.max_atoms,
        invalid=data.invalid,
        salts=data.salts,
        smiles_column=data.smiles_column,
        property_columns=tuple(data.properties),
        split=data.split,
        split_column=data.split_column,
        depict=True,
    )
    return split_loaded(loaded, Path(path).name, data.num_train, data.num_validation)


def _check_unread(data: ConfigDict, source: str) -> None:
    given = {name: data[name] for name in _OF_FILES if data[name] != _OF_FILES[name]}
    if set(data.properties) - set(QM9_COLUMNS):
        given["properties"] = tuple(data.properties)
    if given:
        listed = ", ".join(f"data.{name}={value!r}" for name, value in given.items())
        raise DataError(
            f"{listed}: not read with data.source={source!r}, which is QM9 as it is; "
            "allowed: with a file of molecules in data.path"
        )


def split_loaded(
    loaded: Loaded, name: str, num_train: int, num_validation: int
) -> MoleculeDataset:
    """Splits molecules as they say themselves, or at random.

    Args:
      loaded: The molecules.
      name: Name of the data set.
      num_train: Most training molecules.
      num_validation: Most validation molecules.

    Raises:
      DataError: If there are too few.
    """
    num = len(loaded.molecules)
    if num < len(SPLITS):
        left_out = ", ".join(map(str, loaded.reading.left_out)) or "nothing"
        raise DataError(
            f"{loaded.reading.origin}: {num} usable molecule{'s' * (num != 1)}; left "
            f"out: {left_out}; allowed: 3 or more, to train, validate and test"
            f"{loaded.way_out.words}",
            loaded.way_out.fields,
        )
    if loaded.splits is None:
        parts, rule = _split_at_random(loaded.molecules, num_train, num_validation)
    else:
        parts, rule = _split_as_given(loaded, num_train, num_validation)
    used = dict(zip(SPLITS, map(len, parts), strict=True))
    contents = (*loaded.about, *describe_contents(parts))
    report = loaded.reading.report(used, rule, contents=contents)
    return MoleculeDataset(name, report, *parts)


def _split_at_random(
    molecules: MoleculeSet, num_train: int, num_validation: int
) -> tuple[Sequence[MoleculeSet], str]:
    num = len(molecules)
    num_validation = min(num_validation, max(1, int(_HELD_OUT_SHARE * num)))
    most = min(int(_TRAIN_SHARE * num), num - num_validation - 1)
    num_train = min(num_train, max(1, most))
    parts = split_molecules(molecules, num_train, num_validation, seed=0)
    return parts, "at random, seed 0"


def _split_as_given(
    loaded: Loaded, num_train: int, num_validation: int
) -> tuple[Sequence[MoleculeSet], str]:
    """Takes splits as they are; draws those that are not there from `train`."""
    rng, splits = np.random.default_rng(0), np.asarray(loaded.splits)
    rows = {split: np.flatnonzero(splits == split) for split in SPLITS}
    missing = [split for split in ("val", "test") if not len(rows[split])]
    for split in missing:
        train = rng.permutation(rows["train"])
        count = max(1, int(_HELD_OUT_SHARE * len(splits)))
        if count >= len(train):
            raise DataError(
                f"{loaded.reading.origin}: {len(train)} training molecules are too few "
                f"to draw {split} from them{loaded.way_out.words}",
                loaded.way_out.fields,
            )
        rows[split], rows["train"] = np.sort(train[:count]), np.sort(train[count:])
    for split, most in (("train", num_train), ("val", num_validation)):
        field = {"train": "data.num_train", "val": "data.num_validation"}[split]
        extra = len(rows[split]) - most
        if extra > 0:
            rows[split] = np.sort(rng.permutation(rows[split])[:most])
            loaded.reading.leave_out(f"of {split}, beyond {field}={most}", count=extra)
    rule = loaded.split_rule
    if missing:
        rule += f"; {' and '.join(missing)} drawn from train, seed 0"
    return [loaded.molecules.take(rows[split]) for split in SPLITS], rule
