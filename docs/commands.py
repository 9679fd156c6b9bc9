"""Writes the page of commands from what the programs say of themselves.

python -m docs.commands > docs/reference/commands.md
"""

import contextlib
import io
import os
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

from ncgn_jax import command, convert


class Entry(NamedTuple):
    """A program, or a way to call it.

    Attributes:
      title: Heading of its section.
      about: What it does, in a sentence or two.
      arguments: Arguments of `ncgn`, or of the module, that print its help.
      module: Function that runs a module which `ncgn` does not start.
    """

    title: str
    about: str
    arguments: tuple[str, ...]
    module: Callable[[list[str]], object] | None = None


# What begins the list of fields, which has a page of its own.
_FIELDS = "\n--- fields of"
ENTRIES = (
    Entry("ncgn", "Lists the commands.", ("--help",)),
    Entry(
        "ncgn train",
        "Trains, samples, measures and draws. It is `python -m ncgn_jax.main`. "
        "`ncgn sample --workdir=RUN`, `ncgn evaluate` and `ncgn check --config=NAME` "
        "are the same program with `--mode=sample`, `evaluate` and `check`.",
        ("train", "--help"),
    ),
    Entry(
        "ncgn sample",
        "Samples a model, without its data.",
        ("sample", "--help"),
    ),
    Entry(
        "ncgn check",
        "Says what there is to train on, and prints the command that does.",
        ("check", "--help"),
    ),
    Entry("ncgn complete", "Keeps given points.", ("complete", "--help")),
    Entry("ncgn impute", "Works on AnnData.", ("impute", "--help")),
    Entry("ncgn export", "Writes two files that can be shared.", ("export", "--help")),
    Entry("ncgn compare", "Prints one table of all variants.", ("compare", "--help")),
    Entry("ncgn levels", "Also fits schedules and grids.", ("levels", "--help")),
    Entry(
        "ncgn fields",
        "Lists every field; with `--config=NAME` those of a configuration, with its "
        "values. The page [Fields](fields.md) has them all.",
        (),
    ),
    Entry(
        "ncgn study",
        "Runs a study: `geometry_of_noise`, `high_dim_schedules`, "
        "`range_and_resolution` or `toy_diffusion`. All take the same arguments. "
        "[Studies and verdicts](../studies.md) has what they find.",
        ("study", "range_and_resolution", "--help"),
    ),
    Entry(
        "python -m ncgn_jax.convert",
        "Converts and checks [published weights](../how-to/published-weights.md).",
        ("--help",),
        convert.main,
    ),
)


def help_of(entry: Entry) -> str:
    """Returns what a program prints for `--help`, without the list of fields.

    Args:
      entry: The program.
    """
    run = entry.module or command.main
    said = io.StringIO()
    # argparse ends the program, and lays its text out for the terminal it finds.
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "80", "NO_COLOR": "1"}),
        contextlib.redirect_stdout(said),
        contextlib.suppress(SystemExit),
    ):
        run(list(entry.arguments))
    return said.getvalue().partition(_FIELDS)[0].strip("\n")


def format_page() -> str:
    """Writes docs/reference/commands.md."""
    lines = [
        "# Commands",
        "",
        "Made by `python -m docs.commands > docs/reference/commands.md` from what the",
        "programs print for `--help`.",
        "",
        "Expected errors are one line.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | all is done |",
        "| 1 | an error, said in the last line |",
        "| 2 | a check found a fault, or arguments are wrong |",
        "| 75 | stopped by SIGTERM: the same command goes on |",
        "| 130 | stopped by Ctrl-C: the same command goes on |",
    ]
    for entry in ENTRIES:
        lines += ["", f"## `{entry.title}`", "", entry.about]
        if entry.arguments:
            lines += ["", "```text", help_of(entry), "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(format_page(), end="")
