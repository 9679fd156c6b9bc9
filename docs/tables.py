"""Fills the tables of the site from stored results, so that nobody types numbers.

    python -m docs.tables                      writes every table into its page
    python -m docs.tables --add RUN/table.json --name chairs --page point-clouds
        --title "Chairs, 2,048 points" --command "ncgn train --config=modelnet ..."

A page names a table by two lines, between which the table is written:

    <!-- table: NAME -->
    <!-- end of table -->

`docs/results/data/NAME.json` holds title, columns, rows, date, commit, machine and
command of a result. `--add` makes that file from `table.json` or `comparison.json`,
which a run or a comparison wrote, and from the `.md` beside it, and ends the page with
the table. Text around the tables is written by hand.
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parent
DATA = DOCS / "results" / "data"
_BEGIN, _END = "<!-- table: {} -->", "<!-- end of table -->"
_PLACE = re.compile(r"<!-- table: (\S+) -->\n(.*?)<!-- end of table -->\n", re.DOTALL)
_NUMBER = re.compile(r"[*~<>-]*\d[\d.,]*( (?:±|to) [\d.,]+)?[*%]*|-|")


@dataclasses.dataclass(frozen=True)
class Result:
    """A table and where it comes from.

    Attributes:
      title: What was measured, with data and sizes.
      columns: Titles of the columns; the first is that of the names.
      rows: Cells as they are shown, a list for each row.
      date: Day on which the figures were recorded.
      commit: Commit that recorded them.
      machine: What they were measured on.
      command: What measures them again; empty for figures of others.
      notes: What the reader must know, a sentence or two each.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    date: str
    commit: str
    machine: str
    command: str
    notes: list[str] = dataclasses.field(default_factory=list)


def read_result(name: str) -> Result:
    """Reads a stored result."""
    return Result(**json.loads((DATA / f"{name}.json").read_text("utf-8")))


def write_result(name: str, result: Result) -> Path:
    """Stores a result, a row in a line; returns its file."""
    fields = dataclasses.asdict(result)
    rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in result.rows)
    lines = [
        f' "{key}": [\n{rows}\n ]'
        if key == "rows"
        else f' "{key}": {json.dumps(value, ensure_ascii=False)}'
        for key, value in fields.items()
    ]
    path = DATA / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
    return path


def format_result(result: Result) -> str:
    """Writes a result as Markdown: title, table, and how it was measured."""
    columns = list(zip(*result.rows, strict=True))
    rule = [
        "---:" if index and all(map(_NUMBER.fullmatch, cells)) else "---"
        for index, cells in enumerate(columns)
    ]
    lines = [f"**{result.title}**", ""]
    lines += [_line(cells) for cells in (result.columns, rule, *result.rows)]
    lines += ["", '<details markdown="1">', "<summary>How it was measured</summary>"]
    where = [f"- {note}" for note in result.notes]
    where += [f"- Machine: {result.machine}."] if result.machine else []
    where += [f"- Recorded on {result.date}, commit `{result.commit}`."]
    lines += ["", *where]
    if result.command:
        lines += ["", "```bash", result.command, "```"]
    return "\n".join([*lines, "", "</details>", ""])


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def fill(text: str) -> str:
    """Returns a page with its tables as they are stored."""

    def table(place: re.Match[str]) -> str:
        return (
            f"{_BEGIN.format(place[1])}\n{format_result(read_result(place[1]))}{_END}\n"
        )

    return _PLACE.sub(table, text)


def pages() -> list[Path]:
    """Lists the pages that have tables."""
    found = sorted(DOCS.rglob("*.md"))
    return [page for page in found if _PLACE.search(page.read_text("utf-8"))]


def import_table(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """Reads columns, rows and notes of a table that a run or a comparison wrote.

    Args:
      path: `table.json` or `comparison.json`; the `.md` beside it has the figures as
        they are shown.

    Raises:
      ValueError: If the two do not have the same rows.
    """
    stored = json.loads(path.read_text("utf-8"))
    text = path.with_suffix(".md").read_text("utf-8")
    (table,) = split_tables(text)
    columns, rows = parse_table(table)
    # A comparison has variants and anchors in place of rows.
    names = [n for key in ("rows", "variants", "anchors") for n in stored.get(key, ())]
    if [row[0] for row in rows] != names:
        raise ValueError(f"{path} and the table beside it have other rows")
    about = "; ".join(f"{key}: {value}" for key, value in stored["meta"].items())
    return columns, rows, [about, *legend(text)]


def split_tables(text: str) -> list[list[str]]:
    """Returns the lines of each table in what a program printed.

    Args:
      text: What it printed.
    """
    runs = itertools.groupby(text.splitlines(), lambda line: line.startswith("|"))
    return [list(lines) for is_table, lines in runs if is_table]


def parse_table(lines: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Returns columns and rows of a printed table.

    Args:
      lines: Its lines, the rule below the columns included.
    """
    columns, _, *rows = ([c.strip() for c in line[1:-1].split("|")] for line in lines)
    return columns, rows


def legend(text: str) -> list[str]:
    """Returns what a program printed of its columns.

    Args:
      text: What it printed.
    """
    return [line[2:] for line in text.splitlines() if line.startswith("- ")]


def describe_machine() -> str:
    """Describes this machine as tables do."""
    from importlib.metadata import version

    import jax

    cores = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"{cores}, {devices}, jax {version('jax')}"


def this_commit() -> str:
    """Returns the commit of the working tree."""
    command = ["git", "-C", str(DOCS), "rev-parse", "--short=8", "HEAD"]
    return subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.strip()


def main(argv: Sequence[str] | None = None) -> None:
    """Adds a result if asked to, and fills all pages."""
    parser = argparse.ArgumentParser(
        prog="python -m docs.tables", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--add", type=Path, metavar="FILE", help="table.json or comparison.json"
    )
    parser.add_argument("--name", help="of the result, such as modelnet10-equal-time")
    parser.add_argument("--page", help="page of results that shows it")
    parser.add_argument("--title", help="what was measured, with data and sizes")
    parser.add_argument("--command", help="that measures it again")
    parser.add_argument("--machine", help="default: this one")
    parser.add_argument("--commit", help="default: that of the working tree")
    options = parser.parse_args(argv)
    if options.add:
        needed = ("name", "page", "title", "command")
        if missing := [f"--{name}" for name in needed if not getattr(options, name)]:
            parser.error(f"--add needs {', '.join(missing)}")
        columns, rows, notes = import_table(options.add)
        day = datetime.datetime.fromtimestamp(options.add.stat().st_mtime).date()
        result = Result(
            title=options.title,
            columns=columns,
            rows=rows,
            date=day.isoformat(),
            commit=options.commit or this_commit(),
            machine=options.machine or describe_machine(),
            command=options.command,
            notes=notes,
        )
        print(write_result(options.name, result))
        show(options.name, DOCS / "results" / f"{options.page}.md")
    fill_pages()


def fill_pages() -> None:
    """Writes stored results into all pages, and prints those that changed."""
    for page in pages():
        old = page.read_text("utf-8")
        if (new := fill(old)) != old:
            page.write_text(new, "utf-8")
            print(page)


def show(name: str, page: Path) -> None:
    """Ends a page with the place of a table, if it has none yet."""
    text, place = page.read_text("utf-8"), _BEGIN.format(name)
    if place not in text:
        page.write_text(f"{text.rstrip()}\n\n{place}\n{_END}\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
