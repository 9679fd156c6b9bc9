"""Training images: compiled before the first step, the same after a restart."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import loop as train_module
from ncgn_jax.loop import train
from tests.images.image_tasks import small_task, stubbed


def test_every_bucket_compiles_before_the_first_step(tmp_path, monkeypatch, capsys):
    """Which a network of one parameter shows as well."""
    task = stubbed(
        small_task("train.num_steps=24", "train.log_every_steps=1"),
        lambda params, bucket, x_t, t, label: params["w"][0, 0] * x_t,
        {"w": jnp.ones((1, 1))},
    )
    events, loss = [], task.loss

    def traced(params, model_state, batch, rng):
        events.append(task.bucket_names[batch.bucket])
        return loss(params, model_state, batch, rng)

    def checked(self, step, metrics, progress):
        events.append(step)

    monkeypatch.setattr(task, "loss", traced)
    monkeypatch.setattr(train_module._StepLogger, "check", checked)
    train(task.config, tmp_path, task)
    assert events == [*task.bucket_names, *range(1, 25)]
    assert f"compiled steps of {', '.join(task.bucket_names)} in " in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "optimizer", ["muon", pytest.param("adam", marks=pytest.mark.thorough)]
)
def test_resumed_run_equals_uninterrupted_bitwise(tmp_path, optimizer):
    """Over steps of every bucket, with counts of each array restored.

    A network of a matrix for each patch size; `tests/test_loop.py` has a real one.
    """

    def predict(params, bucket, x_t, t, label):
        return jnp.einsum("bhwc,wv->bhvc", x_t, params[f"head_{bucket.patch}"])

    heads = {f"head_{patch}": 0.5 * jnp.eye(8) for patch in (4, 2, 1)}
    fields = (
        "train.decay=constant", f"train.optimizer={optimizer}",
        "train.warmup_steps=3", "data.flip=True",
    )  # fmt: skip
    short, task = (
        stubbed(small_task(*fields, f"train.num_steps={steps}"), predict, heads)
        for steps in (11, 24)
    )
    assert len(task.step_kinds(11, 24)) == 3
    whole = train(task.config, tmp_path / "whole", task)
    train(short.config, tmp_path / "parts", short)
    resumed = train(task.config, tmp_path / "parts", task)
    assert int(resumed.step) == 24
    chex.assert_trees_all_equal(*(jax.device_get(s) for s in (whole, resumed)))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole.params, heads)
    assert all(moved[name] > 0 for name in heads)
