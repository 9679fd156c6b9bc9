"""Defines the ways of sampling that the study compares, and their results."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

from ncgn_jax.process import (
    Denoiser,
    SamplerStep,
    Schedule,
    euler_step,
    integrate,
    make_schedule,
    sample_prior,
    single_step,
)
from ncgn_jax.process.dilated_grids import make_dilated_grid
from ncgn_jax.studies.high_dim_schedules.gaussian_mixture_reduction import (
    Mixture,
    majority_share,
    reduce_steps,
    variance_within,
)

# Largest errors of the share p and the variance s^2 that count as recovered.
SHARE_TOLERANCE, VARIANCE_TOLERANCE = 0.02, 0.05
# Stands for an infinite dimension; larger ones exceed the digits of 1 - t.
VERY_LARGE = 10.0**12
# Numbers per chunk of samples; larger chunks exceed the processor's cache.
_CHUNK_NUMBERS = 2**18


@functools.cache
def scaled_schedule(noise_scale: float, is_trigonometric: bool = False) -> Schedule:
    """Returns alpha = t with sigma = c (1 - t), or with sigma = c sqrt(1 - t^2).

    Args:
      noise_scale: Standard deviation c of the noise at t = 0.
      is_trigonometric: Whether to return the second, whose slope at t = 1 is infinite.
    """
    if noise_scale == 1.0 and not is_trigonometric:
        return make_schedule("linear")

    def sigma(t: jax.Array) -> jax.Array:
        shape = jnp.sqrt((1.0 - t) * (1.0 + t)) if is_trigonometric else 1.0 - t
        return noise_scale * shape

    name = "arc" if is_trigonometric else "linear"
    return Schedule(f"{name}, noise {noise_scale:g}", lambda t: t, sigma)


class Way(NamedTuple):
    """Describes one way of sampling by its noise and its time grid.

    Attributes:
      name: Name in tables and legends.
      is_exploding: Whether noise has variance d (VE) instead of 1 (VP).
      grid: One of `DILATED_GRIDS`.
      kappa: Width of the window of a dilated grid.
      is_trigonometric: Whether sigma is c sqrt(1 - t^2) instead of c (1 - t).
    """

    name: str
    is_exploding: bool
    grid: str
    kappa: float = 5.0
    is_trigonometric: bool = False

    def noise_scale(self, dim: float) -> float:
        """Returns the standard deviation c of the noise at t = 0."""
        return math.sqrt(dim) if self.is_exploding else 1.0

    def schedule(self, dim: float) -> Schedule:
        """Returns the noise schedule in d dimensions."""
        return scaled_schedule(self.noise_scale(dim), self.is_trigonometric)

    def times(self, num_steps: int, dim: float) -> np.ndarray:
        """Returns the time grid in d dimensions, [step + 1]."""
        return make_dilated_grid(self.grid, num_steps, dim, self.kappa)


def four_ways(kappa: float) -> list[Way]:
    """Returns VP and VE with equal steps, and both dilated by kappa."""
    return [
        Way("VP, equal steps", False, "constant"),
        Way("VE, equal steps", True, "constant"),
        Way(f"VP, dilated {kappa:g}", False, "dilated_vp", kappa),
        Way(f"VE, dilated {kappa:g}", True, "dilated_ve", kappa),
    ]


def recovered(
    way: Way, dim: float, num_steps: int, rule: str = "euler"
) -> tuple[float, float]:
    """Returns the exact share of the majority mode and variance within modes.

    Args:
      way: The way of sampling.
      dim: Dimension d.
      num_steps: Number of steps.
      rule: The rule of the steps, as in `reduce_steps`.
    """
    mixture, scale = Mixture(dim), way.noise_scale(dim)
    steps = reduce_steps(mixture, way.schedule(dim), way.times(num_steps, dim), rule)
    share = majority_share(mixture, steps, scale)
    return float(share), float(variance_within(steps, scale))


class Samples(NamedTuple):
    """Statistics of each sample, all [sample].

    Attributes:
      start: sum(x) / sqrt(d) at t = 0.
      along: The same at t = 1.
      start_across: Variance of the other d - 1 coordinates at t = 0.
      across: The same at t = 1.
      square: Mean of x_i^2 at t = 1.
      agreement: Mean of sign(x_i) sign(sum(x)) at t = 1.
    """

    start: np.ndarray
    along: np.ndarray
    start_across: np.ndarray
    across: np.ndarray
    square: np.ndarray
    agreement: np.ndarray


def draw_samples(
    denoise: Denoiser,
    schedule: Schedule,
    times: np.ndarray,
    dim: int,
    num_samples: int,
    rng: jax.Array,
    is_stratified: bool = False,
    step: SamplerStep = euler_step,
) -> Samples:
    """Samples in all d dimensions, a chunk at a time.

    Args:
      denoise: (x_t, t [batch]) -> (data_hat, noise_hat).
      schedule: The noise schedule.
      times: The time grid, [step + 1].
      dim: Dimension d.
      num_samples: Least number of samples.
      rng: Random key.
      is_stratified: Whether sum(x) / sqrt(d) starts at evenly spaced quantiles, one
        per sample, which leaves shares an error of about 1 / num_samples.
      step: The sampler's step.
    """
    num_chunks = math.ceil(num_samples * dim / _CHUNK_NUMBERS)
    chunk = math.ceil(num_samples / num_chunks)
    ranks = np.arange(num_chunks * chunk).reshape(num_chunks, chunk)
    scale = float(schedule.sigma(jnp.zeros(()))) / math.sqrt(dim)
    wanted = scale * ndtri((ranks + 0.5) / ranks.size)

    @jax.jit
    def walk(x: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
        end = integrate(single_step(step), denoise, schedule, x, times, key)
        assert isinstance(end, jax.Array)  # no path is kept
        return _summarise(x, end)

    chunks = []
    for index in range(num_chunks):
        key_start, key_walk = jax.random.split(jax.random.fold_in(rng, index))
        # Outside `walk`, so that the generator is compiled once for all ways.
        x = sample_prior(schedule, key_start, (chunk, dim))
        if is_stratified:
            x = x + (wanted[index] - x.mean(axis=-1))[:, None]
        chunks.append(walk(x, key_walk))
    return Samples(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def _summarise(start: jax.Array, end: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the fields of `Samples`, in order."""
    dim = start.shape[-1]
    total = end.sum(axis=-1)
    correction = dim / (dim - 1)
    return (
        start.sum(axis=-1) / math.sqrt(dim),
        total / math.sqrt(dim),
        correction * jnp.var(start, axis=-1),
        correction * jnp.var(end, axis=-1),
        jnp.mean(end**2, axis=-1),
        jnp.sign(total) * jnp.mean(jnp.sign(end), axis=-1),
    )
