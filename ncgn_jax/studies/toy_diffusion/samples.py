"""Draws samples of a mixture and measures their failures.

Each failure that arXiv 2409.00374 lists has a number: collapse (width and shares of
the modes), points that keep their initial position (correlation of start and end) and
poor coverage (share of the data that is some sample's nearest).

Example: the width of data is 1.

>>> from ncgn_jax.studies.toy_diffusion.exact import draw_mixture, two_modes
>>> data = draw_mixture(two_modes(), jax.random.key(0), 4000)
>>> bool(abs(measure_samples(two_modes(), data, data[::-1]).width - 1) < 0.05)
True
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ncgn_jax.metrics.sliced import sliced_wasserstein
from ncgn_jax.point_clouds.distances import coverage
from ncgn_jax.process import (
    Denoiser,
    SamplerStep,
    Schedule,
    ancestral_step,
    ddim_step,
    integrate,
    make_schedule,
    make_time_grid,
    renoise_step,
    sample_prior,
    single_step,
)
from ncgn_jax.studies.toy_diffusion.exact import Mixture

SCHEDULE_NAMES = ("linear", "cosine")
SINGLE_STEP = functools.partial(ancestral_step, variance="none")
# None stands for a single prediction of the data at n = T.
STEPS: dict[str, SamplerStep | None] = {
    "single step": SINGLE_STEP,
    "DDPM": ancestral_step,
    "whole step": renoise_step,
    "DDIM": ddim_step,
    "one shot": None,
}
# Coverage depends on the size of the sets, so all sets have this many points.
_NUM_COVERED = 1000


class Measures(NamedTuple):
    """Measures of a set of samples.

    Attributes:
      distance: Sliced W2 to fresh data, in the data's unit.
      first_share: Share of samples nearest to the first mode.
      share_error: Total variation between the shares of the modes and their weights.
      width: Standard deviation about the samples' own mean in each mode, pooled over
        modes and coordinates, in units of the data's std; 1 is right.
      stray: Share of samples farther than (sqrt(dim) + 3) std from every mode.
      coverage: Share of 1000 data points that are nearest to one of 1000 samples; fresh
        data has about .5.
      memory: Correlation of the samples' coordinates with their start in noise,
        within the modes; NaN if no start was given.
    """

    distance: float
    first_share: float
    share_error: float
    width: float
    stray: float
    coverage: float
    memory: float


# One object per schedule, so that programs compiled for it are found again.
@functools.cache
def make_toy_schedule(name: str, num_steps: int) -> Schedule:
    """Returns the chain named "linear" (betas times 1000 / T) or "cosine"."""
    options = {"rescale_betas": True} if name == "linear" else {}
    return make_schedule(f"ddpm_{name}", num_steps=num_steps, **options)


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 5))
def run_chain(
    make_denoise: Callable[[Any], Denoiser],
    params: Any,
    step: SamplerStep | None,
    schedule: Schedule,
    rngs: jax.Array,
    shape: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """Samples along all T steps of a chain, for several sets of parameters at once.

    Args:
      make_denoise: Parameters of one run -> its denoiser. Compiled once per function,
        step, schedule and shape.
      params: Parameters with a leading run axis; None if there are none.
      step: The sampler step; None for a single prediction of the data at n = T.
      schedule: A discrete schedule.
      rngs: Keys, [run].
      shape: Number of samples of each run, and their dimension.

    Returns:
      The starts in noise and the samples, [run, sample, dim].
    """
    times = make_time_grid("uniform", schedule.num_steps)

    def run(params, rng):
        rng_start, rng_walk = jax.random.split(rng)
        denoise = make_denoise(params)
        start = sample_prior(schedule, rng_start, shape)
        if step is None:
            return start, denoise(start, jnp.zeros(shape[0]))[0]
        sampler = single_step(step)
        return start, integrate(sampler, denoise, schedule, start, times, rng_walk)

    return jax.vmap(run)(params, rngs)


def measure_samples(
    mixture: Mixture,
    samples: ArrayLike,
    reference: ArrayLike,
    start: ArrayLike | None = None,
) -> Measures:
    """Measures one set of samples.

    Args:
      mixture: Distribution of the data.
      samples: Samples, [sample, dim].
      reference: Fresh data, [point, dim].
      start: The start of each sample in noise, [sample, dim].
    """
    samples, reference = np.asarray(samples), np.asarray(reference)
    gaps = cdist(samples, mixture.means)
    mode = gaps.argmin(axis=1)
    shares = np.bincount(mode, minlength=len(mixture.means)) / len(samples)
    offsets = _centre_within(mode, samples)
    memory = np.nan
    if start is not None:
        origin = _centre_within(mode, np.asarray(start))
        scale = np.sqrt(np.mean(offsets**2) * np.mean(origin**2))
        # Samples that all coincide have no memory.
        memory = np.mean(offsets * origin) / scale if scale > 0 else 0.0
    reach = (np.sqrt(samples.shape[1]) + 3) * mixture.std
    some = samples[:_NUM_COVERED], reference[:_NUM_COVERED]
    return Measures(
        distance=sliced_wasserstein(samples, reference),
        first_share=float(shares[0]),
        share_error=float(0.5 * np.abs(shares - mixture.weights).sum()),
        width=float(np.sqrt(np.mean(offsets**2)) / mixture.std),
        stray=float(np.mean(gaps.min(axis=1) > reach)),
        coverage=coverage(cdist(*some)),
        memory=float(memory),
    )


def _centre_within(mode: NDArray, points: NDArray) -> NDArray[np.float64]:
    """Subtracts from each point the mean of the points of its mode."""
    counts = np.bincount(mode)
    sums = np.stack([np.bincount(mode, column) for column in points.T], axis=1)
    return points - (sums / np.maximum(counts, 1)[:, None])[mode]


def mean_measures(measures: Sequence[Measures]) -> Measures:
    """Takes the mean of each measure over runs."""
    return Measures(*np.mean(measures, axis=0))
