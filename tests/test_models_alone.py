"""Runs of every domain sample without their data, and refuse others in their place."""

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ncgn_jax.config import with_fields
from ncgn_jax.domains import default_config, make_task, validate
from ncgn_jax.faults import ConfigError
from ncgn_jax.generate import load_run
from ncgn_jax.memory import data_differences, make_record
from ncgn_jax.run.checkpoint import Stored
from ncgn_jax.train import train

pytestmark = pytest.mark.usefixtures("compile_quickly")

TRAINED = {
    "train.num_steps": 2,
    "train.warmup_steps": 1,
    "sample.num_samples": 4,
    "sample.batch_size": 8,
    "sample.num_steps": 2,
    "model.num_layers": 1,
    "model.width": 8,
}


def write_clouds(path: Path, names=("ball", "box"), stretch=1.0, seed=0) -> Path:
    rng = np.random.default_rng(seed)
    shutil.rmtree(path, ignore_errors=True)
    for name in names:
        (path / name).mkdir(parents=True)
        clouds = rng.normal(size=(12, 16, 3)) * [1, 1, stretch]
        for i, cloud in enumerate(clouds.astype("f4")):
            np.save(path / name / f"{i}.npy", cloud)
    return path


def write_cells(path: Path, genes=("Gad2", "Sox10", "Ttr"), factor=1.0) -> Path:
    rng = np.random.default_rng(0)
    lines = [",".join(["ID", "X", "Y", *genes])]
    for i in range(80):
        numbers = [*rng.uniform(0, 9, 2), *(factor * rng.gamma(2.0, size=len(genes)))]
        lines.append(f"c{i}," + ",".join(f"{number:.4f}" for number in numbers))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_molecules(path: Path, last="O") -> Path:
    chains = [f"{'C' * n}{end}" for n in range(2, 9) for end in ("", "N", last)]
    path.write_text("\n".join(chains) + "\n")
    return path


def write_images(path: Path, names=("cat", "dog"), seed=0) -> Path:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (40, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(40, dtype=np.int32) % len(names)
    np.savez(path, images=images, labels=labels, class_names=np.asarray(names))
    return path


class Case(NamedTuple):
    """A domain with a data set of its own, and others of equal shapes."""

    suffix: str
    write: Callable[..., Path]
    fields: Mapping[str, Any]
    others: Mapping[str, tuple[dict[str, Any], str]]


CASES = {
    "point_clouds": Case(
        "",
        write_clouds,
        {"data.source": "files", "data.num_points": 16, "dmp.connectivity": "knn",
         "dmp.num_neighbors": 4, "train.batch_size": 8,
         "model.class_conditional": True},
        {
            "classes": ({"names": ("ball", "cone")}, r"data \(class_names\).*cone"),
            "scale": ({"stretch": 3.0}, "data: was"),
            "clouds": ({"seed": 1}, "data: was"),
        },
    ),
    "expression": Case(
        ".csv",
        write_cells,
        {"data.source": "cells", "data.num_nodes": 12, "dmp.connectivity": "knn",
         "dmp.num_neighbors": 4, "train.batch_size": 8,
         "sample.tasks": ("unconditional",)},
        {
            "genes": ({"genes": ("Gad2", "Sox11", "Ttr")}, r"data \(genes\).*Sox11"),
            "order": ({"genes": ("Gad2", "Ttr", "Sox10")}, r"data \(genes\)"),
            "scale": ({"factor": 2.0}, "data: was"),
        },
    ),
    "molecules": Case(
        ".smi",
        write_molecules,
        {"data.source": "file", "autoencoder.num_steps": 2, "autoencoder.width": 8,
         "autoencoder.batch_size": 8, "autoencoder.pair_width": 8,
         "autoencoder.num_layers": 1, "model.pair_width": 8, "model.network": "gnn",
         "autoencoder.decoder": "pna", "train.batch_size": 32,
         "sample.num_published": 0, "sample.num_reconstructed": 0},
        {"atoms": ({"last": "S"}, r"data \(classes\): was .*O.*, now .*S")},
    ),
    "images": Case(
        ".npz",
        write_images,
        {"data.source": "arrays", "dmp.patches": (4,), "model.num_heads": 2,
         "train.batch_size": 8},
        {
            "classes": ({"names": ("cat", "fox")}, r"data \(class_names\).*fox"),
            "images": ({"seed": 1}, "data: was"),
        },
    ),
}  # fmt: skip
NAMES = [(name, other) for name, case in CASES.items() for other in case.others]


def config_of(name: str, path: Path):
    case = CASES[name]
    known = default_config(name)
    fields = TRAINED | dict(case.fields) | {"data.path": str(path)}
    if name == "images":
        fields = {k: v for k, v in fields.items() if k in _names(known)}
    config = with_fields(known.lock(), fields)
    validate(config)
    return config


def _names(config):
    return {f"{s}.{k}" for s in config if hasattr(config[s], "keys") for k in config[s]}


@functools.cache
def needs(name: str) -> None:
    if name == "molecules":
        pytest.importorskip("rdkit")


@pytest.mark.parametrize("name", CASES)
def test_samples_without_the_data_are_those_beside_them(name, tmp_path):
    needs(name)
    case = CASES[name]
    path = case.write(tmp_path / f"data{case.suffix}")
    config, folder = config_of(name, path), tmp_path / "run"
    state = train(config, folder)
    # Fields beside data lie on the layouts of the test fields.
    beside, _ = load_run(config, folder, with_data=name != "expression")
    expected = beside.sample(state.ema, state.model_state, 4, 3)
    path.rename(tmp_path / "away")
    moved = folder.rename(tmp_path / "elsewhere")
    alone, restored = load_run(config, moved, with_data=False)
    found = alone.sample(restored.ema, restored.model_state, 4, 3)
    assert expected.keys() == found.keys()
    for part in expected:
        np.testing.assert_array_equal(found[part], expected[part])


@pytest.mark.parametrize(("name", "other"), NAMES)
def test_other_data_in_the_same_place_are_refused(name, other, tmp_path):
    needs(name)
    case = CASES[name]
    path = case.write(tmp_path / f"data{case.suffix}")
    config = config_of(name, path)
    record = make_record(make_task(config))
    stored = Stored(2, "", record, [])
    assert data_differences(make_task(config), stored) == []
    changes, said = case.others[other]
    case.write(path, **changes)
    (difference,) = data_differences(make_task(config), stored)
    with pytest.raises(ConfigError, match=said):
        raise ConfigError(str(difference))
    assert difference.may_change == (said == "data: was")
