"""Summarises rows over seeds: mean, spread, and the table that shows them.

Example:
  >>> summary = summarise({"dmp": [{"jsd": 0.1}, {"jsd": 0.3}]})
  >>> summary["dmp"]["jsd"].values, round(summary["dmp"]["jsd"].std, 4)
  ((0.1, 0.3), 0.1414)
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ncgn_jax.metrics.table import Column, Row, finite_or_none, lay_out


class Spread(NamedTuple):
    """One metric over seeds.

    Attributes:
      mean: Mean over seeds.
      std: Standard deviation of the sample (n - 1), NaN for one seed.
      values: The finite values, one a seed.
    """

    mean: float
    std: float
    values: tuple[float, ...]


Summary = dict[str, dict[str, Spread]]


def summarise(rows: Mapping[str, Sequence[Row]]) -> Summary:
    """Takes mean and sample standard deviation of every metric over the seeds.

    Args:
      rows: Rows of each variant, one a seed; values that are not finite are left out.

    Returns:
      Variant to metric to `Spread`; metrics without a finite value are absent.
    """
    summary: Summary = {}
    for name, seeds in rows.items():
        keys = dict.fromkeys(key for row in seeds for key in row)
        summary[name] = {}
        for key in keys:
            found = [float(row[key]) for row in seeds if row.get(key) is not None]
            values = tuple(value for value in found if math.isfinite(value))
            if values:
                std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
                summary[name][key] = Spread(float(np.mean(values)), std, values)
    return summary


def format_summary(
    summary: Summary,
    anchors: Mapping[str, Row],
    columns: Sequence[Column],
    caption: str = "",
    notes: Sequence[str] = (),
) -> str:
    """Lays out variants as `mean ± std`, with the anchors below them.

    Args:
      summary: Variants to metrics.
      anchors: Rows without a spread.
      columns: Columns to print; one that no row has is left out.
      caption: First line.
      notes: Lines to end with, such as warnings and runs that failed.

    Returns:
      Caption, markdown table, legend and notes.
    """
    # A single row has a spread of one value, so that one rule writes every cell.
    table = {**summary, **summarise({name: [row] for name, row in anchors.items()})}
    cells = {
        name: {column.key: _cell(row, column) for column in columns}
        for name, row in table.items()
    }
    legend = [
        "cells: mean ± sample standard deviation over seeds; without ±, one seed or "
        "all alike"
    ]
    return lay_out(table, columns, cells, caption, notes, legend)


def write_summary(
    path_stem: str | Path,
    rows: Mapping[str, Sequence[Row]],
    anchors: Mapping[str, Row],
    meta: Mapping[str, object],
    failed: Mapping[str, str],
) -> tuple[Path, Path]:
    """Writes a comparison as JSON (summaries, values) and as CSV (one line a run).

    Args:
      path_stem: Path without suffix.
      rows: Rows of each variant, one a seed, with a key `seed`.
      anchors: Rows of the anchors.
      meta: What it was measured on.
      failed: Message of each run that failed.

    Returns:
      The paths of the JSON and the CSV file.
    """
    json_path, csv_path = (Path(f"{path_stem}.{end}") for end in ("json", "csv"))
    variants = {
        name: {
            key: {
                "mean": s.mean,
                "std": finite_or_none(s.std),
                "values": list(s.values),
            }
            for key, s in row.items()
        }
        for name, row in summarise(rows).items()
    }
    stored = {
        name: {key: finite_or_none(value) for key, value in row.items()}
        for name, row in anchors.items()
    }
    content = {
        "meta": dict(meta), "variants": variants, "anchors": stored,
        "failed": dict(failed),
    }  # fmt: skip
    json_path.write_text(json.dumps(content, indent=2, default=str) + "\n")
    lines = [{"row": name, **row} for name, seeds in rows.items() for row in seeds]
    lines += [{"row": name, **row} for name, row in anchors.items()]
    keys = dict.fromkeys(["row", "seed", *(key for line in lines for key in line)])
    with csv_path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(keys))
        writer.writeheader()
        writer.writerows(lines)
    return json_path, csv_path


def _cell(row: Mapping[str, Spread], column: Column) -> str:
    if column.key not in row:
        return "-"
    mean, std, values = row[column.key]
    text = f"{mean * column.factor:.{column.digits}f}"
    if std > 0:
        text += f" ± {std * column.factor:.{column.digits}f}"
    return text
