"""Losses: masked mean squares, weights over noise levels, and training times.

With x_t fixed, errors of the four kinds of prediction are multiples of each other:

  e_noise = -(alpha/sigma) e_data,  e_score = -e_noise / sigma,
  e_velocity = (w/alpha) e_noise,   w = alpha d_sigma - sigma d_alpha.

A weighting is defined once, for the noise and the data error, and carried over to
the kind the network predicts, so that "min_snr" is the same objective for each.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import logit, ndtri
from jax.typing import ArrayLike

from ncgn_jax.process import naming
from ncgn_jax.process.predictions import PREDICTION_KINDS, expand_like
from ncgn_jax.process.schedules import Schedule

LOSS_WEIGHTS = ("uniform", "snr", "min_snr", "sigmoid")

# SNR, the weight of the data error under "snr", has no limit as sigma -> 0.
MAX_SNR = 1e4


def weighted_mse(
    prediction: jax.Array,
    target: jax.Array,
    weight: ArrayLike,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Returns the weighted mean squared error of each example.

    loss[b] = weight[b] * mean over real nodes and features of (prediction - target)^2

    Args:
      prediction: Output of the network, [batch, node, ...] (or [batch, feature]).
      target: What it should be, same shape.
      weight: Weights, [batch] or scalar.
      mask: True for real nodes, [batch, node] or any leading part of the shape of
        `prediction`; None if all are real.

    Returns:
      Losses, [batch], in at least float32. What stands in padding has no influence,
      not even a nan; an example without a real node has loss 0.

    Raises:
      ValueError: if the shapes do not match.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {prediction.shape} and target {target.shape} differ in shape"
        )
    dtype = jnp.promote_types(prediction.dtype, jnp.float32)
    error = prediction.astype(dtype) - target.astype(dtype)
    axes = tuple(range(1, error.ndim))
    if mask is None:
        return weight * jnp.mean(error**2, axis=axes)
    if mask.shape != prediction.shape[: mask.ndim]:
        raise ValueError(
            f"mask {mask.shape} does not lead the shape {prediction.shape}"
        )
    real = jnp.broadcast_to(expand_like(mask.astype(bool), error), error.shape)
    # Masked before squaring: the gradient of a masked square is 0 * nan otherwise.
    total = jnp.sum(jnp.where(real, error, 0.0) ** 2, axis=axes)
    count = jnp.sum(real, axis=axes, dtype=dtype)
    return weight * total / jnp.maximum(count, 1.0)


def _noise_error_weight(name: str, log_snr: jax.Array, gamma: float, bias: float):
    if name == "snr":
        return jnp.ones_like(log_snr)
    if name == "min_snr":
        return jnp.minimum(1.0, gamma * jnp.exp(-log_snr))
    return jax.nn.sigmoid(bias - log_snr)


def _data_error_weight(name: str, log_snr: jax.Array, gamma: float, bias: float):
    # The weight of the noise error times SNR, rearranged so as not to overflow.
    if name == "snr":
        return jnp.minimum(jnp.exp(log_snr), MAX_SNR)
    if name == "min_snr":
        return jnp.minimum(jnp.exp(log_snr), gamma)
    return jnp.exp(bias) * jax.nn.sigmoid(log_snr - bias)


def loss_weight(
    name: str,
    kind: str,
    schedule: Schedule,
    t: ArrayLike,
    gamma: float = 5.0,
    bias: float = 0.0,
) -> jax.Array:
    """Returns the weight of the squared error at t for a kind of prediction.

    - `uniform`: 1, whatever the network predicts.
    - `snr`: the noise error weighs 1 (DDPM's simple loss), the data error SNR.
    - `min_snr`: the data error weighs min(SNR, gamma) (Hang et al. 2023).
    - `sigmoid`: the noise error weighs sigmoid(bias - log SNR) (Kingma & Gao 2023).
      Their further factor d log SNR / dt, which makes the loss the same for all
      schedules, is left out: for a straight line it has no finite mean at t = 0.

    Args:
      name: One of `LOSS_WEIGHTS`.
      kind: What the network predicts, one of `PREDICTION_KINDS`.
      schedule: The noise schedule.
      t: Times, any shape.
      gamma: Largest SNR that counts under `min_snr`.
      bias: log SNR at which `sigmoid` starts to fall.

    Returns:
      Weights, at least 0 and finite, shape of t. Only `snr` for data is unbounded in
      principle; its SNR is limited to 1e4.

    Raises:
      ValueError: if `name` or `kind` does not exist.
    """
    naming.require_choice("loss weight", name, LOSS_WEIGHTS)
    naming.require_choice("prediction kind", kind, PREDICTION_KINDS)
    alpha, sigma, d_alpha, d_sigma = schedule.coefficients(t)
    if name == "uniform":
        return jnp.ones_like(alpha)
    log_snr = schedule.log_snr(t)
    if kind == "data":
        return _data_error_weight(name, log_snr, gamma, bias)
    weight = _noise_error_weight(name, log_snr, gamma, bias)
    if kind == "noise":
        return weight
    if kind == "score":
        return weight * sigma**2
    return weight * (alpha / (alpha * d_sigma - sigma * d_alpha)) ** 2


def logit_normal_times(u: ArrayLike, center: float, spread: float) -> jax.Array:
    """Moves uniform times to where training pays most.

    t = sigmoid(logit(center) + spread * Phi^-1(u)), logit-normal for uniform u (Esser
    et al. 2024, arXiv 2403.03206, eq. 19); rising in u, so that parts of [0, 1] go to
    parts of [0, 1].

    Args:
      u: Times or quantiles in [0, 1], any shape.
      center: Median of the new times, in (0, 1).
      spread: Deviation of their logits, positive.

    Returns:
      Times in [0, 1], shape of u.
    """
    u = jnp.asarray(u)
    center = jnp.asarray(center, u.dtype)
    return jax.nn.sigmoid(logit(center) + spread * ndtri(u))


def sample_times(
    rng: jax.Array,
    num: int,
    low: ArrayLike = 0.0,
    high: ArrayLike = 1.0,
    stratified: bool = True,
) -> jax.Array:
    """Draws training times, each uniform on [low, high).

    Stratified: one random offset, times spaced evenly around the interval, so every
    batch covers it (Kingma et al. 2021, appendix I.1). Each time by itself is still
    uniform: no place in the batch prefers any part of the interval.

    Args:
      rng: Random key.
      num: How many.
      low: Lower end, scalar or [num].
      high: Upper end, above `low`, scalar or [num].
      stratified: Spread evenly instead of drawing independently.

    Returns:
      Times, [num].

    Raises:
      ValueError: if num is below 1.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    if stratified:
        u = (jax.random.uniform(rng) + jnp.arange(num) / num) % 1.0
    else:
        u = jax.random.uniform(rng, (num,))
    low, high = jnp.asarray(low, u.dtype), jnp.asarray(high, u.dtype)
    # Rounding may reach `high` itself, which belongs to the next interval.
    return jnp.minimum(low + (high - low) * u, jnp.nextafter(high, low))
