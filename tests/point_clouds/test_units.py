"""Samples in the units of the file, and tables of few clouds."""

from pathlib import Path

import numpy as np
import pytest

from ncgn_jax.config import apply_overrides, load_config
from ncgn_jax.data.digest import digest
from ncgn_jax.domains import make_task, validate
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.facts import CloudFacts
from ncgn_jax.point_clouds.model import PointCloudModel
from ncgn_jax.point_clouds.sets import Frame
from ncgn_jax.point_clouds.task import PointCloudTask
from ncgn_jax.point_clouds.trained import TrainedClouds
from ncgn_jax.tasks.facts import from_plain, to_plain

SMOKE = Path(__file__).resolve().parents[2] / "configs" / "smoke.py"
FAR = np.array([5e5, 4e6, 100.0])


@pytest.fixture
def given(tmp_path):
    """Clouds of other sizes, far from the origin."""
    rng = np.random.default_rng(0)
    sizes = rng.uniform(2, 30, size=(40, 1, 1))
    clouds = rng.normal(size=(40, 40, 3)) * sizes + FAR
    np.save(tmp_path / "clouds.npy", clouds)
    return clouds


def task_of(path, *overrides):
    config = apply_overrides(
        load_config(SMOKE),
        [
            "data.source=files",
            f"data.path={path}",
            "data.test_fraction=0.3",
            *overrides,
        ],
    )
    validate(config)
    return make_task(config)


def repeat_training(monkeypatch, task):
    """Lets the model 'generate' clouds of the training set, as it sees them."""
    seen = task.dataset.train[:, : task.model.num_points]

    def sample(self, params, state, label, seed, sampling):
        return seen[: len(label)]

    monkeypatch.setattr(PointCloudModel, "sample", sample)


def is_given(points, given):
    """Tells whether every point is one of the given ones, to a millimetre."""
    places = given.reshape(-1, 3)
    gaps = [np.abs(places - point).max(1).min() for point in points.reshape(-1, 3)[:50]]
    return max(gaps) < 1e-3


def test_samples_of_a_set_scaled_alike_are_in_the_units_of_the_file(
    tmp_path, given, monkeypatch
):
    task = task_of(tmp_path / "clouds.npy", "data.normalise=set")
    repeat_training(monkeypatch, task)
    assert np.abs(task.dataset.train).max() == pytest.approx(1)
    points = task.sample({}, {}, 4, seed=0)["points"]
    assert points.dtype == np.float64
    assert is_given(points, given)
    # The stored facts are enough, without the data.
    facts = from_plain(CloudFacts, to_plain(task.facts))
    alone = PointCloudTask(task.config, None, facts)
    np.testing.assert_array_equal(alone.sample({}, {}, 4, seed=0)["points"], points)


def test_trained_models_speak_the_units_of_the_file(tmp_path, given, monkeypatch):
    task = task_of(tmp_path / "clouds.npy", "data.normalise=set")
    repeat_training(monkeypatch, task)
    model = TrainedClouds.__new__(TrainedClouds)
    model.model, model.sampling = task.model, task.sampling
    model.params, model.model_state = {}, {}
    assert is_given(model.sample(4).points, given)
    frame = task.facts.frame
    asked = {}

    def refine(self, params, state, points, *_):
        asked["points"] = points
        return points

    monkeypatch.setattr(PointCloudModel, "refine", refine)
    scan = given[0][:10]
    made = model.complete(scan, proposals=2)
    np.testing.assert_array_equal(made.points[0, :10], scan)
    assert made.note == ""  # nothing is assumed: the run knows centre and size
    seen = frame.from_file(scan)
    np.testing.assert_allclose(asked["points"][0, :10], seen, atol=1e-6)
    monkeypatch.setattr(
        PointCloudModel,
        "to_noise",
        lambda self, p, s, ends, *_: asked.update(e=ends) or ends,
    )
    monkeypatch.setattr(
        PointCloudModel, "from_noise", lambda self, p, s, noise, *_: noise
    )
    ends = given[:2, :32]
    between = model.interpolate(*ends, num=3).points
    np.testing.assert_allclose(asked["e"], frame.from_file(ends))
    np.testing.assert_allclose(np.sort(between[0], 0), np.sort(ends[0], 0), atol=1e-3)
    monkeypatch.setattr(
        PointCloudModel, "log_likelihood", lambda self, p, s, x, *_: np.zeros(len(x))
    )
    # The density of a cloud is less by the unit for each coordinate.
    found = model.log_likelihood(ends)
    np.testing.assert_allclose(found, -32 * 3 * np.log(frame.unit))


@pytest.mark.parametrize("normalise", ["cloud", "set", "none"])
def test_tables_look_at_clouds_in_one_scaling(tmp_path, given, monkeypatch, normalise):
    task = task_of(tmp_path / "clouds.npy", f"data.normalise={normalise}")
    repeat_training(monkeypatch, task)
    rows = task.evaluate({"model": task.sample({}, {}, 8, seed=0)})
    # The model repeats real clouds, so it is as wide as they are: in +-0.25.
    spread = rows["model"]["spread"]
    assert 0.01 < spread < 0.25
    assert rows["model"]["spread_reference"] == pytest.approx(spread, rel=0.8)
    caption = task.caption()
    if normalise == "cloud":
        assert "scaling" not in caption
    else:
        assert caption["scaling"].startswith(f"data.normalise={normalise}; all clouds")


def test_facts_of_older_runs_have_a_frame():
    old = {"scale": 0.4, "class_names": ["a"], "class_counts": [3]}
    facts = from_plain(CloudFacts, old)
    assert facts.frame == Frame()
    points = np.ones((2, 3), np.float32)
    assert facts.frame.to_file(points) is points


def test_digests_of_clouds_scaled_each_are_those_of_older_runs(tmp_path, given):
    task = task_of(tmp_path / "clouds.npy")
    data = task.dataset
    names = ("train", "test", "train_labels", "test_labels", "class_names", "scale")
    assert task.digest == digest({name: getattr(data, name) for name in names})
    other = task_of(tmp_path / "clouds.npy", "data.normalise=set")
    assert other.digest != task.digest


def test_data_of_another_scaling_are_refused(tmp_path, given):
    task = task_of(tmp_path / "clouds.npy", "data.normalise=set")
    other = task_of(tmp_path / "clouds.npy")
    with pytest.raises(
        DataError, match="'cloud', but the model was trained with 'set'"
    ):
        other.with_facts(task.facts)


def test_other_data_are_seen_in_the_scaling_of_the_run(tmp_path, given):
    task = task_of(tmp_path / "clouds.npy", "data.normalise=set")
    np.save(tmp_path / "more.npy", 3 * (given - FAR) + FAR)
    other = task_of(tmp_path / "more.npy", "data.normalise=set").with_facts(task.facts)
    batch = other.batch(0, slice(0, 32))["data"]
    first = task.batch(0, slice(0, 32))["data"]
    assert np.std(batch) > 2 * np.std(first)


@pytest.mark.parametrize(("num_test", "num_samples"), [(1, 8), (3, 8), (6, 1)])
def test_tables_of_few_clouds_say_what_is_left_out(
    tmp_path, given, monkeypatch, num_test, num_samples
):
    for part, clouds in (("train", given[:20]), ("test", given[20 : 20 + num_test])):
        (tmp_path / "few").mkdir(exist_ok=True)
        np.save(tmp_path / "few" / f"{part}.npy", clouds)
    task = task_of(tmp_path / "few")
    repeat_training(monkeypatch, task)
    rows = task.evaluate({"model": task.sample({}, {}, num_samples, seed=0)})
    said = "\n".join(task.warnings(rows))
    assert ("w_flat" in rows["model"]) == (min(num_test, num_samples) > 1)
    if min(num_test, num_samples) == 1:
        words = f"model: {num_samples} generated and {num_test} reference clouds"
        assert f"{words}; measures need 2 of each" in said
    assert ("held_out" in rows) == (num_test >= 4)
    if num_test < 4:
        assert "held_out: left out, since its two halves need 4 test clouds" in said
        assert "the table leaves out what needs 4" in task.notes()[0]


@pytest.mark.parametrize("name", ["clouds.npy", "folder", "a.ply", "a.xyz"])
def test_clouds_are_recognised_by_a_look(tmp_path, given, name):
    if name == "folder":
        (tmp_path / name / "chair").mkdir(parents=True)
        np.save(tmp_path / name / "chair" / "0.npy", given[0])
    elif name != "clouds.npy":
        (tmp_path / name).write_text("1 2 3\n" if name.endswith("xyz") else "ply\n")
    assert PointCloudTask.recognise(tmp_path / name) == {}


def test_what_is_no_cloud_is_not_recognised(tmp_path):
    images = np.zeros((4, 28, 28), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    np.save(tmp_path / "images.npy", np.zeros((4, 32, 32, 3), np.uint8))
    (tmp_path / "cells.csv").write_text("ID,X,Y,Gad2,Ttr\n" + "c,1,2,3,4\n" * 5)
    (tmp_path / "qm9.xyz").write_text("5\ngdb 1\nC 0 0 0\nH 1 0 0\n")
    (tmp_path / "a.smi").write_text("CCO\n")
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    for path in tmp_path.iterdir():
        assert PointCloudTask.recognise(path) is None, path
