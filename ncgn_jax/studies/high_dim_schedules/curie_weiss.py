"""Defines the Curie-Weiss model of d spins and its exact denoiser.

  mu(a) ~ exp( beta / (2 d) (sum_i a_i)^2 + (h / d) sum_i a_i ),   a in {-1, 1}^d.

For beta > 1 it has two modes, spins of mean +-m with m = tanh(beta m), whose weights
for large d are proportional to exp(+-h m) (arXiv 2501.00988). With lambda_i = alpha
x_i / sigma^2 the Hubbard-Stratonovich transformation makes the spins independent given
one number phi,

  E[a_i | x] = int w(phi) tanh(beta phi + h / d + lambda_i) dphi / int w(phi) dphi,
  log w = -d beta phi^2 / 2 + sum_i log cosh(beta phi + h / d + lambda_i).

For large d the integral is a sum over phi = +-m.

Example: two strongly coupled spins are nearly always equal.

>>> from ncgn_jax.process import make_schedule
>>> model = CurieWeiss(dim=2, coupling=8.0, field=0.0)
>>> denoise = exact_denoiser(model, make_schedule("linear"))
>>> print(denoise(jnp.array([[1.0, 0.0]]), jnp.array([0.5]))[0].round(2))
[[0.96 0.96]]
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, gammaln, logsumexp

from ncgn_jax.process import Denoiser, Schedule, expand_like, make_denoiser

# The integrand is a sum of Gaussians of standard deviation 1 / sqrt(d beta) about
# places in [-1, 1]; the trapezoidal rule errs by exp(-2 (pi / _SPACING)^2) = 3e-18.
_SPACING, _MARGIN = 0.7, 9.0


class CurieWeiss(NamedTuple):
    """The Curie-Weiss model.

    Attributes:
      dim: Number d of spins.
      coupling: Inverse temperature beta, > 1.
      field: Strength h of the asymmetry between the modes.
    """

    dim: int
    coupling: float = 2.0
    field: float = 0.5 * math.log(4.0)

    @property
    def magnetisation(self) -> float:
        """Returns m > 0 with m = tanh(beta m), a spin's mean in the majority mode."""
        return brentq(lambda m: m - math.tanh(self.coupling * m), 1e-6, 1.0)

    @property
    def share(self) -> float:
        """Returns the weight of the majority mode for large d."""
        return float(expit(2.0 * self.field * self.magnetisation))


def exact_share(model: CurieWeiss) -> float:
    """Returns P(sum of spins > 0) + P(sum = 0) / 2 in d dimensions, as a sum."""
    up = np.arange(model.dim + 1)
    total = 2 * up - model.dim
    log_weight = gammaln(model.dim + 1) - gammaln(up + 1) - gammaln(model.dim - up + 1)
    log_weight += 0.5 * model.coupling * total**2 / model.dim
    log_weight += model.field * total / model.dim
    weight = np.exp(log_weight - logsumexp(log_weight))
    return float(weight[total > 0].sum() + 0.5 * weight[total == 0].sum())


def exact_denoiser(model: CurieWeiss, schedule: Schedule) -> Denoiser:
    """Returns the exact (x_t [batch, dim], t [batch]) -> (data_hat, noise_hat).

    It computes all nodes of the quadrature at once, [node, batch, dim], about
    6 sqrt(d beta) + 30 of them.

    Args:
      model: The model.
      schedule: The noise schedule; sigma may not be 0 at the times of use.
    """
    width = 1.0 / math.sqrt(model.dim * model.coupling)
    end = 1.0 + _MARGIN * width
    phi = np.linspace(-end, end, math.ceil(2.0 * end / (_SPACING * width)) + 1)
    log_gauss = -0.5 * model.dim * model.coupling * phi**2
    shift = model.coupling * phi + model.field / model.dim

    def predict(x_t, t):
        tilt = _tilt(schedule, x_t, t)
        argument = jnp.asarray(shift)[:, None, None] + tilt[None]
        # log cosh(z) + log 2, without overflow.
        log_cosh = jnp.abs(argument) + jnp.log1p(jnp.exp(-2.0 * jnp.abs(argument)))
        log_weight = jnp.asarray(log_gauss)[:, None] + jnp.sum(log_cosh, axis=-1)
        weight = jax.nn.softmax(log_weight, axis=0)
        return jnp.sum(weight[..., None] * jnp.tanh(argument), axis=0)

    return make_denoiser(predict, "data", schedule)


def two_point_denoiser(model: CurieWeiss, schedule: Schedule) -> Denoiser:
    """Returns the large-d (x_t [batch, dim], t [batch]) -> (data_hat, noise_hat).

    With T_i = tanh lambda_i, and m = tanh(beta m),
      E[a_i | x] = W (T_i + m) / (1 + m T_i) + (1 - W) (T_i - m) / (1 - m T_i),
      logit W = 2 h m + sum_i log (1 + m T_i) / (1 - m T_i).

    Args:
      model: The model.
      schedule: The noise schedule; sigma may not be 0 at the times of use.
    """
    mean = model.magnetisation

    def predict(x_t, t):
        spin = jnp.tanh(_tilt(schedule, x_t, t))
        above, below = 1.0 + mean * spin, 1.0 - mean * spin
        prior_logit = 2.0 * model.field * mean
        logit = prior_logit + jnp.sum(jnp.log(above / below), axis=-1, keepdims=True)
        weight = jax.nn.sigmoid(logit)
        return weight * (spin + mean) / above + (1 - weight) * (spin - mean) / below

    return make_denoiser(predict, "data", schedule)


def _tilt(schedule: Schedule, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """Returns lambda = alpha x_t / sigma^2, the field that x_t adds to each spin."""
    alpha, sigma, _, _ = schedule.coefficients(t)
    return expand_like(alpha / sigma**2, x_t) * x_t
