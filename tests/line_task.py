"""A domain whose network is a straight line, for tests of the loop around it.

Its programs compile in no time. The fixture `line_domain` registers it in the process
of a test, and the configuration file `CONFIG_FILE` in the one that runs it.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.domains import default_config, set_fields
from ncgn_jax.fields import Field, whole, with_defaults
from ncgn_jax.metrics.table import Column
from ncgn_jax.tasks import Task, settings

SMALL = {
    "train.num_steps": 8,
    "train.batch_size": 8,
    "train.warmup_steps": 2,
    "train.log_every_steps": 2,
    "train.checkpoint_every_steps": 4,
}
CONFIG_FILE = """
from ncgn_jax.domains import DOMAINS, default_config
from tests.line_task import LineTask

DOMAINS["line"] = LineTask


def get_config():
    return default_config("line")
"""
WIDTH = Field("model.width", 4, "Weights that are added up to the slope.", whole())


@dataclasses.dataclass(frozen=True)
class LineFacts:
    """The middle of the training line."""

    relied_on: ClassVar = ("names",)
    names: tuple[str, ...]
    middle: float

    def with_another_name(self):
        return dataclasses.replace(self, names=(*self.names, "another"))


class LineTask(Task[Mapping[str, float], LineFacts]):
    """Fits y = slope x + offset to points of y = 2 x + 1 with noise.

    Its noise buckets are the points at x < 0 and the others.
    """

    name, facts_type = "line", LineFacts
    columns = (Column("error", "error", 1, 3, "of the mean"),)
    fields = with_defaults((WIDTH, *settings.BASE_FIELDS), SMALL)
    bucket_names = ("left", "right")
    anchors = ("truth",)

    @classmethod
    def load_dataset(cls, config):
        return {"slope": 2.0, "offset": 1.0}

    @classmethod
    def learn(cls, config, dataset):
        return LineFacts(("x", "y"), dataset["offset"])

    def describe_data(self):
        return ["data: a line"]

    def describe_model(self):
        return [f"{self.config.model.width} weights"]

    def init(self, rng):
        weights = jax.random.normal(rng, (self.config.model.width,))
        return {"weights": weights, "offset": jnp.zeros(())}, {}

    def batch(self, step, rows):
        rng = np.random.default_rng(step)
        return {"x": rng.uniform(-1, 1, self.config.train.batch_size)[rows]}

    def loss(self, params, model_state, batch, rng):
        x = jnp.asarray(batch["x"], jnp.float32)
        line = self.dataset
        y = line["slope"] * x + line["offset"] + 0.1 * jax.random.normal(rng, x.shape)
        errors = (params["weights"].sum() * x + params["offset"] - y) ** 2
        left = x < 0
        parts = jnp.stack([left * errors, ~left * errors])
        return errors.mean(), (model_state, 2 * parts.mean(1))

    def sample(self, params, model_state, num_samples, seed):
        x = np.random.default_rng(seed).uniform(-1, 1, num_samples)
        return {"y": x * np.sum(params["weights"]) + params["offset"]}

    def caption(self):
        return {"data_set": "line", "split": "none", "sizes": "none"}

    def evaluate(self, samples):
        rows = {
            name: {"error": float(np.mean(arrays["y"]) - 1)}
            for name, arrays in samples.items()
        }
        return {**rows, "truth": {"error": 0.0}}

    def draw(self, params, model_state, samples, folder):
        return []


def line_config(*overrides: str) -> ConfigDict:
    """Returns a configuration with some fields set, as on the command line."""
    return set_fields(default_config("line"), overrides)
