"""Prints and stores rows of metrics, with the scaling of every column beside it.

`evaluate_clouds` and `evaluate_anchors` are re-exported: a table needs this module
alone.

Example:
  >>> rows = {"train": {"w_flat": 0.012}, "model": {"w_flat": 0.0105}}
  >>> print(format_table(rows, caption="W").splitlines()[-1])
  model: W below the floor: collapse or narrow spread, not success
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ncgn_jax.point_clouds.anchors import ANCHOR_NAMES
from ncgn_jax.point_clouds.evaluation import (
    EvaluationSettings,
    PreparedReference,
    Row,
    evaluate_anchors,
    evaluate_clouds,
    prepare_reference,
)

__all__ = [
    "POINT_CLOUD_COLUMNS",
    "REQUIRED_META",
    "Column",
    "EvaluationSettings",
    "PreparedReference",
    "Row",
    "add_floor",
    "align_table",
    "evaluate_anchors",
    "evaluate_clouds",
    "format_table",
    "prepare_reference",
    "warn_below_floor",
    "write_table",
]

REQUIRED_META = (
    "data_set",
    "split",
    "sizes",
    "seed",
    "weights",
    "steps",
    "device",
)
_FLOOR_ROW = "train"
# Two draws of real shapes differ by about 1 % in W; less than that says nothing.
_FLOOR_TOLERANCE = 0.985
_WARNING = "W below the floor: collapse or narrow spread, not success"


class Column(NamedTuple):
    """One column: what it shows, how, and what the legend says of it."""

    key: str
    title: str
    factor: float
    digits: int
    legend: str


POINT_CLOUD_COLUMNS = (
    Column(
        "w_flat",
        "W e-2",
        100,
        3,
        "exact transport of flattened clouds / N, x 100, coordinates as given; "
        "blind to shape, rewards collapse: the train row is the floor",
    ),
    Column("w_over_floor", "W/floor", 1, 3, "W over the train row's; 1 is right"),
    Column(
        "w_matched",
        "W match e-2",
        100,
        3,
        "W with the points of each pair matched, / N, x 100, on a subset; lower",
    ),
    Column(
        "chamfer_1nna", "1-NNA CD", 100, 1, "1-NN accuracy, Chamfer, %; 50 is perfect"
    ),
    Column("emd_1nna", "1-NNA EMD", 100, 1, "the same with exact transport, a subset"),
    Column(
        "chamfer_coverage", "COV CD", 100, 1, "reference clouds hit, %, Chamfer; higher"
    ),
    Column(
        "chamfer_mmd",
        "MMD CD e-3",
        1000,
        2,
        "mean squared nearest distances, both ways summed, in [-1, 1], x 1000; lower",
    ),
    Column(
        "emd_mmd",
        "MMD EMD e-2",
        100,
        2,
        "mean matched distance, in [-1, 1], x 100, on a subset; lower",
    ),
    Column(
        "jsd", "JSD", 1, 4, "shares of points in equal cells of [-1, 1], bits; lower"
    ),
    Column("spread", "spread", 1, 4, "std of all coordinates as given; as the data's"),
    Column("distance_planarity", "d planar", 1, 4, "1-D transport of planarity; lower"),
    Column(
        "distance_nearest_distance",
        "d near e-2",
        100,
        2,
        "1-D transport of nearest-neighbour distances, in [-1, 1], x 100; lower",
    ),
)


def add_floor(rows: Mapping[str, Row], floor: str = _FLOOR_ROW) -> dict[str, Row]:
    """Adds `w_over_floor` to every row, the ratio of its W to the floor row's.

    Rows without W, and tables without the floor row, come back as they are.
    """
    base = rows.get(floor, {}).get("w_flat")
    if not base:
        return {name: dict(row) for name, row in rows.items()}
    return {
        name: {**row, "w_over_floor": row["w_flat"] / base}
        if "w_flat" in row
        else dict(row)
        for name, row in rows.items()
    }


def warn_below_floor(rows: Mapping[str, Row], floor: str = _FLOOR_ROW) -> list[str]:
    """Lists what a reader of the W column must be told, one line each.

    A model's W under 0.985 of the floor is a warning, not a success. W falls as sets
    grow, so rows of other sizes than the floor's are pointed out too.
    """
    if not any("w_flat" in row for row in rows.values()):
        return []
    base = rows.get(floor)
    if base is None or "w_flat" not in base:
        return [f"no {floor!r} row: W cannot be read without its floor"]
    lines = []
    for name, row in add_floor(rows, floor).items():
        if name in ANCHOR_NAMES or name == floor or "w_flat" not in row:
            continue
        if row["w_over_floor"] < _FLOOR_TOLERANCE:
            lines.append(f"{name}: {_WARNING}")
        sizes = [(r.get("num_generated"), r.get("num_reference")) for r in (row, base)]
        if sizes[0] != sizes[1]:
            lines.append(f"{name}: sizes {sizes[0]}, but the floor's are {sizes[1]}")
    return lines


def format_table(
    rows: Mapping[str, Row],
    columns: Sequence[Column] = POINT_CLOUD_COLUMNS,
    caption: str = "",
) -> str:
    """Lays rows out as an aligned markdown table that reads well as plain text.

    Args:
      rows: Rows by name, in the order to print.
      columns: Columns to print; one that no row has is left out.
      caption: First line: data, sizes, seed, EMA or raw, steps, device.

    Returns:
      Caption, table, a legend with the scaling of each column, and the warnings on W.
    """
    rows = add_floor(rows)
    shown = [c for c in columns if any(c.key in row for row in rows.values())]
    cells = [["", *(c.title for c in shown)]]
    cells += [[name, *(_cell(row, c) for c in shown)] for name, row in rows.items()]
    lines = align_table(cells)
    legend = [f"- {c.title}: {c.legend}" for c in shown]
    warnings = warn_below_floor(rows)
    parts = [[caption] if caption else [], lines, legend, warnings]
    return "\n\n".join("\n".join(part) for part in parts if part)


def align_table(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lays cells out as lines of a markdown table, numbers to the right.

    Args:
      cells: Lines of equally many cells; the first is the header, and the first cell
        of each is a name.
    """
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [_line(line, widths) for line in (cells[0], rule, *cells[1:])]


def write_table(
    rows: Mapping[str, Row], path_stem: str | Path, meta: Mapping[str, object]
) -> tuple[Path, Path]:
    """Writes rows with what they were measured on, as JSON and as CSV.

    The JSON holds {"meta", "rows", "warnings"}; the CSV one line a row, with the
    metadata repeated in columns `meta.<name>`. Values that are not finite become
    null in JSON and empty in CSV.

    Args:
      rows: Rows by name.
      path_stem: Path without suffix; its folder is made if absent.
      meta: At least data_set, split, sizes, seed, weights ("ema" or "raw"), steps
        and device.

    Returns:
      The paths of the JSON and the CSV file.

    Raises:
      ValueError: If the metadata lacks one of these.
    """
    missing = [key for key in REQUIRED_META if key not in meta]
    if missing:
        raise ValueError(f"a table must state {', '.join(missing)}")
    warnings = warn_below_floor(rows)
    rows = {
        name: {key: _finite(value) for key, value in row.items()}
        for name, row in add_floor(rows).items()
    }
    # Not with_suffix: "table.v2" must not lose its end.
    json_path, csv_path = (Path(f"{path_stem}.{end}") for end in ("json", "csv"))
    json_path.parent.mkdir(parents=True, exist_ok=True)
    content = {"meta": dict(meta), "rows": rows, "warnings": warnings}
    json_path.write_text(json.dumps(content, indent=2, default=str) + "\n")
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    stated = {f"meta.{key}": value for key, value in meta.items()}
    with csv_path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["row", *keys, *stated])
        writer.writeheader()
        for name, row in rows.items():
            writer.writerow({"row": name, **row, **stated})
    return json_path, csv_path


def _cell(row: Row, column: Column) -> str:
    value = row.get(column.key)
    if value is None:
        return "-"
    return f"{value * column.factor:.{column.digits}f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [
        cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)
    ]
    return "| " + " | ".join([first, *rest]) + " |"


def _finite(value: float | int) -> float | int | None:
    if not math.isfinite(value):
        return None
    # NumPy scalars are not JSON.
    return value.item() if hasattr(value, "item") else value
