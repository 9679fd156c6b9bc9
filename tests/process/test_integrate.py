"""Tests the loop: keys, splitting, paths, time grids, and the denoiser."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import process


def nonlinear_denoiser(schedule):
    def predict(x_t, t):
        t = process.expand_like(t, x_t)
        return jnp.tanh(3 * x_t + t) * jnp.exp(0.1 * x_t) - 0.3 * jnp.sin(x_t * t)

    return process.make_denoiser(predict, "data", schedule)


@functools.cache
def compiled_walk(name, sampler):
    schedule = process.make_schedule(name)
    denoise, walker = nonlinear_denoiser(schedule), process.make_sampler(sampler)

    def walk(state, times, rng, offset):
        return process.take_steps(walker, denoise, schedule, state, times, rng, offset)

    return jax.jit(walk), walk, jax.jit(walker.begin)


@pytest.mark.parametrize(
    ("name", "sampler", "constant_times"),
    [
        ("linear", "heun", True),  # times built into the program, which may fold them
        pytest.param("linear", "heun", False, marks=pytest.mark.thorough),
        pytest.param("linear", "ab2", True, marks=pytest.mark.thorough),
        ("linear", "ab2", False),
        pytest.param("linear", "dpmpp_2m", True, marks=pytest.mark.thorough),
        ("ve", "dpmpp_2m", False),
        ("vp", "ancestral", False),
    ],
)
def test_split_walk_equals_whole_walk_bitwise(name, sampler, constant_times, rng):
    jitted, plain, begin = compiled_walk(name, sampler)
    x_0 = jax.random.normal(rng, (3, 5, 2))
    times = process.make_time_grid("cosine", 11)

    def walk(state, times, offset):
        if constant_times:
            return jax.jit(lambda state: plain(state, times, rng, offset))(state)
        return jitted(state, times, rng, offset)

    start = begin(x_0)
    whole = walk(start, times, 0)
    for cut in (1, 4, 10):
        state = walk(start, times[: cut + 1], 0)
        assert not np.array_equal(state.x, whole.x)
        end = walk(state, times[cut:], cut)
        jax.tree.map(np.testing.assert_array_equal, end, whole)
        if state.history and cut == 4:  # What is remembered matters.
            assert not np.array_equal(walk(begin(state.x), times[cut:], cut).x, end.x)
    one_by_one = start
    for i in range(11):
        one_by_one = walk(one_by_one, times[i : i + 2], i)
    np.testing.assert_array_equal(one_by_one.x, whole.x)
    if sampler == "ancestral":
        assert not np.array_equal(walk(start, times, 1).x, whole.x)


@pytest.mark.parametrize("keep_every", [1, 4, 5])
def test_path(rng, keep_every):
    schedule = process.make_schedule("vp")
    denoise = nonlinear_denoiser(schedule)
    sampler = process.make_sampler("ancestral")
    x_0, times = jax.random.normal(rng, (2, 3)), process.make_time_grid("uniform", 12)
    walk = functools.partial(process.integrate, sampler, denoise, schedule)
    x, path = jax.jit(lambda x: walk(x, times, rng, keep_every=keep_every))(x_0)
    stops = [*range(0, 12, keep_every), 12]
    assert path.shape == (len(stops), 2, 3)
    np.testing.assert_array_equal(path[0], x_0)
    np.testing.assert_array_equal(path[-1], x)
    whole = jax.jit(lambda x: walk(x, times, rng))(x_0)
    np.testing.assert_array_equal(x, whole)
    if keep_every == 4:
        to_second = jax.jit(lambda x: walk(x, times[:9], rng))(x_0)
        np.testing.assert_array_equal(path[2], to_second)


def test_step_sees_batched_times_and_keeps_low_precision():
    seen = []

    def step(denoise, schedule, x_t, t, t_next, rng):
        seen.append((t.shape, t_next.shape, t.dtype))
        return x_t + process.expand_like(t_next - t, x_t)

    x = jnp.zeros((4, 2), jnp.bfloat16)
    times = process.make_time_grid("uniform", 4)
    sampler = process.single_step(step)
    x = process.integrate(sampler, None, None, x, times, jax.random.key(0))
    assert seen[0] == ((4,), (4,), jnp.float32)
    assert x.dtype == jnp.bfloat16
    np.testing.assert_allclose(x.astype(jnp.float32), 1.0)


def test_one_trace_for_all_times_and_offsets(rng):
    schedule = process.make_schedule("ddpm_cosine")
    denoise = nonlinear_denoiser(schedule)
    sampler = process.make_sampler("ab2")

    @jax.jit
    @chex.assert_max_traces(1)
    def walk(state, times, offset):
        walk = sampler, denoise, schedule, state, times, rng, offset
        return process.take_steps(*walk)

    state = sampler.begin(jnp.ones((2, 2)))
    for offset in range(3):
        state = walk(state, jnp.linspace(0.1 * offset, 1.0, 5), offset)


def test_data_limit_keeps_the_pair_consistent():
    schedule, t = process.make_schedule("linear"), jnp.array([0.25])
    x_t = jnp.array([[1.0, -0.5]])
    denoise = process.make_denoiser(lambda x, t: -4 * x, "noise", schedule, 2.0)
    data_hat, noise_hat = denoise(x_t, t)
    np.testing.assert_allclose(data_hat, [[2.0, -2.0]])
    np.testing.assert_allclose(0.25 * data_hat + 0.75 * noise_hat, x_t, rtol=1e-6)


def test_prior_has_the_spread_of_x_0(rng):
    for name, std in (("linear", 1.0), ("ve", 80.0062)):
        x = process.sample_prior(process.make_schedule(name), rng, (20_000,))
        assert float(x.std()) == pytest.approx(std, rel=0.02)
        assert x.dtype == jnp.float32


# Options that some grids need.
MORE = {"dim": 400, "table": [(0.0, 0.0), (0.2, 0.5), (1.0, 1.0)]}


@pytest.mark.parametrize("schedule_name", ["linear", "ddpm_linear", "ve"])
def test_grids_rise_from_zero_to_one(schedule_name):
    schedule = process.make_schedule(schedule_name)
    for name, num_steps in itertools.product(process.TIME_GRIDS, (1, 1000)):
        times = process.make_time_grid(name, num_steps, schedule, **MORE)
        assert times.shape == (num_steps + 1,)
        assert isinstance(times, np.ndarray)
        assert times[0] == 0
        assert times[-1] == 1
        assert (np.diff(times) > 0).all()


def test_grid_formulas():
    grid = process.make_time_grid
    np.testing.assert_allclose(grid("uniform", 4), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(grid("quadratic", 4), [0, 7 / 16, 3 / 4, 15 / 16, 1])
    np.testing.assert_allclose(grid("cosine", 4)[1:3], [0.5 - 0.125**0.5, 0.5])
    # On a straight line log-SNR = 2 log(t / (1 - t)), from -10 to 10.
    schedule = process.make_schedule("linear")
    times = grid("log_snr", 5, schedule)[1:-1]
    logits = np.log(times / (1 - times))
    np.testing.assert_allclose(logits, [-3, -1, 1, 3], rtol=1e-4)
    # Half of the steps in a window of 5 / sqrt(400).
    dilated = grid("dilated_vp", 4, dim=400)
    np.testing.assert_allclose(dilated, [0, 0.125, 0.25, 0.625, 1])
    dilated = grid("dilated_ve", 4, dim=400, kappa=2.0)
    np.testing.assert_allclose(dilated, [0, 0.45, 0.9, 0.95, 1])
    tabulated = grid("table", 4, table=MORE["table"])
    np.testing.assert_allclose(tabulated, [0, 0.1, 0.2, 0.6, 1])
    # EDM's sigmas between 80 and 0.002 with rho = 7, then 0; sigma = (1 - t) / t.
    times = grid("edm", 18, schedule)[1:-1]
    i = np.arange(1, 18)
    root = 80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    np.testing.assert_allclose((1 - times) / times, root**7, rtol=2e-4)
    # The variance-exploding process has those sigmas from end to end.
    ve = process.make_schedule("ve")
    times = grid("edm", 17, ve)
    np.testing.assert_allclose(ve.sigma(times[1:]), root**7, rtol=1e-3)


def test_grid_inside_a_traced_function():
    schedule = process.make_schedule("ddpm_linear")

    @jax.jit
    def first_steps(x):
        return x + process.make_time_grid("log_snr", 4, schedule)[1:3]

    expected = process.make_time_grid("log_snr", 4, schedule)[1:3]
    np.testing.assert_allclose(first_steps(jnp.zeros(2)), expected, rtol=1e-6)


def test_grid_given_as_a_table():
    table = [0.0, 0.5, 0.6, 1.0]
    np.testing.assert_array_equal(process.make_time_grid(table), table)
    np.testing.assert_array_equal(process.make_time_grid(table, 3), table)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("karras", 4), "uniform, cosine, quadratic, log_snr, edm"),
        (("uniform", 0), "num_steps must be at least 1"),
        (("uniform",), "num_steps must be at least 1"),
        (("edm", 4), "needs a schedule"),
        (([0.0, 1.0], 2), "num_steps is 2"),
        (([0.0, 0.9],), "from 0 to 1"),
        (([0.0],), "at least 2"),
        (([0.0, 0.5, 0.5, 1.0],), "step 1"),
        (([0.0, 0.7, 0.5, 1.0],), "step 1"),
        (("dilated_vp", 4), "needs dim"),
        (("table", 4), r"from \(0, 0\) to \(1, 1\)"),
    ],
)
def test_impossible_grids(args, message):
    with pytest.raises(ValueError, match=message):
        process.make_time_grid(*args)


@pytest.mark.parametrize(
    "table", [[(0, 0), (1, 0.9)], [(0, 0), (0.5, 0.6), (0.4, 0.7), (1, 1)], [(0, 1)]]
)
def test_impossible_tables(table):
    with pytest.raises(ValueError, match="pairs"):
        process.make_time_grid("table", 4, table=table)


def test_a_fitted_grid_gains_equal_information_in_each_step():
    """Compares with the closed form for normal data, log(1 + s^2 snr) / 2 per value."""
    schedule, std = process.make_schedule("ddpm_cosine"), 0.5
    t = np.linspace(0, 1, 4001)
    error = std**2 / (1 + std**2 * np.exp(np.asarray(schedule.log_snr(t))))
    table = process.fit_time_table(schedule, t, error)
    times = process.make_time_grid("table", 6, table=table)
    at_most = np.exp(10.0)
    snr = np.minimum(np.exp(np.asarray(schedule.log_snr(times))), at_most)
    gained = np.diff(0.5 * np.log1p(std**2 * snr))
    np.testing.assert_allclose(gained, gained.mean(), rtol=2e-3)
    again = process.fit_time_table(schedule, t, 4 * error)
    np.testing.assert_allclose(again, table, rtol=1e-12)


@pytest.mark.parametrize(
    ("times", "errors", "message"),
    [
        ([0.5], [1.0], "two or more"),
        ([0.0, 0.5], [1.0], "two or more"),
        ([0.5, 0.4], [1.0, 1.0], "must rise"),
        ([0.5, 1.4], [1.0, 1.0], "must rise"),
        ([0.0, 1.0], [0.0, 0.0], "not all 0"),
        ([0.0, 1.0], [np.nan, 1.0], "finite"),
        ([0.0, 1.0], [-1.0, 1.0], "not negative"),
    ],
)
def test_errors_no_grid_can_be_fitted_to(times, errors, message):
    with pytest.raises(ValueError, match=message):
        process.fit_time_table(process.make_schedule("linear"), times, errors)


def test_a_grid_fitted_to_errors_is_the_best_for_euler():
    """Compares with the closed form for x' = f(t), f' = (1 + 3 t)^2.

    A step errs by f' h^2 / 2. Best is a density of steps proportional to 1 + 3 t, and
    the error of N steps is then (int 1 + 3 t dt)^2 / (2 N), 3.125 / N; of even steps,
    int (1 + 3 t)^2 dt / (2 N), 3.5 / N.
    """

    def integral(t):  # of f = ((1 + 3 t)^3 - 1) / 9
        return (1 + 3 * t) ** 4 / 108 - t / 9

    def errors(times):
        f = ((1 + 3 * times[:-1]) ** 3 - 1) / 9
        return np.diff(integral(times)) - np.diff(times) * f

    even = np.linspace(0, 1, 2001)
    table = process.fit_error_table(even, 5 * errors(even), 1)
    times = process.make_time_grid("table", 200, table=table)
    share = (times + 1.5 * times**2) / 2.5
    np.testing.assert_allclose(share, np.linspace(0, 1, 201), atol=1e-4)
    np.testing.assert_allclose(errors(times).sum(), 3.125 / 200, rtol=0.02)
    np.testing.assert_allclose(errors(even[::10]).sum(), 3.5 / 200, rtol=0.02)
    assert errors(times).max() < 1.02 * errors(times).min()


@pytest.mark.parametrize(
    ("times", "errors", "message"),
    [
        ([0.0, 0.5], [1.0], "from 0 to 1"),
        ([0.0, 1.0], [1.0, 1.0], "from 0 to 1"),
        ([0.0, 0.6, 0.5, 1.0], [1.0, 1.0, 1.0], "must rise"),
        ([0.0, 1.0], [0.0], "not all 0"),
        ([0.0, 0.5, 1.0], [1.0, -1.0], "not negative"),
        ([0.0, 0.5, 1.0], [1.0, np.inf], "finite"),
    ],
)
def test_steps_no_grid_can_be_fitted_to(times, errors, message):
    with pytest.raises(ValueError, match=message):
        process.fit_error_table(times, errors, 2)


def test_samplers_with_an_order_are_those_that_draw_nothing(rng):
    schedule, x = process.make_schedule("vp"), jax.random.normal(rng, (2, 3))
    denoise = nonlinear_denoiser(schedule)
    for name in process.SAMPLERS:
        walk = functools.partial(
            process.integrate, process.make_sampler(name), denoise, schedule, x
        )
        ends = [walk([0.2, 0.4, 0.5], jax.random.key(seed)) for seed in (0, 1)]
        assert np.array_equal(*ends) == (name in process.ORDERS)


def test_impossible_walks(rng):
    schedule, x = process.make_schedule("linear"), jnp.zeros((1, 1))
    sampler, denoise = process.make_sampler("euler"), lambda x, t: (x, x)
    with pytest.raises(ValueError, match="at least 2"):
        process.integrate(sampler, denoise, schedule, x, [0.0], rng)
    with pytest.raises(ValueError, match="keep_every"):
        process.integrate(sampler, denoise, schedule, x, [0.0, 1.0], rng, keep_every=0)
    with pytest.raises(ValueError, match="data_limit"):
        process.make_denoiser(lambda x, t: x, "data", schedule, 0.0)


@pytest.mark.parametrize("name", ["ancestral", "renoise", "ab2", "dpmpp_2m"])
def test_rows_with_keys_of_their_own_do_not_depend_on_the_others(name):
    schedule = process.make_schedule("linear")
    sampler = process.make_sampler(name)
    keys = jax.random.split(jax.random.key(3), 5)
    x = jax.random.normal(jax.random.key(4), (5, 2, 3))
    times = np.linspace(0.1, 0.9, 4)

    def denoise(x_t, t):
        return process.to_data_and_noise("data", 0.5 * x_t, x_t, schedule, t)

    walk = functools.partial(process.integrate, sampler, denoise, schedule)
    whole = walk(x, times, keys)
    for rows in (slice(0, 2), slice(2, 5)):
        part = walk(x[rows], times, keys[rows])
        # XLA may round the rows left over by vectors apart, which sums of products, as
        # samplers with a memory take them, show.
        bound = 1e-6 if name in ("ab2", "dpmpp_2m") else 0
        np.testing.assert_allclose(part, whole[rows], rtol=bound, atol=bound)
    assert len({float(v) for v in whole[:, 0, 0]}) == 5
