"""Flow maps of point clouds: their start, training, sampling and what is refused."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ncgn_jax.config import CONFIG_VERSION, load_config, with_fields
from ncgn_jax.domains import complete_config, default_config, make_task, validate
from ncgn_jax.faults import ConfigError, RequestError
from ncgn_jax.parallel import AXIS
from ncgn_jax.point_clouds.model import PointCloudModel
from ncgn_jax.point_clouds.trained import TrainedClouds
from ncgn_jax.tasks.sampling import split_time_grid
from tests.weights import drawn

SMOKE = Path(__file__).resolve().parents[2] / "configs" / "smoke.py"
MAP = {
    "process.flow_map_steps": 4,
    "sample.sampler": "flow_map",
    "sample.num_steps": 2,
    "sample.time_grid": "uniform",
    "model.convolution": "gcn",
    "data.num_points": 16,
    "train.batch_size": 128,
}
PLAIN = {**MAP, "process.flow_map_steps": 0, "sample.sampler": "euler"}


@functools.cache
def make(**fields):
    """Returns a task of a flow map; dots of fields are written as `__`."""
    named = {name.replace("__", "."): value for name, value in fields.items()}
    config = with_fields(load_config(SMOKE), {**MAP, **named})
    validate(config)
    return make_task(config)


@functools.cache
def weights():
    """Returns weights whose spans tell something, as after training."""
    return drawn(make().init, jax.random.key(0))


@functools.cache
def grading():
    """Returns what gives loss, losses of parts and gradients of rows [device, row]."""
    task, (_, state) = make(), weights()

    def run(params, average, batch):
        def loss(params):
            found = task.loss_with_average(
                params, average, state, batch, jax.random.key(2)
            )
            return found[0], found[1][1]

        found, grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.lax.pmean((found, grads), AXIS)

    return jax.jit(jax.vmap(run, in_axes=(None, None, 0), axis_name=AXIS))


def grade(num_devices, average):
    """Returns loss and losses of parts of a batch on some devices, and gradients."""
    rows = {
        name: array.reshape(num_devices, -1, *array.shape[1:])
        for name, array in make().batch(0, slice(0, 128)).items()
    }
    found, grads = grading()(weights()[0], average, rows)
    return jax.tree.map(lambda leaf: np.asarray(leaf[0]), (found, grads))


@pytest.mark.slow
def test_a_step_trains_all_parts():
    params, _ = weights()
    (_, parts), grads = grade(1, params)
    assert parts.shape == (len(make().bucket_names),)
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
        if not np.any(leaf)
    ]
    assert not still
    # Other averages change the targets of long steps, and nothing else.
    moved = jax.tree.map(lambda leaf: 0.5 * leaf, params)
    (_, others), _ = grade(1, moved)
    num_buckets = len(make().model.time.buckets)
    np.testing.assert_allclose(others[:num_buckets], parts[:num_buckets], rtol=1e-5)
    assert np.all(np.abs(others[num_buckets:] - parts[num_buckets:]) > 1e-3)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_step_is_the_same_on_eight_devices():
    params, _ = weights()
    (loss, parts), grads = grade(1, params)
    (same, same_parts), same_grads = grade(8, params)
    np.testing.assert_allclose(same, loss, rtol=1e-5)
    np.testing.assert_allclose(same_parts, parts, rtol=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (grads, same_grads)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_batches_without_a_map_are_noised_as_before():
    """The rows of noise buckets do not depend on how the loss is written."""
    plain = make(process__flow_map_steps=0, sample__sampler="euler")
    assert plain.layout.counts == plain.layout.counts[: len(plain.model.time.buckets)]
    params = jax.eval_shape(plain.init, jax.random.key(0))[0]
    assert "span_embed" not in params
    assert set(weights()[0]) == {*params, "span_embed"}


def spied(task, monkeypatch):
    """Lets a stub take the place of the network: it records what it is asked."""
    asked = []

    def apply(self, variables, bucket, x_t, t, label, mutable=(), span=0.0):
        asked.append((bucket, span))
        return (0.5 * x_t + span + t[:, None, None],)

    monkeypatch.setattr(PointCloudModel, "apply", apply)
    return asked


@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_steps_are_those_of_the_map(num_steps, monkeypatch):
    task = make(sample__num_steps=num_steps)
    asked = spied(task, monkeypatch)
    model = dataclasses.replace(task.model)  # compiles its own programs
    label = np.zeros(2, np.int32)
    found = model.sample({}, {}, label, 3, task.sampling) / model.facts.scale
    x, span = model.start(label, 3, np.arange(2)).x, 1 / num_steps
    for i in range(num_steps):
        x = x + span * (0.5 * x + span + i * span)
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)
    walk = model.flow_map.stretches(model.time, num_steps)
    assert {bucket for bucket, _ in asked} == {stretch.bucket for stretch in walk}
    assert {told for _, told in asked} == {span}
    # In pieces and in other batches it is the same to the bit.
    sampling = dataclasses.replace(task.sampling, batch_size=1)
    again = model.sample({}, {}, label, 3, sampling) / model.facts.scale
    np.testing.assert_array_equal(again, found)


def test_other_samplers_ask_for_the_velocity(monkeypatch):
    task = make(sample__sampler="euler", sample__num_steps=6)
    asked = spied(task, monkeypatch)
    model = dataclasses.replace(task.model)
    model.sample({}, {}, np.zeros(2, np.int32), 0, task.sampling)
    assert {told for _, told in asked} == {0.0}
    times = np.linspace(0, 1, 7)
    used = {stretch.bucket for stretch in split_time_grid(model.time, times)}
    assert {bucket for bucket, _ in asked} == used


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"process.flow_map_steps": 3}, "flow_map_steps: found 3; allowed: 0 or a pow"),
        ({"process.flow_map_steps": 1}, "flow_map_steps: found 1; allowed: 0 or a pow"),
        ({"process.flow_map_share": 1.0}, "flow_map_share: found 1.0"),
        ({"process.flow_map_steps": 0}, "sampler: found 'flow_map'; allowed: another"),
        ({"sample.num_steps": 8}, "num_steps: found 8; allowed: 1, 2, 4, for which"),
        ({"sample.num_steps": 3}, "num_steps: found 3; allowed: 1, 2, 4, for which"),
        ({"sample.time_grid": "cosine"}, "time_grid: found 'cosine'; allowed: uniform"),
        ({"sample.data_limit": 4.0}, "data_limit: found 4.0; allowed: unset with"),
        (
            {"sample.guidance": 1.0, "model.class_conditional": True},
            "guidance: found 1.0; allowed: 0 with sample.sampler=flow_map",
        ),
        ({"process.target": "noise"}, "0 unless process.target is velocity or data"),
        ({"model.noise_conditioning": "none"}, "0 where model.noise_conditioning is"),
        ({"train.batch_size": 8}, "noise buckets and parts of the flow map"),
    ],
)
def test_what_cannot_work_is_refused_before_training(fields, words):
    config = with_fields(load_config(SMOKE), {**MAP, **fields})
    with pytest.raises(ConfigError, match=words):
        validate(config)


@pytest.mark.parametrize("domain", ["expression", "images", "molecules"])
def test_domains_without_long_steps_say_so(domain):
    config = with_fields(default_config(domain), {"sample.sampler": "flow_map"})
    with pytest.raises(ConfigError, match="sampler: found 'flow_map'; allowed: anoth"):
        validate(config)


def verbs(task):
    """Returns what a loaded model does, without weights."""
    model = object.__new__(TrainedClouds)
    model.model, model.sampling = task.model, task.sampling
    return model


def test_verbs_know_which_steps_there_are():
    mapped, usual = verbs(make()), verbs(make(sample__sampler="euler"))
    assert mapped._settings().num_steps == 2
    assert mapped._settings(steps=4).num_steps == 4
    # Another sampler does not take over so few steps, nor the map so many.
    assert mapped._settings(sampler="heun").num_steps == 4
    assert usual._settings(sampler="flow_map").num_steps == 4
    assert usual._settings(sampler="flow_map", steps=1).num_steps == 1
    assert usual._settings().num_steps == 2
    # What may begin at any time walks along the velocity.
    flow = mapped._flow(guidance=0.0)
    assert (flow.sampler, flow.num_steps) == ("heun", 4)
    assert mapped._flow(steps=9).num_steps == 9
    assert usual._flow() == usual._settings()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"steps": 3}, "steps: found 3; allowed with flow_map: 1, 2, 4"),
        ({"guidance": 1.0}, "guidance: found 1.0; allowed with flow_map: 0"),
        ({"sampler": "flow_mop"}, "did you mean 'flow_map'"),
    ],
)
def test_verbs_refuse_steps_that_were_not_trained(asked, words):
    with pytest.raises(RequestError, match=words):
        verbs(make())._settings(**asked)


def test_models_without_a_map_do_not_offer_it():
    plain = make(process__flow_map_steps=0, sample__sampler="euler")
    with pytest.raises(RequestError, match="sampler: found 'flow_map'"):
        verbs(plain)._settings(sampler="flow_map")


def test_old_configurations_have_no_flow_map():
    stored = default_config("point_clouds").to_dict()
    for name in ("steps", "share", "graph"):
        del stored["process"][f"flow_map_{name}"]
    config = complete_config(ConfigDict(stored), CONFIG_VERSION)
    assert config.process.flow_map_steps == 0


def test_what_is_learned_is_said():
    task = make()
    assert (
        "flow map of 1, 2, 4 steps, graphs of their start" in task.describe_model()[1]
    )
    assert "learned from scratch" in task.notes()[0]
    started = make(train__start_from="runs/mine")
    assert not started.notes()
    assert task.bucket_names[-1].startswith("map_s")
