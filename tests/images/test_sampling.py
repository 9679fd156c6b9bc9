"""Sampling images: time grids, exact samplers, devices, traces."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.images.model import ImageSampler
from ncgn_jax.images.task import ImageTask
from ncgn_jax.process import SamplerState, posterior_variances
from ncgn_jax.tasks import sampling
from ncgn_jax.tasks.sampling import Start
from tests.images.image_tasks import LEARNED, init_params, small_task, stubbed


def program(task, bucket):
    """Returns what one device does in a stretch of a bucket."""
    options = ImageSampler(task.sampling.sampler, None, 0.0, 0)
    return task.model._sampler.program(options, bucket)


def exact_velocity(mean, spread):
    """The velocity of data N(mean, spread^2) in every pixel, on the straight line."""

    def predict(params, bucket, x_t, t, label):
        t = t[:, None, None, None]
        var = t**2 * spread**2 + (1 - t) ** 2
        data_hat = mean + t * spread**2 / var * (x_t - t * mean)
        noise_hat = (1 - t) / var * (x_t - t * mean)
        return data_hat - noise_hat

    return predict


@pytest.mark.parametrize(
    ("sampler", "steps", "random"),
    [
        ("heun", 40, True),
        ("ab2", 60, False),
        ("dpmpp_2m", 60, False),
        ("ancestral", 250, False),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in (
                ("heun", 40, False),
                ("ab2", 60, True),
                ("dpmpp_2m", 60, True),
                ("ancestral", 250, True),
            )
        ),
    ],
)
def test_samples_have_the_law_of_the_data(sampler, steps, random):
    task = small_task(
        f"sample.sampler={sampler}", f"sample.num_steps={steps}",
        "sample.batch_size=400", f"sample.random_buckets={random}",
    )  # fmt: skip
    mean, spread = 0.2, 0.15
    task = stubbed(task, exact_velocity(mean, spread))
    images = task.dataset.units.from_saved(task.sample({}, {}, 400, seed=3)["images"])
    assert images.shape == (400, 8, 8, 1)
    assert images.mean() == pytest.approx(mean, abs=5e-3)
    assert images.std() == pytest.approx(spread, rel=0.05)
    # All different, and no two pixels alike.
    flat = images.reshape(400, -1)
    assert np.abs(np.corrcoef(flat.T) - np.eye(64)).max() < 0.3


@pytest.mark.parametrize(
    "extra",
    [
        LEARNED,
        pytest.param(("sample.sampler=ancestral",), marks=pytest.mark.thorough),
    ],
)
def test_an_image_does_not_depend_on_those_beside_it(extra):
    """Noise belongs to rows: other chunks, and other devices, draw the same images."""
    images, extra = [], (*extra, "dmp.patches=(4,)")
    for size in (64, 8):
        task = small_task(f"sample.batch_size={size}", *extra)
        params = init_params(small_task(*extra))
        images.append(task.sample(params, {}, 12, seed=1)["images"].astype(int))
    np.testing.assert_allclose(*images, rtol=0, atol=1)  # of 255


@pytest.mark.parametrize(
    ("extra", "random"),
    [
        (("sample.sampler=dpmpp_2m",), False),
        (LEARNED, True),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in (
                (("sample.sampler=dpmpp_2m",), True),
                (("sample.sampler=ancestral",), False),
                (("sample.sampler=ancestral",), True),
                (LEARNED, False),
            )
        ),
    ],
)
def test_the_path_drawn_ends_at_the_samples(extra, random):
    """Of a run's first call; its samples take three, the last not a whole one."""

    def predict(params, bucket, x_t, t, label):
        moved = jnp.tanh(bucket.patch * x_t) + 0.1 * (t + label)[:, None, None, None]
        return jnp.concatenate([moved] * task.model.network().out_channels, axis=-1)

    task = small_task(
        *extra, "sample.num_samples=20", "sample.guidance=0.5", "seed=3",
        f"sample.random_buckets={random}",
    )  # fmt: skip
    task = stubbed(task, predict)
    samples = task.sample({}, {}, 20, seed=3)
    start, path = task.first_paths({})
    assert path[-1].t == 1.0
    images = task.dataset.units.to_saved(path[-1].x)
    np.testing.assert_array_equal(images, samples["images"][:8])
    np.testing.assert_array_equal(start.given, samples["labels"][:8])
    assert len(np.unique(images, axis=0)) == 8
    assert not np.array_equal(images, samples["images"][8:16])


def test_random_patches_have_a_stretch_for_every_step():
    task = small_task("sample.random_buckets=True", "sample.num_steps=400")
    stretches = task.stretches()
    assert [offset for _, offset, _ in stretches] == list(range(400))
    counts = np.bincount([b for b, _, _ in stretches], minlength=3) / 400
    np.testing.assert_allclose(counts, task.model.shares, atol=0.01)
    ends = [times[-1] for _, _, times in stretches[:-1]]
    starts = [times[0] for _, _, times in stretches[1:]]
    np.testing.assert_array_equal(ends, starts)
    np.testing.assert_allclose(ends, np.arange(1, 400) / 400, rtol=1e-6)


def test_patches_are_drawn_at_random_in_training_and_in_sampling_apart():
    trained, sampled = (
        small_task(f"{section}.random_buckets=True", "sample.num_steps=40")
        for section in ("dmp", "sample")
    )
    whole = [[0.0, 1.0]] * 3
    np.testing.assert_array_equal(trained.model.time.training_intervals(), whole)
    assert len(trained.stretches()) == 3
    time = sampled.model.time
    np.testing.assert_array_equal(time.training_intervals(), time.intervals())
    assert len(sampled.stretches()) == 40
    other = small_task("sample.random_buckets=True", "sample.num_steps=40", "seed=5")
    drawn = [[bucket for bucket, _, _ in t.stretches()] for t in (sampled, other)]
    assert drawn[0] != drawn[1]


def joined_times(task):
    """The whole time grid, its stretches put together."""
    stretches = task.stretches()
    for (_, _, one), (_, _, other) in itertools.pairwise(stretches):
        assert one[-1] == other[0]
    lengths = [len(times) - 1 for _, _, times in stretches]
    offsets = [offset for _, offset, _ in stretches]
    assert offsets == [sum(lengths[:i]) for i in range(len(lengths))]
    return np.concatenate([[0.0], *(times[1:] for _, _, times in stretches)])


@pytest.mark.parametrize("grid", ["uniform", "cosine", "quadratic", "log_snr", "edm"])
@pytest.mark.parametrize(
    ("num_steps", "reverse"),
    [
        (3, True),
        (4, False),
        (50, False),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in (
                (3, False),
                (4, True),
                (12, False),
                (12, True),
                (50, True),
                (250, False),
                (250, True),
            )
        ),
    ],
)
def test_steps_end_where_buckets_do(grid, num_steps, reverse):
    task = small_task(
        f"sample.time_grid={grid}", f"sample.num_steps={num_steps}",
        f"dmp.reverse_schedule={reverse}",
    )  # fmt: skip
    stretches = task.stretches()
    assert [bucket for bucket, _, _ in stretches] == [0, 1, 2]
    ends = [times[[0, -1]] for _, _, times in stretches]
    np.testing.assert_array_equal(ends, task.model.time.intervals().astype(np.float32))
    times = joined_times(task)
    assert len(times) == num_steps + 1
    assert (np.diff(times) > 0).all()
    # Elsewhere the grid is nearly what it was.
    plain = small_task(
        f"sample.time_grid={grid}", f"sample.num_steps={num_steps}", "dmp.patches=(4,)"
    )
    before = joined_times(plain)
    if num_steps >= 50:
        shift = np.interp(times, before, np.arange(num_steps + 1))
        assert np.abs(shift - np.arange(num_steps + 1)).max() < 1.5


@pytest.mark.parametrize(
    "sampler", ["heun", pytest.param("ancestral", marks=pytest.mark.thorough)]
)
def test_no_network_is_asked_beyond_its_bucket(sampler):
    """Heun's second evaluation included, which is at the step's end."""
    task = small_task(f"sample.sampler={sampler}", "sample.num_steps=7")
    seen = collections.defaultdict(list)

    def predict(params, bucket, x_t, t, label):
        seen[bucket.patch].append(float(t[0]))
        return jnp.zeros_like(x_t)

    task = stubbed(task, predict)
    x, keys = np.zeros((1, 8, 8, 1), np.float32), jax.random.split(jax.random.key(0), 1)
    state = SamplerState(x)
    with jax.disable_jit():
        for bucket, offset, times in task.stretches():
            program(task, bucket)(state, keys, np.zeros(1, int), {}, times, offset)
    assert sorted(seen) == [1, 2, 4]
    for bucket, (low, high) in zip(
        task.model.time.buckets,
        task.model.time.intervals().astype(np.float32),
        strict=True,
    ):
        assert min(seen[bucket.patch]) == low
        if sampler == "heun":
            assert max(seen[bucket.patch]) == high
        else:
            assert max(seen[bucket.patch]) < high


def test_patches_without_a_step_are_named():
    task = small_task("sample.num_steps=2")
    assert {bucket for bucket, _, _ in task.stretches()} == {0}
    (note,) = task.notes()
    assert note == (
        "NOTE: sample.num_steps=2 leaves no step to patches 2, 1; 3 steps would use all"
    )
    assert small_task("sample.num_steps=3").notes() == []
    (note,) = small_task("sample.num_steps=2", "sample.random_buckets=True").notes()
    assert "more steps would use all" in note


@pytest.mark.parametrize("num_steps", [20, 250, 1000])
def test_learned_variances_are_asked_at_whole_steps_of_their_chain(num_steps):
    task = small_task(*LEARNED, f"sample.num_steps={num_steps}")
    places = joined_times(task) * 1000
    np.testing.assert_allclose(places, np.rint(places), atol=1e-3)
    assert (np.diff(places) > 0.5).all()
    # At an edge the chain's step before it, which training has in both buckets.
    for (_, _, times), (low, _) in zip(
        task.stretches()[1:], task.model.time.intervals()[1:], strict=True
    ):
        assert 0 <= low - times[0] < 1e-3 + 1e-6


@pytest.mark.parametrize(
    "learned", [True, pytest.param(False, marks=pytest.mark.thorough)]
)
def test_learned_variances_give_the_law_of_the_data_in_few_steps(learned):
    """Normal data has normal reverse steps: with their variance the law is exact.

    Only what the last step, which adds no noise, leaves out is missing. With a fraction
    of 0 instead, that of the posterior, samples are too narrow.
    """
    task = small_task(
        *LEARNED, "sample.num_steps=12", "sample.time_grid=cosine",
        "sample.batch_size=400",
    )  # fmt: skip
    mean, spread, schedule = 0.1, 0.2, task.model.time.schedule
    times = jnp.asarray(joined_times(task), jnp.float32)

    def left(t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return spread**2 * sigma**2 / (alpha**2 * spread**2 + sigma**2)

    def fraction(t):
        """Of the true reverse variance between its two bounds."""
        t_next = times[jnp.argmin(jnp.abs(times - t)) + 1]
        posterior, forward = posterior_variances(schedule, t, t_next)
        kept = jnp.sqrt(schedule.sigma(t_next) ** 2 - posterior)
        slope = schedule.alpha(t_next) - schedule.alpha(t) * kept / schedule.sigma(t)
        true = posterior + slope**2 * left(t)
        return jnp.log(true / posterior) / jnp.log(forward / posterior)

    def predict(params, bucket, x_t, t, label):
        alpha, sigma = schedule.alpha(t[0]), schedule.sigma(t[0])
        var = alpha**2 * spread**2 + sigma**2
        noise_hat = sigma / var * (x_t - alpha * mean)
        raw = 2 * fraction(t[0]) - 1 if learned else -1.0
        return jnp.concatenate([noise_hat, jnp.full_like(x_t, raw)], axis=-1)

    task = stubbed(task, predict)
    images = task.dataset.units.from_saved(task.sample({}, {}, 400, seed=3)["images"])
    wanted = np.sqrt(spread**2 - float(left(times[-2])))
    assert images.mean() == pytest.approx(mean, abs=5e-3)
    if learned:
        assert images.std() == pytest.approx(wanted, rel=0.02)
    else:
        assert images.std() < 0.95 * wanted


@pytest.mark.parametrize(
    "extra", [(), pytest.param(LEARNED, marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("bucket", [0, pytest.param(1, marks=pytest.mark.thorough), 2])
def test_devices_sample_every_bucket_alike(bucket, extra):
    """Eight devices against one, from coarsest to finest patches."""
    task = small_task("sample.num_steps=6", *extra)
    params = init_params(task)
    stretch = task.stretches()[bucket]
    assert stretch.bucket == bucket
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 8, 8, 1)).astype(np.float32)
    labels = np.arange(16, dtype=np.int32) % 10
    keys = jax.random.split(jax.random.key(4), 16)
    start = Start(x, keys, labels)
    ((_, many),) = task.model.walk(params, start, [stretch], task.sampling)
    one = jax.jit(program(task, bucket))(
        SamplerState(x), keys, labels, params, stretch.times, np.int32(stretch.offset)
    ).x
    np.testing.assert_allclose(many, one, atol=1e-5 + 2e-6 * np.abs(one).max())
    assert np.abs(many - x).max() > 1e-2


@pytest.mark.parametrize(
    "extra", [(), pytest.param(LEARNED, marks=pytest.mark.thorough)]
)
def test_one_trace_and_one_loop_for_each_bucket(extra):
    task, traces = small_task("sample.num_steps=9", *extra), collections.Counter()

    def predict(params, bucket, x_t, t, label):
        return jnp.concatenate([jnp.tanh(x_t)] * task.model.network().out_channels, -1)

    task = stubbed(task, predict)
    inner = task.model._sampler.program

    def counted(options, bucket):
        run = inner(options, bucket)

        def traced(*args):
            traces[bucket] += 1
            return run(*args)

        return traced

    task.model._sampler.program = counted
    # Three chunks of eight, one image a device; then the same again.
    for _ in range(2):
        task.sample({}, {}, 20, seed=1)
    assert traces == {0: 1, 1: 1, 2: 1}
    x, keys = jnp.zeros((1, 8, 8, 1)), jax.random.split(jax.random.key(0), 1)
    for bucket, offset, times in task.stretches():
        jaxpr = jax.make_jaxpr(program(task, bucket))(
            SamplerState(x), keys, jnp.zeros(1, int), {}, times, offset
        )
        (loop,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
        assert loop.params["length"] == max(2, len(times) - 1)


def test_parameters_are_copied_to_the_devices_once(monkeypatch):
    task, seen = small_task(), []
    task = ImageTask(task.config, task.dataset)

    def lift(run, batch_argnums):
        def walk(x, keys, labels, params, times, offset):
            seen.append(params["w"])
            return x

        walk.prepare = lambda *_: None
        return walk

    monkeypatch.setattr(sampling, "map_over_devices", lift)
    params = {"w": np.ones(3, np.float32)}
    task.sample(params, {}, 20, seed=1)
    assert len(seen) == 9
    assert len({id(leaf) for leaf in seen}) == 1
    assert len(seen[0].sharding.device_set) == jax.device_count() == 8
    # Alone, as for pictures of paths.
    seen.clear()
    task.first_paths(params)
    assert len(seen) == 3
    assert len({id(leaf) for leaf in seen}) == 1
    assert len(seen[0].sharding.device_set) == 8
