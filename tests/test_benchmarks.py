"""The benchmark scripts: what they count, and that they run, in toy sizes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import shapes, step
from ncgn_jax.checkpoint import Checkpoints
from ncgn_jax.config import apply_overrides, config_to_json, load_config
from ncgn_jax.tasks import make_task
from ncgn_jax.train import init_state, make_optimizer

SMOKE = Path(__file__).resolve().parent.parent / "configs" / "smoke.py"
# One noise bucket: little to compile.
TINY = [
    "dmp.connectivity=knn", "data.num_points=16", "model.width=4",
    "train.batch_size=8", "sample.num_samples=6", "evaluate.max_reference=6",
]  # fmt: skip


def test_matmuls_are_counted_wherever_they_are():
    a, b = jnp.ones((5, 3)), jnp.ones((3, 7))
    once = 2 * 5 * 3 * 7 / 1e9

    def chain(a, b):
        looped = jax.lax.scan(lambda c, _: (c + (a @ b).sum(), None), 0.0, length=4)[0]
        jitted = jax.jit(jnp.matmul)(a, b).sum()
        either = jax.lax.cond(jitted > 0, lambda: (a @ b).sum(), lambda: 0.0)
        return looped + jitted + either

    np.testing.assert_allclose(step.matmul_gflop(chain, a, b), 6 * once)
    # The gradient in each factor costs one more product.
    slopes = jax.grad(lambda a, b: jnp.square(a @ b).sum(), argnums=(0, 1))
    np.testing.assert_allclose(step.matmul_gflop(slopes, a, b), 3 * once)
    batched = jax.vmap(jnp.matmul)
    stacks = jnp.ones((6, 5, 3)), jnp.ones((6, 3, 7))
    np.testing.assert_allclose(step.matmul_gflop(batched, *stacks), 6 * once)


def test_one_bucket_holds_the_whole_batch():
    fields = ["data.num_points=32", "train.batch_size=32", "dmp.num_neighbors=3"]
    config = apply_overrides(step.paper_config(), fields)
    task = step.random_task(config)
    assert len(task.time.buckets) > 1
    last = len(task.time.buckets) - 1
    single = step.one_bucket_task(task, last)
    assert single.time.buckets == (task.time.buckets[last],)
    assert single.layout.num_groups * single.layout.group_size == 32
    assert len(task.layout.counts) > 1  # the original is as it was


@pytest.mark.slow
def test_step_benchmark_prints_every_bucket(capsys):
    config = apply_overrides(step.paper_config(), [*TINY, "model.num_layers=1"])
    rows = step.benchmark(config, repeats=2, sample_graphs=2, sampler_steps=2)
    assert list(rows["training"]) == ["whole", "s16_k7"]
    assert list(rows["sampler"]) == ["s16_k7", "mean"]
    whole = rows["training"]["whole"]
    assert whole["fastest"] <= whole["step"] <= whole["slowest"] < whole["compile"]
    assert 2 * whole["forward"] < whole["matmul"] < 4 * whole["forward"]
    assert 0 < whole["share"] < 1
    assert rows["sampler"]["mean"]["step"] == rows["sampler"]["s16_k7"]["step"]
    printed = capsys.readouterr().out
    assert "matrix products reach" in printed
    assert "process so far" in printed


@pytest.mark.slow
def test_shapes_benchmark_writes_time_beside_quality(tmp_path, capsys):
    config = apply_overrides(load_config(SMOKE), TINY)
    (tmp_path / "config.json").write_text(config_to_json(config))
    tx = make_optimizer(config)
    state = init_state(make_task(config), tx, seed=0)
    store = Checkpoints(tmp_path, config_to_json(config))
    store.save(1, jax.device_get(state))
    store.close()
    arguments = ["--steps=2,3", "--samplers=euler,heun", "--num_samples=6"]
    shapes.main(["shapes", f"--workdir={tmp_path}", *arguments])
    rows = json.loads((tmp_path / "shapes_benchmark.json").read_text())["rows"]
    drawn = ["euler 2", "euler 3", "heun 2", "heun 3"]
    assert list(rows) == [*drawn, "noise", "origin", "train", "held_out"]
    assert [rows[name]["evaluations"] for name in drawn] == [2, 3, 4, 6]
    for name in drawn:
        assert rows[name]["seconds"] > 0
        assert {"w_flat", "chamfer_1nna", "chamfer_mmd"} <= rows[name].keys()
    assert "NFE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.sample.sampler=euler"], "holds no run"),
        (["--config=a.py"], "read from --workdir"),
    ],
)
def test_shapes_benchmark_says_what_is_wrong(tmp_path, arguments, expected):
    with pytest.raises(SystemExit) as error:
        shapes.main(["shapes", f"--workdir={tmp_path}", *arguments])
    assert expected in str(error.value)


def test_shapes_benchmark_refuses_unknown_samplers(tmp_path):
    config = apply_overrides(load_config(SMOKE), TINY)
    (tmp_path / "config.json").write_text(config_to_json(config))
    with pytest.raises(SystemExit) as error:
        shapes.main(["shapes", f"--workdir={tmp_path}", "--samplers=euler,hein"])
    assert "did you mean 'heun'" in str(error.value)
