"""Prints and stores rows of metrics, with the scaling of every column beside it.

Example:
  >>> columns = (Column("jsd", "JSD e-2", 100, 1, "divergence x 100; lower"),)
  >>> print(format_table({"model": {"jsd": 0.105}}, columns))
  |       | JSD e-2 |
  | ----- | ------: |
  | model |    10.5 |
  <BLANKLINE>
  - JSD e-2: divergence x 100; lower
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, float]
# What a table must state; a task's caption the first three.
CAPTION = ("data_set", "split", "sizes")
REQUIRED_META = (
    *CAPTION,
    "seed",
    "weights",
    "steps",
    "device",
)


class Column(NamedTuple):
    """One column: what it shows, how, and what the legend says of it."""

    key: str
    title: str
    factor: float
    digits: int
    legend: str


def check_caption(caption: Mapping[str, object]) -> None:
    """Refuses the caption of a task that does not say what its table is measured on.

    Args:
      caption: What the task states, by name.

    Raises:
      ValueError: If data set, split or sizes are missing.
    """
    missing = [key for key in CAPTION if not caption.get(key)]
    if missing:
        raise ValueError(f"the caption of a task must state {', '.join(missing)}")


def format_table(
    rows: Mapping[str, Row],
    columns: Sequence[Column],
    caption: str = "",
    notes: Sequence[str] = (),
) -> str:
    """Lays rows out as an aligned markdown table that reads well as plain text.

    Args:
      rows: Rows by name, in the order to print.
      columns: Columns to print; one that no row has is left out.
      caption: First line: data, sizes, seed, EMA or raw, steps, device.
      notes: Lines to end with, such as warnings.

    Returns:
      Caption, table, a legend with the scaling of each column, and the notes.
    """
    cells = {
        name: {column.key: _cell(row, column) for column in columns}
        for name, row in rows.items()
    }
    return lay_out(rows, columns, cells, caption, notes)


def lay_out(
    rows: Mapping[str, Mapping[str, object]],
    columns: Sequence[Column],
    cells: Mapping[str, Mapping[str, str]],
    caption: str,
    notes: Sequence[str],
    legend: Sequence[str] = (),
) -> str:
    """Joins caption, table, legend and notes.

    Args:
      rows: Values by row and column; a column that no row has is left out.
      columns: Columns to print.
      cells: The same values as text.
      caption: First line.
      notes: Last lines.
      legend: Lines before the legend of the columns.
    """
    shown = [c for c in columns if any(c.key in row for row in rows.values())]
    lines = [["", *(c.title for c in shown)]]
    lines += [[name, *(cells[name][c.key] for c in shown)] for name in rows]
    legend = [*legend, *(f"- {c.title}: {c.legend}" for c in shown)]
    parts = [[caption] if caption else [], align_table(lines), legend, notes]
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
    rows: Mapping[str, Row],
    path_stem: str | Path,
    meta: Mapping[str, object],
    notes: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Writes rows with what they were measured on, as JSON and as CSV.

    The JSON holds {"meta", "rows", "warnings"}; the CSV one line per row, with the
    metadata repeated in columns `meta.<name>`. Values that are not finite become
    null in JSON and empty in CSV.

    Args:
      rows: Rows by name.
      path_stem: Path without suffix; its folder is made if absent.
      meta: At least data_set, split, sizes, seed, weights ("ema" or "raw"), steps
        and device.
      notes: Warnings to the reader.

    Returns:
      The paths of the JSON and the CSV file.

    Raises:
      ValueError: If the metadata lacks one of these.
    """
    missing = [key for key in REQUIRED_META if key not in meta]
    if missing:
        raise ValueError(f"a table must state {', '.join(missing)}")
    stored = {
        name: {key: finite_or_none(value) for key, value in row.items()}
        for name, row in rows.items()
    }
    # Not with_suffix: "table.v2" must not lose its end.
    json_path, csv_path = (Path(f"{path_stem}.{end}") for end in ("json", "csv"))
    json_path.parent.mkdir(parents=True, exist_ok=True)
    content = {"meta": dict(meta), "rows": stored, "warnings": list(notes)}
    json_path.write_text(json.dumps(content, indent=2, default=str) + "\n")
    keys = list(dict.fromkeys(key for row in stored.values() for key in row))
    stated = {f"meta.{key}": value for key, value in meta.items()}
    with csv_path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["row", *keys, *stated])
        writer.writeheader()
        for name, row in stored.items():
            writer.writerow({"row": name, **row, **stated})
    return json_path, csv_path


def read_table(path_stem: str | Path) -> dict[str, Any] | None:
    """Reads what `write_table` wrote, as JSON has it; None if there is none.

    Args:
      path_stem: Path without suffix.
    """
    try:
        content = json.loads(Path(f"{path_stem}.json").read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


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


def finite_or_none(value: float) -> float | None:
    """Returns a number as JSON holds it: None if it is not finite.

    Args:
      value: A number of Python or NumPy.
    """
    if not math.isfinite(value):
        return None
    # NumPy scalars are not JSON.
    return value.item() if hasattr(value, "item") else value
