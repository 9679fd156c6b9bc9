"""The ways to sample that the study compares, and what each of them gives."""

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
)
from ncgn_jax.process.dilated_grids import make_dilated_grid
from ncgn_jax.studies.high_dim_schedules.gaussian_mixture_reduction import (
    Mixture,
    majority_share,
    reduce_steps,
    variance_within,
)

# How near to p and to s^2 counts as recovered.
SHARE_TOLERANCE, VARIANCE_TOLERANCE = 0.02, 0.05
# Stands for an infinite dimension; larger ones run out of digits of 1 - t.
VERY_LARGE = 10.0**12
# Numbers of one chunk of samples; larger chunks fall out of the processor's cache.
_CHUNK_NUMBERS = 2**18


@functools.cache
def scaled_schedule(noise_scale: float, is_trigonometric: bool = False) -> Schedule:
    """Returns alpha = t with sigma = c (1 - t), or with sigma = c sqrt(1 - t^2).

    Args:
      noise_scale: Standard deviation c of the noise at t = 0.
      is_trigonometric: Which of the two; the second has an infinite slope at t = 1.
    """
    if is_trigonometric:
        name, shape = "arc", lambda t: jnp.sqrt((1.0 - t) * (1.0 + t))
    elif noise_scale == 1.0:
        return make_schedule("linear")
    else:
        name, shape = "linear", lambda t: 1.0 - t
    name = f"{name}, noise {noise_scale:g}"
    return Schedule(name, lambda t: t, lambda t: noise_scale * shape(t))


class Way(NamedTuple):
    """One way to sample: how large the noise is, and where the steps go.

    Attributes:
      name: In tables and legends.
      is_exploding: Whether noise has variance d (VE) and not 1 (VP).
      grid: One of `DILATED_GRIDS`.
      kappa: Width of the window of a dilated grid.
      is_trigonometric: Whether sigma is c sqrt(1 - t^2) and not c (1 - t).
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
      way: How the mixture is sampled.
      dim: Dimension d.
      num_steps: Number of steps.
      rule: The steps, as in `reduce_steps`.
    """
    mixture, scale = Mixture(dim), way.noise_scale(dim)
    steps = reduce_steps(mixture, way.schedule(dim), way.times(num_steps, dim), rule)
    share = majority_share(mixture, steps, scale)
    return float(share), float(variance_within(steps, scale))


class Samples(NamedTuple):
    """What is kept of each sample; all are [sample].

    Attributes:
      start: sum(x) / sqrt(d) at t = 0.
      along: The same at t = 1.
      start_across: Variance of the d - 1 coordinates other than that, at t = 0.
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
      num_samples: How many samples, at least.
      rng: Random key.
      is_stratified: Whether sum(x) / sqrt(d) starts at evenly spaced quantiles, one
        for each sample, which leaves shares an error of about 1 / num_samples.
      step: The sampler's step.
    """
    num_chunks = math.ceil(num_samples * dim / _CHUNK_NUMBERS)
    chunk = math.ceil(num_samples / num_chunks)
    ranks = np.arange(num_chunks * chunk).reshape(num_chunks, chunk)
    scale = float(schedule.sigma(jnp.zeros(()))) / math.sqrt(dim)
    wanted = scale * ndtri((ranks + 0.5) / ranks.size)

    @jax.jit
    def walk(x, key):
        return _summarise(x, integrate(step, denoise, schedule, x, times, key))

    chunks = []
    for index in range(num_chunks):
        key_start, key_walk = jax.random.split(jax.random.fold_in(rng, index))
        # Not within `walk`: the generator is compiled once for all ways this way.
        x = sample_prior(schedule, key_start, (chunk, dim))
        if is_stratified:
            x = x + (wanted[index] - x.mean(axis=-1))[:, None]
        chunks.append(walk(x, key_walk))
    return Samples(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def _summarise(start: jax.Array, end: jax.Array) -> Samples:
    dim = start.shape[-1]
    total = end.sum(axis=-1)
    correction = dim / (dim - 1)
    return Samples(
        start=start.sum(axis=-1) / math.sqrt(dim),
        along=total / math.sqrt(dim),
        start_across=correction * jnp.var(start, axis=-1),
        across=correction * jnp.var(end, axis=-1),
        square=jnp.mean(end**2, axis=-1),
        agreement=jnp.sign(total) * jnp.mean(jnp.sign(end), axis=-1),
    )
