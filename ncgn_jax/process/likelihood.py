"""Computes the log-likelihood of data under the probability flow.

The flow carries noise at t = 0 to data at t = 1, and the density along it by

  d/dt log p_t(x_t) = -div u(x_t, t)

(Chen et al. 2018, arXiv 1806.07366; Song et al. 2021, arXiv 2011.13456, section 4.3).
So data are run backwards to their noise, and the divergence is summed on the way. A
state is packed: the numbers of a sample, and the sum so far as one more.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Velocity = Callable[[jax.Array, jax.Array], jax.Array]


def pack(x: jax.Array, total: jax.Array) -> jax.Array:
    """Joins samples [row, ...] and sums [row] to states [row, number + 1]."""
    return jnp.concatenate([x.reshape(len(x), -1), total[:, None]], axis=1)


def unpack(state: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns samples [row, *shape] and sums [row] of states."""
    return state[:, :-1].reshape(-1, *shape), state[:, -1]


def divergence(
    velocity: Velocity, x_t: jax.Array, t: jax.Array, probes: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Returns the velocity and its divergence, summed over all numbers of a sample.

    With probes v of random signs it is the mean of v . J v (Hutchinson 1989), which is
    right on average; without them the trace of J, number by number.

    Args:
      velocity: (x_t, t) -> u.
      x_t: Samples, [row, ...].
      t: Times, [row].
      probes: Signs, [probe, row, ...]; None for the exact trace.

    Returns:
      u, shape of `x_t`, and its divergence, [row].
    """
    u, push = jax.linearize(lambda x: velocity(x, t), x_t)

    def along(direction: jax.Array) -> jax.Array:
        return jnp.sum((direction * push(direction)).reshape(len(x_t), -1), axis=1)

    if probes is not None:
        return u, jnp.mean(jax.lax.map(along, probes), axis=0)
    size = x_t[0].size

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        one = jnp.zeros(size, x_t.dtype).at[i].set(1).reshape(x_t.shape[1:])
        return total + along(jnp.broadcast_to(one, x_t.shape))

    return u, jax.lax.fori_loop(0, size, add, jnp.zeros(len(x_t), x_t.dtype))


def backward_flow(
    velocity: Velocity,
    state: jax.Array,
    shape: tuple[int, ...],
    times: jax.Array,
    probes: jax.Array | None,
) -> jax.Array:
    """Runs packed states along falling times with Heun's rule, second order.

    The sum of a state becomes the integral of the divergence over the times passed.

    Args:
      velocity: (x_t, t) -> u.
      state: From `pack`, [row, number + 1].
      shape: Shape of a sample.
      times: Falling times, [step + 1].
      probes: See `divergence`; the same in all steps.
    """

    def step(state: jax.Array, legs: tuple[jax.Array, jax.Array]):
        t, t_next = (jnp.full(len(state), time) for time in legs)
        x, total = unpack(state, shape)
        span = t_next - t
        wide = span.reshape(-1, *(1,) * len(shape))
        u, change = divergence(velocity, x, t, probes)
        u_next, change_next = divergence(velocity, x + wide * u, t_next, probes)
        x = x + wide * 0.5 * (u + u_next)
        # Downwards, so that the integral upwards is minus this.
        return pack(x, total - span * 0.5 * (change + change_next)), None

    return jax.lax.scan(step, state, (times[:-1], times[1:]))[0]


def random_signs(keys: jax.Array, num: int, shape: tuple[int, ...]) -> jax.Array:
    """Draws probes for `divergence`, [num, row, *shape], from one key per row."""
    draw = jax.vmap(lambda key: jax.random.rademacher(key, (num, *shape), jnp.float32))
    return jnp.moveaxis(draw(keys), 1, 0)


def log_normal(noise: jax.Array, deviation: float) -> jax.Array:
    """Returns log N(noise; 0, deviation^2) of each row, [row].

    Args:
      noise: [row, ...].
      deviation: Standard deviation of every number.
    """
    flat = noise.reshape(len(noise), -1) / deviation
    size = flat.shape[1]
    return -0.5 * jnp.sum(flat**2, axis=1) - size * (
        0.5 * jnp.log(2 * jnp.pi) + jnp.log(deviation)
    )
