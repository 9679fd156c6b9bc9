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

from ncgn_jax.metrics.table import Column, Row, add_floor, warn_below_floor


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
      notes: Lines to end with, such as runs that failed.

    Returns:
      Caption, markdown table, legend, warnings on W and notes.
    """
    # A single row has a spread of one value, so that one rule writes every cell.
    table = {**summary, **summarise({name: [row] for name, row in anchors.items()})}
    shown = [c for c in columns if any(c.key in row for row in table.values())]
    cells = [["", *(c.title for c in shown)]]
    cells += [[name, *(_cell(row, c) for c in shown)] for name, row in table.items()]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        "| " + " | ".join([line[0].ljust(widths[0]), *_right(line, widths)]) + " |"
        for line in (cells[0], rule, *cells[1:])
    ]
    means = {
        name: {key: spread.mean for key, spread in row.items()}
        for name, row in summary.items()
    }
    legend = [
        "cells: mean ± sample standard deviation over seeds; without ±, one seed or "
        "all alike"
    ]
    legend += [f"- {c.title}: {c.legend}" for c in shown]
    warnings = [*warn_below_floor({**anchors, **means}), *notes]
    parts = [[caption] if caption else [], lines, legend, warnings]
    return "\n\n".join("\n".join(part) for part in parts if part)


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
            key: {"mean": s.mean, "std": _finite(s.std), "values": list(s.values)}
            for key, s in row.items()
        }
        for name, row in summarise(rows).items()
    }
    stored = {
        name: {key: _finite(value) for key, value in row.items()}
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


def add_floors(
    rows: Mapping[str, Sequence[Row]], anchors: Mapping[str, Row]
) -> tuple[dict[str, list[Row]], dict[str, Row]]:
    """Adds `w_over_floor` to the rows of all seeds and to the anchors."""
    with_floor = {
        name: [add_floor({**anchors, "": row})[""] for row in seeds]
        for name, seeds in rows.items()
    }
    return with_floor, add_floor(anchors)


def _cell(row: Mapping[str, Spread], column: Column) -> str:
    if column.key not in row:
        return "-"
    mean, std, values = row[column.key]
    text = f"{mean * column.factor:.{column.digits}f}"
    if std > 0:
        text += f" ± {std * column.factor:.{column.digits}f}"
    return text


def _right(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    pairs = zip(line[1:], widths[1:], strict=True)
    return [cell.rjust(width) for cell, width in pairs]


def _finite(value: float | int) -> float | int | None:
    return value if math.isfinite(value) else None
