"""Computes losses: masked mean squares, weights of noise levels, training times.

With x_t fixed, errors of the four kinds of prediction are multiples of each other:

  e_noise = -(alpha/sigma) e_data,  e_score = -e_noise / sigma,
  e_velocity = (w/alpha) e_noise,   w = alpha d_sigma - sigma d_alpha.

A weighting is defined once, for the noise and the data error, and converted to the
kind the network predicts, so that "min_snr" is the same objective for each.
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
"""Weights of the error over time, the values of `process.loss_weight`."""

# SNR, the weight of the data error under "snr", has no limit as sigma -> 0.
MAX_SNR = 1e4
# Largest SNR that counts under "min_snr" (Hang et al. 2023).
MIN_SNR_GAMMA = 5.0


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
      target: Its target, same shape.
      weight: Weights, [batch] or scalar.
      mask: True for real nodes, [batch, node] or any leading part of the shape of
        `prediction`; None if all are real.

    Returns:
      Losses, [batch], in at least float32. Values in padding, nan included, have no
      influence; an example without a real node has loss 0.

    Raises:
      ValueError: if the shapes do not match.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {prediction.shape} and target {target.shape} differ in shape"
        )
    dtype = jnp.promote_types(prediction.dtype, jnp.float32)
    error = prediction.astype(dtype) - target.astype(dtype)
    weight, axes = jnp.asarray(weight), tuple(range(1, error.ndim))
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


def _noise_error_weight(name: str, log_snr: jax.Array) -> jax.Array:
    if name == "snr":
        return jnp.ones_like(log_snr)
    if name == "min_snr":
        return jnp.minimum(1.0, MIN_SNR_GAMMA * jnp.exp(-log_snr))
    return jax.nn.sigmoid(-log_snr)


def _data_error_weight(name: str, log_snr: jax.Array) -> jax.Array:
    # The weight of the noise error times SNR, rearranged so as not to overflow.
    if name == "snr":
        return jnp.minimum(jnp.exp(log_snr), MAX_SNR)
    if name == "min_snr":
        return jnp.minimum(jnp.exp(log_snr), MIN_SNR_GAMMA)
    return jax.nn.sigmoid(log_snr)


def loss_weight(name: str, kind: str, schedule: Schedule, t: ArrayLike) -> jax.Array:
    """Returns the weight of the squared error at t for a kind of prediction.

    - `uniform`: 1, whatever the network predicts.
    - `snr`: the noise error weighs 1 (DDPM's simple loss), the data error SNR.
    - `min_snr`: the data error weighs min(SNR, 5) (Hang et al. 2023).
    - `sigmoid`: the noise error weighs sigmoid(-log SNR) (Kingma & Gao 2023, bias 0).
      Their further factor d log SNR / dt, which makes the loss the same for all
      schedules, is left out because it has no finite mean on a straight line.

    Args:
      name: One of `LOSS_WEIGHTS`.
      kind: Kind of prediction, one of `PREDICTION_KINDS`.
      schedule: The noise schedule.
      t: Times, any shape.

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
        return _data_error_weight(name, log_snr)
    weight = _noise_error_weight(name, log_snr)
    if kind == "noise":
        return weight
    if kind == "score":
        return weight * sigma**2
    return weight * (alpha / (alpha * d_sigma - sigma * d_alpha)) ** 2


def logit_normal_times(u: ArrayLike, center: float, spread: float) -> jax.Array:
    """Turns uniform times into logit-normal ones, dense where training needs them.

    t = sigmoid(logit(center) + spread * Phi^-1(u)) (Esser et al. 2024, arXiv
    2403.03206, eq. 19). It rises in u and maps intervals to intervals.

    Args:
      u: Times or quantiles in [0, 1], any shape.
      center: Median of the new times, in (0, 1).
      spread: Standard deviation of their logits, positive.

    Returns:
      Times in [0, 1], shape of u.
    """
    u = jnp.asarray(u)
    middle = logit(jnp.asarray(center, u.dtype))
    return jax.nn.sigmoid(middle + spread * ndtri(u))
