"""Training images: compiled before the first step, the same after a restart."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import train as train_module
from ncgn_jax.train import train
from tests.images.image_tasks import small_task, stubbed


def test_every_bucket_compiles_before_the_first_step(tmp_path, monkeypatch, capsys):
    """Which a network of one parameter shows as well."""
    task = stubbed(
        small_task("train.num_steps=24", "train.log_every_steps=1"),
        lambda params, bucket, x_t, t, label: params["w"] * x_t,
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


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_resumed_run_equals_uninterrupted_bitwise(tmp_path, optimizer):
    """Over steps of every bucket, with counts of each array restored."""
    fields = (
        "train.decay=constant", f"train.optimizer={optimizer}",
        "train.warmup_steps=3", "data.flip=True", "dmp.patches=(4,2)", "model.width=4",
        "model.num_heads=1",
    )  # fmt: skip
    short = small_task(*fields, "train.num_steps=6")
    task = small_task(*fields, "train.num_steps=12")
    assert len(task.step_kinds(0, 6)) == len(task.step_kinds(6, 12)) == 2
    whole = train(task.config, tmp_path / "whole", task)
    train(short.config, tmp_path / "parts", short)
    resumed = train(task.config, tmp_path / "parts", task)
    assert int(resumed.step) == 12
    chex.assert_trees_all_equal(*(jax.device_get(s) for s in (whole, resumed)))
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), whole.params, task.init(jax.random.key(0))[0]
    )
    assert all(moved[f"head_{patch}"]["dense"]["kernel"] > 0 for patch in (4, 2))
