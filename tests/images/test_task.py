"""The image task: buckets over steps, times, exact samplers, guidance, costs."""

import itertools
import json
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from ncgn_jax import parallel
from ncgn_jax.compare import compare
from ncgn_jax.comparison import speed
from ncgn_jax.comparison.variants import make_variants
from ncgn_jax.domains import make_task, validate
from ncgn_jax.faults import ConfigError, DataError
from ncgn_jax.generate import read_run_config
from ncgn_jax.images.costs import count_macs, sampling_macs, training_macs
from ncgn_jax.images.model import ImageModel
from ncgn_jax.images.task import classifier_steps
from ncgn_jax.images.times import bucket_at, spread_times
from ncgn_jax.main import run
from ncgn_jax.process import linear_skip
from ncgn_jax.run.optimizer import make_optimizer
from ncgn_jax.tasks import NO_ROWS
from ncgn_jax.tasks.sampling import Sampling, Stretch
from ncgn_jax.train import init_state, make_train_step
from tests.images.image_tasks import (
    LEARNED,
    REPOSITORY,
    SMALL,
    init_params,
    small_config,
    small_task,
)


def times_of(task, batch, keys):
    """The training times of a batch's rows."""
    interval = task.model.time.training_intervals()[batch.bucket]
    size = int(task.images_per_step[batch.bucket])
    return spread_times(interval, batch.row, keys, size)


def test_every_stretch_of_steps_has_each_bucket_by_its_share():
    task = small_task()
    chosen = np.asarray([task.bucket_of_step(step) for step in range(3000)])
    hits = chosen[:, None] == np.arange(len(task.model.shares))
    for start, length in itertools.product((0, 17, 1234), (50, 400, 1500)):
        counts = hits[start : start + length].sum(axis=0)
        assert np.abs(counts - length * task.model.shares).max() < 3.0
    # Not in turn: the same bucket does not come at fixed distances.
    assert len(set(np.diff(np.flatnonzero(hits[:, -1])))) > 1
    assert task.bucket_of_step(5) == small_task().bucket_of_step(5)


def test_kinds_of_steps_are_the_buckets_that_occur():
    task = small_task()
    kinds = task.step_kinds(40, 3000)
    assert [kind.name for kind in kinds] == list(task.bucket_names)
    np.testing.assert_allclose([k.share for k in kinds], task.model.shares, atol=1e-3)
    for bucket, kind in enumerate(kinds):
        before = task.bucket_of_step(np.arange(40, kind.step))
        assert task.bucket_of_step(kind.step) == bucket not in before
    (alone,) = task.step_kinds(7, 8)
    assert alone.step == 7
    assert alone.share == 1.0


def test_many_steps_are_assigned_at_once():
    shares = np.array([0.7, 0.2, 0.1])
    buckets = bucket_at(shares, np.arange(400_000), seed=3)
    chosen = [0, 17, 399_999]
    assert [bucket_at(shares, i, seed=3) for i in chosen] == buckets[chosen].tolist()


def test_time_of_a_step_is_the_mean_over_buckets(monkeypatch):
    """On a clock that only steps move, and the finest bucket most."""
    task, now, cost = small_task(), [0.0], np.array([1.0, 10.0, 100.0])

    def lift(step):
        def counted(state, batch, rng):
            # The first steps compile.
            first = batch.bucket not in seen
            seen.add(batch.bucket)
            now[0] += 1e6 if first else cost[batch.bucket]
            return state, {}

        return counted

    seen = set()
    clock = types.SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(speed, "time", clock)
    monkeypatch.setattr(parallel, "data_parallel", lift)
    found = speed.time_training_steps(task.config, task, num_steps=3)
    assert found == pytest.approx(float(task.model.shares @ cost), rel=1e-2)


@pytest.mark.parametrize("random", [False, True])
def test_training_times_are_uniform_over_steps(random, monkeypatch):
    """Within its bucket's interval where patches follow the noise, else anywhere."""
    task = small_task(f"dmp.random_buckets={random}")
    seen = []

    def predict(model, params, bucket, x_t, t, label):
        seen.append((bucket, np.asarray(t)))
        return jnp.zeros_like(x_t)

    monkeypatch.setattr(ImageModel, "predict", predict)
    for step in range(150):
        key = jax.random.fold_in(jax.random.key(0), step)
        task.loss({}, {}, task.batch(step, slice(0, 16)), key)
    for bucket, t in seen:
        # One time in each sixteenth of the interval.
        low, high = (0.0, 1.0) if random else (bucket.low, bucket.high)
        parts = (t - low) / (high - low) * 16
        np.testing.assert_allclose(parts, np.arange(16) + 0.5, atol=0.5 + 1e-4)
    times = np.concatenate([t for _, t in seen])
    assert kstest(times, "uniform").statistic < 0.02


def test_training_times_overlap():
    """Patches see a little of their neighbours' levels, samplers their own alone."""
    task, plain = small_task("dmp.overlap=0.2"), small_task()
    batches = [task.batch(kind.step, slice(0, 16)) for kind in task.step_kinds(0, 40)]
    keys = jax.random.split(jax.random.key(0), 16)
    extremes = {}
    for batch in batches:
        t = times_of(task, batch, keys)
        extremes[batch.bucket] = float(t.min()), float(t.max())
    low, high = task.model.time.intervals().T
    least, most = np.asarray([extremes[bucket] for bucket in range(3)]).T
    width = high - low
    assert ((least - low)[1:] < -0.12 * width[1:]).all()
    assert ((most - high)[:-1] > 0.12 * width[:-1]).all()
    assert (np.abs(least - low) < 0.21 * width).all()
    assert (np.abs(most - high) < 0.21 * width).all()
    np.testing.assert_array_equal(task.model.shares, plain.model.shares)
    assert task.step_macs() == plain.step_macs()


def test_steps_of_equal_tokens():
    """Fewer images of smaller patches, shared out and spread over times alike."""
    task = small_task("dmp.equal_tokens=True", "train.batch_size=128")
    plain = small_task("train.batch_size=128")
    assert task.images_per_step.tolist() == [128, 32, 8]
    assert plain.images_per_step.tolist() == [128, 128, 128]
    assert {
        images * bucket.num_supernodes
        for images, bucket in zip(
            task.images_per_step, task.model.time.buckets, strict=True
        )
    } == {512}
    keys = jax.random.split(jax.random.key(0), 128)
    for kind in task.step_kinds(0, 40):
        whole = task.batch(kind.step, slice(0, 128))
        parts = [task.batch(kind.step, slice(i, i + 32)) for i in range(0, 128, 32)]
        chex.assert_trees_all_equal(
            whole, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        )
        count = task.images_per_step[whole.bucket]
        assert len(whole.images) == len(np.unique(whole.images, axis=0)) == count
        low, high = task.model.time.training_intervals()[whole.bucket]
        t = np.sort(times_of(task, whole, keys[:count]))
        places = (t - low) / (high - low) * count
        np.testing.assert_allclose(places, np.arange(count) + 0.5, atol=0.5 + 1e-3)
    assert plain.step_macs() > 2 * task.step_macs()


def test_multiply_adds_of_training_by_hand():
    """Three steps of 8 images at 5 each, one of 2 at 40: 3 * 8 * 5 + 2 * 40."""
    found = training_macs(np.array([3, 1]), np.array([8, 2]), np.array([5.0, 40.0]))
    assert found == 200.0


def test_loss_is_of_the_batch_bucket_alone():
    task = small_task()
    batch = task.batch(3, slice(0, 16))
    loss, (_, per_bucket) = task.loss(init_params(task), {}, batch, jax.random.key(0))
    assert per_bucket[batch.bucket] == loss
    others = np.delete(np.asarray(per_bucket), batch.bucket)
    np.testing.assert_array_equal(others, NO_ROWS)


def test_untrained_loss_is_the_second_moment_of_the_velocity():
    """The network predicts 0 at first: E |data - noise|^2 = E data^2 + 1."""
    task = small_task()
    params, _ = task.init(jax.random.key(0))
    losses, squares = [], []
    for step in range(60):
        batch = task.batch(step, slice(0, 16))
        key = jax.random.fold_in(jax.random.key(1), step)
        losses.append(float(task.loss(params, {}, batch, key)[0]))
        squares.append(np.mean(np.square(batch.images)))
    assert np.mean(losses) == pytest.approx(1 + np.mean(squares), rel=0.01)


@pytest.mark.parametrize("extra", [(), LEARNED])
def test_skip_adds_what_is_linear_in_the_image(extra):
    """And leaves variances alone."""
    plain, skipping = small_task(*extra), small_task("model.skip=True", *extra)
    params, rng = init_params(plain), np.random.default_rng(0)
    x_t = rng.normal(size=(2, 8, 8, 1)).astype(np.float32)
    t, label = np.array([0.3, 0.8], np.float32), np.array([4, 10], np.int32)
    output, found = (
        np.asarray(
            task.model.predict(params, task.model.time.buckets[0], x_t, t, label)
        )
        for task in (plain, skipping)
    )
    kind = plain.config.process.target
    skip, scale = linear_skip(kind, plain.model.time.schedule, t, x_t)
    wanted = skip * x_t + scale * output[..., :1]
    np.testing.assert_allclose(found[..., :1], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[..., 1:], output[..., 1:])


def test_one_trace_for_each_bucket():
    task = small_task()
    config = task.config
    tx = make_optimizer(config)
    inner = make_train_step(task, tx, config)
    count = len(task.model.time.buckets)
    step = parallel.data_parallel(chex.assert_max_traces(inner, n=count))
    state = parallel.replicate(init_state(task, tx, 0))
    chex.clear_trace_counter()
    visited = set()
    for i in range(30):
        batch = task.batch(i, slice(0, 16))
        visited.add(batch.bucket)
        state, _ = step(state, parallel.put_batch(batch), jax.random.key(0))
    assert len(visited) == count == 3


@pytest.mark.parametrize("channels", [0, 1])
@pytest.mark.parametrize(("guidance", "expected"), [(0.0, 3.0), (1.5, 6.0)])
def test_guidance_moves_beyond_the_class(channels, guidance, expected, monkeypatch):
    """3 with a class and 1 without: 3 + 1.5 (3 - 1) = 6. Variances stay."""
    model = small_task(*LEARNED).model

    def predict(model, params, bucket, x_t, t, label):
        found = jnp.where(label == model.num_classes, 1.0, 3.0)
        return jnp.broadcast_to(found[:, None, None, None], (*x_t.shape[:3], 2))

    monkeypatch.setattr(ImageModel, "predict", predict)
    x, t, label = jnp.zeros((3, 8, 8, 1)), jnp.full(3, 0.5), jnp.asarray([0, 4, 9])
    bucket = model.time.buckets[0]
    found = model.guided({}, bucket, x, t, label, guidance, channels)
    np.testing.assert_array_equal(found[..., 0], expected)
    # The second channel is the variance, that of the class.
    np.testing.assert_array_equal(found[..., 1], 3.0)


def test_labels_are_hidden_as_often_as_asked(monkeypatch):
    task = small_task("model.label_dropout=0.3")
    seen = []

    def predict(model, params, bucket, x_t, t, label):
        seen.append(np.asarray(label))
        return jnp.zeros_like(x_t)

    monkeypatch.setattr(ImageModel, "predict", predict)
    known = []
    for step in range(100):
        batch = task.batch(step, slice(0, 16))
        known.append(batch.label)
        task.loss({}, {}, batch, jax.random.fold_in(jax.random.key(0), step))
    seen, known = np.concatenate(seen), np.concatenate(known)
    assert np.mean(seen == 10) == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(seen[seen != 10], known[seen != 10])


def test_multiply_adds_are_those_counted_by_hand():
    """Per token 12 D^2 a block; per image 6 D^2 of modulation; attended pairs 2 D."""
    task = small_task("model.width=128", "model.num_layers=2", "dmp.patches=(2,)",
                      "dmp.num_neighbors=0")  # fmt: skip
    width, layers, tokens = 128, 2, 16
    block = tokens * 12 * width**2 + 6 * width**2 + 2 * tokens**2 * width
    ends = tokens * (2 * 4 * width) + 2 * width**2 + 256 * width + width**2
    wanted = layers * block + ends
    assert task.forward_macs[0] == pytest.approx(wanted, rel=0.06)
    # The gradient in data is not asked for, so a step costs nearly three passes.
    trained = count_macs(task.model, with_gradient=True)[0]
    assert 2.5 < trained / task.forward_macs[0] < 3.5
    costs = task.costs(10)
    assert costs["train_tmac"] == pytest.approx(10 * 16 * trained / 1e12)
    assert costs["sample_mmac"] == pytest.approx(2 * 5 * task.forward_macs[0] / 1e6)


@pytest.mark.parametrize(
    ("sampler", "guidance", "evaluations"),
    [("euler", 0.0, 1), ("heun", 0.0, 2), ("euler", 1.5, 2), ("heun", 0.5, 4)],
)
def test_multiply_adds_of_sampling_by_hand(sampler, guidance, evaluations):
    """Four steps at 5 and two at 40 are 100, times the evaluations of a step."""
    stretches = [
        Stretch(0, 0, np.linspace(0, 0.5, 5)),
        Stretch(1, 4, np.linspace(0.5, 1, 3)),
    ]
    sampling = Sampling(sampler=sampler, guidance=guidance)
    model = small_task().model
    found = sampling_macs(model, stretches, sampling, np.array([5.0, 40.0]))
    assert found == 100 * evaluations


def test_mirrored_images_are_mirrored_in_batches():
    task, plain = small_task("data.flip=True"), small_task()
    one, other = (t.batch(2, slice(0, 16)).images for t in (task, plain))
    same = np.all(one == other, axis=(1, 2, 3))
    turned = np.all(one == other[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(same | turned)
    assert 2 < same.sum() < 14


@pytest.mark.parametrize("bucket_rule", ["schedule", "reverse"])
def test_description_names_data_patches_and_costs(bucket_rule):
    overrides = ["dmp.reverse_schedule=True"] if bucket_rule == "reverse" else []
    text = "\n".join(small_task(*overrides).describe())
    assert "digits" in text
    assert "1 x 1 (64 tokens, window 3" in text
    assert "MMAC" in text
    assert ("reversed" in text) == (bucket_rule == "reverse")


def test_noise_beside_pixels_is_clipped_as_samples_are():
    """Else the row of pure noise would show values that no sample can have."""
    noise, _ = small_task().scorer._anchors(20)["noise"]
    assert noise.max() == 1.0
    assert noise.min() == -1.0
    assert 0.25 < np.mean(np.abs(noise) == 1.0) < 0.4  # beyond one deviation: 0.317


@pytest.mark.parametrize(("classes", "steps"), [(0, 20), (10, 20), (25, 60)])
def test_classifier_learns_longer_where_there_are_many_classes(classes, steps):
    assert classifier_steps(20, classes) == steps


def test_patches_that_do_not_divide_the_image_are_refused():
    config = small_config("dmp.patches=(4,3)")
    validate(config)
    with pytest.raises(DataError, match=r"dmp: .*patch 3 .*8 x 8"):
        make_task(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dmp.patches=()"], "dmp.patches"),
        (["dmp.patches=(2,2)"], "different whole numbers"),
        (["dmp.patches=(0,2)"], "at least 1"),
        (["dmp.equal_tokens=True"], "found 16; .* 8 devices"),
        (["dmp.overlap=-0.1"], "dmp.overlap"),
        (["model.width=10"], "model.num_heads|multiple of 4"),
        (["model.size=Q"], "S, B, L, XL"),
        (["data.source=folder"], "data.image_size"),
        (["data.source=latents", "data.flip=True"], "data.flip"),
        (["model.learned_variance=True"], "process.target"),
        ([*LEARNED, "sample.sampler=heun"], "sample.sampler"),
        (["sample.guidance=2.0", "model.label_dropout=0.0"], "knows no condition"),
        (["dmp.schedule=expo"], "did you mean 'exp'"),
    ],
)
def test_faulty_fields_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        validate(small_config(*overrides))


def test_data_that_is_not_named_is_asked_for(monkeypatch):
    monkeypatch.delenv("NCGN_IMAGES", raising=False)
    with pytest.raises(DataError, match="set data.path or NCGN_IMAGES"):
        make_task(small_config("data.source=arrays"))


@pytest.mark.slow
def test_comparisons_show_what_each_variant_cost(tmp_path):
    """Each run its own multiply-adds, though all are evaluated by one task."""
    overrides = [*SMALL, "train.num_steps=8", "sample.sampler=euler"]
    variants = make_variants(
        str(REPOSITORY / "configs" / "digits.py"),
        overrides,
        explicit=["dmp:", "large: dmp.patches=(4,)", "longer: train.num_steps=12"],
    )
    text = compare(variants, tmp_path, num_seeds=1)
    assert "train TMAC" in text
    found = {}
    for variant in variants:
        folder = tmp_path / variant.folder / f"seed{variant.config.seed}"
        (row,) = json.loads((folder / "result.json").read_text())["rows"].values()
        own = make_task(variant.config)
        assert row["train_tmac"] == pytest.approx(
            own.costs(variant.config.train.num_steps)["train_tmac"]
        )
        found[variant.name] = row
    assert found["large"]["train_tmac"] < found["dmp"]["train_tmac"]
    assert found["longer"]["train_tmac"] > found["dmp"]["train_tmac"]
    assert found["large"]["sample_mmac"] < found["dmp"]["sample_mmac"]
    # Five steps, of which one is in the finest bucket, are sampled on all devices.
    finest = make_task(variants[0].config).forward_macs[-1] / 1e6
    assert finest < found["dmp"]["sample_mmac"] < 2 * finest


@pytest.mark.slow
def test_runs_of_equal_multiply_adds(tmp_path):
    """Each with the steps that its patches leave it, counted again from the runs."""
    variants = make_variants(
        str(REPOSITORY / "configs" / "digits.py"),
        [*SMALL, "sample.sampler=euler"],
        explicit=["dmp:", "large: dmp.patches=(4,)"],
    )
    text = compare(variants, tmp_path, num_seeds=1, tmac=1e-4)
    assert "0.0001 TMAC of training each" in text
    assert "sample MMAC" in text
    steps = {}
    for variant in variants:
        folder = tmp_path / variant.folder / f"seed{variant.config.seed}"
        (row,) = json.loads((folder / "result.json").read_text())["rows"].values()
        assert row["train_tmac"] == pytest.approx(1e-4, rel=0.1)
        steps[variant.name] = read_run_config(folder).train.num_steps
    assert steps["large"] > 1.5 * steps["dmp"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), LEARNED])
def test_runs_from_configuration_to_table_and_pictures(tmp_path, capsys, extra):
    overrides = [*SMALL, "train.num_steps=6", "train.checkpoint_every_steps=6", *extra]
    run(str(REPOSITORY / "configs" / "digits.py"), overrides, str(tmp_path), "all")
    text = capsys.readouterr().out
    assert "FD-clf" in text
    assert "train TMAC" in text
    for row in ("ema", "noise", "train"):
        assert f"\n{row}" in text or f"| {row}" in text
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"samples.png", "paths.png", "nearest.png", "cost.png"}


def test_paths_end_at_the_first_samples():
    task = small_task("sample.num_samples=12", "sample.guidance=0.5")
    params = init_params(task)
    samples = task.sample(params, {}, 12, task.config.seed)
    start, path = task.first_paths(params)
    np.testing.assert_array_equal(start.given, samples["labels"][: len(start.given)])
    shown = task.dataset.to_saved(path[-1].x)
    np.testing.assert_array_equal(shown[:4], samples["images"][:4])
