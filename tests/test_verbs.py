"""Verbs of the command `ncgn`: they take a model, and the shipped ones have names."""

import functools
import json

import numpy as np
import pytest
from matplotlib.image import imread

import ncgn_jax as ncgn
from ncgn_jax.command import main
from ncgn_jax.expression.trained import TrainedFields
from ncgn_jax.faults import CheckpointError
from ncgn_jax.images.trained import TrainedImages
from ncgn_jax.loading import SHIPPED, shipped_models
from ncgn_jax.molecules.trained import TrainedMolecules
from ncgn_jax.point_clouds.trained import TrainedClouds
from ncgn_jax.run.model_file import read_model
from tests.test_models_alone import MODELS

pytestmark = pytest.mark.usefixtures("compile_quickly")
CLOUDS = str(MODELS / "point_clouds")


def test_sample_writes_what_the_model_makes(tmp_path, capsys):
    out = tmp_path / "clouds.npy"
    options = ["--num=3", "--steps=2", "--seed=4", "--num_points=20"]
    main(["sample", CLOUDS, str(out), *options])
    said = capsys.readouterr().out
    assert said.startswith("<TrainedClouds, ")
    assert str(out) in said
    asked = {"steps": 2, "seed": 4, "num_points": 20}
    expected = ncgn.load(CLOUDS).sample(3, **asked).points
    np.testing.assert_array_equal(np.load(out), expected)


def test_sample_draws(tmp_path):
    path = tmp_path / "clouds.png"
    main(["sample", CLOUDS, str(path), "--num=2", "--steps=1"])
    assert imread(path).shape[2] == 4


def never(function):
    """Returns a function of the same arguments that must not be called."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        raise AssertionError

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", CLOUDS, "x.png", "--num_atoms=3"], "--num_atoms is not for models"),
        (["sample", CLOUDS, "x.doc"], "out: found 'x.doc'; allowed: .npy, .obj, .ply"),
        (["sample", CLOUDS, "x"], "out: found 'x'; allowed: .npy"),
        (["sample", CLOUDS, "folder.ply"], "out: found a folder; allowed: .npy"),
        (["sample", CLOUDS, "/proc/x.ply"], "/proc: cannot be written to"),
        (["sample", str(MODELS / "images"), "scan.npy"], "scan.npy is a file; allowed"),
        (["sample", str(MODELS / "images"), "x.png"], "allowed: a folder, for a file"),
        (["sample", str(MODELS / "molecules"), "x.ply"], "allowed: .png, .sdf, .smi"),
        (["sample", str(MODELS / "expression"), "x.csv"], "allowed: .npz"),
        (["complete", CLOUDS, "SCAN", "x.doc"], "out: found 'x.doc'; allowed: .npy"),
        (["impute", CLOUDS, "a.h5ad", "/proc/b.h5ad"], "/proc: cannot be written to"),
        (["export", CLOUDS, "/proc/model"], "/proc: cannot be written to"),
        (["sample", CLOUDS, "x.png", "--properties", "gap"], "NAME=NUMBER"),
        (["sample", "shaps", "x.png"], "no model 'shaps'.*did you mean 'shapes'"),
        (["impute", CLOUDS, "a.h5ad", "b.csv"], "out: found 'b.csv'; allowed: .h5ad"),
        (["impute", CLOUDS, "a.h5ad", "b.h5ad"], "a.h5ad: no such file"),
        (["complete", CLOUDS, "absent.ply", "b.ply"], "absent.ply: no such file"),
        (["complete", str(MODELS / "images"), "SCAN", "b.ply"], "is a model of images"),
        (["export", CLOUDS, CLOUDS], "exists already"),
    ],
)
def test_refusals_are_one_line(arguments, message, tmp_path, monkeypatch):
    """Before anything is sampled."""
    monkeypatch.chdir(tmp_path)
    for kind in (TrainedClouds, TrainedImages, TrainedMolecules, TrainedFields):
        monkeypatch.setattr(kind, "sample", never(kind.sample))
    (tmp_path / "folder.ply").mkdir()
    np.save("scan.npy", np.random.default_rng(0).normal(size=(9, 3)))
    arguments = ["scan.npy" if a == "SCAN" else a for a in arguments]
    with pytest.raises(SystemExit, match=message) as error:
        main(arguments)
    assert "\n" not in str(error.value)


def test_impute_writes_annotated_cells(tmp_path, capsys):
    anndata = pytest.importorskip("anndata")
    model = ncgn.load(MODELS / "expression")
    rng = np.random.default_rng(0)
    cells = anndata.AnnData(rng.random((12, len(model.genes))).astype("f4"))
    cells.var_names = list(model.genes)
    cells.obsm["spatial"] = rng.random((12, 2))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "whole.h5ad"
    command = ["impute", str(MODELS / "expression"), str(tmp_path / "cells.h5ad")]
    main([*command, str(out), "--genes", model.genes[0], "--draws=2", "--steps=1"])
    found = anndata.read_h5ad(out)
    assert {"imputed", "imputed_std"} <= set(found.layers)
    with pytest.raises(SystemExit, match="exists already"):
        main([*command, str(out)])


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_say_what_they_are(name):
    about, weights = read_model(SHIPPED / name)
    assert about.evaluation is not None
    assert about.evaluation["meta"]["steps"] == about.step
    card = (SHIPPED / name / "README.md").read_text()
    for part in ("Data:", "Licence:", "Command:", "Seed:", "Seconds:", "\n| ema "):
        assert part in card, part
    assert f"ncgn_jax.load({name!r})".replace("'", '"') in card
    text = json.dumps(about.config)
    assert "/tmp" not in text
    assert "/work" not in text
    assert ncgn.load(name).about.domain == about.domain


def test_shipped_models_are_small_and_all_there():
    assert set(shipped_models()) == {"digits", "qm9", "shapes", "turing"}
    sizes = [path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(sizes) <= 15e6


def test_a_folder_with_a_model_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    shipped = ncgn.load("shapes")  # The folder holds no model.
    shipped.export("digits")
    assert ncgn.load("digits").about.domain == "point_clouds"
    with pytest.raises(CheckpointError, match="one of digits, qm9, shapes, turing"):
        ncgn.load("absent")
