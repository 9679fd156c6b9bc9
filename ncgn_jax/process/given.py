"""Keeps a given part of a sample while a sampler generates the rest."""

import jax
import jax.numpy as jnp

from ncgn_jax.process.steps import Denoiser


def keep_given(
    denoise: Denoiser,
    given: jax.Array,
    data: jax.Array,
    noise: jax.Array,
    *,
    hold: bool,
) -> Denoiser:
    """Wraps a denoiser so that it returns given entries unchanged.

    A sampler then moves them along their interpolant. With `hold`, the input of the
    network has their clean values.

    Args:
      denoise: (x_t, t) -> (data_hat, noise_hat).
      given: bool, shape of x_t.
      data: Clean values where given, shape of x_t.
      noise: Noise at t = 0, shape of x_t.
      hold: Whether the input of the network has clean values.
    """

    def wrapped(x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = jnp.where(given, data, x_t) if hold else x_t
        data_hat, noise_hat = denoise(seen, t)
        return jnp.where(given, data, data_hat), jnp.where(given, noise, noise_hat)

    return wrapped
