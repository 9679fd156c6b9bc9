"""The Turing system: a plain loop, closed forms and the published knock-outs."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.fft import dct
from scipy.integrate import solve_ivp
from scipy.spatial.distance import cdist

from ncgn_jax.expression import turing
from ncgn_jax.expression.turing import (
    GENES,
    TEST_PLACES,
    TEST_TIMES,
    TRAIN_PLACES,
    TRAIN_TIMES,
    TimeNormaliser,
    TuringSystem,
    evolve,
    simulate,
    turing_sets,
)
from ncgn_jax.faults import DataError

SOX9, BMP, WNT = range(3)
# Five times fewer places and twenty times fewer steps: for tests of everything but
# the numbers.
COARSE = TuringSystem(ds=1.0, dt=0.1)
STILL = {"reaction": np.zeros((3, 3)), "cubic_decay": np.zeros(3)}


def all_places(system):
    return np.arange(system.num_places) * system.ds


def loop_over_places(start, num_steps, knocked_out=None):
    """The note's equations, one place after the other, [step, place, gene]."""
    dt, ds = 0.005, 0.2
    state = np.array(start, np.float64)
    states = []
    for _ in range(num_steps):
        if knocked_out is not None:
            state[:, knocked_out] = 0
        new = state.copy()
        for i in range(1, len(state) - 1):
            sox9, bmp, wnt = state[i]
            lap_bmp = (state[i - 1, 1] + state[i + 1, 1] - 2 * bmp) / ds**2
            lap_wnt = (state[i - 1, 2] + state[i + 1, 2] - 2 * wnt) / ds**2
            new[i, 0] = sox9 + dt * (bmp - wnt - sox9**3)
            new[i, 1] = bmp + dt * (1.27 * sox9 - 0.1 * bmp + lap_bmp)
            new[i, 2] = wnt + dt * (1.59 * sox9 - 0.1 * wnt + 2.5 * lap_wnt)
        new[0], new[-1] = new[1], new[-2]
        if knocked_out is not None:
            new[:, knocked_out] = 0
        state = new
        states.append(state)
    return np.stack(states)


@pytest.mark.parametrize("gene", [None, *GENES])
def test_agrees_with_a_plain_loop(gene):
    # A large start, so that the cubic term counts.
    system = TuringSystem(lead_steps=0, start_half_width=1.5)
    places = all_places(system)
    assert len(places) == 300
    start = simulate(1, [0], places, 3, dtype="float64", system=system)[0, 0]
    assert 1.4 < np.abs(start).max() <= 1.5
    number = None if gene is None else GENES.index(gene)
    expected = loop_over_places(start, 100, number)
    kept = [0, 1, 6, 49, 99]
    system = dataclasses.replace(system, lead_steps=1)
    found = simulate(
        1,
        [index * 0.005 for index in kept],
        places,
        3,
        knocked_out=gene,
        dtype="float64",
        system=system,
    )
    np.testing.assert_allclose(found[0], expected[kept], rtol=0, atol=1e-13)


def test_published_time_is_one_step_late():
    step = TuringSystem().dt
    late = simulate(2, [0, 1], TEST_PLACES, 0, dtype="float64")
    prompt = simulate(
        2,
        [0, step, 1, 1 + step],
        TEST_PLACES,
        0,
        dtype="float64",
        system=TuringSystem(lead_steps=0),
    )
    np.testing.assert_array_equal(late, prompt[:, 1::2])
    assert (late[:, 0] != prompt[:, 0]).all()


def cosines(num_places, mode):
    """A mode that the copied ends leave alone: walls half way to the neighbours."""
    return np.cos(np.pi * mode * (np.arange(num_places) - 0.5) / (num_places - 2))


def linear_step(system, mode):
    """Matrix of one Euler step on the amplitudes of a small cosine."""
    wave = 4 / system.ds**2 * np.sin(np.pi * mode / (2 * (system.num_places - 2))) ** 2
    rates = np.array([[0, 1, -1], [1.27, -0.1, 0], [1.59, 0, -0.1]])
    rates = rates - wave * np.diag([0, 1, 2.5])
    return np.eye(3) + system.dt * rates


@pytest.mark.parametrize("mode", [0, 1, 13, 60])
def test_small_waves_grow_as_the_linear_system_says(mode):
    system = TuringSystem(lead_steps=0)
    amplitudes = 1e-7 * np.array([1.0, -0.5, 2.0])
    wave = cosines(system.num_places, mode)
    start = (wave[:, None] * amplitudes)[None]
    times = [0.5, 10.0]
    found = evolve(start, times, all_places(system), system=system)
    for time, field in zip(times, found[0], strict=True):
        matrix = np.linalg.matrix_power(linear_step(system, mode), round(time / 0.005))
        expected = wave[:, None] * (matrix @ amplitudes)
        np.testing.assert_allclose(field, expected, atol=1e-9 * np.abs(expected).max())


def test_the_fastest_waves_stand_out():
    """White noise, linear regime: the power of every mode has a closed form."""
    system = TuringSystem(start_half_width=1e-4, lead_steps=0)
    fields = simulate(64, [20], all_places(system), 0, system=system)[:, 0, 1:-1]
    power = np.square(dct(fields, axis=1, norm="ortho")).mean(axis=0)  # [mode, gene]
    modes = np.arange(5, 26)
    steps = [np.linalg.matrix_power(linear_step(system, mode), 4000) for mode in modes]
    expected = system.start_half_width**2 / 3 * np.square(steps).sum(axis=2)
    for gene in range(3):
        ratio = power[modes, gene] / expected[:, gene]
        # 21 modes of 64 simulations: standard error 0.04.
        assert abs(ratio.mean() - 1) < 0.15
        assert abs(modes[expected[:, gene].argmax()] - power[:, gene].argmax()) <= 1


def test_uniform_expression_follows_the_ordinary_equation_to_first_order():
    start = np.array([0.3, -0.2, 0.1])

    def rates(_, x):
        return [
            x[1] - x[2] - x[0] ** 3,
            1.27 * x[0] - 0.1 * x[1],
            1.59 * x[0] - 0.1 * x[2],
        ]

    exact = solve_ivp(rates, (0, 6), start, rtol=1e-11, atol=1e-12).y[:, -1]
    errors = []
    for dt in (0.02, 0.01, 0.005):
        system = TuringSystem(
            length=1.0, diffusion=(0, 0, 0), dt=dt, duration=6, lead_steps=0
        )
        found = evolve(np.tile(start, (1, 5, 1)), [6], [0, 0.4], system=system)[0, 0]
        np.testing.assert_array_equal(found[0], found[1])
        errors.append(np.abs(found[0] - exact).max())
    assert errors[-1] < 0.01
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 1, atol=0.1)


def test_nothing_flows_out_at_the_ends():
    system = TuringSystem(length=6, diffusion=(0.3, 1, 2.5), lead_steps=0, **STILL)
    start = np.random.default_rng(0).normal(size=(2, 30, 3))
    start[:, 0], start[:, -1] = start[:, 1], start[:, -2]
    found = evolve(start, [0.005, 0.5, 90], all_places(system), system=system)
    np.testing.assert_array_equal(found[:, :, 0], found[:, :, 1])
    np.testing.assert_array_equal(found[:, :, -1], found[:, :, -2])
    amount = start[:, 1:-1].sum(axis=1)
    for field in found.transpose(1, 0, 2, 3):
        np.testing.assert_allclose(field[:, 1:-1].sum(axis=1), amount, atol=1e-11)
    flat = np.broadcast_to(amount[:, None] / 28, start.shape)
    np.testing.assert_allclose(found[:, -1, :, 1:], flat[..., 1:], atol=1e-9)


def test_mirrored_starts_give_mirrored_fields():
    start = np.random.default_rng(1).normal(size=(1, COARSE.num_places, 3))
    run = {"times": [0, 1, 5], "places": all_places(COARSE), "system": COARSE}
    mirrored = evolve(start[:, ::-1], **run)[:, :, ::-1]
    np.testing.assert_allclose(mirrored, evolve(start, **run), atol=1e-11)


def test_knocked_out_gene_is_zero_and_the_others_feel_it():
    genes = [None, "Sox9", BMP, np.int8(WNT), -1]
    times = [0, 0.1, 5, 100]
    run = {"places": all_places(COARSE), "system": COARSE, "dtype": "float64"}
    free = simulate(5, times, seed=0, **run)
    held = simulate(5, times, seed=0, knocked_out=genes, **run)
    for gene in range(3):
        assert (held[1 + gene, ..., gene] == 0).all()
        others = np.delete(held[1 + gene], gene, axis=-1)
        assert (others[:3] != 0).all()
        assert not np.allclose(others[2], np.delete(free[1 + gene, 2], gene, axis=-1))
    np.testing.assert_array_equal(held[[0, 4]], free[[0, 4]])
    one = simulate(5, times, seed=0, knocked_out="Bmp", **run)
    np.testing.assert_array_equal(one[2], held[2])
    assert (one[..., BMP] == 0).all()


def test_seed_decides_and_the_rest_does_not():
    run = {"system": COARSE, "dtype": "float64"}
    times, places = [0, 3, 7], [0, 11, 59]
    five = simulate(5, times, places, 0, **run)
    assert five.shape == (5, 3, 3, 3)
    np.testing.assert_array_equal(simulate(5, times, places, 0, **run), five)
    assert (simulate(5, times, places, 1, **run) != five).all()
    assert (five[0] != five[1]).all()
    chunked = simulate(5, times, places, 0, chunk=2, **run)
    np.testing.assert_allclose(chunked, five, rtol=0, atol=1e-13)
    three = simulate(3, [7, 0, 7], [59, 0], 0, **run)
    np.testing.assert_allclose(
        three, five[:3, [2, 0, 2]][:, :, [2, 0]], rtol=0, atol=1e-13
    )


def test_precisions_agree_and_the_session_does_not_matter():
    run = {"times": [0, 15], "places": all_places(COARSE), "seed": 0, "system": COARSE}
    double = simulate(3, dtype="float64", **run)
    single = simulate(3, **run)
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(single, double, atol=1e-5 * np.abs(double).max())
    assert (single[:, 1] != double[:, 1]).any()
    with jax.enable_x64(True):
        np.testing.assert_array_equal(simulate(3, **run), single)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dt": 0.008}, r"dt=0.008 .*ds=0.2 .*2.5; .*= 0.008$"),
        ({"ds": 0.1}, r"= 0.002$"),
        ({"diffusion": (0, 10, 2.5)}, r"diffusion up to 10.*= 0.002$"),
        ({"diffusion": (0, -1, 2.5)}, "diffusion"),
        ({"diffusion": (1, 2.5)}, "diffusion"),
        ({"reaction": np.full((3, 3), np.nan)}, "reaction"),
        ({"length": 0.4}, "length=0.4, ds=0.2"),
        ({"dt": 0}, "dt=0; allowed: > 0"),
        ({"lead_steps": -1}, "lead_steps"),
    ],
)
def test_impossible_systems_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        TuringSystem(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": [0, 3.14]}, "times: 3.14 .*nearest allowed: 3.1 "),
        ({"times": [0, 101]}, "times: 101 .*nearest allowed: 100 .*0 to 100"),
        ({"times": [-0.1]}, "times: -0.1 .*nearest allowed: 0 "),
        ({"times": [np.nan]}, "times: nan"),
        ({"times": []}, "times"),
        ({"places": [60]}, "places: 60 .*nearest allowed: 59 .*0 to 59"),
        ({"places": [0.5]}, "places: 0.5"),
        ({"knocked_out": "Shh"}, "no gene 'Shh'; allowed: Sox9, Bmp, Wnt"),
        ({"knocked_out": 3}, "no gene 3; allowed: Sox9, Bmp, Wnt"),
        ({"knocked_out": [0, -2]}, "no gene -2"),
        ({"knocked_out": [0]}, "1 entries for 2 simulations"),
        ({"num_simulations": 0}, "num_simulations=0"),
        ({"dtype": "float16"}, "float16"),
        ({"chunk": 0}, "chunk=0"),
    ],
)
def test_impossible_requests_are_refused(changes, message):
    request = {"num_simulations": 2, "times": [0], "places": [0], "seed": 0}
    with pytest.raises(DataError, match=message):
        simulate(**request | {"system": COARSE} | changes)


def test_wrong_or_exploding_starts_are_refused():
    with pytest.raises(DataError, match=r"\(1, 7, 3\).*60 grid points, 3 genes"):
        evolve(np.zeros((1, 7, 3)), [0], [0], system=COARSE)
    start = np.zeros((2, 60, 3))
    start[1, 30, SOX9] = 1e3
    with pytest.raises(DataError, match="simulation 1 has grown .* time 10;"):
        evolve(start, [0, 10, 20], [30], system=COARSE)


def test_times_rounded_to_float32_are_on_the_grid():
    times = np.array([0, 87.3], np.float32)
    assert float(times[1]) != 87.3
    places = np.array([59], np.float32)
    assert simulate(1, times, places, 0, system=COARSE).shape == (1, 2, 1, 3)


def test_sets_have_the_published_domains(tmp_path, monkeypatch):
    settings = {"num_train": 7, "num_test": 30, "system": COARSE}
    sets = turing_sets(seed=1, cache_dir=tmp_path, **settings)
    assert {name: array.shape for name, array in sets.items()} == {
        "train": (7, 10, 10, 3),
        "test": (30, 8, 12, 3),
        "knockout": (30, 8, 12, 3),
        "knocked_out_gene": (30,),
    }
    assert list(TRAIN_TIMES) == list(range(0, 100, 10))
    assert list(TRAIN_PLACES) == list(range(0, 60, 6))
    assert list(TEST_TIMES) == [0, 12.5, 25, 37.5, 50, 62.5, 75, 87.5]
    assert list(TEST_PLACES) == list(range(0, 60, 5))
    genes = sets["knocked_out_gene"]
    assert set(genes) == {0, 1, 2}
    for field, gene in zip(sets["knockout"], genes, strict=True):
        assert [bool((field[..., g] == 0).all()) for g in range(3)] == [
            g == gene for g in range(3)
        ]
    # Time 0 at places 0 and 30 is in both, but of other simulations.
    train, test, knockout = (sets[name][:, 0] for name in ("train", "test", "knockout"))
    assert not np.isin(test, train).any()
    assert not np.isin(knockout[knockout != 0], np.append(train, test)).any()
    again = simulate(7, [50], TRAIN_PLACES, [1, 1], system=COARSE)
    np.testing.assert_array_equal(again[:, 0], sets["train"][:, 5])

    def fail(*_, **__):
        raise AssertionError("simulated again")

    with monkeypatch.context() as patched:
        patched.setattr(turing, "simulate", fail)
        cached = turing_sets(seed=1, cache_dir=tmp_path, **settings)
        other = settings | {"system": dataclasses.replace(COARSE, lead_steps=0)}
        with pytest.raises(AssertionError, match="simulated again"):
            turing_sets(seed=1, cache_dir=tmp_path, **other)
    assert cached.keys() == sets.keys()
    for name, array in sets.items():
        assert cached[name].dtype == array.dtype
        np.testing.assert_array_equal(cached[name], array)
    other = turing_sets(seed=2, cache_dir=tmp_path, **settings)
    assert not np.isin(other["train"][:, 0], train).any()
    with pytest.raises(DataError, match=r"\[1, 0\]"):
        turing_sets(1, 0, system=COARSE)


def test_normaliser_maps_every_time_to_the_unit_interval():
    fields = simulate(20, TRAIN_TIMES, TRAIN_PLACES, 0, system=COARSE)
    normaliser = TimeNormaliser.fit(fields, TRAIN_TIMES)
    unit = normaliser.apply(fields, TRAIN_TIMES)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit.min(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(unit.max(axis=(0, 2, 3)), 1, atol=1e-6)
    # One pair of bounds for all genes: the order of values is kept within a time.
    order = fields[:, 4].ravel().argsort()
    assert (np.diff(unit[:, 4].ravel()[order]) >= 0).all()


def test_normaliser_interpolates_its_bounds():
    fields = np.array([[-1.0, 3.0], [-2.0, 8.0]])[None, :, :, None]  # low, high by time
    normaliser = TimeNormaliser.fit(fields, [10, 20])
    times = [15, 0, 99, 12.5]
    values = np.array([2.0, 0.0, 0.0, -1.25])[:, None, None]
    expected = [3.5 / 7, 1 / 4, 2 / 10, 0]
    found = normaliser.apply(values, times)
    np.testing.assert_allclose(found[:, 0, 0], expected, atol=1e-12)
    np.testing.assert_array_equal(normaliser.apply(values[None], times), found[None])


def test_normaliser_refuses_what_does_not_fit():
    fields = np.arange(12.0).reshape(1, 2, 2, 3)
    with pytest.raises(DataError, match="3 times"):
        TimeNormaliser.fit(fields, [0, 1, 2])
    with pytest.raises(DataError, match="increasing"):
        TimeNormaliser.fit(fields, [1, 0])
    with pytest.raises(DataError, match="time 1 span 0.0"):
        TimeNormaliser.fit(fields * [[[1]], [[0]]], [0, 1])
    with pytest.raises(DataError, match="span nan"):
        TimeNormaliser.fit(fields * np.nan, [0, 1])
    with pytest.raises(DataError, match="1 times"):
        TimeNormaliser.fit(fields, [0, 1]).apply(fields, [0])


@pytest.fixture
def published(shared_data):
    with np.load(shared_data / "turing_knockout.npz") as archive:
        assert tuple(archive["times"]) == TEST_TIMES
        assert tuple(archive["places"]) == TEST_PLACES
        return dict(archive)


def scores_of_means(first, second):
    """Difference of the means over the leading axis in standard errors."""
    errors = [x.var(axis=0, ddof=1) / len(x) for x in (first, second)]
    return (first.mean(axis=0) - second.mean(axis=0)) / np.sqrt(sum(errors))


def energy_test(first, second, num_permutations=300):
    """Permutation p-value of the energy distance between two sets of vectors."""
    joined = np.concatenate([first, second])
    distances = cdist(joined, joined)
    weights = np.repeat([1 / len(first), -1 / len(second)], [len(first), len(second)])
    rng = np.random.default_rng(0)
    shuffled = np.stack([rng.permutation(weights) for _ in range(num_permutations)])
    shuffled = np.concatenate([weights[None], shuffled])
    values = -np.einsum("pi,ij,pj->p", shuffled, distances, shuffled, optimize=True)
    return (values >= values[0]).mean()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "held",
    [0, *(pytest.param(held, marks=pytest.mark.thorough) for held in (1, 2))],
    ids=GENES,
)
def test_knockouts_are_distributed_as_the_published(held, published):
    others = [gene for gene in range(3) if gene != held]
    ours = simulate(32, TEST_TIMES, TEST_PLACES, 7, knocked_out=held)
    assert (ours[..., held] == 0).all()
    ours = ours[..., others].astype(np.float64)
    theirs = published["x"][published["knocked_out_gene"] == held]
    assert (theirs[..., held] == 0).all()
    theirs = theirs[..., others].astype(np.float64)
    for statistic in (
        lambda x: x.mean(axis=2),  # mean over places, [simulation, time, gene]
        lambda x: np.square(x).mean(axis=2),
        lambda x: np.square(dct(x, axis=2, norm="ortho")),  # power of every mode
    ):
        scores = scores_of_means(statistic(ours), statistic(theirs))
        assert np.abs(scores).max() < 4
    deviation = theirs.std(axis=(0, 2), keepdims=True)
    np.testing.assert_allclose(
        ours.std(axis=(0, 2)), deviation[0, :, 0], rtol=[0.15, 0.15, 0.05][held]
    )
    scaled = [(x / deviation).reshape(len(x), -1) for x in (ours, theirs)]
    assert energy_test(*scaled) > 0.05
    if held != BMP:  # without Bmp the spectrum is flat: no peak to speak of
        late = [np.square(dct(x, axis=2))[:, 2:].mean(axis=0) for x in (ours, theirs)]
        peaks = [power.argmax(axis=1) for power in late]
        np.testing.assert_array_equal(*peaks)


@pytest.mark.thorough
def test_extremes_are_the_published(published):
    """The published lower bounds: smallest value of 500 simulations, all places."""
    times = published["normalization_times"]
    assert tuple(times) == TRAIN_TIMES
    fields = simulate(32, times, np.arange(300) * 0.2, 5)
    # The system is odd: -x is as likely as x.
    largest = np.abs(fields).max(axis=(0, 2, 3))
    low = -published["normalization_min_max"][:, 0]
    np.testing.assert_allclose(largest, low, rtol=0.25)
    np.testing.assert_allclose(largest[0], low[0], rtol=0.01)
