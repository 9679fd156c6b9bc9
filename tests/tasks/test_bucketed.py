"""Stratified batches and bucketed time grids."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax.graphs import Pairing, RangeResolution, make_noise_buckets
from ncgn_jax.process import (
    SCHEDULES,
    SamplerState,
    expand_like,
    make_denoiser,
    make_sampler,
    make_schedule,
    make_time_grid,
    take_steps,
)
from ncgn_jax.tasks.bucketed import (
    BucketedTime,
    Objective,
    draw_bucket_times,
    make_batch_layout,
    noise_rows,
    row_keys,
)
from ncgn_jax.tasks.sampling import (
    BucketedSampler,
    Start,
    Stretch,
    cut_further,
    guide,
    rows_per_call,
    sample_chunks,
    split_time_grid,
)


@functools.cache
def make_time(process="linear", dmp="exp", num_nodes=400, signal="mixing"):
    buckets = make_noise_buckets(num_nodes, 7, 3, schedule=RangeResolution(dmp))
    return BucketedTime(make_schedule(process), buckets, signal)


@pytest.mark.parametrize("process", SCHEDULES)
@pytest.mark.parametrize("signal", ["mixing", "time"])
def test_intervals_tile_time_and_agree_with_levels(process, signal):
    time = make_time(process, signal=signal)
    intervals = time.intervals()
    assert intervals[0, 0] == 0
    assert intervals[-1, 1] == 1
    np.testing.assert_array_equal(intervals[1:, 0], intervals[:-1, 1])
    for bucket, (low, high) in zip(time.buckets, intervals, strict=True):
        if high - low < 1e-4:
            continue
        level = float(time.level(jnp.asarray([(low + high) / 2]))[0])
        assert bucket.low - 1e-4 <= level <= bucket.high + 1e-4


def test_training_overlaps_by_a_share_of_each_interval():
    time = make_time()
    low, high = time.intervals().T
    wide = dataclasses.replace(time, overlap=0.25).training_intervals()
    np.testing.assert_array_equal(time.training_intervals(), time.intervals())
    np.testing.assert_allclose(wide[1:, 0], (low - (high - low) / 4)[1:])
    np.testing.assert_allclose(wide[:-1, 1], (high + (high - low) / 4)[:-1])
    assert (wide[0, 0], wide[-1, 1]) == (0, 1)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["exp", "linear", "log", "relu"]),
    st.integers(1, 4),
    st.integers(4, 20),
)
def test_layout_covers_the_batch_and_weights_make_it_uniform(dmp, log_devices, rows):
    devices = 2**log_devices
    time = make_time(dmp=dmp)
    size = devices * rows
    layout = make_batch_layout(time, size, devices)
    assert layout.num_groups * layout.group_size == size
    assert layout.num_groups % devices == 0
    # The weighted shares of the buckets are their shares of time.
    shares = np.asarray(layout.weights) * layout.counts / layout.group_size
    intervals = time.intervals()
    np.testing.assert_allclose(shares, intervals[:, 1] - intervals[:, 0], rtol=1e-9)
    taken = [
        np.asarray(layout.take(np.arange(size), b)) for b in range(len(time.buckets))
    ]
    assert sorted(np.concatenate(taken)) == list(range(size))


def test_random_buckets_are_trained_at_every_level(rng):
    time = dataclasses.replace(make_time(), random_buckets=True)
    layout = make_batch_layout(time, 64, 1)
    assert len(set(layout.counts)) == 1
    np.testing.assert_allclose(layout.weights, 1.0)
    own, everywhere = make_time().intervals(), []
    for i in range(len(time.buckets)):
        keys = jax.random.split(jax.random.fold_in(rng, i), layout.counts[i] * 8)
        t = np.asarray(draw_bucket_times(time, layout, i, keys))
        everywhere.append((t < own[i, 0]).any() or (t > own[i, 1]).any())
        assert t.min() < 0.3
        assert t.max() > 0.7
    assert all(everywhere)
    # Samplers go by the schedule all the same.
    np.testing.assert_array_equal(time.intervals(), own)


def test_layout_is_the_same_on_one_to_eight_devices():
    time = make_time()
    layouts = {make_batch_layout(time, 128, devices) for devices in (1, 2, 4, 8)}
    assert len(layouts) == 1


@pytest.mark.parametrize("size", [16, 32, 64])
def test_small_batches_still_follow_the_shares_of_time(size):
    layout = make_batch_layout(make_time(), size, 1)
    assert layout.num_groups == size // 8
    assert layout.counts == (5, 1, 1, 1)


def test_too_small_a_batch_says_what_would_do():
    with pytest.raises(ValueError, match="multiple of 8 of at least 32"):
        make_batch_layout(make_time(), 16, 8)


def test_stratified_estimate_has_the_mean_of_uniform_time(rng):
    """Mean over rows of weight * f(t) against the integral of f over [0, 1]."""
    time = make_time()
    layout = make_batch_layout(time, 64, 1)
    keys = jax.random.split(rng, 64 * 500)
    total = 0.0
    for bucket, weight in enumerate(layout.weights):
        t = draw_bucket_times(time, layout, bucket, layout.take(keys, bucket))
        low, high = time.intervals()[bucket]
        assert low <= t.min() <= t.max() <= high
        total += weight * float(jnp.sum(jnp.exp(3 * t)))
    expected = (np.exp(3) - 1) / 3
    assert total / len(keys) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("grid", ["uniform", "cosine"])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
def test_time_grid_is_cut_without_losing_a_step(grid, num_steps):
    time = make_time()
    times = make_time_grid(grid, num_steps, time.schedule)
    stretches = split_time_grid(time, times)
    joined = np.concatenate([s[:-1] for *_, s in stretches] + [times[-1:]])
    np.testing.assert_array_equal(joined[:-1], times[:-1].astype(np.float32))
    assert joined[-1] == times[-1]
    assert [offset for _, offset, _ in stretches] == list(
        np.cumsum([0] + [len(s) - 1 for *_, s in stretches])[:-1]
    )
    buckets = [bucket for bucket, *_ in stretches]
    assert buckets == sorted(set(buckets))
    for bucket, _, stretch in stretches:
        low, high = time.intervals()[bucket]
        assert (stretch[:-1] >= low - 1e-6).all()
        assert (stretch[:-1] <= high + 1e-6).all()


def test_keys_belong_to_rows(rng):
    together = row_keys(rng, jnp.arange(6), 2)
    apart = row_keys(rng, jnp.arange(3, 6), 2)
    assert (jax.random.key_data(together[3:]) == jax.random.key_data(apart)).all()


def test_guidance_by_hand():
    """5 with the condition, 2 without: 5 + 0.5 (5 - 2) = 6.5, and 5 for none."""
    told, free = jnp.asarray([5.0]), jnp.asarray([2.0])
    assert guide(told, free, 0.5) == 6.5
    assert guide(told, free, 0.0) == 5.0


def test_batch_size_counts_samples_of_all_devices():
    """With 8 devices, 20 samples at most in a call are 2 on each."""
    assert rows_per_call(100, 20) == 16
    assert rows_per_call(3, 64) == 8
    assert rows_per_call(100, 1) == 8
    chunks = list(sample_chunks(35, 20))
    assert [len(rows) for rows in chunks] == [16, 16, 16]
    assert sorted(set(np.concatenate(chunks))) == list(range(35))


def test_pieces_of_a_path_are_those_of_the_walk():
    stretch = Stretch(2, 3, np.linspace(0, 1, 8, dtype=np.float32))
    pieces = cut_further([stretch], 3)
    assert [piece.offset for piece in pieces] == [3, 5, 8]
    assert pieces[-1].offset + len(pieces[-1].times) - 1 == 3 + 7
    assert [piece.times[0] for piece in pieces[1:]] == [
        piece.times[-1] for piece in pieces[:-1]
    ]
    assert len(cut_further([stretch], 20)) == 7


def test_each_bucket_is_compiled_once_and_options_apart():
    """Steps add their bucket, and `by` of the options; offsets are handed on."""
    traced = []

    def program(by, bucket):
        def run(state, keys, given, shared, times, offset):
            traced.append((by, bucket))
            x = state.x + given + shared * by * bucket + offset
            return state._replace(x=x)

        return run

    sampler = BucketedSampler(program, lambda by, x: SamplerState(x))
    stretches = [Stretch(b, b, np.zeros(2, np.float32)) for b in (1, 2)]

    def start(rows):
        x = rows.astype(np.float32)
        return Start(x, jax.random.split(jax.random.key(0), len(rows)), 10 * x)

    for _ in range(2):
        found = sampler.sample(3, stretches, start, np.float32(100), 5, 64)
    # Row r: r + 2 * 10 r + 100 * 3 * (1 + 2) + (1 + 2).
    np.testing.assert_allclose(found, 21 * np.arange(5) + 903)
    assert sorted(traced) == [(3, 1), (3, 2)]
    sampler.sample(4, stretches[:1], start, np.float32(100), 5, 64)
    assert sorted(traced) == [(3, 1), (3, 2), (4, 1)]


def test_rows_are_noised_with_the_pairs_of_the_pairing():
    time = make_time(num_nodes=32)
    layout = make_batch_layout(time, 16, 1)
    data = np.random.default_rng(0).normal(size=(16, 32, 3)).astype(np.float32)
    goal = Objective("velocity", "uniform")

    @jax.jit
    def noised(data):
        keys = row_keys(jax.random.key(1), np.arange(16))
        return [
            noise_rows(time, layout, goal, data, keys, pairing)
            for pairing in (None, Pairing("splits"))
        ]

    alone, paired = jax.tree.map(np.asarray, noised(data))
    for i, (before, after) in enumerate(zip(alone, paired, strict=True)):
        np.testing.assert_array_equal(before.t, after.t)
        own, t = layout.take(data, i), after.t[:, None, None]
        # x_t = t data + (1 - t) noise, velocity = data - noise.
        np.testing.assert_allclose(after.x_t, own - (1 - t) * after.target, atol=1e-5)
        sets = (np.sort(own - part.target, axis=1) for part in (before, after))
        np.testing.assert_allclose(*sets, atol=1e-5)
        assert np.mean(after.target**2) < 0.4 * np.mean(before.target**2)


@pytest.mark.parametrize("sampler", ["ab2", "dpmpp_2m"])
def test_what_a_sampler_remembers_crosses_buckets_cuts_devices_and_calls(sampler):
    """Bits are the same however cut; rows, which XLA may round apart, nearly so."""
    time, own = make_time(), make_sampler(sampler)
    stretches = split_time_grid(time, make_time_grid("uniform", 12))
    assert len(stretches) > 2

    def program(_, bucket):
        def run(state, keys, given, shared, times, offset):
            def predict(x_t, t):
                return jnp.tanh(3 * x_t + given[:, None]) * expand_like(t + bucket, x_t)

            denoise = make_denoiser(predict, "velocity", time.schedule)
            walk = denoise, time.schedule, state, times, keys, offset
            return take_steps(own, *walk)

        return run

    def start(rows):
        keys = row_keys(jax.random.key(1), rows)
        x = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        return Start(np.asarray(x), keys, rows.astype(np.float32))

    walker = BucketedSampler(program, lambda _, x: own.begin(x))
    whole = walker.sample(None, stretches, start, (), 20, 64)
    pieces = cut_further(stretches, 12)
    assert len(pieces) == 12
    np.testing.assert_array_equal(walker.sample(None, pieces, start, (), 20, 64), whole)
    alone = walker.sample(None, pieces, start, (), 20, 8)
    np.testing.assert_allclose(alone, whole, rtol=1e-6, atol=1e-6)
    rows = np.arange(2)
    begun = start(rows)
    state = own.begin(jnp.asarray(begun.x))
    forgetful = state
    for bucket, offset, times in stretches:
        run = jax.jit(program(None, bucket))
        state = run(state, begun.keys, begun.given, (), times, offset)
        forgetful = own.begin(forgetful.x)
        forgetful = run(forgetful, begun.keys, begun.given, (), times, offset)
    np.testing.assert_allclose(state.x, whole[:2], rtol=1e-6, atol=1e-6)
    assert np.abs(forgetful.x - whole[:2]).max() > 1e-4
