"""The point-cloud task in the settings that the end-to-end run leaves out."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, load_config
from ncgn_jax.domains import make_task, validate
from ncgn_jax.loop import init_state, make_train_step
from ncgn_jax.point_clouds.model import PointCloudModel
from ncgn_jax.run.optimizer import make_optimizer
from tests.weights import drawn

SMOKE = Path(__file__).resolve().parents[2] / "configs" / "smoke.py"

# As the published code trains, the richest settings of ours, and random edges.
PUBLISHED = (
    "dmp.clustering=voxel",
    "dmp.reverse_schedule=true",
    "model.norm=batch",
    "process.schedule=ddpm_linear",
    "process.target=noise",
    "process.signal=time",
    "sample.sampler=ancestral",
)
# Blind as well: the graph is chosen by the inferred level.
CONDITIONAL = (
    "model.noise_conditioning=inferred",
    "model.class_conditional=true",
    "model.convolution=geometric",
    "sample.guidance=1.0",
    "sample.sampler=euler",
    "process.loss_weight=min_snr",
)
HOURGLASS = ("model.network=hourglass", "model.convolution=geometric")
RANDOM_EDGES = ("dmp.connectivity=long_short", "model.convolution=gcn")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(CONDITIONAL, marks=pytest.mark.thorough),
        pytest.param(PUBLISHED, marks=pytest.mark.thorough),
        pytest.param(HOURGLASS, marks=pytest.mark.thorough),
        pytest.param(RANDOM_EDGES, marks=pytest.mark.thorough),
    ],
)
def test_settings_train_and_sample(overrides):
    config = apply_overrides(load_config(SMOKE), [*overrides, "sample.num_steps=3"])
    validate(config)
    task = make_task(config)
    tx = make_optimizer(config)
    step = parallel.data_parallel(make_train_step(task, tx, config))
    state = parallel.replicate(init_state(task, tx, 0))
    before = jax.device_get(state.params)
    for i in range(2):
        batch = parallel.put_batch(task.batch(i, slice(0, config.train.batch_size)))
        state, metrics = step(state, batch, jax.random.key(1))
    assert np.isfinite(metrics["loss"])
    # Everything in the network takes part.
    after = jax.device_get(state.params)
    moved = jax.tree.map(lambda a, b: np.any(a != b), before, after)
    frozen = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(moved)
        if not leaf
    ]
    assert not frozen
    samples = task.sample(state.params, state.model_state, 3, seed=0)
    assert samples["points"].shape == (3, 32, 3)
    assert np.isfinite(samples["points"]).all()
    again = task.sample(state.params, state.model_state, 3, seed=0)
    np.testing.assert_array_equal(samples["points"], again["points"])
    model = task.model
    if model.num_classes:
        assert set(samples["label"]) <= set(range(model.num_classes))
        # Another class gives another cloud from the same noise.
        ends = [
            model.sample(
                state.params,
                state.model_state,
                np.full(1, label, np.int32),
                0,
                task.sampling,
            )
            for label in (0, 1)
        ]
        assert not np.array_equal(*ends)


@pytest.mark.parametrize("conditioning", ["none", "inferred"])
def test_blind_models_hear_nothing_of_the_time(conditioning, monkeypatch):
    override = f"model.noise_conditioning={conditioning}"
    model = make_task(apply_overrides(load_config(SMOKE), [override])).model
    params, model_state = drawn(model.init, jax.random.key(0))
    variables, label = {"params": params, **model_state}, np.zeros(2, np.int32)
    x = jnp.asarray(model.start(label, 0, np.arange(2)).x)
    predict = jax.jit(lambda t: model.apply(variables, 1, x, t, label)[0])
    early, late = predict(jnp.full(2, 0.2)), predict(jnp.full(2, 0.9))
    np.testing.assert_array_equal(early, late)
    monkeypatch.setattr(PointCloudModel, "infer_level", lambda *_: jnp.full(2, 0.7))
    misled = jax.jit(lambda t: model.apply(variables, 1, x, t, label)[0])
    misled = misled(jnp.full(2, 0.2))
    assert np.allclose(misled, early, atol=1e-5) == (conditioning == "none")


def test_blind_models_choose_the_graph_by_what_clouds_show(monkeypatch):
    model = make_task(
        apply_overrides(load_config(SMOKE), ["model.noise_conditioning=none"])
    ).model
    used = []

    def apply(self, variables, bucket, x_t, *_):
        used.append(bucket)
        return (jnp.full_like(x_t, bucket),)

    monkeypatch.setattr(PointCloudModel, "apply", apply)
    x, t, label = jnp.zeros((2, 4, 3)), jnp.full(2, 0.5), jnp.zeros(2, jnp.int32)
    for bucket, shape in enumerate(model.time.buckets):
        # On average just within the bucket.
        shown = jnp.asarray([shape.low - 0.05, shape.low + 0.07])
        monkeypatch.setattr(
            PointCloudModel, "infer_level", lambda *_, shown=shown: shown
        )
        found = model._predict_inferred({"params": {}}, x, t, label)
        np.testing.assert_array_equal(found, bucket)
    assert set(used) == set(range(len(model.time.buckets)))


def test_sampling_does_not_depend_on_how_many_are_drawn_together():
    config = apply_overrides(load_config(SMOKE), ["sample.batch_size=2"])
    task = make_task(config)
    state = init_state(task, make_optimizer(config), 0)
    few = task.sample(state.params, state.model_state, 3, seed=0)
    assert few["points"].shape == (3, 32, 3)
    assert len(np.unique(few["points"][:, 0, 0])) == 3


@pytest.mark.parametrize(("guidance", "expected"), [(0.0, 3.0), (2.0, 7.0)])
def test_guidance_moves_beyond_the_class(guidance, expected):
    """3 with the class and 1 without: 3 + 2 (3 - 1) = 7; the prediction is the data."""
    overrides = ["model.class_conditional=true", "process.target=data"]
    model = make_task(apply_overrides(load_config(SMOKE), overrides)).model

    def predict(x_t, t, label):
        return (
            jnp.where((label == model.num_classes)[:, None, None], 1.0, 3.0) + 0 * x_t
        )

    denoise = model.denoiser(predict, jnp.zeros(2, jnp.int32), guidance, None)
    data_hat, _ = denoise(jnp.zeros((2, 4, 3)), jnp.full(2, 0.5))
    np.testing.assert_allclose(data_hat, expected)
