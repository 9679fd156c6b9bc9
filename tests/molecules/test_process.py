import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import process
from ncgn_jax.config import with_fields
from ncgn_jax.molecules.config import default_config, make_process
from ncgn_jax.molecules.process import carry_guess, masked_noise

MASK = np.arange(4)[None] < np.array([[4], [2], [3]])


def config_of(**fields):
    config = default_config().lock()
    return with_fields(config, {k.replace("__", "."): v for k, v in fields.items()})


def latents(rng):
    return masked_noise(jax.random.split(rng, 3), jnp.asarray(MASK), 2)


@pytest.mark.parametrize("target", process.PREDICTION_KINDS)
@pytest.mark.parametrize("heat", ["none", "dct", "complete"])
def test_a_perfect_network_gives_back_the_latents(heat, target, rng):
    # Little blur: where alpha is all but 0, noise does not tell the data in float32.
    config = config_of(
        process__heat=heat, process__schedule="trigonometric", process__max_blur=0.7
    )
    own = make_process(config, 4)
    data, noise = latents(rng), latents(jax.random.fold_in(rng, 1))
    t = jnp.array([0.3, 0.5, 0.8])
    x_t, wanted = own.noise(data, noise, t, MASK, target)
    assert not np.asarray(x_t)[~MASK].any()
    denoise = own.denoiser(lambda x, t: wanted, target, jnp.asarray(MASK))
    data_hat, noise_hat = denoise(own.to_state(x_t, MASK), t)
    np.testing.assert_allclose(own.to_latents(data_hat, MASK), data, atol=2e-3)
    np.testing.assert_allclose(own.to_latents(noise_hat, MASK), noise, atol=2e-3)


def test_heat_on_the_complete_graph_draws_atoms_to_their_mean(rng):
    config = config_of(process__heat="complete", process__max_blur=2.0)
    own = make_process(config, 4)
    data = latents(rng)
    t = jnp.full(3, 0.5)
    x_t, _ = own.noise(data, jnp.zeros_like(data), t, MASK, "data")
    shrink = np.exp(-0.5 * (2.0 * np.sin(np.pi / 4) ** 2) ** 2)
    for row, n in enumerate(MASK.sum(1)):
        mean = np.asarray(data[row, :n]).mean(0)
        expected = 0.5 * (mean + shrink * (np.asarray(data[row, :n]) - mean))
        np.testing.assert_allclose(x_t[row, :n], expected, atol=1e-5)


def test_published_chain_does_not_end_in_noise_and_the_rescaled_does():
    """prod(1 - beta) over 50 steps is 0.603: the first defect of the notes."""
    published = make_process(
        config_of(process__schedule="ddpm_linear", process__chain_steps=50), 4
    )
    assert float(published.base.alpha(jnp.asarray(0.0))) ** 2 == pytest.approx(
        0.603, abs=1e-3
    )
    matched = make_process(
        config_of(
            process__schedule="ddpm_linear",
            process__chain_steps=50,
            process__rescale_betas=True,
        ),
        4,
    )
    assert float(matched.base.alpha(jnp.asarray(0.0))) ** 2 < 1e-4


@pytest.mark.parametrize("heat", ["none", "dct"])
def test_network_is_told_the_time_in_every_process(heat):
    fields = {"process__heat": heat}
    if heat != "none":
        fields |= {"process__still_noise": 0.1}
    t = jnp.linspace(0, 1, 20)
    level = make_process(config_of(**fields), 4).level(t, "mixing")
    assert (np.diff(level) > 0).all()


@pytest.mark.parametrize("target", process.PREDICTION_KINDS)
def test_modes_wiped_out_by_heat_do_not_become_nan(target, rng):
    own = make_process(config_of(process__heat="dct", process__max_blur=30.0), 4)
    data, t = latents(rng), jnp.zeros(3)
    denoise = own.denoiser(lambda x, t: x + 1.0, target, jnp.asarray(MASK))
    for part in denoise(own.to_state(data, MASK), t):
        assert np.isfinite(part).all()


def test_each_call_is_handed_the_guess_of_the_one_before():
    """Heun calls twice a step: guesses 1, 2, 3, ... come back one call later."""
    calls = []

    def denoise(x, t, guess):
        calls.append(float(guess[0, 0, 0]))
        return jnp.full_like(x, len(calls)), jnp.zeros_like(x)

    schedule = process.make_schedule("linear")
    sampler = carry_guess(process.make_sampler("heun", unrolled=True))
    state = sampler.begin(jnp.zeros((1, 2, 2)))
    for t in (0.0, 0.25, 0.5):
        times = jnp.array([t]), jnp.array([t + 0.25])
        state = sampler.step(denoise, schedule, state, *times, jax.random.key(0))
    assert calls == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    np.testing.assert_allclose(state.history[1], 6.0)
    # x moves by the mean of both velocities, guess 1 and 2 in the first step, ...
    np.testing.assert_allclose(state.x[0, 0, 0], 0.25 * (1.5 + 3.5 + 5.5))


@pytest.mark.parametrize("target", process.PREDICTION_KINDS)
def test_latents_are_read_off_any_prediction(target, rng):
    own = make_process(config_of(process__heat="complete", process__max_blur=1.0), 4)
    data, noise = latents(rng), latents(jax.random.fold_in(rng, 1))
    t = jnp.array([0.3, 0.5, 0.8])
    x_t, wanted = own.noise(data, noise, t, MASK, target)
    found = own.data_hat(wanted, x_t, t, jnp.asarray(MASK), target)
    np.testing.assert_allclose(found, data, atol=2e-3)
