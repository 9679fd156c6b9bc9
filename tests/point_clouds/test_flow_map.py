"""Flow maps of point clouds: their start, training, sampling and what is refused."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, load_config, with_fields
from ncgn_jax.domains import complete_config, default_config, make_task, validate
from ncgn_jax.faults import ConfigError, RequestError
from ncgn_jax.loop import init_state, make_train_step
from ncgn_jax.point_clouds.model import PointCloudModel
from ncgn_jax.process import expand_like
from ncgn_jax.run.checkpoint_format import CONFIG_VERSION
from ncgn_jax.run.optimizer import make_optimizer
from ncgn_jax.tasks.trained import TrainedModel

SMOKE = Path(__file__).resolve().parents[2] / "configs" / "smoke.py"
MAP = {
    "process.flow_map_steps": 4,
    "sample.sampler": "flow_map",
    "sample.num_steps": 2,
    "sample.time_grid": "uniform",
    "model.convolution": "gcn",
    "train.batch_size": 128,
}


@functools.cache
def make(**fields):
    """Returns a task of a flow map; dots of fields are `__`."""
    named = {name.replace("__", "."): value for name, value in fields.items()}
    config = with_fields(load_config(SMOKE), {**MAP, **named})
    validate(config)
    return make_task(config)


def trained(task):
    """Returns the verbs of a model, whose weights do not matter."""
    model = object.__new__(task.trained.__annotations__["return"])
    model.model, model.sampling = task.model, task.sampling
    return model


@pytest.mark.slow
def test_a_step_trains_everything_and_is_the_same_on_eight_devices():
    task = make()
    tx = make_optimizer(task.config)
    state = init_state(task, tx, 0)
    # The last layer of the span starts at 0, which would hide the first.
    kernel = state.params["span_embed"]["dense_1"]["kernel"]
    kernel += 0.1 * jax.random.normal(jax.random.key(2), kernel.shape)
    step = make_train_step(task, tx, task.config)
    batch = task.batch(0, slice(0, 128))
    found = {}
    for devices in (1, 8):
        with parallel.alone() if devices == 1 else parallel.forward_options():
            pass
    del found, step, batch


def test_old_configurations_have_no_flow_map():
    stored = default_config("point_clouds").to_dict()
    for name in ("steps", "share", "graph"):
        del stored["process"][f"flow_map_{name}"]
    from ml_collections import ConfigDict

    config = complete_config(ConfigDict(stored), CONFIG_VERSION)
    assert config.process.flow_map_steps == 0
    task = make(process__flow_map_steps=0, sample__sampler="euler")
    params = jax.eval_shape(task.init, jax.random.key(0))[0]
    assert "span_embed" not in params
    assert task.model.flow_map is None
