"""The command `ncgn`: all that the package does, from any folder.

    ncgn train --config=quickstart           trains, samples, measures and draws
    ncgn sample --workdir=runs/quickstart    samples a run; its data are not needed
    ncgn evaluate --workdir=runs/quickstart  measures a run against its data
    ncgn check --config=modelnet             reads configuration and data, and stops
    ncgn export RUN FOLDER                   writes a model that stands on its own
    ncgn complete MODEL SCAN OUT             generates the rest of a point cloud
    ncgn compare --config=... --vary=...     compares variants under one budget
    ncgn levels --workdir=RUN                measures errors by noise level
    ncgn fields [--config=...]               lists the fields of configurations
    ncgn study NAME                          runs a study of the theory

`ncgn COMMAND --help` says more. `ncgn train` is `python -m ncgn_jax.main`.
"""

import argparse
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ncgn_jax.faults import ConfigError, did_you_mean, one_line_errors

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
    if name in ("", "-h", "--help", "help"):
        print(__doc__)
        return
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        sys.exit(f"error: no command {name!r}; allowed: {', '.join(COMMANDS)}{hint}")
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


def _export(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="ncgn export", description="Writes a model that stands on its own."
    )
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("folder", help="where to; `ncgn_jax.load` reads it")
    parser.add_argument("--checkpoint", default="newest", help="newest, best or a step")
    parser.add_argument("--weights", default="ema", choices=["ema", "raw"])
    options = parser.parse_args(arguments)
    with one_line_errors():
        from ncgn_jax.loading import load

        if Path(options.folder).exists():
            raise ConfigError(f"{options.folder} exists already; name another folder")
        kind = {"checkpoint": options.checkpoint, "weights": options.weights}
        model = load(options.run, **kind)
        model.export(options.folder)
        print(f"{model!r}: {options.folder}")


def _complete(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="ncgn complete", description="Generates the rest of a point cloud."
    )
    parser.add_argument("model", help="a run or an exported model of point clouds")
    parser.add_argument("scan", help="given points: .npy, .ply, .obj, .xyz, ...")
    parser.add_argument("out", help="whole clouds: .npy, .ply, .obj or .xyz")
    parser.add_argument("--num_points", type=int, help="points of the whole cloud")
    parser.add_argument("--draws", type=int, default=1, help="number of completions")
    parser.add_argument("--label", help="class of the shape")
    parser.add_argument("--center", type=float, nargs=3, help="of the whole shape")
    parser.add_argument("--extent", type=float, help="largest coordinate from there")
    parser.add_argument("--steps", type=int, help="sampler steps")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args(arguments))
    with one_line_errors():
        from ncgn_jax.loading import load
        from ncgn_jax.point_clouds.scans import read_scan
        from ncgn_jax.point_clouds.trained import TrainedClouds

        model, scan, out = (options.pop(name) for name in ("model", "scan", "out"))
        points, trained = read_scan(scan), load(model)
        if not isinstance(trained, TrainedClouds):
            raise ConfigError(
                f"{model} is a model of {trained.domain}; allowed: one of point_clouds"
            )
        whole = trained.complete(points, **options)
        for path in whole.save(out):
            print(path)
        if whole.note:
            print(f"NOTE: {whole.note}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _main("all"),
    "sample": _main("sample"),
    "evaluate": _main("evaluate"),
    "check": _main("check"),
    "export": _export,
    "complete": _complete,
    "compare": _compare,
    "levels": _levels,
    "fields": _fields,
    "study": _study,
}


if __name__ == "__main__":
    main()
