"""Gives every study its command line, tables, findings and files.

Example:
  >>> import tempfile
  >>> folder = tempfile.mkdtemp()
  >>> def study(report):
  ...     report.add_table("squares", "Squares", ["n", "n^2"], [["two", 4.0]])
  ...     report.add_finding("squares grow", "holds", "4 > 2")
  >>> options = [f"--workdir={folder}", "--quick"]
  >>> run_study("example", "An example.", study, options)  # doctest: +ELLIPSIS
  Squares
  <BLANKLINE>
  | n   | n^2 |
  | --- | --: |
  | two |   4 |
  <BLANKLINE>
  squares grow: holds (4 > 2)
  ...
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from ncgn_jax.data.whole_files import check_writable, write_whole
from ncgn_jax.faults import one_line_errors
from ncgn_jax.metrics.table import align_table
from ncgn_jax.pictures import save_figure
from ncgn_jax.processes import check_device_is_there

VERDICTS = ("holds", "holds in part", "does not hold")

Cell = str | float | int | None
# A cell as computed, before its conversion to plain Python.
Value = Cell | np.generic | jax.Array


class Table(NamedTuple):
    """Holds one table: a caption, a header, and rows of a name and numbers."""

    caption: str
    header: list[str]
    rows: list[list[Cell]]


class Finding(NamedTuple):
    """Holds a claim of a paper or note, whether it holds, and the numbers."""

    claim: str
    verdict: str
    evidence: str


@dataclasses.dataclass
class Report:
    """Collects what a study finds and prints tables and findings as they come.

    Attributes:
      name: Name of the study, that of its module.
      workdir: Folder of the files.
      quick: Whether to use smaller sizes.
      seed: Seed of everything random.
      tables: Tables by key.
      findings: Findings in order.
      figures: File names of the figures by key.
    """

    name: str
    workdir: Path
    quick: bool = False
    seed: int = 0
    tables: dict[str, Table] = dataclasses.field(default_factory=dict)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    figures: dict[str, str] = dataclasses.field(default_factory=dict)

    def add_table(
        self,
        key: str,
        caption: str,
        header: Sequence[str],
        rows: Sequence[Sequence[Value]],
    ) -> None:
        """Stores a table in full and prints it with four digits.

        Raises:
          ValueError: If a row differs from the header in length, or the key is taken.
        """
        plain = [[_plain(cell) for cell in row] for row in rows]
        if any(len(row) != len(header) for row in plain):
            raise ValueError(f"table {key!r}: every row needs {len(header)} cells")
        if key in self.tables:
            raise ValueError(f"table {key!r} exists already")
        self.tables[key] = Table(caption, list(header), plain)
        print(format_study_table(self.tables[key]) + "\n", flush=True)

    def add_finding(self, claim: str, verdict: str, evidence: str) -> None:
        """Stores and prints whether a claim holds.

        Args:
          claim: The claim, with its source.
          verdict: One of `VERDICTS`.
          evidence: The numbers, and the condition under which it holds otherwise.

        Raises:
          ValueError: If the verdict is another one.
        """
        if verdict not in VERDICTS:
            raise ValueError(f"verdict: found {verdict!r}; allowed: {VERDICTS}")
        self.findings.append(Finding(claim, verdict, evidence))
        print(_format_finding(self.findings[-1]) + "\n", flush=True)

    def add_figure(self, key: str, figure: Figure) -> None:
        """Saves a figure as `<key>.png` in the work folder."""
        self.figures[key] = save_figure(figure, self.workdir / f"{key}.png").name

    def write(self, seconds: float) -> Path:
        """Writes `report.md` and `results.json` and returns the latter's path."""
        results = {
            "study": self.name,
            "quick": self.quick,
            "seed": self.seed,
            "seconds": seconds,
            "tables": {key: table._asdict() for key, table in self.tables.items()},
            "findings": [finding._asdict() for finding in self.findings],
            "figures": self.figures,
        }
        parts = [f"# {self.name}"]
        parts += [format_study_table(table) for table in self.tables.values()]
        parts += ["\n".join(f"- {_format_finding(f)}" for f in self.findings)]
        parts += [f"![{key}]({file})" for key, file in self.figures.items()]
        write_whole(self.workdir / "report.md", "\n\n".join(parts) + "\n")
        text = json.dumps(results, indent=2) + "\n"
        return write_whole(self.workdir / "results.json", text)


def verdict_of(checks: Iterable[bool | np.bool]) -> str:
    """Returns the verdict on a claim that was checked in several cases or parts."""
    checks = list(checks)
    if all(checks):
        return "holds"
    return "holds in part" if any(checks) else "does not hold"


def format_study_table(table: Table) -> str:
    """Formats a table in markdown that reads well as plain text."""
    cells = [table.header, *([_show(cell) for cell in row] for row in table.rows)]
    return "\n".join([table.caption, "", *align_table(cells)])


def run_study(
    name: str,
    description: str,
    study: Callable[[Report], None],
    arguments: Sequence[str] | None = None,
) -> None:
    """Runs a study from its command line, in float64.

    Args:
      name: Name of the study.
      description: Its question, for `--help`.
      study: Fills the report.
      arguments: The command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m ncgn_jax.studies.{name}", description=description
    )
    parser.add_argument("--workdir", type=Path, help=f"default runs/studies/{name}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    workdir = options.workdir or Path("runs/studies") / name
    report = Report(name, workdir, options.quick, options.seed)
    start = time.perf_counter()
    with one_line_errors():
        check_device_is_there()
        check_writable(workdir)
        with jax.enable_x64(True):
            study(report)
        path = report.write(time.perf_counter() - start)
    print(f"{path.parent}: report.md, results.json, {len(report.figures)} figures")


def _format_finding(finding: Finding) -> str:
    return f"{finding.claim}: {finding.verdict} ({finding.evidence})"


def _plain(cell: Value) -> Cell:
    """Converts NumPy's and JAX's numbers to Python's, and non-finite ones to None."""
    if cell is None or isinstance(cell, str):
        return cell
    value = cell.item() if isinstance(cell, np.generic | jax.Array) else cell
    return value if math.isfinite(value) else None


def _show(cell: Cell) -> str:
    if cell is None:
        return "-"
    return cell if isinstance(cell, str) else f"{cell:.4g}"
