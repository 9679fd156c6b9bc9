import jax
import numpy as np
import pytest
from matplotlib.image import imread

from ncgn_jax.config import with_fields
from ncgn_jax.domains import make_task
from ncgn_jax.graphs import build_graphs
from ncgn_jax.point_clouds.config import default_config
from ncgn_jax.point_clouds.pictures import ATTENTION_LEVELS
from ncgn_jax.point_clouds.views import (
    NetworkView,
    attention_by_level,
    choose_clouds,
    denoising_states,
)
from ncgn_jax.run.logs import MetricsWriter
from tests.weights import drawn

NUM_POINTS = 32
# 27 voxels for 32 points: some are empty.
VOXEL = {"clustering": "voxel", "num_neighbors": 24}


def make_tiny_task(folder, **dmp):
    config = default_config()
    config.data.source = "embedded"
    config.data.num_points = NUM_POINTS
    config.data.num_train = 24
    config.data.num_test = 8
    config.data.cache_dir = str(folder / "cache")
    config.model.width = 8
    config.model.num_layers = 1
    config.train.batch_size = 32
    config.sample.num_steps = 6
    config.sample.sampler = "euler"
    config.dmp.update(dmp)
    return make_task(config)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


def view_of(task):
    params, model_state = drawn(task.init, jax.random.key(0))
    return NetworkView(task.model, params, model_state)


def states_of(task, view, num_samples=1):
    """The path of the first of some samples, as the task draws it."""
    params = view.variables["params"]
    label = task.model.draw_labels(num_samples, task.config.seed)
    return denoising_states(view, params, {}, label, task.config.seed, task.sampling)


def first_noise(task, num_samples=1):
    label = task.model.draw_labels(num_samples, task.config.seed)
    return task.model.start(label, task.config.seed, np.arange(num_samples)).x


def random_samples(rng):
    points = jax.random.normal(rng, (5, NUM_POINTS, 3)) * 0.3
    return {"points": np.asarray(points), "label": np.zeros(5, np.int32)}


@pytest.mark.slow
def test_all_pictures_are_saved(rng, cache, tmp_path):
    task = make_tiny_task(cache)
    params, model_state = drawn(task.init, rng)
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            losses = {f"loss/{name}": 1.0 / step for name in task.bucket_names}
            writer.write(step, losses | {"loss": 1.0})
    folder = tmp_path / "pictures"
    paths = task.draw(params, model_state, random_samples(rng), folder)
    expected = {
        "samples.png",
        "denoising_path.png",
        "attention.png",
        "range_resolution.png",
        "loss.png",
        "samples.html",
    }
    assert {path.name for path in paths} == expected
    assert {path.name for path in folder.iterdir()} == expected
    for path in paths:
        if path.suffix == ".png":
            image = imread(path)
            assert min(image.shape[:2]) > 200
            assert image[..., :3].std() > 0.01
    assert "generated" in (folder / "samples.html").read_text()


def test_what_cannot_be_drawn_is_said(rng, cache, tmp_path, capsys):
    task = make_tiny_task(cache, connectivity="knn")
    task = task.with_config(with_fields(task.config, {"model.convolution": "gcn"}))
    params, model_state = drawn(task.init, rng)
    paths = task.draw(params, model_state, random_samples(rng), tmp_path / "pictures")
    names = {path.name for path in paths}
    assert "denoising_path.png" in names
    assert not names & {"attention.png", "loss.png"}
    said = capsys.readouterr().out
    assert "attention.png left out" in said
    assert "loss.png left out" in said


@pytest.mark.parametrize(
    ("sampler", "conditioning"),
    [
        ("ab2", "time"),
        pytest.param("ancestral", "inferred", marks=pytest.mark.thorough),
    ],
)
def test_path_is_that_of_the_first_sample(cache, sampler, conditioning):
    task = make_tiny_task(cache)
    fields = {"sample.sampler": sampler, "model.noise_conditioning": conditioning}
    task = task.with_config(with_fields(task.config, fields))
    view = view_of(task)
    states = states_of(task, view, num_samples=9)
    assert states[0]["t"] == 0
    assert states[-1]["t"] == 1
    params = view.variables["params"]
    sample = task.sample(params, {}, 9, task.config.seed)["points"][0]
    drawn = states[-1]["points"] * task.facts.scale
    order = np.lexsort(drawn.T), np.lexsort(sample.T)
    np.testing.assert_allclose(drawn[order[0]], sample[order[1]], atol=1e-4)


def test_graphs_of_the_path_are_those_of_the_buckets(cache):
    task = make_tiny_task(cache)
    buckets = task.model.time.buckets
    states = states_of(task, view_of(task))
    # The only stretch is cut into three pieces, to show four states.
    assert [state["label"].split()[0] for state in states] == [
        "enters",
        "in",
        "in",
        "leaves",
    ]
    for stretch in task.model.stretches(task.sampling):
        leaves = f"leaves bucket {stretch.bucket + 1} of {len(buckets)}"
        (state,) = [state for state in states if state["label"] == leaves]
        bucket = buckets[stretch.bucket]
        assert state["t"] == stretch.times[-1]
        assert len(state["supernode_positions"]) == bucket.num_supernodes
        assert len(state["senders"]) == bucket.num_edges


@pytest.mark.parametrize(
    "dmp",
    [VOXEL, pytest.param({"connectivity": "long_short"}, marks=pytest.mark.thorough)],
    ids=["voxel", "long_short"],
)
def test_only_real_edges_are_shown(cache, dmp):
    task = make_tiny_task(cache, **dmp)
    view = view_of(task)
    state = states_of(task, view)[0]
    bucket = task.model.time.buckets[0]
    graph = jax.jit(build_graphs, static_argnums=1)(
        first_noise(task), bucket, jax.random.key(0)
    )
    occupied = int(graph.coarse.nodes["mask"].sum())
    assert len(state["supernode_positions"]) == occupied
    assert state["assignment"].max() == occupied - 1
    assert state["senders"].max() < occupied
    edges = np.stack([state["senders"], state["receivers"]])
    assert len(np.unique(edges, axis=1).T) == edges.shape[1]
    assert np.all(edges[0] != edges[1])
    if bucket.clustering == "voxel":
        assert occupied < bucket.num_supernodes
        assert edges.shape[1] == int(graph.coarse.edges["mask"].sum())


def test_attention_without_preference_is_one_over_the_in_degree(cache):
    task = make_tiny_task(cache, **VOXEL)
    view = view_of(task)
    layer = view.variables["params"]["convolve_0"]
    layer["attend_source"] = layer["attend_source"] * 0
    data = task.dataset
    clouds = choose_clouds(data.test, data.test_labels, data.scale, 2)
    for found in attention_by_level(view, clouds, ATTENTION_LEVELS[:3]):
        alike = np.full(len(found.weight), 1 / (found.bucket.num_neighbors + 1))
        np.testing.assert_allclose(found.weight, alike, rtol=1e-4)
        assert np.all(found.distance > 0)
