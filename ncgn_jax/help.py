"""Lists every field of every domain, for `--help` and for docs/reference/fields.md.

python -m ncgn_jax.help > docs/reference/fields.md
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from ncgn_jax.domains import DOMAINS
from ncgn_jax.faults import get_field
from ncgn_jax.fields import SECTIONS, Field, by_section, format_value

_WIDTH = 88
# First stages, with the domain that they serve.
_WITH = {"molecule_autoencoder": "molecules"}
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
    """Writes docs/reference/fields.md, which has each field once."""
    owners: dict[tuple[str, str], list[str]] = {}
    rows: dict[tuple[str, str], Field] = {}
    for name, kind in DOMAINS.items():
        for row in kind.fields:
            rows.setdefault((row.name, row.help), row)
            owners.setdefault((row.name, row.help), []).append(name)
    # Fields of a domain and its first stage alone are listed with the domain.
    places = {
        key: {_WITH.get(name, name) for name in names} for key, names in owners.items()
    }
    alone = [name for name in DOMAINS if name not in _WITH]
    lines = [
        "# Fields of configurations",
        "",
        "Made by `python -m ncgn_jax.help > docs/reference/fields.md` from the rows",
        "that also check every configuration.",
        "",
        "A field is set on the command line with `--config.section.name=value`.",
        "A boolean alone is true, and false with `--noconfig.section.name`.",
        "`ncgn fields --config=NAME` lists the fields of a configuration, with values.",
        "",
        "A domain has the fields of [all domains](#all-domains), those of",
        "[several domains](#several-domains) that name it, and its own:",
        "",
        *(
            f"- [{_spoken(name)}](#{_spoken(name).lower().replace(' ', '-')})"
            for name in alone
        ),
    ]
    shared = [key for key, names in owners.items() if len(names) == len(DOMAINS)]
    several = [k for k in rows if k not in shared and len(places[k]) > 1]
    lines += ["", "## All domains", *_tables([rows[k] for k in shared], {})]
    names_of = {rows[k].name: ", ".join(map(_spoken, owners[k])) for k in several}
    lines += ["", "## Several domains"]
    lines += _tables([rows[k] for k in several], names_of)
    for name in alone:
        own = [rows[k] for k in rows if k not in shared and places[k] == {name}]
        lines += ["", f"## {_spoken(name)}", *_tables(own, {})]
    return "\n".join(lines) + "\n"


def _tables(rows: Sequence[Field], names_of: Mapping[str, str]) -> list[str]:
    """Lays fields out, a table for each section, with the domains of some."""
    lines = []
    for section, fields in by_section(rows):
        if section:
            lines += ["", f"### `{section}`", "", SECTIONS[section]]
        head = ["field", "meaning", "default", "allowed", *["domains"][: len(names_of)]]
        lines += ["", _line(head), _line(["---"] * len(head))]
        for row in fields:
            cells = [f"`{row.name}`", row.help, _default(row), _allowed(row)]
            lines.append(_line([*cells, names_of[row.name]] if names_of else cells))
    return lines


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _spoken(name: str) -> str:
    """Returns the name of a domain as headings have it."""
    return f"{name[0].upper()}{name[1:].replace('_', ' ')}"


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
