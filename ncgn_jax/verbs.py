"""What the command `ncgn` does with a trained model: sample, complete, impute, export.

Each takes a run, an exported folder or the name of a shipped model first.
"""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ncgn_jax.data.whole_files import check_writable
from ncgn_jax.expression.cell_files import read_anndata_file
from ncgn_jax.expression.trained import TrainedFields
from ncgn_jax.faults import ConfigError, RequestError
from ncgn_jax.loading import load
from ncgn_jax.point_clouds.scans import read_scan
from ncgn_jax.point_clouds.trained import TrainedClouds
from ncgn_jax.tasks.trained import TrainedModel

_MODEL = "a run, an exported model, or the name of a shipped one"
# Endings of files, where samples go into a folder.
_OF_FILES = (".png", ".jpg", ".jpeg", ".npy", ".npz")


def sample(arguments: Sequence[str]) -> None:
    """Generates with a model and writes what it made."""
    parser = _parser(
        "sample",
        "Generates with a trained model. `ncgn sample --workdir=RUN` samples a run by "
        "its own settings, with pictures.",
    )
    parser.add_argument("model", help=_MODEL)
    parser.add_argument(
        "out",
        help="clouds: .png .ply .npy .obj .xyz; molecules: .png .smi .sdf; fields: "
        ".npz; images: a folder",
    )
    parser.add_argument("--num", type=int, default=16, help="how many")
    parser.add_argument("--label", nargs="+", help="class, or one for each sample")
    parser.add_argument("--num_points", type=int, help="points of a cloud")
    parser.add_argument("--num_atoms", type=int, help="heavy atoms of a molecule")
    parser.add_argument(
        "--properties", nargs="+", metavar="NAME=VALUE", help="of molecules"
    )
    parser.add_argument("--guidance", type=float, help="towards what is asked for")
    parser.add_argument("--steps", type=int, help="sampler steps")
    parser.add_argument("--seed", type=int)
    asked = _given(parser.parse_args(arguments))
    source, out, num = (asked.pop(name) for name in ("model", "out", "num"))
    if "label" in asked:
        labels = [_number_or_name(text) for text in asked["label"]]
        asked["label"] = labels[0] if len(labels) == 1 else labels
    if "properties" in asked:
        asked["properties"] = dict(map(_property, asked["properties"]))
    model: Any = load(source)
    _check_out(out, model)
    known = inspect.signature(model.sample).parameters
    for name in asked:
        if name not in known:
            raise RequestError(f"--{name} is not for models of {model.domain}")
    _report(model.sample(num, **asked).save(out), model)


def complete(arguments: Sequence[str]) -> None:
    """Generates the rest of a point cloud."""
    parser = _parser("complete", "Generates the rest of a point cloud.")
    parser.add_argument("model", help=_MODEL)
    parser.add_argument("scan", help="given points: .npy, .ply, .obj, .xyz, ...")
    parser.add_argument("out", help="whole clouds: .png, .npy, .ply, .obj or .xyz")
    parser.add_argument("--num_points", type=int, help="points of the whole cloud")
    parser.add_argument("--draws", type=int, help="number of completions")
    parser.add_argument("--proposals", type=int, help="that each is chosen from")
    parser.add_argument("--label", help="class of the shape")
    parser.add_argument("--center", type=float, nargs=3, help="of the whole shape")
    parser.add_argument("--extent", type=float, help="largest coordinate from there")
    parser.add_argument("--steps", type=int, help="sampler steps")
    parser.add_argument("--seed", type=int)
    asked = _given(parser.parse_args(arguments))
    source, scan, out = (asked.pop(name) for name in ("model", "scan", "out"))
    if "label" in asked:
        asked["label"] = _number_or_name(asked["label"])
    points, model = read_scan(scan), load(source)
    if not isinstance(model, TrainedClouds):
        raise _other_domain(source, model, "point_clouds")
    _check_out(out, model)
    whole = model.complete(points, **asked)
    _report(whole.save(out), model)
    if whole.note:
        print(f"NOTE: {whole.note}")


def impute(arguments: Sequence[str]) -> None:
    """Fills in genes and entries that were not measured."""
    parser = _parser(
        "impute", "Fills in genes and values (NaN) that were not measured."
    )
    parser.add_argument("model", help=_MODEL)
    parser.add_argument("cells", help="AnnData: .h5ad or .zarr, with positions in obsm")
    parser.add_argument("out", help="the same with layers imputed and imputed_std")
    parser.add_argument("--genes", nargs="+", help="to fill in, measured or not")
    parser.add_argument("--draws", type=int, default=16, help="fields to average")
    parser.add_argument("--steps", type=int, help="sampler steps")
    parser.add_argument("--spatial_key", help="of the positions, in obsm")
    parser.add_argument("--layer", help="with the expression; that of training")
    parser.add_argument(
        "--sections", help="column of obs that tells sections apart, or none"
    )
    parser.add_argument("--seed", type=int)
    asked = _given(parser.parse_args(arguments))
    source, cells, out = (asked.pop(name) for name in ("model", "cells", "out"))
    if Path(out).suffix.lower() != ".h5ad":
        raise RequestError(f"out: found {Path(out).name!r}; allowed: .h5ad")
    if Path(out).exists():
        raise ConfigError(f"{out} exists already; name another file")
    check_writable(Path(out).parent)
    table, model = read_anndata_file(Path(cells)), load(source)
    if not isinstance(model, TrainedFields):
        raise _other_domain(source, model, "expression")
    model.impute(table, **asked).write_h5ad(out)
    _report([Path(out)], model)


def export(arguments: Sequence[str]) -> None:
    """Writes a model that stands on its own."""
    parser = _parser("export", "Writes a model that stands on its own.")
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("folder", help="where to; `ncgn_jax.load` reads it")
    parser.add_argument("--checkpoint", default="newest", help="newest, best or a step")
    parser.add_argument("--weights", default="ema", choices=["ema", "raw"])
    options = parser.parse_args(arguments)
    if Path(options.folder).exists():
        raise ConfigError(f"{options.folder} exists already; name another folder")
    check_writable(Path(options.folder).parent)
    model = load(options.run, checkpoint=options.checkpoint, weights=options.weights)
    _report([model.export(options.folder)], model)


VERBS = {
    "sample": sample,
    "complete": complete,
    "impute": impute,
    "export": export,
}


def _check_out(out: str, model: TrainedModel) -> None:
    """Refuses what nothing could be saved to, before anything is made."""
    path = Path(out)
    if model.formats and (path.suffix.lower() not in model.formats or path.is_dir()):
        found = "a folder" if path.is_dir() else repr(path.name)
        raise RequestError(f"out: found {found}; allowed: {', '.join(model.formats)}")
    is_new_file = path.suffix.lower() in _OF_FILES and not path.exists()
    if not model.formats and is_new_file:
        raise RequestError(
            f"out: found {path.name!r}; allowed: a folder, for a file each, such as "
            f"{path.stem!r}"
        )
    check_writable(path.parent if model.formats else path)


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"ncgn {verb}", description=description)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that were given, since defaults are those of the verbs."""
    return {name: value for name, value in vars(options).items() if value is not None}


def _property(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise RequestError(
            f"--properties: found {text!r}; allowed: NAME=NUMBER, such as gap=0.25"
        ) from None


def _number_or_name(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _other_domain(source: str, model: TrainedModel, needed: str) -> ConfigError:
    return ConfigError(
        f"{source} is a model of {model.domain}; allowed: one of {needed}"
    )


def _report(paths: Sequence[Path], model: TrainedModel) -> None:
    print(model)
    for path in paths:
        print(path)
