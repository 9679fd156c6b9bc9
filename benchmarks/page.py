"""Runs the benchmarks in a quick form and puts their tables on the site.

    python -m benchmarks.page [--only=step,size]

Each runs in a process of its own. Its tables are stored in docs/results/data with the
date, the commit, the machine and the command, and written into
docs/results/speed.md. The whole takes some minutes on two cores. Nothing else should
run on the machine: the load at the start of each benchmark is stored with its table.
"""

import argparse
import datetime
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from docs import tables


class Benchmark(NamedTuple):
    """A benchmark in its quick form.

    Attributes:
      arguments: Arguments of its command.
      titles: Titles of the tables that it prints, in their order.
    """

    arguments: tuple[str, ...]
    titles: tuple[str, ...]


PAGE = tables.DOCS / "results" / "speed.md"
BENCHMARKS = {
    "step": Benchmark(
        ("--repeats=3",),
        (
            "Training step of the published network, whole and by noise bucket",
            "Sampler step of the published network by noise bucket",
        ),
    ),
    "size": Benchmark(
        ("--points=400,2000,10000", "--repeats=2"),
        ("Training step by points of a cloud, 8 clouds a step",),
    ),
    "attention": Benchmark(
        ("--repeats=5",),
        (
            "Neighbourhood attention on 16 x 16 tokens, windows of 5",
            "Neighbourhood attention on 32 x 32 tokens, windows of 3",
        ),
    ),
    "devices": Benchmark(
        ("--devices=1,2,4", "--graphs=8", "--repeats=3"),
        ("What a training step hands over between made-up devices",),
    ),
}


def run(name: str) -> list[str]:
    """Runs a benchmark and stores its tables.

    Args:
      name: One of `BENCHMARKS`.

    Returns:
      Names of the stored results.
    """
    benchmark = BENCHMARKS[name]
    command = ["python", "-m", f"benchmarks.{name}", *benchmark.arguments]
    load, machine = os.getloadavg()[0], tables.describe_machine()
    # A cache would make compiling look quick.
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": ""}
    said = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=tables.DOCS.parent,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return store(name, said, machine, load)


def store(name: str, said: str, machine: str, load: float) -> list[str]:
    """Stores the tables that a benchmark printed.

    Args:
      name: One of `BENCHMARKS`.
      said: Its output.
      machine: What it ran on.
      load: Processes that were running when it began.

    Returns:
      Names of the stored results.

    Raises:
      ValueError: If it printed more or fewer tables than it has titles.
    """
    benchmark = BENCHMARKS[name]
    found = tables.split_tables(said)
    if len(found) != len(benchmark.titles):
        raise ValueError(f"{name}: found {len(found)} tables in {said!r}")
    names = []
    command = f"python -m benchmarks.{name} {' '.join(benchmark.arguments)}"
    for place, (title, lines) in enumerate(zip(benchmark.titles, found, strict=True)):
        columns, rows = tables.parse_table(lines)
        result = tables.Result(
            title=title,
            columns=columns,
            rows=rows,
            date=datetime.date.today().isoformat(),
            commit=tables.this_commit(),
            machine=machine,
            command=f"JAX_COMPILATION_CACHE_DIR= {command}",
            notes=[
                f"A quick run. {load:.1f} other processes were running on average in "
                "the minute before it, so its seconds are those of such an hour.",
                *dict.fromkeys(tables.legend(said)),
            ],
        )
        names.append(f"quick-{name}" if place == 0 else f"quick-{name}-{place + 1}")
        tables.write_result(names[-1], result)
    return names


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="names")
    chosen = parser.parse_args(argv).only.split(",")
    if unknown := [name for name in chosen if name not in BENCHMARKS]:
        parser.error(f"no benchmark {unknown[0]!r}; allowed: {', '.join(BENCHMARKS)}")
    for name in chosen:
        print(f"running {name}", flush=True)
        for result in run(name):
            tables.show(result, PAGE)
    tables.fill_pages()


if __name__ == "__main__":
    main()
