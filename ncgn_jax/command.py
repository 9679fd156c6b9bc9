"""The command `ncgn`: all that the package does, from any folder.

    ncgn train --config=quickstart           trains, samples, measures and draws
    ncgn sample shapes OUT [--label=chair]   samples a model: shipped, exported, a run
    ncgn sample --workdir=runs/quickstart    samples a run with its pictures, alone
    ncgn evaluate --workdir=runs/quickstart  measures a run against its data
    ncgn check PATH                          says what there is to train on, and stops
    ncgn check --config=modelnet             the same for a configuration and its data
    ncgn export RUN FOLDER                   writes a model that stands on its own
    ncgn complete MODEL SCAN OUT             generates the rest of a point cloud
    ncgn impute MODEL CELLS OUT              fills in genes that were not measured
    ncgn compare --config=... --vary=...     compares variants under one budget
    ncgn levels --workdir=RUN                measures errors by noise level
    ncgn fields [--config=...]               lists the fields of configurations
    ncgn study NAME                          runs a study of the theory

`ncgn COMMAND --help` says more. `ncgn train` is `python -m ncgn_jax.main`.
"""

import runpy
import sys
from collections.abc import Callable, Sequence

from ncgn_jax.faults import did_you_mean, one_line_errors
from ncgn_jax.run.early_stop import stops_at_once

_HELP = ("-h", "--help")
_STUDIES = (
    "geometry_of_noise",
    "high_dim_schedules",
    "range_and_resolution",
    "toy_diffusion",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; expected errors become one message."""
    name, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    arguments = rest[:-1]
    if name in ("", "help", *_HELP):
        print(__doc__)
        return
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        sys.exit(f"error: no command {name!r}; allowed: {', '.join(COMMANDS)}{hint}")
    with stops_at_once():
        COMMANDS[name](arguments)


def _main(mode: str) -> Callable[[list[str]], None]:
    def run(arguments: list[str]) -> None:
        from ncgn_jax import main

        main.main([f"ncgn {mode}", f"--mode={mode}", *arguments])

    return run


def _compare(arguments: list[str]) -> None:
    from ncgn_jax import compare

    compare.main(["ncgn compare", *arguments])


def _levels(arguments: list[str]) -> None:
    from ncgn_jax import levels

    levels.main(["ncgn levels", *arguments])


def _fields(arguments: list[str]) -> None:
    from ncgn_jax import main

    main.main(["ncgn fields", "--help", *arguments])


def _study(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in _STUDIES:
        sys.exit(f"error: ncgn study NAME; allowed: {', '.join(_STUDIES)}")
    name = f"ncgn_jax.studies.{arguments[0]}"
    sys.argv = [f"ncgn study {arguments[0]}", *arguments[1:]]
    runpy.run_module(name, run_name="__main__")


def _sample(arguments: list[str]) -> None:
    # A model first, or the run that --workdir names.
    if arguments and arguments[0].startswith("-") and arguments[0] not in _HELP:
        _main("sample")(arguments)
    else:
        _verb("sample")(arguments)


def _check(arguments: list[str]) -> None:
    names = {argument.partition("=")[0] for argument in arguments}
    if not arguments or names & {"--config", "--workdir"}:
        _main("check")(arguments)
    else:
        with one_line_errors():
            from ncgn_jax.check import check
            from ncgn_jax.plugins import import_plugins, split_plugins

            sources, rest = split_plugins(arguments)
            import_plugins(sources)
            check(rest)


def _verb(name: str) -> Callable[[list[str]], None]:
    def run(arguments: list[str]) -> None:
        with one_line_errors():
            from ncgn_jax import verbs
            from ncgn_jax.plugins import import_plugins, split_plugins

            sources, rest = split_plugins(arguments)
            import_plugins(sources)
            verbs.VERBS[name](rest)

    return run


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _main("all"),
    "sample": _sample,
    "evaluate": _main("evaluate"),
    "check": _check,
    "complete": _verb("complete"),
    "impute": _verb("impute"),
    "export": _verb("export"),
    "compare": _compare,
    "levels": _levels,
    "fields": _fields,
    "study": _study,
}


if __name__ == "__main__":
    main()
