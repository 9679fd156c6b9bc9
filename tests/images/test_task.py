"""The image task: buckets over steps, times, losses, refusals, whole runs."""

import dataclasses
import itertools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from ncgn_jax import parallel
from ncgn_jax.comparison import speed
from ncgn_jax.domains import make_task, validate
from ncgn_jax.faults import ConfigError, DataError
from ncgn_jax.images.task import ImageTask
from ncgn_jax.images.times import bucket_at
from ncgn_jax.loop import init_state, make_train_step
from ncgn_jax.run.optimizer import make_optimizer
from ncgn_jax.running import run
from ncgn_jax.tasks import NO_ROWS
from tests.images.image_tasks import (
    LEARNED,
    REPOSITORY,
    SMALL,
    init_params,
    small_config,
    small_task,
    stubbed,
)


def listener(task):
    """Returns a function of batch and key: what a loss asks of the network.

    That is the bucket, the times and the labels.
    """
    bucket_of, asked = {}, []

    def predict(params, bucket, x_t, t, label):
        asked.append((bucket, t, label))
        return jnp.zeros_like(x_t)

    task = stubbed(task, predict)

    @jax.jit
    def run(batch, rng):
        asked.clear()
        task.loss({}, {}, batch, rng)
        ((bucket_of[batch.bucket], *arrays),) = asked
        return arrays

    def ask(batch, rng):
        arrays = map(np.asarray, run(batch, rng))
        return bucket_of[batch.bucket], *arrays

    return ask


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
    counts = np.bincount(buckets)
    np.testing.assert_allclose(counts, 400_000 * shares, rtol=0, atol=3)


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
def test_training_times_are_uniform_over_steps(random):
    """Within its bucket's interval where patches follow the noise, else anywhere."""
    task = small_task(f"dmp.random_buckets={random}")
    ask, keys = listener(task), jax.random.split(jax.random.key(0), 150)
    seen = [ask(task.batch(step, slice(0, 16)), key) for step, key in enumerate(keys)]
    for bucket, t, _ in seen:
        # One time in each sixteenth of the interval.
        low, high = (0.0, 1.0) if random else (bucket.low, bucket.high)
        parts = (t - low) / (high - low) * 16
        np.testing.assert_allclose(parts, np.arange(16) + 0.5, atol=0.5 + 1e-4)
    times = np.concatenate([t for _, t, _ in seen])
    assert kstest(times, "uniform").statistic < 0.02


def test_training_times_overlap():
    """Patches see a little of their neighbours' levels, samplers their own alone."""
    task, plain = small_task("dmp.overlap=0.2"), small_task()
    ask = listener(task)
    seen = [
        ask(task.batch(kind.step, slice(0, 16)), jax.random.key(0))
        for kind in task.step_kinds(0, 40)
    ]
    buckets = list(task.model.time.buckets)
    extremes = {buckets.index(b): (float(t.min()), float(t.max())) for b, t, _ in seen}
    low, high = task.model.time.intervals().T
    least, most = np.asarray([extremes[bucket] for bucket in range(3)]).T
    width = high - low
    assert ((least - low)[1:] < -0.12 * width[1:]).all()
    assert ((most - high)[:-1] > 0.12 * width[:-1]).all()
    assert (np.abs(least - low) < 0.21 * width).all()
    assert (np.abs(most - high) < 0.21 * width).all()
    np.testing.assert_array_equal(task.model.shares, plain.model.shares)
    for one, other in zip(task.stretches(), plain.stretches(), strict=True):
        np.testing.assert_array_equal(one.times, other.times)


def test_steps_of_equal_tokens():
    """Fewer images of smaller patches, shared out and spread over times alike."""
    task = small_task("dmp.equal_tokens=True", "train.batch_size=128")
    ask, buckets = listener(task), set()
    plain = small_task("train.batch_size=128")
    assert task.images_per_step.tolist() == [128, 32, 8]
    assert plain.images_per_step.tolist() == [128, 128, 128]
    assert [bucket.num_supernodes for bucket in task.model.time.buckets] == [4, 16, 64]
    for kind in task.step_kinds(0, 40):
        whole = task.batch(kind.step, slice(0, 128))
        parts = [task.batch(kind.step, slice(i, i + 32)) for i in range(0, 128, 32)]
        chex.assert_trees_all_equal(
            whole, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        )
        count = (128, 32, 8)[whole.bucket]
        assert len(whole.images) == len(np.unique(whole.images, axis=0)) == count
        bucket, t, _ = ask(whole, jax.random.key(0))
        buckets.add(bucket)
        low, high = task.model.time.training_intervals()[whole.bucket]
        places = (np.sort(t) - low) / (high - low) * count
        np.testing.assert_allclose(places, np.arange(count) + 0.5, atol=0.5 + 1e-3)
    assert len(buckets) == 3


def test_loss_is_of_the_batch_bucket_alone():
    task = small_task()
    batch = task.batch(3, slice(0, 16))
    arguments = init_params(task), {}, batch, jax.random.key(0)
    loss, (_, per_bucket) = jax.jit(task.loss)(*arguments)
    assert per_bucket[batch.bucket] == loss
    others = np.delete(np.asarray(per_bucket), batch.bucket)
    np.testing.assert_array_equal(others, NO_ROWS)


def test_untrained_loss_is_the_second_moment_of_the_velocity():
    """The network predicts 0 at first: E |data - noise|^2 = E data^2 + 1."""
    task = small_task()
    params, _ = jax.jit(task.init)(jax.random.key(0))
    loss_of, losses, squares = jax.jit(task.loss), [], []
    for step in range(60):
        batch = task.batch(step, slice(0, 16))
        key = jax.random.fold_in(jax.random.key(1), step)
        losses.append(float(loss_of(params, {}, batch, key)[0]))
        squares.append(np.mean(np.square(batch.images)))
    assert np.mean(losses) == pytest.approx(1 + np.mean(squares), rel=0.01)


def test_one_trace_for_each_bucket():
    """Of a step, which has the loss's gradient in it, on eight devices."""
    task = stubbed(
        small_task(),
        lambda params, bucket, x_t, t, label: params["w"][0, 0] * x_t,
        {"w": jnp.ones((1, 1))},
    )
    config = task.config
    tx = make_optimizer(config)
    inner = make_train_step(task, tx, config)
    step = parallel.data_parallel(chex.assert_max_traces(inner, n=3))
    state = parallel.replicate(init_state(task, tx, 0))
    chex.clear_trace_counter()
    visited = set()
    for i in range(30):
        batch = task.batch(i, slice(0, 16))
        visited.add(batch.bucket)
        state, _ = step(state, parallel.put_batch(batch), jax.random.key(0))
    assert visited == {0, 1, 2}


def test_labels_are_hidden_as_often_as_asked():
    labels, known = [], []
    task = small_task("model.label_dropout=0.3")
    ask = listener(task)
    for step, key in enumerate(jax.random.split(jax.random.key(0), 100)):
        batch = task.batch(step, slice(0, 16))
        known.append(batch.label)
        labels.append(ask(batch, key)[-1])
    labels = np.concatenate(labels)
    known = np.concatenate(known)
    assert np.mean(labels == 10) == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(labels[labels != 10], known[labels != 10])


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
    task = small_task(*overrides)
    text = "\n".join(task.describe_data() + task.describe_model())
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


@pytest.mark.parametrize(("classes", "steps"), [(1, 20), (10, 20), (25, 60)])
def test_classifier_learns_longer_where_there_are_many_classes(classes, steps):
    task = small_task()
    names = tuple(map(str, range(classes)))
    data = dataclasses.replace(task.dataset, class_names=names)
    data = dataclasses.replace(data, train_labels=data.train_labels % classes)
    task = ImageTask(task.config, data)
    assert f", {steps} steps," in task.caption()["features"]


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
@pytest.mark.parametrize(
    "extra", [(), pytest.param(LEARNED, marks=pytest.mark.thorough)]
)
def test_runs_from_configuration_to_table_and_pictures(tmp_path, capsys, extra):
    overrides = [
        *SMALL, "dmp.patches=(4,2)", "train.num_steps=3", "sample.num_steps=3",
        "train.checkpoint_every_steps=3", "train.optimizer=adam",
        "evaluate.classifier_steps=2", *extra,
    ]  # fmt: skip
    run(str(REPOSITORY / "configs" / "digits.py"), overrides, str(tmp_path), "all")
    text = capsys.readouterr().out
    assert "FD-clf" in text
    assert "train TMAC" in text
    for row in ("ema", "noise", "train"):
        assert f"\n{row}" in text or f"| {row}" in text
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {
        "samples",
        "samples.png",
        "paths.png",
        "nearest.png",
        "cost.png",
    }
    assert len(list((tmp_path / "pictures" / "samples").glob("?-*.png"))) == 6


def test_captions_name_classes_guidance_and_reference():
    task = small_task("sample.classes=(3,)", "sample.guidance=1.5")
    caption = task.caption()
    own = int((task.dataset.test_labels == 3).sum())
    assert caption["guidance"] == 1.5
    assert caption["classes"] == "3"
    assert caption["reference"] == "test images of 3"
    assert caption["sizes"] == f"6 images per set, {own} test images"
    assert not task.warnings({})
    assert "reference" not in small_task().caption()
