"""The training loop: learning, resuming, devices, compile counts, bad values."""

import json
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, load_config, with_fields
from ncgn_jax.domains import make_task, task_without_data, validate
from ncgn_jax.faults import ConfigError, TrainingError
from ncgn_jax.loop import init_state, make_train_step, train
from ncgn_jax.point_clouds.model import PointCloudModel
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.logs import read_metrics
from ncgn_jax.run.optimizer import make_optimizer
from tests.first_step import first_step
from tests.line_task import line_config

REPOSITORY = Path(__file__).resolve().parent.parent
SMOKE = REPOSITORY / "configs" / "smoke.py"


def smoke_config(*overrides):
    return apply_overrides(load_config(SMOKE), overrides)


@pytest.fixture(scope="module")
def task():
    return make_task(smoke_config("data.num_points=16", "model.convolution=gcn"))


def test_muon_moves_matrices_by_near_orthogonal_steps_and_vectors_as_adam():
    config = smoke_config(
        "train.optimizer=muon",
        "train.learning_rate=0.5",
        "train.warmup_steps=0",
        "train.decay=constant",
        "train.clip_norm=0",
    )
    tx, rng = make_optimizer(config), np.random.default_rng(0)
    # Singular values of the gradient span a factor of ten.
    left, _ = np.linalg.qr(rng.normal(size=(32, 8)))
    right, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    kernel = (left * np.geomspace(1, 10, 8)) @ right
    grads = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray([3.0, -0.1])}
    params = jax.tree.map(jnp.zeros_like, grads)
    updates, _ = tx.update(grads, tx.init(params), params)
    # The same singular vectors, all with about the value that gives entries the root
    # mean square 0.2: an orthogonal [32, 8] matrix has 1 / sqrt(32).
    aligned = left.T @ updates["kernel"] @ right.T
    expected = -0.5 * 0.2 * np.sqrt(32) * np.eye(8)
    np.testing.assert_allclose(aligned, expected, rtol=0.35, atol=1e-3)
    # Adam's first step has the gradient's sign and not its size (Nesterov: 1.47 lr).
    np.testing.assert_allclose(updates["bias"], [-0.737, 0.737], rtol=1e-3)


@pytest.mark.usefixtures("line_domain")
def test_resumed_run_equals_uninterrupted_bitwise(tmp_path):
    stopped = line_config("train.num_steps=4", "train.decay=constant")
    config = line_config("train.decay=constant")
    whole = train(config, tmp_path / "whole")
    assert int(whole.step) == 8
    train(stopped, tmp_path / "parts")
    resumed = train(config, tmp_path / "parts")
    chex.assert_trees_all_equal(*jax.device_get((whole, resumed)))
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "parts")


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        # Batch norm, because its statistics have to agree over devices as well.
        (
            "smoke",
            [
                *("train.batch_size=64", "data.num_points=16"),
                *("model.norm=batch", "model.convolution=gcn"),
            ],
        ),
        pytest.param(
            "digits",
            ["train.batch_size=16", "model.width=8", "model.num_layers=1"],
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_one_and_eight_devices_agree(tmp_path, name, overrides):
    """Same loss and gradients whatever the number of devices."""
    path, out = REPOSITORY / "configs" / f"{name}.py", tmp_path / "one.npz"
    command = [sys.executable, "-m", "tests.first_step", path, out, *overrides]
    with subprocess.Popen(command, cwd=REPOSITORY) as child:
        eight = first_step(path, overrides)
    assert jax.device_count() == 8
    assert child.returncode == 0
    one = np.load(out)
    np.testing.assert_allclose(one["loss"], eight["loss"], rtol=2e-6)
    np.testing.assert_allclose(one["bucket_loss"], eight["bucket_loss"], rtol=5e-6)
    scale = np.abs(one["grads"]).max()
    np.testing.assert_allclose(one["grads"], eight["grads"], atol=1e-5 * scale)


@pytest.mark.thorough
@pytest.mark.slow
def test_overfits_one_batch():
    config = smoke_config(
        "dmp.connectivity=knn", "data.num_points=16", "train.batch_size=32",
        "data.num_train=1", "train.learning_rate=0.01",
        "train.warmup_steps=0", "train.decay=constant", "process.target=data",
        "model.width=16",
    )  # fmt: skip
    task = make_task(config)
    tx = make_optimizer(config)
    step = parallel.data_parallel(make_train_step(task, tx, config))
    state = parallel.replicate(init_state(task, tx, 0))
    batch = parallel.put_batch(task.batch(0, slice(0, 32)))
    losses = []
    for _ in range(45):
        # The same noise every time: the step count is put back.
        state, metrics = step(state.replace(step=np.int32(0)), batch, jax.random.key(1))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.3 * losses[0]


def test_one_trace_for_training_and_one_per_bucket_for_sampling(task, monkeypatch):
    traces = {"loss": 0}
    plain = task.loss

    def counted(*args):
        traces["loss"] += 1
        return plain(*args)

    monkeypatch.setattr(task, "loss", counted)
    tx = make_optimizer(task.config)
    step = parallel.data_parallel(make_train_step(task, tx, task.config))
    state = parallel.replicate(init_state(task, tx, 0))
    rows = slice(0, task.config.train.batch_size)
    for i in range(4):
        batch = parallel.put_batch(task.batch(i, rows))
        state, _ = step(state, batch, jax.random.key(1))
    assert traces["loss"] == 1  # all buckets in one program, never traced again

    traced, applied = [], []
    plain_denoiser, plain_apply = PointCloudModel.denoiser, PointCloudModel.apply

    def denoiser(*args):
        traced.append(len(traced))
        return plain_denoiser(*args)

    def apply(model, variables, bucket, *args, **rest):
        applied.append(bucket)
        return plain_apply(model, variables, bucket, *args, **rest)

    monkeypatch.setattr(PointCloudModel, "denoiser", denoiser)
    monkeypatch.setattr(PointCloudModel, "apply", apply)
    task = task.with_config(with_fields(task.config, {"sample.num_steps": 16}))
    state = init_state(task, make_optimizer(task.config), 0)
    for seed in (0, 1):
        task.sample(state.params, state.model_state, 5, seed)
    assert len(traced) == len(task.model.time.buckets)
    assert set(applied) == set(range(len(task.model.time.buckets)))


@pytest.mark.usefixtures("line_domain")
def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    config = line_config("train.checkpoint_every_steps=2")
    task = make_task(config)
    plain = task.batch

    def batch(step, rows):
        values = plain(step, rows)
        if step == 5:
            values["x"][values["x"].argmin()] = -np.inf
        return values

    task.batch = batch
    with pytest.raises(TrainingError, match=r"step 6.*noise bucket left") as error:
        train(config, tmp_path, task)
    assert "checkpoint 4 is the last good one" in str(error.value)
    assert Checkpoints(tmp_path, "{}", read_only=True).steps()[-1] == 4


@pytest.mark.usefixtures("line_domain")
def test_checkpoint_of_another_architecture_is_refused(tmp_path):
    train(line_config("train.num_steps=2"), tmp_path)
    with pytest.raises(ConfigError, match="model.width: was 4, now 16"):
        train(line_config("train.num_steps=4", "model.width=16"), tmp_path)


@pytest.mark.usefixtures("line_domain")
def test_truncated_latest_checkpoint_falls_back(tmp_path, caplog):
    config = line_config("train.num_steps=4", "train.checkpoint_every_steps=2")
    whole = train(config, tmp_path)
    for file in (tmp_path / "checkpoints" / "4" / "state").rglob("d/*"):
        os.truncate(file, file.stat().st_size // 2)
    state = train(config, tmp_path)
    chex.assert_trees_all_equal(*jax.device_get((whole, state)))
    assert "checkpoint 4 unreadable" in caplog.text
    assert "using 2" in caplog.text


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.py")))
def test_every_configuration_validates_and_has_a_shape(path):
    # Two images a step of the smallest patches are too few for eight devices, and 16
    # clouds for four buckets on each.
    for_8_devices = {
        "mnist": ["train.batch_size=128"],
        "shapes": ["train.batch_size=32"],
    }
    config = apply_overrides(load_config(path), for_8_devices.get(path.stem, []))
    validate(config)
    # What small data taught another model.
    domain = "molecules" if config.task.startswith("molecule") else config.task
    stored = REPOSITORY / "tests" / "fixtures" / "models" / domain / "model.json"
    facts = json.loads(stored.read_text())["facts"]
    task = task_without_data(config, {"facts": facts, "data": []})
    tx = make_optimizer(config)
    state = jax.eval_shape(lambda: init_state(task, tx, 0))
    assert state.step.shape == ()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dmp.schedul=exp", "did you mean 'dmp.schedule'"),
        ("dmp.schedule=expp", "did you mean 'exp'"),
        ("train.batch_size=ten", "an integer"),
        ("train.batch_size=12", "multiple of the 8 devices"),
        ("train.batch_size=0", "at least 1"),
        ("sample.num_steps=0", "at least 1"),
        ("data.num_points=1", "at least 2"),
    ],
)
def test_faulty_configurations_say_what_is_allowed(override, message):
    with pytest.raises(ConfigError, match=message):
        validate(smoke_config(override))


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        validate(smoke_config("dmp.schedule=expp", "train.decay=x", "model.norm=y"))
    for field in ("dmp.schedule", "train.decay", "model.norm"):
        assert field in str(error.value)
