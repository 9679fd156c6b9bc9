"""The benchmark scripts: what they count, and that they run, in toy sizes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import completion, evaluations, page, size, step, straightness
from docs import tables
from ncgn_jax.config import apply_overrides, config_to_json, load_config
from ncgn_jax.domains import make_task
from ncgn_jax.loop import init_state
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.optimizer import make_optimizer

SMOKE = Path(__file__).resolve().parent.parent / "configs" / "smoke.py"
# One noise bucket: little to compile.
TINY = [
    "dmp.connectivity=knn", "data.num_points=16", "model.width=4",
    "model.convolution=gcn",
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
    assert len(task.model.time.buckets) > 1
    last = len(task.model.time.buckets) - 1
    single = step.one_bucket_task(task, last)
    assert single.model.time.buckets == (task.model.time.buckets[last],)
    assert single.layout.num_groups * single.layout.group_size == 32
    assert len(task.layout.counts) > 1  # the original is as it was


@pytest.mark.thorough
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


def save_run(folder, seed):
    config = apply_overrides(load_config(SMOKE), [*TINY, f"seed={seed}"])
    folder.mkdir()
    (folder / "config.json").write_text(config_to_json(config))
    state = init_state(make_task(config), make_optimizer(config), seed)
    store = Checkpoints(folder, config_to_json(config))
    store.save(1, jax.device_get(state))
    store.close()
    return str(folder)


@pytest.mark.thorough
@pytest.mark.slow
def test_quality_is_set_against_evaluations_over_seeds(tmp_path, capsys):
    runs = [save_run(tmp_path / f"seed{seed}", seed) for seed in (0, 1)]
    output = tmp_path / "out" / "table"
    arguments = ["--evaluations=2,3,4", "--samplers=euler,heun", "--num_samples=6"]
    evaluations.main(["evaluations", *runs, *arguments, f"--output={output}"])
    stored = json.loads(output.with_suffix(".json").read_text())
    drawn = ["euler 2", "euler 3", "euler 4", "heun 1", "heun 2"]
    assert list(stored["variants"]) == drawn
    assert list(stored["anchors"]) == ["noise", "origin", "train", "held_out"]
    for name, count in zip(drawn, (2, 3, 4, 2, 4), strict=True):
        row = stored["variants"][name]
        assert row["evaluations"]["values"] == [count, count]
        assert row["seconds"]["mean"] > 0
        assert {"w_flat", "chamfer_1nna", "chamfer_mmd"} <= row.keys()
    printed = capsys.readouterr().out
    assert "NFE" in printed
    assert output.with_suffix(".md").read_text() in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.sample.batch_size=3"], "holds no run"),
        (["--config=a.py"], "read from the runs"),
        (["--evaluations=2,x"], "--evaluations: found '2,x'"),
    ],
)
def test_evaluations_benchmark_says_what_is_wrong(tmp_path, arguments, expected):
    with pytest.raises(SystemExit) as error:
        evaluations.main(["evaluations", str(tmp_path), *arguments])
    assert expected in str(error.value)


def test_evaluations_benchmark_refuses_unknown_samplers(tmp_path):
    config = apply_overrides(load_config(SMOKE), TINY)
    (tmp_path / "config.json").write_text(config_to_json(config))
    with pytest.raises(SystemExit) as error:
        evaluations.main(["evaluations", str(tmp_path), "--samplers=euler,hein"])
    assert "did you mean 'heun'" in str(error.value)


def test_exponents_are_fitted_from_2000_points():
    sizes = np.asarray([400, 2000, 10_000, 50_000])
    np.testing.assert_allclose(size.fit_exponent(sizes, 3e-6 * sizes**1.25), 1.25)
    keys = [column.key for column in size.COLUMNS]
    rows = [
        {"points": n, **dict.fromkeys(keys, 1.0), "step": float(n), "processor": n**1.5}
        for n in sizes.tolist()
    ]
    rows[0]["step"] = 1e9  # too small to count
    printed = size.report(rows)
    assert "exponent from 2000 to 50000 points: 1.000 of seconds, 1.500" in printed
    assert "exponent" not in size.report(rows[:2])


@pytest.mark.thorough
@pytest.mark.slow
def test_size_benchmark_measures_each_size_apart(capsys):
    sizes = ["--points=24", "--graphs=8", "--repeats=1"]
    fields = [f"--config.{field}" for field in TINY if "data." not in field]
    fields = [field for field in fields if "train." not in field]
    own = [field for field in fields if "sample." not in field and "eval" not in field]
    size.main(["size", *sizes, *own, "--config.model.num_layers=1"])
    table = capsys.readouterr().out
    assert "| 24 " in table


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--points=many"], "--points: found 'many'"),
        (["--points=1"], "data.num_points"),
        (["--graphs=2", "--points=2000"], "train.batch_size: found 2"),
    ],
)
def test_bad_arguments_of_the_size_benchmark_end_it(arguments, expected):
    with pytest.raises(SystemExit) as caught:
        size.main(["size", *arguments])
    assert expected in str(caught.value)


def test_shapes_are_halved():
    rng = np.random.default_rng(0)
    cloud = rng.uniform(-1, 1, (41, 3))
    for _ in range(8):
        for divide in (completion.cut, completion.thin):
            halves = divide(cloud, rng)
            assert (len(halves.given), len(halves.hidden)) == (20, 21)
            both = np.concatenate([halves.given, halves.hidden])
            assert {tuple(x) for x in both} == {tuple(x) for x in cloud}
        halves = completion.cut(cloud, rng)
        beyond = {tuple(x) for x in halves.beyond(cloud)}
        assert beyond == {tuple(x) for x in halves.hidden}
        # Mirrored points of a box lie about as far out as the hidden ones.
        gap = halves.mirrored.mean(axis=0) - halves.hidden.mean(axis=0)
        assert np.abs(gap).max() < 0.5
        assert len(halves.beyond(halves.given)) == 1


def test_completion_is_of_clouds_only():
    with pytest.raises(SystemExit) as error:
        completion.main(["completion", "--model=turing"])
    assert "is a model of expression, not of point_clouds" in str(error.value)


@pytest.mark.thorough
def test_completion_benchmark_prints_a_row_each(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("ball", "box"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            np.save(tmp_path / "data" / name / f"{i}.npy", rng.normal(size=(16, 3)))
    model, path = SMOKE.parent.parent / "tests/fixtures/models", tmp_path / "shapes.png"
    completion.main(
        ["completion", f"--model={model / 'point_clouds'}", "--num=2", "--steps=1",
         f"--picture={path}", f"--config.data.path={tmp_path / 'data'}"]
    )  # fmt: skip
    printed = capsys.readouterr().out
    for name in ("completed", "unconditional", "nearest training", "mirrored"):
        assert f"| {name} " in printed
    assert path.is_file()


def test_what_a_benchmark_prints_becomes_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "DATA", tmp_path)
    printed = (
        "1 x cpu\n\ntraining step\n\n|       | step s |\n| ----- | -----: |\n"
        "| whole |   0.40 |\n\n- step s: median\n\nsampler step\n\n"
        "|    | step s |\n| -- | -----: |\n| 32 |   0.01 |\n"
    )
    names = page.store("step", printed, "a machine", 1.25)
    training, sampler = map(tables.read_result, names)
    assert names == ["quick-step", "quick-step-2"]
    assert training.rows == [["whole", "0.40"]]
    assert sampler.columns == ["", "step s"]
    assert sampler.rows == [["32", "0.01"]]
    assert sampler.machine == "a machine"
    assert "1.2 other processes" in training.notes[0]
    assert training.notes[1:] == ["step s: median"]
    with pytest.raises(ValueError, match="found 1 tables"):
        page.store("step", printed.partition("\nsampler")[0], "a machine", 0.0)


def test_straight_and_bent_paths_are_told_apart():
    straight = np.linspace(0, 1, 5)[:, None, None] * np.ones((1, 4, 3))
    found = straightness.measure_path(straight)
    assert found["length"] == pytest.approx(1)
    assert found["turn"] == pytest.approx(0, abs=1e-5)
    angle = np.linspace(0, np.pi, 2001)
    half = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1)[:, None]
    found = straightness.measure_path(half)
    assert found["length"] == pytest.approx(np.pi / 2, rel=1e-5)
    assert found["turn"] == pytest.approx(180, abs=0.2)


def test_gains_are_largest_singular_values():
    matrices = np.random.default_rng(0).normal(size=(3, 6, 6)).astype(np.float32)

    def multiply(x):
        return jnp.einsum("bij,bj->bi", matrices, x.reshape(3, 6)).reshape(x.shape)

    gains = straightness.largest_gain(multiply, jnp.ones((3, 2, 3)), 200)
    expected = np.linalg.svd(matrices, compute_uv=False)[:, 0]
    np.testing.assert_allclose(gains, expected, rtol=1e-4)


@pytest.mark.thorough
@pytest.mark.slow
def test_straightness_is_measured_and_drawn(tmp_path, capsys):
    run = save_run(tmp_path / "run", 0)
    output = tmp_path / "out" / "straight"
    straightness.main(
        ["straightness", f"mine={run}", "--num=4", "--steps=3", f"--output={output}"]
    )
    row = json.loads(output.with_suffix(".json").read_text())["variants"]["mine"]
    assert row["length"]["mean"] >= 1
    assert row["gain"]["mean"] > 0
    assert output.with_suffix(".png").stat().st_size > 10_000
    assert "gain" in capsys.readouterr().out
