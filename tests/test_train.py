"""The training loop: learning, resuming, devices, compile counts, bad values."""

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
from ncgn_jax.domains import make_task, validate
from ncgn_jax.faults import CheckpointError, ConfigError, TrainingError
from ncgn_jax.point_clouds.model import PointCloudModel
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.logs import read_metrics
from ncgn_jax.run.optimizer import make_optimizer
from ncgn_jax.train import init_state, make_train_step, train

REPOSITORY = Path(__file__).resolve().parent.parent
SMOKE = REPOSITORY / "configs" / "smoke.py"
# Quick to compile.
ONE_BUCKET = ["dmp.connectivity=knn", "data.num_points=16", "train.batch_size=8"]


def smoke_config(*overrides):
    return apply_overrides(load_config(SMOKE), overrides)


@pytest.fixture(scope="module")
def task():
    return make_task(smoke_config())


def assert_same_bits(first, second):
    chex.assert_trees_all_equal(jax.device_get(first), jax.device_get(second))


def run_steps(task, config, num_steps, devices=None):
    """Trains a few steps on chosen devices by hand; returns state and metrics."""
    tx = make_optimizer(config)
    step = parallel.data_parallel(make_train_step(task, tx, config))
    state = parallel.replicate(init_state(task, tx, config.seed))
    rng = jax.random.key(config.seed + 1)
    rows = slice(0, config.train.batch_size)
    for i in range(num_steps):
        state, metrics = step(state, parallel.put_batch(task.batch(i, rows)), rng)
    return jax.device_get((state, metrics))


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


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_bitwise(tmp_path):
    stopped = smoke_config("train.num_steps=4", "train.decay=constant")
    whole = train(smoke_config("train.decay=constant"), tmp_path / "constant")
    assert int(whole.step) == 8
    train(stopped, tmp_path / "parts")
    resumed = train(smoke_config("train.decay=constant"), tmp_path / "parts")
    assert_same_bits(whole, resumed)
    first = read_metrics(tmp_path / "constant")
    second = read_metrics(tmp_path / "parts")
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        # Batch norm, because its statistics have to agree over devices as well.
        ("smoke", ["train.batch_size=64", "model.norm=batch"]),
        ("digits", ["train.batch_size=16", "model.width=8", "model.num_layers=1"]),
    ],
)
def test_one_and_eight_devices_agree(tmp_path, name, overrides):
    """Same loss and gradients whatever the number of devices."""
    script = (
        "import sys, jax, numpy as np\n"
        "jax.config.update('jax_platforms', 'cpu')\n"
        "jax.config.update('jax_num_cpu_devices', int(sys.argv[1]))\n"
        "from ncgn_jax import parallel\n"
        "from ncgn_jax.config import apply_overrides, load_config\n"
        "from ncgn_jax.domains import make_task, validate\n"
        "import ncgn_jax.train as t, optax\n"
        "config = apply_overrides(load_config(sys.argv[2]), sys.argv[4:])\n"
        "validate(config); task = make_task(config)\n"
        # Plain gradient descent of rate one: the update is the gradient.
        "tx = optax.sgd(1.0)\n"
        "step = parallel.data_parallel(t.make_train_step(task, tx, config))\n"
        "state = t.init_state(task, tx, 0)\n"
        # Off the zeros that some layers start from, which would hide gradients.
        "moved = jax.tree.map(lambda p: p + 0.02, state.params)\n"
        "state = parallel.replicate(state.replace(params=moved))\n"
        "before = jax.device_get(state.params)\n"
        "rows = slice(0, config.train.batch_size)\n"
        "batch = parallel.put_batch(task.batch(0, rows))\n"
        "state, metrics = step(state, batch, jax.random.key(1))\n"
        "grads = jax.tree.map(lambda a, b: a - np.asarray(b), before, state.params)\n"
        "flat = np.concatenate([g.ravel() for g in jax.tree.leaves(grads)])\n"
        "np.savez(sys.argv[3], loss=metrics['loss'], grads=flat,"
        " buckets=metrics['bucket_loss'])\n"
    )
    results, path = [], str(REPOSITORY / "configs" / f"{name}.py")
    for devices in ("1", "8"):
        out = tmp_path / f"{devices}.npz"
        command = [sys.executable, "-c", script, devices, path, str(out)]
        subprocess.run([*command, *overrides], check=True, cwd=REPOSITORY)
        results.append(np.load(out))
    one, eight = results
    np.testing.assert_allclose(one["loss"], eight["loss"], rtol=2e-6)
    np.testing.assert_allclose(one["buckets"], eight["buckets"], rtol=5e-6)
    scale = np.abs(one["grads"]).max()
    np.testing.assert_allclose(one["grads"], eight["grads"], atol=1e-5 * scale)


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
    run_steps(task, task.config, 4)
    assert traces["loss"] == 1  # all buckets in one program, never traced again

    traced, applied = [], []
    plain_denoiser, plain_apply = PointCloudModel.denoiser, PointCloudModel.apply

    def denoiser(*args):
        traced.append(len(traced))
        return plain_denoiser(*args)

    def apply(model, variables, bucket, *args):
        applied.append(bucket)
        return plain_apply(model, variables, bucket, *args)

    monkeypatch.setattr(PointCloudModel, "denoiser", denoiser)
    monkeypatch.setattr(PointCloudModel, "apply", apply)
    task = task.with_config(with_fields(task.config, {"sample.num_steps": 16}))
    state = init_state(task, make_optimizer(task.config), 0)
    for seed in (0, 1):
        task.sample(state.params, state.model_state, 5, seed)
    assert len(traced) == len(task.model.time.buckets)
    assert set(applied) == set(range(len(task.model.time.buckets)))


def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    config = smoke_config("train.checkpoint_every_steps=2")
    task = make_task(config)
    plain = task.batch

    def batch(step, rows):
        values = plain(step, rows)
        if step == 5:
            values["data"] = values["data"].copy()
            values["data"][0, 0, 0] = np.nan
        return values

    task.batch = batch
    with pytest.raises(TrainingError, match=r"step 6.*noise bucket s\d+_k\d+") as error:
        train(config, tmp_path, task)
    assert "checkpoint 4 is the last good one" in str(error.value)
    assert Checkpoints(tmp_path, "{}", read_only=True).steps()[-1] == 4


def test_checkpoint_of_another_architecture_is_refused(tmp_path):
    train(smoke_config(*ONE_BUCKET, "train.num_steps=2"), tmp_path)
    wider = smoke_config(*ONE_BUCKET, "train.num_steps=4", "model.width=16")
    with pytest.raises(CheckpointError, match="model.width"):
        train(wider, tmp_path)


def test_truncated_latest_checkpoint_falls_back(tmp_path, caplog):
    overrides = [*ONE_BUCKET, "train.num_steps=4", "train.checkpoint_every_steps=2"]
    train(smoke_config(*overrides), tmp_path)
    for file in (tmp_path / "checkpoints" / "4").rglob("*"):
        if file.is_file() and file.stat().st_size > 2000:
            os.truncate(file, file.stat().st_size // 2)
    state = train(smoke_config(*overrides), tmp_path)
    assert int(state.step) == 4
    assert "checkpoint 4 unreadable" in caplog.text
    assert "using 2" in caplog.text


@pytest.fixture(scope="module")
def data_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.py")))
def test_every_configuration_validates_and_has_a_shape(path, data_cache):
    # Two images a step of the smallest patches are too few for eight devices.
    for_8_devices = {"mnist": ["train.batch_size=128"]}
    config = apply_overrides(load_config(path), for_8_devices.get(path.stem, []))
    validate(config)
    # Shapes do not depend on the data set; a small one is quick to make.
    few = ["data.num_train=10", "data.num_test=10"]
    small = {
        "point_clouds": ["data.source=embedded", *few],
        "expression": ["data.source=turing", "sample.hidden_genes=()", *few],
        "molecules": ["data.source=sample"],
        "molecule_autoencoder": ["data.source=sample"],
        "images": ["data.source=digits", "data.image_size=0", "data.flip=False"],
    }[config.task]
    if config.task.startswith("molecule"):
        pytest.importorskip("rdkit")
    if "cache_dir" in config.data:
        small.append(f"data.cache_dir={data_cache}")
    config = apply_overrides(config, small)
    task = make_task(config)
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
