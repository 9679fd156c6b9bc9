"""Mixes the latents of padded molecules with noise, with or without heat.

One interpolant for all: with heat it acts on the coefficients of modes, and a mode
has an alpha of its own (`process.blurring`); the network sees atoms in either case.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ncgn_jax.process import (
    Denoiser,
    Sampler,
    SamplerState,
    Schedule,
    interpolate,
    logit_normal_times,
    make_denoiser,
    make_target,
    to_data_and_noise,
)
from ncgn_jax.process.blurring import (
    STILL,
    from_modes,
    make_heat_modes,
    to_modes,
    with_heat,
)

TIMES = ("uniform", "logit_normal")
GuessDenoiser = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class LatentProcess:
    """The process between noise and latents.

    Attributes:
      base: Noise alone; its weights are those of the loss.
      max_atoms: Atoms that molecules are padded to.
      heat: `none`, or one of `blurring.HEAT_KINDS`.
      blur: How far heat has spread at t; None without heat.
    """

    base: Schedule
    max_atoms: int
    heat: str = "none"
    blur: Callable[[jax.Array], jax.Array] | None = None

    def level(self, t: jax.Array, signal: str) -> jax.Array:
        """Returns the noise variable that a network sees at t.

        Args:
          t: Times, [molecule].
          signal: `mixing` for the schedule's signal level, `time` for t itself, which
            is used in any case where noise is constant and heat alone changes.
        """
        if signal == "time" or self.base.name == STILL:
            return t
        return self.base.signal_level(t)

    def schedule(self, mask: jax.Array) -> Schedule:
        """Returns the schedule of a batch of molecules.

        Args:
          mask: True for real atoms, [molecule, atom].
        """
        if self.blur is None:
            return self.base
        rates = make_heat_modes(self.heat, self.max_atoms).rates
        return with_heat(self.base, jnp.asarray(rates)[jnp.sum(mask, 1)], self.blur)

    def to_state(self, values: jax.Array, mask: jax.Array) -> jax.Array:
        """Takes latents [molecule, atom, number] to what is noised."""
        return values if self.blur is None else to_modes(self._basis(mask), values)

    def to_latents(self, state: jax.Array, mask: jax.Array) -> jax.Array:
        """Undoes `to_state`."""
        return state if self.blur is None else from_modes(self._basis(mask), state)

    def _basis(self, mask):
        basis = make_heat_modes(self.heat, self.max_atoms).basis
        return jnp.asarray(basis)[jnp.sum(mask, axis=1)]

    def noise(
        self,
        latents: jax.Array,
        noise: jax.Array,
        t: jax.Array,
        mask: jax.Array,
        target: str,
    ) -> tuple[jax.Array, jax.Array]:
        """Mixes latents and noise.

        Args:
          latents: Clean ones, [molecule, atom, number], 0 in padding.
          noise: Standard normal, 0 in padding.
          t: Times, [molecule].
          mask: True for real atoms, [molecule, atom].
          target: What is to be predicted, one of `process.PREDICTION_KINDS`.

        Returns:
          Noisy latents and the target, as the network sees them.
        """
        schedule = self.schedule(mask)
        data, noise = (self.to_state(part, mask) for part in (latents, noise))
        x_t = interpolate(schedule, t, data, noise)
        wanted = make_target(target, schedule, t, data, noise)
        return self.to_latents(x_t, mask), self.to_latents(wanted, mask)

    def data_hat(
        self,
        output: jax.Array,
        x_t: jax.Array,
        t: jax.Array,
        mask: jax.Array,
        kind: str,
    ) -> jax.Array:
        """Returns the clean latents that a network's output stands for.

        Args:
          output: Prediction at x_t, [molecule, atom, number].
          x_t: Noisy latents, same shape.
          t: Times, [molecule].
          mask: True for real atoms, [molecule, atom].
          kind: What is predicted, one of `process.PREDICTION_KINDS`.
        """
        output, state = (self.to_state(part, mask) for part in (output, x_t))
        found, _ = to_data_and_noise(kind, output, state, self.schedule(mask), t)
        return self.to_latents(found, mask)

    def denoiser(
        self,
        network: Callable[..., jax.Array],
        target: str,
        mask: jax.Array,
        data_limit: float | None = None,
    ) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """Turns a network on latents into what sampler steps work with.

        Args:
          network: (x_t, t) or (x_t, t, guess) -> prediction, all latents.
          target: What it predicts, one of `process.PREDICTION_KINDS`.
          mask: True for real atoms, [molecule, atom].
          data_limit: See `process.make_denoiser`.

        Returns:
          denoise(state, t) or denoise(state, t, guess) -> (data_hat, noise_hat).
        """
        schedule = self.schedule(mask)

        def denoise(state, t, *guess):
            seen = [self.to_latents(part, mask) for part in guess]

            def predict(x, t):
                return self.to_state(network(self.to_latents(x, mask), t, *seen), mask)

            return make_denoiser(predict, target, schedule, data_limit)(state, t)

        return denoise


@dataclasses.dataclass(frozen=True)
class TrainingTimes:
    """Where training times lie.

    Attributes:
      kind: One of `TIMES`.
      center: Median of logit-normal times.
      spread: Deviation of their logits.
    """

    kind: str = "uniform"
    center: float = 0.5
    spread: float = 1.0

    def __call__(self, u: ArrayLike) -> jax.Array:
        """Maps uniform numbers in [0, 1] to training times."""
        if self.kind == "uniform":
            return jnp.asarray(u)
        return logit_normal_times(u, self.center, self.spread)


def carry_guess(sampler: Sampler[Denoiser]) -> Sampler[GuessDenoiser]:
    """Lets a sampler pass each guess of the data on to the next call of the network.

    Args:
      sampler: A sampler that calls its denoiser outside of loops.

    Returns:
      A sampler whose denoiser is called as denoise(state, t, guess). The guess is part
      of the history, and 0 before the first call.
    """

    def begin(x):
        return SamplerState(x, (sampler.begin(x).history, jnp.zeros_like(x)))

    def step(denoise, schedule, state, t, t_next, rng):
        history, guess = state.history
        guesses = [guess]

        def denoise_with_guess(x, t):
            pair = denoise(x, t, guesses[-1])
            guesses.append(pair[0])
            return pair

        inner = SamplerState(state.x, history)
        found = sampler.step(denoise_with_guess, schedule, inner, t, t_next, rng)
        return SamplerState(found.x, (found.history, guesses[-1]))

    return Sampler(begin, step)


def masked_noise(keys: jax.Array, mask: jax.Array, dim: int) -> jax.Array:
    """Draws standard normal latents from one key per molecule, 0 in padding.

    Args:
      keys: [molecule].
      mask: True for real atoms, [molecule, atom].
      dim: Numbers an atom.
    """
    shape = (mask.shape[1], dim)
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    return jnp.where(mask[:, :, None], noise, 0.0)
