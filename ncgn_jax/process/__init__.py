"""Defines the generative process: notation, schedules, targets, losses, samplers.

This page fixes the notation of the whole library.

Time runs from noise to data in every process, diffusion included:

  t = 0 is pure noise, t = 1 is data,   x_t = alpha(t) * data + sigma(t) * noise.

| name                   | meaning                                                  |
|------------------------|----------------------------------------------------------|
| data, noise, x_t       | clean sample, standard normal, the mixture above         |
| t                      | float [batch] in [0, 1]                                  |
| alpha, sigma           | coefficients at t; alpha rises, sigma falls              |
| d_alpha, d_sigma       | their derivatives in t (by forward-mode differentiation) |
| log_snr                | 2 (log alpha - log sigma)                                |
| signal_level           | alpha / (alpha + sigma), in [0, 1], rises with t; the    |
|                        | only noise variable that graph code uses                 |
| velocity               | dx_t/dt = d_alpha * data + d_sigma * noise               |
| score                  | grad log p_t(x_t) = -noise_hat / sigma                   |
| data_hat, noise_hat    | E[data | x_t], E[noise | x_t]                            |

Conventions that count the other way are converted here and nowhere else:

* A DDPM chain of T steps counts n = 0 (data) .. T (noise). `Schedule.step_index`
  gives n = (1 - t) T, `Schedule.time_of_step` t = (T - n) / T.
* A variance-exploding process is given by its sigma. It has alpha = 1, and
  `Schedule.time_of_signal_level(1 / (1 + sigma))` is its t.

Example: a point mass at 3, whose denoiser is known, sampled in eight steps.

>>> import jax, jax.numpy as jnp
>>> from ncgn_jax import process
>>> schedule = process.make_schedule("linear")
>>> denoise = process.make_denoiser(lambda x, t: 3 + 0 * x, "data", schedule)
>>> sampler = process.make_sampler("heun")
>>> times = process.make_time_grid("cosine", 8)
>>> x = process.sample_prior(schedule, jax.random.key(0), (2, 5))
>>> x = process.integrate(sampler, denoise, schedule, x, times, jax.random.key(1))
>>> bool(jnp.allclose(x, 3.0, atol=1e-5))
True
"""

from ncgn_jax.process.dilated_grids import DILATED_GRIDS, make_dilated_grid
from ncgn_jax.process.ema import ema_decay, update_ema
from ncgn_jax.process.fitted_grids import fit_error_table, fit_time_table
from ncgn_jax.process.losses import (
    LOSS_WEIGHTS,
    logit_normal_times,
    loss_weight,
    weighted_mse,
)
from ncgn_jax.process.multistep import (
    Sampler,
    SamplerState,
    adams_bashforth_step,
    dpm_solver_step,
    single_step,
)
from ncgn_jax.process.predictions import (
    PREDICTION_KINDS,
    expand_like,
    interpolate,
    linear_skip,
    make_target,
    to_data_and_noise,
    to_score,
    to_velocity,
)
from ncgn_jax.process.samplers import (
    ORDERS,
    SAMPLERS,
    integrate,
    make_denoiser,
    make_sampler,
    sample_prior,
    take_steps,
)
from ncgn_jax.process.schedules import (
    SCHEDULES,
    Schedule,
    make_schedule,
    schedule_from_betas,
)
from ncgn_jax.process.steps import (
    Denoiser,
    SamplerStep,
    ancestral_step,
    ddim_step,
    euler_step,
    heun_step,
    kept_noise,
    posterior_variances,
    renoise_step,
)
from ncgn_jax.process.time_grids import TIME_GRIDS, make_time_grid

__all__ = [
    "DILATED_GRIDS",
    "LOSS_WEIGHTS",
    "ORDERS",
    "PREDICTION_KINDS",
    "SAMPLERS",
    "SCHEDULES",
    "TIME_GRIDS",
    "Denoiser",
    "Sampler",
    "SamplerState",
    "SamplerStep",
    "Schedule",
    "adams_bashforth_step",
    "ancestral_step",
    "ddim_step",
    "dpm_solver_step",
    "ema_decay",
    "euler_step",
    "expand_like",
    "fit_error_table",
    "fit_time_table",
    "heun_step",
    "integrate",
    "interpolate",
    "kept_noise",
    "linear_skip",
    "logit_normal_times",
    "loss_weight",
    "make_denoiser",
    "make_dilated_grid",
    "make_sampler",
    "make_schedule",
    "make_target",
    "make_time_grid",
    "posterior_variances",
    "renoise_step",
    "sample_prior",
    "schedule_from_betas",
    "single_step",
    "take_steps",
    "to_data_and_noise",
    "to_score",
    "to_velocity",
    "update_ema",
    "weighted_mse",
]
