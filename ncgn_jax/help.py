"""Lists every field of every domain, for `--help` and for docs/reference/fields.md.

python -m ncgn_jax.help > docs/reference/fields.md
"""

import textwrap
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from ncgn_jax.domains import DOMAINS
from ncgn_jax.faults import get_field
from ncgn_jax.fields import SECTIONS, Field, by_section, format_value

_WIDTH = 88
Group = tuple[str, list[Field]]


def list_groups() -> Iterator[Group]:
    """Yields the fields that mean the same in all tasks, then the others of each."""
    kinds = list(DOMAINS.values())
    meanings = [{(row.name, row.help) for row in kind.fields} for kind in kinds]
    shared = set.intersection(*meanings)
    yield "all tasks", [r for r in kinds[0].fields if (r.name, r.help) in shared]
    for name, kind in DOMAINS.items():
        yield name, [r for r in kind.fields if (r.name, r.help) not in shared]


def format_help(config: ConfigDict | None = None) -> str:
    """Writes the fields as plain text.

    Args:
      config: A configuration, to list its task's fields alone, with its values.
    """
    lines: list[str] = []
    if config is not None:
        lines += [f"fields of task {config.task}, with the values of this command"]
        for section, rows in by_section(DOMAINS[config.task].fields):
            lines += _title(section)
            for row in rows:
                lines += _entry(row, format_value(get_field(config, row.name)))
        return "\n".join(lines)
    for name, fields in list_groups():
        lines += ["", f"--- fields of {name}"]
        for section, rows in by_section(fields):
            lines += _title(section)
            for row in rows:
                lines += _entry(row, _default(row))
    return "\n".join(lines)


def format_page() -> str:
    """Writes docs/reference/fields.md."""
    lines = [
        "# Fields of configurations",
        "",
        "Made by `python -m ncgn_jax.help > docs/reference/fields.md` from the rows",
        "that also check every configuration. On the command line a field is",
        "`--config.section.name=value`. A boolean alone is true, and false with",
        "`--noconfig.section.name`.",
    ]
    for name, fields in list_groups():
        lines += ["", f"## {name[0].upper()}{name[1:].replace('_', ' ')}"]
        for section, rows in by_section(fields):
            if section:
                lines += ["", f"### `{section}`", "", SECTIONS[section]]
            lines += [
                "",
                "| field | default | allowed | meaning |",
                "|---|---|---|---|",
            ]
            for row in rows:
                cells = (f"`{row.name}`", _default(row), _allowed(row), row.help)
                escaped = (cell.replace("|", "\\|") for cell in cells)
                lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join(lines) + "\n"


def _title(section: str) -> Sequence[str]:
    return ["", f"{section}: {SECTIONS[section]}"] if section else [""]


def _entry(row: Field, value: str) -> list[str]:
    about = f"{row.help} [{_allowed(row)}]"
    indent = " " * 6
    return [
        f"  --config.{row.name}={value}",
        *textwrap.wrap(about, _WIDTH, initial_indent=indent, subsequent_indent=indent),
    ]


def _default(row: Field) -> str:
    """Returns the default, and those of the tasks that have another one."""
    others: dict[str, list[str]] = {}
    for name, kind in DOMAINS.items():
        for own in kind.fields:
            same = (own.name, own.help) == (row.name, row.help)
            if same and own.default != row.default:
                others.setdefault(format_value(own.default), []).append(name)
    listed = "; ".join(f"{', '.join(names)}: {v}" for v, names in others.items())
    return format_value(row.default) + (f" ({listed})" if listed else "")


def _allowed(row: Field) -> str:
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    allowed = row.check.words if row.check else words.get(row.type, "a tuple")
    if row.items is str:
        allowed = "names, separated by commas"
    return allowed if row.default is not None else f"unset, or {allowed}"


if __name__ == "__main__":
    print(format_page(), end="")
