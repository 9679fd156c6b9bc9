"""Expression fields: steps without search, conditions kept, padding inert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides
from ncgn_jax.data.report import DataReport
from ncgn_jax.domains import validate
from ncgn_jax.expression.conditioning import FIELD_TASKS
from ncgn_jax.expression.config import default_config
from ncgn_jax.expression.model import ExpressionModel
from ncgn_jax.expression.sets import FieldDataset, FieldSet
from ncgn_jax.expression.task import ExpressionTask
from ncgn_jax.faults import ConfigError, DataError
from ncgn_jax.loop import init_state, make_train_step
from ncgn_jax.metrics.table import format_table
from ncgn_jax.run.optimizer import make_optimizer
from tests.weights import drawn

pytestmark = pytest.mark.usefixtures("compile_quickly")

SMALL = (
    "model.width=8",
    "model.num_layers=1",
    "model.norm=layer",
    "dmp.num_neighbors=8",
    "train.batch_size=24",
    "sample.num_samples=5",
    "sample.num_steps=6",
    "sample.batch_size=2",
    "evaluate.weights=('ema',)",
)


def config_of(*overrides):
    config = apply_overrides(default_config(), [*SMALL, *overrides])
    validate(config)
    return config


def positions_of(times, places):
    grid = np.stack(np.meshgrid(places, times), axis=-1)
    return (grid / max(*times, *places)).reshape(-1, 2).astype(np.float32)


def grid_dataset(train_size=(5, 6), test_size=(4, 5)):
    """Waves along the places that grow with time."""
    rng = np.random.default_rng(0)

    def make(count, shape, knocked_out=None):
        times, places = np.arange(shape[0]), np.arange(shape[1])
        phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1))
        wave = np.cos(places[None, None, :, None] + phase + np.arange(3))
        values = (wave * times[None, :, None, None]).astype(np.float32)
        return FieldSet(
            values.reshape(count, -1, 3),
            (positions_of(times, places),),
            np.zeros(count, np.int32),
            (tuple(map(float, times)), tuple(map(float, places))),
            knocked_out,
        )

    lost = rng.integers(0, 3, 9).astype(np.int32)
    nodes = test_size[0] * test_size[1]
    return FieldDataset(
        name="waves",
        report=DataReport("synthetic", "fields", {}),
        genes=("a", "b", "c"),
        train=make(20, train_size),
        test=make(9, test_size),
        knockout=make(9, test_size, lost),
        floor=make(9, test_size).values,
        zero=np.full((nodes, 3), 0.25, np.float32),
    )


def ragged_dataset(junk=0.0):
    """Patches of three sizes; `junk` stands in the padding."""
    rng = np.random.default_rng(1)
    sizes = np.array([12, 9, 7, 12, 8, 9, 12, 10])
    layouts = tuple(rng.normal(size=(size, 2)).astype(np.float32) for size in sizes)
    values = rng.normal(size=(8, 12, 4)).astype(np.float32)
    values[np.arange(12)[None, :] >= sizes[:, None]] = junk
    fields = FieldSet(values, layouts, np.arange(8, dtype=np.int32))
    report = DataReport("synthetic", "fields", {})
    return FieldDataset("patches", report, tuple("abcd"), fields, fields)


RAGGED = ("sample.tasks=('unconditional','gene_imputation','space_imputation')",)


def graded(task, params, model_state, batch):
    """Loss and gradient, as on one device of a pmap."""

    def one(batch):
        def loss(params):
            return task.loss(params, model_state, batch, jax.random.key(3))[0]

        return jax.value_and_grad(loss)(params)

    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], batch)
    return jax.vmap(one, axis_name=parallel.AXIS)(batch)


@pytest.mark.parametrize(
    "connectivity",
    [
        "dmp",
        pytest.param("knn", marks=pytest.mark.thorough),
        pytest.param("fully_connected", marks=pytest.mark.thorough),
    ],
)
def test_the_jitted_steps_contain_no_clustering_and_no_search(connectivity, primitives):
    config = config_of(f"dmp.connectivity={connectivity}")
    task = ExpressionTask(config, grid_dataset())
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    batch = task.batch(0, slice(0, 24))
    jaxpr = jax.make_jaxpr(lambda *trees: graded(task, *trees, batch))(*shapes)
    found = primitives(jaxpr.jaxpr)
    assert "dot_general" in found
    assert not found & {"sort", "top_k", "argmin", "argmax", "cumsum", "while"}


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(
            (
                "model.conditional=true",
                "sample.conditioning=trained",
                "model.norm=batch",
            ),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            ("model.convolution=gat", "sample.conditioning=replace"),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            ("model.dtype=bfloat16", "sample.conditioning=replace"),
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_settings_train_and_sample(overrides):
    config = config_of(*overrides)
    task = ExpressionTask(config, grid_dataset())
    tx = make_optimizer(config)
    step = parallel.data_parallel(make_train_step(task, tx, config))
    state = parallel.replicate(init_state(task, tx, 0))
    before = jax.device_get(state.params)
    for i in range(2):
        batch = parallel.put_batch(task.batch(i, slice(0, 24)))
        state, metrics = step(state, batch, jax.random.key(1))
    assert np.isfinite(metrics["loss"])
    moved = jax.tree.map(lambda a, b: np.any(a != b), before, state.params)
    assert all(jax.tree.leaves(moved))
    samples = task.sample(state.params, state.model_state, 5, seed=0)
    assert tuple(samples) == FIELD_TASKS
    for name, values in samples.items():
        assert values.shape == (5, 20, 3)
        assert np.isfinite(values).all()
        _, given, known = task.cases[name]
        np.testing.assert_array_equal(values[given], known[given])
        if name != "unconditional":
            assert not np.allclose(values[~given], known[~given])
    assert (samples["knockout"][task.cases["knockout"].given] == 0.25).all()
    again = task.sample(state.params, state.model_state, 5, seed=0)
    jax.tree.map(np.testing.assert_array_equal, samples, again)
    rows = task.evaluate({"ema": samples})
    assert {"ema", "noise", "train"} == set(rows)
    assert all(f"w_{name}" in rows["ema"] for name in FIELD_TASKS)
    assert task.caption()["data_set"] == "waves"
    assert task.caption()["sizes"] == "5 fields per task, 9 test fields"
    assert "W knock" in format_table(rows, task.columns, "caption")


def test_all_tasks_and_chunks_share_one_trace_per_bucket(monkeypatch):
    task = ExpressionTask(config_of(), grid_dataset())
    params, model_state = drawn(task.init, jax.random.key(0))
    traces, features = [], ExpressionModel._features
    monkeypatch.setattr(
        ExpressionModel,
        "_features",
        lambda *args: (traces.append(1), features(*args))[1],
    )
    task.sample(params, model_state, 5, seed=0)
    # Once for each bucket that a time grid visits, and once more inside its scan.
    assert len(traces) <= 2 * len(task.model.time.buckets)
    count = len(traces)
    task.sample(params, model_state, 5, seed=1)
    assert len(traces) == count


def test_stochastic_samplers_draw_other_noise_on_every_device(monkeypatch):
    config = config_of(
        "process.schedule=ddpm_linear",
        "process.target=noise",
        "sample.sampler=ancestral",
        "sample.tasks=('unconditional',)",
        "sample.num_samples=8",
    )
    task = ExpressionTask(config, grid_dataset())
    monkeypatch.setattr(
        "ncgn_jax.expression.model.draw_prior",
        lambda schedule, keys, shape: np.ones((len(keys), *shape), "f4"),
    )
    params, model_state = drawn(task.init, jax.random.key(0))
    made = task.sample(params, model_state, 8, seed=0)["unconditional"]
    assert parallel.num_devices() == len(made) == len(np.unique(made, axis=0)) == 8


def test_what_stands_in_the_padding_has_no_influence():
    config = config_of(
        *RAGGED,
        "data.source=cells",
        "data.num_nodes=12",
        "model.conditional=true",
        "sample.conditioning=trained",
        "model.norm=batch",
    )
    clean, task = (ExpressionTask(config, ragged_dataset(junk)) for junk in (0, 1e3))
    assert clean.facts == task.facts
    params, model_state = drawn(task.init, jax.random.key(0))
    # Nothing else of the data enters a step.
    batches = [own.batch(0, slice(0, 24)) for own in (clean, task)]
    run = jax.jit(lambda p, batch: graded(task, p, model_state, batch))
    results = [run(params, batch) for batch in batches]
    assert np.abs(batches[0]["data"] - batches[1]["data"]).max() > 100
    for found, expected in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    samples = task.sample(params, model_state, 5, seed=0)
    padding = ~task.cases["unconditional"].fields.point_mask
    for values in samples.values():
        assert (values[padding] == 0).all()
        assert np.isfinite(values).all()


def test_scaled_axes_choose_the_neighbours():
    """With time brought near, a node is joined to its own place at other times."""
    dataset = grid_dataset(train_size=(5, 6), test_size=(5, 6))
    near = {}
    for scale in ((), (1.0, 0.01)):
        config = config_of(f"dmp.axis_scale={scale}", "dmp.num_neighbors=4")
        graph = ExpressionTask(config, dataset).test_layouts.graphs[-1]
        senders = np.asarray(graph.senders)[0].reshape(30, 4)
        near[scale] = np.mean(senders % 6 == np.arange(30)[:, None] % 6)
    assert near[()] < 0.6
    assert near[1.0, 0.01] == 1.0
    with pytest.raises(DataError, match=r"dmp.axis_scale: found 3 factors; .* 2 axes"):
        ExpressionTask(config_of("dmp.axis_scale=(1.0,1.0,1.0)"), dataset)


def test_denser_layouts_are_sampled_with_the_same_weights():
    dataset = grid_dataset(test_size=(10, 15))
    sizes = {}
    for resolution in ("relative", "absolute"):
        config = config_of(
            f"sample.resolution={resolution}", "sample.tasks=('forward',)"
        )
        task = ExpressionTask(config, dataset)
        sizes[resolution] = [
            graphs.centres.shape[1] for graphs in task.test_layouts.graphs
        ]
    trained = [bucket.num_supernodes for bucket in task.model.time.buckets]
    assert sizes == {"relative": [5 * size for size in trained], "absolute": trained}
    params, model_state = drawn(task.init, jax.random.key(0))
    values = task.sample(params, model_state, 2, seed=0)["forward"]
    assert values.shape == (2, 150, 3)
    assert np.isfinite(values).all()


def test_scores_of_the_truth_are_perfect_and_of_noise_are_not():
    task = ExpressionTask(config_of("sample.num_samples=9"), grid_dataset())
    truth = {name: task.cases[name].known for name in FIELD_TASKS}
    rows = task.evaluate({"truth": truth})
    assert rows["truth"]["rmse_forward"] == 0
    assert rows["truth"]["pearson_space_imputation"] == pytest.approx(1)
    assert rows["truth"]["w_unconditional"] == pytest.approx(0, abs=1e-6)
    assert rows["truth"]["knockout_agreement"] == 1
    assert rows["noise"]["w_unconditional"] > rows["train"]["w_unconditional"] > 0


def test_an_imputed_gene_is_compared_with_plain_baselines():
    config = config_of(
        *RAGGED, "data.source=cells", "data.num_nodes=12", "evaluate.baselines=true"
    )
    task = ExpressionTask(config, ragged_dataset())
    samples = {name: task.cases[name].known for name in config.sample.tasks}
    rows = task.evaluate({"truth": samples})
    assert {"nearest", "process", "regression"} <= set(rows)
    assert rows["nearest"]["rmse_space_imputation"] > 0


def test_errors_are_those_of_the_mean_draw():
    config = config_of("sample.num_draws=3", "sample.tasks=('forward',)")
    task = ExpressionTask(config, grid_dataset())
    params, model_state = drawn(task.init, jax.random.key(0))
    arrays = task.sample(params, model_state, 5, seed=0)
    assert set(arrays) == {"forward", "forward_mean"}
    assert not np.allclose(arrays["forward"], arrays["forward_mean"])
    truth = task.cases["forward"].known
    rows = task.evaluate(
        {"mean": {"forward": arrays["forward"], "forward_mean": truth}}
    )
    assert rows["mean"]["rmse_forward"] == 0
    assert rows["mean"]["w_forward"] > 0


def test_bad_fields_are_named():
    with pytest.raises(ConfigError, match="sample.tasks"):
        config_of("sample.tasks=('forwards',)")
    with pytest.raises(ConfigError, match="model.conditional=True, and only then"):
        config_of("sample.conditioning=trained")
    with pytest.raises(ConfigError, match="data.test_times"):
        config_of("data.test_times=(1.0,1.0)")
    config = config_of("sample.hidden_genes=('z',)")
    with pytest.raises(DataError, match="no gene z; allowed: a, b, c"):
        ExpressionTask(config, grid_dataset())
    with pytest.raises(DataError, match="forward needs fields on a grid"):
        ExpressionTask(config_of(), ragged_dataset())


@pytest.mark.parametrize(
    "sampler",
    [
        "ab2",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in ("euler", "ancestral")
        ),
    ],
)
def test_the_path_ends_at_the_first_sample(sampler):
    config = config_of(f"sample.sampler={sampler}", "sample.tasks=('forward',)")
    task = ExpressionTask(config, grid_dataset())
    params, model_state = drawn(task.init, jax.random.key(0))
    sample = task.sample(params, model_state, 5, config.seed)["forward"][0]
    path = task.first_path(params, model_state, "forward")
    assert path[0][1] == 0
    assert path[-1][1] == pytest.approx(1)
    hidden = ~task.cases["forward"].given[0]
    np.testing.assert_array_equal(path[-1][0].astype("f4")[hidden], sample[hidden])
