"""Runs of every domain sample without their data, and refuse others in their place."""

import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy
import trimesh
from matplotlib.image import imread
from scipy.stats import norm

import ncgn_jax as ncgn
from ncgn_jax.config import with_fields
from ncgn_jax.domains import default_config, make_task, validate
from ncgn_jax.faults import CheckpointError, ConfigError, RequestError
from ncgn_jax.generate import load_run
from ncgn_jax.loop import train
from ncgn_jax.memory import data_differences, make_record
from ncgn_jax.point_clouds.model import PointCloudModel
from ncgn_jax.point_clouds.trained import Clouds
from ncgn_jax.run.checkpoint import Stored
from ncgn_jax.run.model_file import ModelFile, read_model, write_model
from ncgn_jax.run.state import num_params
from ncgn_jax.running import run
from ncgn_jax.starting import read_start
from tests.weights import drawn

pytestmark = pytest.mark.usefixtures("compile_quickly")
MODELS = Path(__file__).resolve().parent / "fixtures" / "models"

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


def write_molecules(path: Path, last="O", more=0, longest=8) -> Path:
    sizes, ends = range(2, longest + 1), ("", "N", last)
    chains = [f"{'C' * n}{end}" for n in sizes for end in ends]
    chains += [f"{last}{'C' * n}{last}" for n in range(1, more + 1)]
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
            "scale": ({"factor": 2.0}, r"data \(units\.mean\): was"),
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
        {
            "atoms": ({"last": "S"}, r"data \(classes\): was .*O.*, now .*S"),
            # As many classes, and more of the last: they are sorted by number.
            "order": ({"more": 40}, r"data \(classes\): was .*N, O\), now .*O, N"),
            "molecules": ({"longest": 7}, "data: was"),
        },
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


@pytest.mark.parametrize(
    "name",
    [
        "expression",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in ("point_clouds", "molecules", "images")
        ),
    ],
)
def test_a_run_needs_its_data_no_more(name, tmp_path, capsys):
    """Moved, loaded, exported and loaded again it gives the same samples."""
    needs(name)
    case = CASES[name]
    path = case.write(tmp_path / f"data{case.suffix}")
    config, folder = config_of(name, path), tmp_path / "run"
    if name == "expression":  # one domain with a network that is not its default
        config = with_fields(config, {"model.network": "hourglass"})
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

    # Nor does it take anything from others in their place, and it says so.
    case.write(path, **RENAMED[name])
    capsys.readouterr()
    fields = [f"data.path={path}x", "evaluate.weights=ema", "seed=3"]
    run(None, fields, str(moved), "sample", pictures=False)
    (made,) = (moved / "samples").glob("*/ema.npz")
    with np.load(made) as arrays:
        for part in expected:
            np.testing.assert_array_equal(arrays[part], expected[part])
    assert f"not used: data.path: was '{path}'" in capsys.readouterr().out
    for mode in ("train", "evaluate"):
        with pytest.raises(ConfigError, match=r"data \(.*\): was"):
            run(None, [f"data.path={path}"], str(moved), mode, pictures=False)

    model = ncgn.load(moved)
    assert model.domain == name
    assert "2 steps on" in repr(model)
    made = model.sample(3, steps=2, seed=5)
    assert len(made) == 3
    exported = model.export(tmp_path / "exported")
    assert sorted(path.name for path in exported.iterdir()) == [
        "model.json",
        "weights.safetensors",
    ]
    assert str(tmp_path) not in (exported / "model.json").read_text()
    weights = safetensors.numpy.load_file(exported / "weights.safetensors")
    assert sum(a.size for a in weights.values()) >= num_params(model.params)
    loaded = ncgn.load(exported)
    again, parts = arrays_of(loaded.sample(3, steps=2, seed=5)), arrays_of(made)
    assert parts
    for part in parts:
        np.testing.assert_array_equal(again[part], parts[part])
    other = arrays_of(loaded.sample(3, steps=2, seed=6))
    assert any(not np.array_equal(other[part], parts[part]) for part in parts)

    last = ncgn.load(moved, weights="raw")
    pairs = zip(*map(jax.tree.leaves, (model.params, last.params)), strict=True)
    assert any(not np.array_equal(*pair) for pair in pairs)
    with pytest.raises(CheckpointError, match="weights: found 'mean'"):
        ncgn.load(moved, weights="mean")
    with pytest.raises(CheckpointError, match="no checkpoint 7"):
        ncgn.load(moved, checkpoint=7)
    if name == "molecules":
        with pytest.raises(CheckpointError, match="molecule_autoencoder has none"):
            ncgn.load(moved / "first_stage")


def arrays_of(made) -> dict[str, np.ndarray]:
    return {k: v for k, v in vars(made).items() if isinstance(v, np.ndarray)}


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
    differences = data_differences(make_task(config), stored)
    assert any(re.search(said, str(difference)) for difference in differences)
    assert {d.may_change for d in differences} == {said == "data: was"}


@functools.cache
def model_of(name: str):
    """A model of the domain, of two steps."""
    needs(name)
    return ncgn.load(MODELS / name)


RENAMED = {
    "point_clouds": {"names": ("ball", "cone")},
    "expression": {"genes": ("Gad2", "Ttr", "Sox10")},
    "molecules": {"last": "S"},
    "images": {"names": ("cat", "fox")},
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_may_start_from_another(name, tmp_path):
    """All fits the same names; what has a place for each name starts anew."""
    case = CASES[name]
    path = case.write(tmp_path / f"data{case.suffix}")
    config = config_of(name, path)
    same = read_start(make_task(config), str(MODELS / name))
    assert not same.anew
    assert same.has_state
    case.write(path, **RENAMED[name])
    other = read_start(make_task(config), str(MODELS / name))
    assert other.weights
    assert any("because" in reason for reason in other.anew.values())
    assert other.has_state == (name != "molecules")


@pytest.mark.parametrize("name", CASES)
def test_models_of_the_first_format_go_on_working(name):
    """Written on 2026-11-29; a change that breaks this breaks what people shared."""
    needs(name)
    folder = MODELS / name
    about = json.loads((folder / "model.json").read_text())
    assert (about["format"], about["config"]["config_version"]) == (1, 2)
    made = ncgn.load(folder).sample(2, steps=2, seed=5)
    with np.load(folder / "samples.npz") as expected:
        for part in expected.files:
            stored = expected[part]
            found = getattr(made, part)
            # Pixels may round to the next byte.
            scale = {"u": 1, "i": 0}.get(stored.dtype.kind)
            atol = 2e-4 * np.nanmax(np.abs(stored)) if scale is None else scale
            np.testing.assert_allclose(
                found.astype(float), stored.astype(float), rtol=1e-4, atol=atol
            )


def copy_of(name, tmp_path):
    return Path(shutil.copytree(MODELS / name, tmp_path / name))


def test_what_is_no_model_is_one_line(tmp_path):
    folder = copy_of("images", tmp_path)
    about = json.loads((folder / "model.json").read_text())

    def refused(expected, **changes):
        (folder / "model.json").write_text(json.dumps(about | changes))
        with pytest.raises(CheckpointError, match=expected) as error:
            ncgn.load(folder)
        assert "\n" not in str(error.value)

    refused(r"format 99; this program reads up to 1: update", format=99)
    refused("a model of 'proteins'; this program knows point_clouds", domain="proteins")
    refused(r"no model file: Expected `int`, got `str` - at `\$.step`", step="two")
    refused(r"facts of the data: .*image_shape", facts={})
    (folder / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match="is no model file"):
        ncgn.load(folder)
    (folder / "model.json").write_text(json.dumps(about))
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"weights.safetensors is damaged"):
        ncgn.load(folder)
    safetensors.numpy.save_file({"x": np.ones(3)}, weights)
    with pytest.raises(CheckpointError, match="does not belong to model.json"):
        ncgn.load(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"no weights.safetensors"):
        ncgn.load(folder)
    with pytest.raises(CheckpointError, match=r"neither model.json nor checkpoints"):
        ncgn.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"no model '.*imagse'.*did you mean"):
        ncgn.load(tmp_path / "imagse")


def test_weights_of_another_network_are_refused(tmp_path):
    folder = copy_of("images", tmp_path)
    about, weights = read_model(folder)
    about.config["model"]["width"] = 12
    write_model(folder, about, weights)
    with pytest.raises(CheckpointError, match=r"not those of this images model: .*12"):
        ncgn.load(folder)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("point_clouds", {"label": "bal"}, "label: found 'bal'.*did you mean 'ball'"),
        ("point_clouds", {"label": 2}, "label: found 2; allowed: ball, box"),
        ("point_clouds", {"steps": 0}, "steps: found 0; .* at least 1"),
        ("point_clouds", {"sampler": "hun"}, "sampler: .*did you mean 'heun'"),
        ("point_clouds", {"guidance": -1.0}, "guidance: found -1.0"),
        ("point_clouds", {"num_points": 1}, "num_points: found 1"),
        ("point_clouds", {"num": 0}, "num: found 0"),
        ("images", {"label": ()}, "label: found no class"),
        ("molecules", {"properties": {"gap": 1.0}}, "properties: found 'gap'.*none"),
        ("molecules", {"num_atoms": 99}, "num_atoms: found 99; .* have 2 to 9"),
        ("molecules", {"guidance": 1.0}, "guidance: .*without properties"),
        ("expression", {"positions": [np.ones((4, 3))]}, "positions: .*node, 2"),
    ],
)
def test_impossible_requests_are_refused(name, arguments, said):
    model = model_of(name)
    with pytest.raises(RequestError, match=said):
        model.sample(**({"num": 2} | arguments))


def test_verbs_of_other_domains_are_answered_in_words():
    with pytest.raises(AttributeError, match=r"images have no 'complete'.*inpaint"):
        model_of("images").complete(np.ones((4, 3)))
    assert not hasattr(model_of("images"), "impute")


def test_clouds_of_any_size_and_class(tmp_path):
    model = model_of("point_clouds")
    made = model.sample(3, label=["box", 0], num_points=20, steps=1)
    assert made.points.shape == (3, 20, 3)
    assert made.labels == ("box", "ball", "box")
    for kind in ("ply", "obj", "xyz"):
        paths = made.save(tmp_path / f"some.{kind}")
        assert [path.name for path in paths] == [f"some-0{i}.{kind}" for i in range(3)]
        lines = paths[0].read_bytes()
        if kind == "ply":
            loaded = trimesh.load(paths[0]).vertices
        else:
            words = [line.split()[-3:] for line in lines.decode().splitlines()]
            loaded = np.asarray(words, float)
        np.testing.assert_allclose(loaded, made.points[0], rtol=1e-6)
    far = Clouds(made.points[:1] + np.array([5e5, 4e6, 100.0]))
    for kind in ("ply", "xyz"):
        (path,) = far.save(tmp_path / f"far.{kind}")
        np.testing.assert_array_equal(trimesh.load(path).vertices, far.points[0])
    (path,) = made.save(tmp_path / "all.npy")
    np.testing.assert_array_equal(np.load(path), made.points)
    with pytest.raises(RequestError, match="allowed: .npy, .obj, .ply, .png, .xyz"):
        made.save(tmp_path / "some.stl")


def test_larger_clouds_get_graphs_that_the_network_knows():
    small = make_task(
        with_fields(
            default_config("point_clouds").lock(),
            {"data.num_points": 64, "data.num_train": 20, "data.num_test": 8},
        )
    ).model
    large, own = small.resized(200), small.time.buckets
    assert len(own) > 1
    for ours, theirs in zip(large.time.buckets, own, strict=True):
        assert ours.num_nodes == 200
        assert ours.num_supernodes == theirs.num_supernodes
        assert ours.num_neighbors == theirs.num_neighbors
        assert ours.low == theirs.low
    # All points are nodes of the finest graph as trained, and no longer of a larger.
    assert [b.clustering for b in (own[-1], large.time.buckets[-1])] == [
        "identity",
        "balanced",
    ]
    assert small.resized(32).time.buckets[-1].num_supernodes == 32
    assert small.resized(64) is small
    knn = model_of("point_clouds").model
    assert knn.resized(40).time.buckets[0].num_supernodes == 40


def test_a_completed_cloud_keeps_what_was_given():
    model = model_of("point_clouds")
    scan = np.random.default_rng(0).normal(size=(6, 3)) * 40 + 1000
    whole = model.complete(scan, draws=2, steps=4, center=(1000, 1000, 1000))
    assert whole.points.shape == (2, 16, 3)
    np.testing.assert_array_equal(whole.points[:, :6], np.float32([scan] * 2))
    assert 10 < np.abs(whole.points[:, 6:] - 1000).mean() < 200
    assert np.abs(whole.points[0, 6:] - whole.points[1, 6:]).max() > 1
    assert "extent" in whole.note
    assert "center" not in whole.note
    with pytest.raises(RequestError, match="scan: found 16 points; allowed: fewer"):
        model.complete(np.ones((16, 3)))
    with pytest.raises(RequestError, match=r"scan: found shape \(4,\)"):
        model.complete(np.ones(4))


def test_given_points_choose_among_proposals_and_their_class(monkeypatch):
    """Of clouds around 0 and around (9, 9, 9), the part that is given lies at 9."""
    model = model_of("point_clouds")
    rng = np.random.default_rng(0)
    given = rng.normal(size=(5, 3)).astype("f4") + 9
    seen = {}

    def sample(own, params, state, label, seed, sampling):
        made = rng.normal(size=(len(label), 16, 3)) + 9 * label[:, None, None]
        # All of the other clouds but what is not given lies where the given points do.
        made[:, :5] = np.where(label[:, None, None] == 1, given + 0.01, made[:, :5])
        seen["labels"] = label
        return made.astype("f4")

    def refine(own, params, state, points, is_given, label, seed, sampling, level):
        seen.update(points=points, is_given=is_given, label=label, level=level)
        return points

    monkeypatch.setattr(PointCloudModel, "sample", sample)
    monkeypatch.setattr(PointCloudModel, "refine", refine)
    whole = model.complete(given, draws=3, proposals=6, center=(0, 0, 0), extent=1.0)
    assert len(seen["labels"]) == 18
    each = seen["labels"].reshape(3, 6)
    assert (each == 0).any(axis=1).all()
    assert (each == 1).any(axis=1).all()
    assert whole.labels == ("box",) * 3
    np.testing.assert_array_equal(seen["label"], [1, 1, 1])
    np.testing.assert_array_equal(seen["is_given"].sum(axis=1), [5, 5, 5])
    # The given points took the places of their copies.
    np.testing.assert_array_equal(whole.points[:, :5], [given] * 3)
    near = np.abs(whole.points[:, 5:, None] - given).max(axis=-1)
    assert near.min() > 0.011
    assert 0 < seen["level"] < 1
    with pytest.raises(RequestError, match="proposals: found 0"):
        model.complete(given, proposals=0)


def test_clouds_are_generated_anew_from_a_level_on():
    """From level 1 - e nothing moves; from 0 on it is a sample around given points."""
    trained = model_of("point_clouds")
    model, sampling = trained.model, trained._settings(steps=8)
    weights = trained.params, trained.model_state
    points = np.random.default_rng(0).normal(size=(2, 16, 3)).astype("f4")
    is_given = np.tile(np.arange(16) < 4, (2, 1))
    label = np.zeros(2, np.int32)
    arguments = points, is_given, label, 0, sampling
    near = model.refine(*weights, *arguments, 0.9999)
    np.testing.assert_allclose(near, points, atol=1e-2)
    far = model.refine(*weights, *arguments, 0.0)
    np.testing.assert_array_equal(far[:, :4], points[:, :4])
    assert np.abs(far[:, 4:] - points[:, 4:]).mean() > 0.3
    others = points + (~is_given)[..., None]
    again = model.refine(*weights, others, *arguments[1:], 0.0)
    np.testing.assert_array_equal(again, far)


def test_interpolation_begins_and_ends_with_the_clouds():
    model = model_of("point_clouds")
    ends = model.sample(2, label="ball", steps=200, sampler="heun", seed=3).points
    between = model.interpolate(*ends, num=5, label="ball", steps=200)
    assert between.points.shape == (5, 16, 3)
    for found, expected in zip(between.points[[0, -1]], ends, strict=True):
        order = [np.lexsort(np.round(x, 2).T) for x in (found, expected)]
        np.testing.assert_allclose(
            found[order[0]], expected[order[1]], atol=0.02 * np.abs(expected).max()
        )
    spread = between.points.std(axis=(1, 2))
    assert spread.min() > 0.5 * spread[[0, -1]].min()
    assert spread.max() < 1.2 * spread[[0, -1]].max()
    same = model.interpolate(ends[0], ends[0], num=3, label="ball", steps=200)
    np.testing.assert_allclose(same.points[1], same.points[0], atol=1e-3)
    with pytest.raises(RequestError, match="label: needed"):
        model.interpolate(*ends)


def test_likelihoods_are_in_the_units_of_the_data(monkeypatch):
    """Of a network that knows data N(0, 0.5^2) at unit variance, classes or not."""
    spread = 0.5

    def apply(self, variables, bucket, x_t, t, label, span=None):
        t = t[:, None, None]
        data_hat = t * spread**2 / (t**2 * spread**2 + (1 - t) ** 2) * x_t
        noise_hat = (1 - t) / (t**2 * spread**2 + (1 - t) ** 2) * x_t
        return (data_hat - noise_hat,)

    monkeypatch.setattr(PointCloudModel, "apply", apply)
    model = model_of("point_clouds")
    deviation = spread * model.model.facts.scale
    clouds = np.random.default_rng(0).normal(size=(3, 16, 3)) * deviation
    expected = norm(0, deviation).logpdf(clouds).sum(axis=(1, 2))
    for options in ({"exact": True}, {"probes": 2}):
        found = model.log_likelihood(clouds, label="box", steps=60, **options)
        np.testing.assert_allclose(found, expected, atol=0.2)
    with pytest.raises(RequestError, match="label: needed"):
        model.log_likelihood(clouds)
    with pytest.raises(RequestError, match="clouds: found shape"):
        model.log_likelihood(clouds[0], label="box")


def test_inpainted_images_keep_what_was_given(tmp_path):
    model = model_of("images")
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 1)).astype(np.uint8)
    mask = np.arange(8)[:, None] < np.full(8, 4)
    made = model.inpaint(image, mask, draws=2, label="dog", steps=3)
    assert made.labels == ("dog", "dog")
    np.testing.assert_array_equal(made.images[:, :4], np.stack([image[:4]] * 2))
    assert (made.images[0, 4:] != made.images[1, 4:]).any()
    with pytest.raises(RequestError, match="mask: found"):
        model.inpaint(image, mask.astype(int))
    paths = made.save(tmp_path / "made")
    assert [path.name for path in paths] == ["0-dog.png", "1-dog.png", "grid.png"]
    shown = imread(paths[0])  # grey images stay grey
    np.testing.assert_allclose(shown * 255, made.images[0, ..., 0], atol=1e-4)
    assert imread(paths[-1]).shape[:2] == (8, 17)


def test_molecules_have_the_size_that_is_asked_for(tmp_path):
    made = model_of("molecules").sample(5, num_atoms=4, steps=2)
    assert ((made.atoms >= 0).sum(axis=1) == 4).all()
    assert len(made.drawn()) == len(made.to_rdkit()) == 5
    (path,) = made.save(tmp_path / "some.smi")
    lines = [line.split() for line in path.read_text().splitlines()]
    assert tuple(smiles for smiles, *_ in lines) == made.valid
    assert {bonds for _, bonds, _ in lines} <= {"raw", "repaired"}
    made.save(tmp_path / "some.sdf")


def test_fields_lie_where_they_are_asked_for(tmp_path):
    model = model_of("expression")
    places = np.random.default_rng(0).uniform(0, 9, (20, 2))
    made = model.sample(2, positions=places, steps=2)
    assert made.values.shape == (2, 20, 3)
    np.testing.assert_allclose(made.positions[1], places, rtol=1e-6)
    # In the units of the file, whose genes have a mean of 2.
    assert 0.5 < np.abs(made.values).mean() < 10
    several = model.sample(3, positions=[places, places[:7]], steps=2)
    assert np.isnan(several.positions[1, 7:]).all()
    np.testing.assert_array_equal(several.values[1, 7:], 0)
    (path,) = made.save(tmp_path / "fields.npz")
    with np.load(path) as file:
        assert file["genes"].tolist() == list(model.genes)


def test_importing_the_package_is_quick_and_lists_its_face():
    script = (
        "import sys, ncgn_jax as ncgn; print('jax' in sys.modules, 'load' in dir(ncgn))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="lod"):
        _ = ncgn.lod


def cells(num=50, genes=("Ttr", "Gad2", "Sox10"), seed=1):
    """Cells of another tissue, their genes in another order."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(2.0, size=(num, len(genes)))
    return values, rng.uniform(0, 9, (num, 2)), genes


def test_imputation_matches_genes_by_name_and_keeps_what_was_measured():
    model = model_of("expression")
    values, places, genes = cells()
    values[7, 1] = np.nan  # Gad2
    found = model.impute(values, places, genes, genes="Ttr", draws=2, steps=2)
    assert found.genes == ("Gad2", "Sox10", "Ttr")
    measured = values[:, [1, 2]].astype("f4")
    is_known = np.isfinite(measured)
    np.testing.assert_array_equal(found.values[:, :2][is_known], measured[is_known])
    assert np.isfinite(found.values).all()
    filled = np.column_stack([~is_known, np.ones(50, bool)])
    np.testing.assert_array_equal(found.std > 0, filled)
    # Without the gene it is the same as with it hidden.
    fewer = model.impute(values[:, 1:], places, genes[1:], draws=2, steps=2)
    np.testing.assert_array_equal(fewer.values, found.values)


@pytest.mark.parametrize("draws", [1, 2])
def test_imputed_cells_are_those_that_evaluation_scores(draws, tmp_path):
    """Counts in; logarithm and moments undone, gene by gene, as the table's are."""
    fields = {"sample.tasks": ("gene_imputation",), "sample.hidden_genes": ("Ttr",)}
    fields |= {"data.logarithm": True, "sample.num_draws": draws}
    config = with_fields(
        config_of("expression", write_cells(tmp_path / "cells.csv")), fields
    )
    task = make_task(config)
    params, model_state = drawn(task.init, jax.random.key(0))
    arrays = task.sample(params, model_state, 4, seed=3)
    guess = arrays["gene_imputation_mean" if draws > 1 else "gene_imputation"][0]
    units, patch = task.facts.units, task.dataset.test
    weights = {"params": params, "model_state": model_state}
    flat = flax.traverse_util.flatten_dict(weights, sep="/")
    model = task.trained(flat, ModelFile("expression", {}, {}, ["data"], "", 0, {}))
    scale, mean = np.asarray(units.scale), np.asarray(units.mean)
    counts = np.expm1(patch.values[0].astype(float) * scale + mean)
    places = patch.layouts[patch.layout[0]] * units.half_width
    found = model.impute(
        counts, places, task.facts.genes, genes="Ttr", draws=draws, seed=3
    )
    expected = np.maximum(np.expm1(guess.astype(float) * scale + mean), 0)
    np.testing.assert_allclose(found.values, expected, rtol=2e-4, atol=1e-4)
    spread = found.std[:, 2]
    assert (spread > 0).all() if draws > 1 else not spread.any()


def test_every_cell_is_imputed_from_the_patch_around_it(monkeypatch):
    """A model whose fields repeat a measured gene in the place of the others."""
    model = model_of("expression")
    units = model.model.facts.units
    seen = []

    def sample(own, params, state, layouts, fixed, seed, sampling, *, hold):
        seen.append(fixed)
        measured = units.to_file(fixed.values)[..., :1]  # Gad2
        return units.to_fields(np.repeat(measured, 3, axis=2)).astype("f4")

    monkeypatch.setattr(type(model.model), "sample", sample)
    values, places, genes = cells()
    found = model.impute(values, places, genes, genes=("Ttr", "Sox10"))
    np.testing.assert_allclose(found.values, values[:, [1]] * [1, 1, 1], rtol=1e-5)
    (fixed,) = seen
    assert fixed.given.shape[1:] == (12, 3)
    assert fixed.given[..., 0].all()
    assert not fixed.given[..., 1:].any()


def test_imputed_cells_come_back_as_they_were_given():
    anndata = pytest.importorskip("anndata")
    model = model_of("expression")
    values, places, genes = cells()
    given = anndata.AnnData(values.astype("f4"), obsm={"spatial": places})
    given.var_names = list(genes)
    found = model.impute(given, genes=["Ttr"], draws=2, steps=2)
    assert list(found.var_names) == ["Gad2", "Sox10", "Ttr"]
    np.testing.assert_allclose(found.X[:, 2], values[:, 0], rtol=1e-6)
    assert (found.layers["imputed_std"][:, 2] > 0).all()
    np.testing.assert_array_equal(found.obsm["spatial"], places)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"genes": "Sox11"}, "genes: found 'Sox11'.*did you mean 'Sox10'"),
        ({"gene_names": ("a", "b", "c")}, "none of their genes"),
        ({"gene_names": ("Ttr", "Ttr", "Gad2")}, "'Ttr' stands there more than once"),
        ({"positions": np.ones((3, 2))}, r"positions: found shape \(3, 2\)"),
        ({"positions": np.ones((50, 3))}, "positions: found 3 axes; allowed: 2"),
        ({"positions": None}, "needed beside an array"),
        ({"times": np.ones(50)}, "times: the model has none"),
        ({"draws": 0}, "draws: found 0"),
    ],
)
def test_impossible_imputations_are_refused(change, said):
    values, places, genes = cells()
    arguments = {"positions": places, "gene_names": genes} | change
    with pytest.raises(RequestError, match=said):
        model_of("expression").impute(values, **arguments)
