"""Writes molecules that come as SMILES as a file that the readers read."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ncgn_jax.faults import RequestError


def write_molecules(data: Any, stem: Path) -> tuple[Path, tuple[str, ...]]:
    """Writes molecules as `.csv`.

    Args:
      data: A sequence of SMILES; or a mapping with `smiles` and a sequence of numbers
        for each property, NaN where it is unknown.
      stem: Path of the file without its ending.

    Returns:
      The file, and the names of the properties.

    Raises:
      RequestError: If the data are neither.
    """
    columns = dict(data) if isinstance(data, Mapping) else {"smiles": data}
    smiles = columns.pop("smiles", None)
    is_listed = not isinstance(smiles, str | None) and all(
        isinstance(text, str) for text in smiles
    )
    if not is_listed:
        raise RequestError(
            "data: allowed: a sequence of SMILES, or a mapping of smiles and properties"
        )
    smiles = [str(text) for text in smiles]
    values = {str(name): np.asarray(column) for name, column in columns.items()}
    for name, column in values.items():
        if column.shape != (len(smiles),) or column.dtype.kind not in "fiu":
            raise RequestError(
                f"data: {name} is {column.dtype} of shape {column.shape}; allowed: "
                f"{len(smiles)} numbers, one for each molecule"
            )
    path = stem.with_name(f"{stem.name}.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["smiles", *values])
        for row in zip(smiles, *values.values(), strict=True):
            table.writerow(
                [row[0], *("" if np.isnan(v) else repr(float(v)) for v in row[1:])]
            )
    return path, tuple(values)
