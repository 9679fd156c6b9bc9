"""Writes cells that come as arrays as a file that the readers read."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ncgn_jax.faults import RequestError

_KEYS = ("expression", "genes", "positions", "time", "section")


def write_cells(data: Any, stem: Path) -> tuple[Path, dict[str, Any]]:
    """Writes cells as `.h5ad` or as a table.

    Args:
      data: An AnnData object with `obsm["spatial"]`; or a mapping with `expression`
        [cell, gene], the names of the `genes`, `positions` [cell, 2 or 3] and, where
        cells are of several times or sections, `time` and `section` [cell].
      stem: Path of the file without its ending.

    Returns:
      The file, and the fields that load it.

    Raises:
      RequestError: If the data are neither.
    """
    if hasattr(data, "write_h5ad"):
        path = stem.with_name(f"{stem.name}.h5ad")
        data.write_h5ad(path)
        return path, {}
    given = dict(data) if isinstance(data, Mapping) else {}
    missing = [key for key in _KEYS[:3] if key not in given]
    unknown = [str(key) for key in given if key not in _KEYS]
    if missing or unknown:
        raise RequestError(
            f"data: found {', '.join(map(str, given)) or type(data).__name__}; allowed:"
            f" AnnData, or a mapping of {', '.join(_KEYS)} (the last two may be absent)"
        )
    matrix = given["expression"]
    matrix = matrix.toarray() if hasattr(matrix, "toarray") else matrix
    expression, places = (np.asarray(a, float) for a in (matrix, given["positions"]))
    genes = [str(gene) for gene in given["genes"]]
    times, sections = given.get("time"), given.get("section")
    if expression.ndim != 2 or places.ndim != 2 or places.shape[1] not in (2, 3):
        raise RequestError(
            f"data: expression {expression.shape} and positions {places.shape}; "
            "allowed: [cell, gene] and [cell, 2 or 3]"
        )
    parts = (expression, places, times, sections)
    lengths = {len(part) for part in parts if part is not None}
    if len(lengths) > 1 or len(genes) != expression.shape[1]:
        raise RequestError(
            f"data: {len(expression)} cells of {expression.shape[1]} genes, "
            f"{len(places)} positions, {len(genes)} names of genes; they must agree"
        )
    axes = ["X", "Y", "Z"][: places.shape[1]]
    path = stem.with_name(f"{stem.name}.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        extra = [] if times is None else ["time"]
        extra += [] if sections is None else ["section"]
        table.writerow(["ID", *axes, *extra, *genes])
        for i in range(len(expression)):
            time = [] if times is None else [repr(float(times[i]))]
            time += [] if sections is None else [str(sections[i])]
            numbers = (*places[i], *expression[i])
            cells = [repr(float(number)) for number in numbers]
            place, values = cells[: len(axes)], cells[len(axes) :]
            table.writerow([f"cell{i}", *place, *time, *values])
    fields = {} if times is None else {"data.time_column": "time"}
    return path, fields | (
        {} if sections is None else {"data.section_column": "section"}
    )
