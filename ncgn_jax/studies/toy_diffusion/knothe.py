"""Defines a deterministic diffusion in which transport gives each point its noise.

x_t = alpha data + sigma T(data) with one fixed map T that carries the data to
N(0, I), the Knothe-Rosenblatt map. Coordinate by coordinate,

  T_j(x) = Phi^-1( F_j(x_j | x_1 .. x_(j-1)) )

with F_j the conditional distribution functions, known for a mixture of Gaussians.
It is triangular and rises in its own coordinate. Hence so is x -> x_t, which can be
inverted at every t. Data given x_t has no variance, and the least loss is 0
(arXiv 2409.00374 asks for such a process and leaves the map open).

Example: to noise and back.

>>> from ncgn_jax.studies.toy_diffusion.exact import two_modes
>>> points = jnp.array([[1.0, 0.5], [-1.2, -1.3]])
>>> back = to_data(two_modes(), to_noise(two_modes(), points))
>>> print(jnp.round(back, 3))
[[ 1.   0.5]
 [-1.2 -1.3]]
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jax.typing import ArrayLike

from ncgn_jax.process import expand_like
from ncgn_jax.studies.toy_diffusion.exact import Mixture

# Reduces a bracket as wide as the modes are apart to the last bit of a double.
_NUM_HALVINGS = 60


@jax.jit
def to_noise(mixture: Mixture, data: jax.Array) -> jax.Array:
    """Maps data to standard normal noise, T(data).

    Args:
      mixture: Distribution of the data.
      data: Points, [batch, dim].

    Returns:
      Noise of the same shape.
    """
    shares = _first_shares(mixture, data)
    columns = []
    for j in range(data.shape[1]):
        columns.append(_normal_score(mixture, shares, data[:, j], j))
        shares = _next_shares(mixture, shares, data[:, j], j)
    return jnp.stack(columns, axis=1)


def to_data(mixture: Mixture, noise: jax.Array) -> jax.Array:
    """Maps noise to data, the inverse of `to_noise`; shape of `noise`."""
    zeros = jnp.zeros(len(noise))
    return recover_data(mixture, noise, zeros, jnp.ones_like(zeros))


@jax.jit
def recover_data(
    mixture: Mixture, x_t: jax.Array, alpha: ArrayLike, sigma: ArrayLike
) -> jax.Array:
    """Solves alpha x + sigma T(x) = x_t for x, by bisection.

    Column j of T lies between (x_j - mu_kj) / s for the largest and the least mu_kj,
    which brackets the root.

    Args:
      mixture: Distribution of the data.
      x_t: Points of the deterministic process, [batch, dim].
      alpha: Coefficient of data, [batch], >= 0.
      sigma: Coefficient of noise, [batch], >= 0, not 0 where alpha is 0.

    Returns:
      The data, shape of `x_t`.
    """
    shares = _first_shares(mixture, x_t)
    columns = []
    for j in range(x_t.shape[1]):
        slope = alpha + sigma / mixture.std
        ends = [
            (x_t[:, j] + sigma * mean / mixture.std) / slope
            for mean in (mixture.means[:, j].min(), mixture.means[:, j].max())
        ]

        def halve(_, bracket, j=j, shares=shares):
            low, high = bracket
            middle = 0.5 * (low + high)
            score = _normal_score(mixture, shares, middle, j)
            is_below = alpha * middle + sigma * score < x_t[:, j]
            return jnp.where(is_below, middle, low), jnp.where(is_below, high, middle)

        low, high = jax.lax.fori_loop(0, _NUM_HALVINGS, halve, tuple(ends))
        columns.append(0.5 * (low + high))
        shares = _next_shares(mixture, shares, columns[-1], j)
    return jnp.stack(columns, axis=1)


@jax.jit
def noised_jacobian(
    mixture: Mixture, data: jax.Array, alpha: ArrayLike, sigma: ArrayLike
) -> jax.Array:
    """Returns d x_t / d data = alpha I + sigma dT, [batch, dim, dim]."""

    def jacobian(point: jax.Array) -> jax.Array:
        return jax.jacfwd(lambda x: to_noise(mixture, x[None])[0])(point)

    slopes = jax.vmap(jacobian)(data)
    identity = jnp.eye(data.shape[1])[None]
    return expand_like(alpha, slopes) * identity + expand_like(sigma, slopes) * slopes


def _first_shares(mixture: Mixture, points: jax.Array) -> jax.Array:
    """Returns the log-weights of the modes for each point, [batch, mode]."""
    log_weights = jnp.log(mixture.weights)
    return jnp.broadcast_to(log_weights[None], (len(points), len(log_weights)))


def _next_shares(
    mixture: Mixture, shares: jax.Array, x: jax.Array, j: int
) -> jax.Array:
    """Conditions the log-weights on x in column j."""
    offsets = (x[:, None] - mixture.means[None, :, j]) / mixture.std
    return shares - 0.5 * offsets**2


def _normal_score(
    mixture: Mixture, shares: jax.Array, x: jax.Array, j: int
) -> jax.Array:
    """Returns Phi^-1 of the conditional distribution function of column j, [batch]."""
    offsets = (x[:, None] - mixture.means[None, :, j]) / mixture.std
    probabilities = jax.nn.softmax(shares, axis=1)
    below = jnp.sum(probabilities * ndtr(offsets), axis=1)
    above = jnp.sum(probabilities * ndtr(-offsets), axis=1)
    # Only the smaller tail has full relative precision.
    return jnp.where(below < above, ndtri(below), -ndtri(above))
