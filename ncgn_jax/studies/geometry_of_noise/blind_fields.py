"""Computes the exact fields of blind models for a finite data set.

A blind model sees x_t but not t. At best it learns the mean of its target over all
noise levels that x_t may have come from (Sahraee-Ardakan et al. 2026, arXiv
2602.18428, eq. 7),

  f(x) = E[c(t) data + d(t) noise | x],   t drawn from a prior,

where the target is "data" (c, d) = (1, 0), "noise" (0, 1), "velocity" (d_alpha,
d_sigma), or equilibrium matching's "equilibrium" (-(1 - t), 1 - t). A "told" model
sees t as well. For finitely many points the mean is a sum over points and an integral
over t, done by quadrature. Everything here follows from one array, the log of the
joint density of noise level, data point and x.

The paper counts time from data to noise. Here t = 0 is noise and t = 1 data, as
everywhere; its t is our `1 - t`, the noise time, and its velocity is minus ours.

Example: near a single point, a blind noise prediction keeps the same length at every
distance.

>>> from ncgn_jax.process import make_schedule
>>> point, prior = jnp.zeros((1, 8)), uniform_noise_prior(512, least=1e-4)
>>> near = 0.01 * jnp.eye(8)[:1]
>>> f = blind_prediction("noise", near, point, make_schedule("linear"), prior)
>>> print(f"{jnp.linalg.norm(f):.2f}")
2.55
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ncgn_jax.process import Schedule, make_target
from ncgn_jax.process.naming import require_choice
from ncgn_jax.studies.mixtures import mixture_denoiser

FIELD_KINDS = ("data", "noise", "velocity", "equilibrium")


class NoisePrior(NamedTuple):
    """A prior over noise levels, as nodes and weights of a quadrature.

    Attributes:
      times: Times, falling, 0 = noise, 1 = data, [node].
      log_weights: Logs of weights whose sum is 1, [node].
    """

    times: jax.Array
    log_weights: jax.Array


def uniform_noise_prior(
    num_nodes: int, least: float = 1e-3, most: float = 1.0
) -> NoisePrior:
    """Returns the prior in which 1 - t is uniform on [least, most].

    The trapezoids are even in log(1 - t), because the posterior's width near data is
    proportional to the noise time.

    Args:
      num_nodes: Number of nodes, at least 2; their distance in log(1 - t) should stay
        below the posterior's standard deviation, about 1 / sqrt(2 dim).
      least: Least noise time, positive.
      most: Greatest noise time, at most 1.

    Raises:
      ValueError: If there are too few nodes or the limits are out of order.
    """
    if num_nodes < 2 or not 0.0 < least < most <= 1.0:
        raise ValueError(
            f"need num_nodes >= 2 and 0 < least < most <= 1, got {num_nodes}, "
            f"{least}, {most}"
        )
    noise_times = np.geomspace(least, most, num_nodes)
    weights = noise_times.copy()  # d(1 - t) = (1 - t) d log(1 - t)
    weights[[0, -1]] *= 0.5
    log_weights = np.log(weights / weights.sum())
    return NoisePrior(jnp.asarray(1.0 - noise_times), jnp.asarray(log_weights))


def target_coefficients(
    kind: str, schedule: Schedule, t: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Returns (c, d) of the target c data + d noise (Table 1), each of shape of t.

    Args:
      kind: One of `FIELD_KINDS`.
      schedule: The noise schedule.
      t: Times, any shape of at most one axis.

    Raises:
      ValueError: If `kind` does not exist.
    """
    require_choice("field kind", kind, FIELD_KINDS)
    t = jnp.asarray(t)
    if kind == "equilibrium":
        return t - 1.0, 1.0 - t
    one, zero = jnp.ones_like(t), jnp.zeros_like(t)
    return (
        make_target(kind, schedule, t, one, zero),
        make_target(kind, schedule, t, zero, one),
    )


def sampler_gains(
    kind: str, schedule: Schedule, t: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Returns (mu, nu) of the sampler dx/dt = mu x + nu f (eq. 63).

    mu = (d_alpha d - d_sigma c) / w,  nu = (alpha d_sigma - sigma d_alpha) / w with
    w = alpha d - sigma c. An error e of the field changes the drift by |nu| e, the
    drift perturbation error (eq. 22).

    Args:
      kind: One of `FIELD_KINDS`.
      schedule: The noise schedule.
      t: Times, any shape of at most one axis.

    Returns:
      mu and nu, shape of t; infinite where the target does not determine the velocity.

    Raises:
      ValueError: If `kind` does not exist.
    """
    alpha, sigma, d_alpha, d_sigma = schedule.coefficients(t)
    c, d = target_coefficients(kind, schedule, t)
    w = alpha * d - sigma * c
    return (d_alpha * d - d_sigma * c) / w, (alpha * d_sigma - sigma * d_alpha) / w


def log_joint(
    x: jax.Array, data: jax.Array, schedule: Schedule, prior: NoisePrior
) -> jax.Array:
    """Returns the log of p(t) p(point) N(x; alpha point, sigma^2 I), in nats.

    With r = x - point the square is |r|^2 + 2 (1 - alpha) r.point + (1 - alpha)^2
    |point|^2. Its parts all vanish together near data, so that no digits are lost
    there, and no array has both a node and a dim axis.

    Args:
      x: Samples of unknown noise level, [batch, dim].
      data: The data set, of equally likely points, [point, dim].
      schedule: The noise schedule.
      prior: Prior of the noise levels.

    Returns:
      Log densities, [batch, node, point].
    """
    alpha, sigma, _, _ = schedule.coefficients(prior.times)
    shrink = (1.0 - alpha)[None, :, None]
    gaps = x[:, None, :] - data[None]
    lengths = jnp.sum(gaps**2, axis=-1)[:, None, :]
    inner = jnp.sum(gaps * data[None], axis=-1)[:, None, :]
    norms = jnp.sum(data**2, axis=-1)[None, None, :]
    squares = lengths + 2.0 * shrink * inner + shrink**2 * norms
    scale = prior.log_weights - 0.5 * x.shape[-1] * jnp.log(2.0 * jnp.pi * sigma**2)
    scale = scale - np.log(len(data))
    return scale[None, :, None] - squares / (2.0 * sigma**2)[None, :, None]


def marginal_energy(
    x: jax.Array, data: jax.Array, schedule: Schedule, prior: NoisePrior
) -> jax.Array:
    """Returns E(x) = -log p(x), p over all noise levels (eq. 8), nats, [batch].

    Arguments and their shapes are those of `log_joint`.
    """
    joint = log_joint(x, data, schedule, prior)
    return -jax.nn.logsumexp(joint, axis=(1, 2))


def noise_posterior(
    x: jax.Array, data: jax.Array, schedule: Schedule, prior: NoisePrior
) -> jax.Array:
    """Returns p(t | x) at the nodes, [batch, node], rows of sum 1.

    Arguments and their shapes are those of `log_joint`.
    """
    joint = log_joint(x, data, schedule, prior)
    return jax.nn.softmax(jax.nn.logsumexp(joint, axis=-1), axis=-1)


def posterior_mean(
    c: jax.Array,
    d: jax.Array,
    x: jax.Array,
    data: jax.Array,
    schedule: Schedule,
    prior: NoisePrior,
) -> jax.Array:
    """Returns E[c(t) data + d(t) noise | x] (eq. 7), [batch, dim].

    noise = (x - alpha data) / sigma is split as in `log_joint`, so that two parts as
    large as 1 / sigma do not have to cancel.

    Args:
      c: Coefficients of data at the nodes, [node].
      d: Coefficients of noise at the nodes, [node].
      x: Samples of unknown noise level, [batch, dim].
      data: The data set, [point, dim].
      schedule: The noise schedule.
      prior: Prior of the noise levels.
    """
    alpha, sigma, _, _ = schedule.coefficients(prior.times)
    joint = log_joint(x, data, schedule, prior)
    shares = jnp.exp(joint - jnp.max(joint, axis=(1, 2), keepdims=True))
    # Unlike a matrix product, sums fuse with the exponential: three times as fast.
    of_gap = jnp.sum(shares * (d / sigma)[None, :, None], axis=1)
    of_point = jnp.sum(shares * (c + d * (1.0 - alpha) / sigma)[None, :, None], axis=1)
    gaps = x[:, None, :] - data[None]
    mean = jnp.einsum("bp,bpd->bd", of_gap, gaps) + of_point @ data
    return mean / jnp.sum(shares, axis=(1, 2))[:, None]


def energy_gradient(
    x: jax.Array, data: jax.Array, schedule: Schedule, prior: NoisePrior
) -> jax.Array:
    """Returns grad E(x) = E[(x - alpha data_hat) / sigma^2 | x] (eq. 11), [batch, dim].

    Arguments and their shapes are those of `log_joint`.
    """
    sigma = schedule.sigma(prior.times)
    return posterior_mean(jnp.zeros_like(sigma), 1.0 / sigma, x, data, schedule, prior)


def blind_prediction(
    kind: str, x: jax.Array, data: jax.Array, schedule: Schedule, prior: NoisePrior
) -> jax.Array:
    """Returns the best prediction of a network without t as input, [batch, dim].

    Args:
      kind: One of `FIELD_KINDS`.
      x: Samples of unknown noise level, [batch, dim].
      data: The data set, [point, dim].
      schedule: The noise schedule.
      prior: Prior of the noise levels.

    Raises:
      ValueError: If `kind` does not exist.
    """
    c, d = target_coefficients(kind, schedule, prior.times)
    return posterior_mean(c, d, x, data, schedule, prior)


def told_prediction(
    kind: str, x: jax.Array, t: jax.Array, data: jax.Array, schedule: Schedule
) -> jax.Array:
    """Returns the best prediction of a network with t as input, [batch, dim].

    Args:
      kind: One of `FIELD_KINDS`.
      x: Noisy samples, [batch, dim].
      t: Their times, below 1, [batch].
      data: The data set, [point, dim].
      schedule: The noise schedule.

    Raises:
      ValueError: If `kind` does not exist.
    """
    c, d = target_coefficients(kind, schedule, t)
    data_hat, noise_hat = _told_pair(x, t, data, schedule)
    return c[:, None] * data_hat + d[:, None] * noise_hat


def _told_pair(
    x: jax.Array, t: jax.Array, data: jax.Array, schedule: Schedule
) -> tuple[jax.Array, jax.Array]:
    weights = jnp.full(len(data), 1.0 / len(data))
    return mixture_denoiser(data, weights, 0.0, schedule)(x, t)


class Decomposition(NamedTuple):
    """The parts whose sum is the blind field (eq. 14 and 56), each [batch, dim].

    Attributes:
      natural: lambda_bar grad E, the gradient in the conformal metric.
      correction: Cov(lambda, grad E_t | x), the transport correction.
      drift: E[c / alpha | x] x, the linear drift.
    """

    natural: jax.Array
    correction: jax.Array
    drift: jax.Array


def conformal_factor(kind: str, schedule: Schedule, t: ArrayLike) -> jax.Array:
    """Returns lambda = (sigma / alpha) (d alpha - c sigma) (eq. 15), shape of t.

    Args:
      kind: One of `FIELD_KINDS`.
      schedule: The noise schedule.
      t: Times at which alpha is positive, any shape of at most one axis.

    Raises:
      ValueError: If `kind` does not exist.
    """
    alpha, sigma, _, _ = schedule.coefficients(t)
    c, d = target_coefficients(kind, schedule, t)
    return sigma * (d - c * sigma / alpha)


def decompose_field(
    kind: str, x: jax.Array, data: jax.Array, schedule: Schedule, prior: NoisePrior
) -> Decomposition:
    """Decomposes a blind field into natural gradient, correction and drift.

    The correction is a sum over nodes of the exact fields of `mixtures`, not the
    difference of the other parts.

    Args:
      kind: One of `FIELD_KINDS`.
      x: Samples of unknown noise level, [batch, dim].
      data: The data set, [point, dim].
      schedule: The noise schedule.
      prior: Prior of the noise levels; alpha must be positive at its nodes.

    Raises:
      ValueError: If `kind` does not exist.
    """
    alpha, sigma, _, _ = schedule.coefficients(prior.times)
    c, _ = target_coefficients(kind, schedule, prior.times)
    factor = conformal_factor(kind, schedule, prior.times)
    posterior = noise_posterior(x, data, schedule, prior)
    mean_factor = posterior @ factor
    gradient = energy_gradient(x, data, schedule, prior)

    def told_noise(t: jax.Array) -> jax.Array:
        return _told_pair(x, jnp.full(len(x), t), data, schedule)[1]

    noise_hat = jax.vmap(told_noise, out_axes=1)(prior.times)  # [batch, node, dim]
    spread = noise_hat / sigma[None, :, None] - gradient[:, None, :]
    shares = posterior * (factor[None] - mean_factor[:, None])
    return Decomposition(
        natural=mean_factor[:, None] * gradient,
        correction=jnp.einsum("bn,bnd->bd", shares, spread),
        drift=(posterior @ (c / alpha))[:, None] * x,
    )
