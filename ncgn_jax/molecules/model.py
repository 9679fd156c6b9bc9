"""Models of molecules: diffusion in the latents of an autoencoder, without data set.

(arXiv 2501.03696, mended.) A network denoises the latents of a molecule's atoms. Noise,
flow matching and heat dissipation are one interpolant. The autoencoder is frozen and
travels in the model state, so that a checkpoint is all that sampling needs.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.models.apply import apply_network
from ncgn_jax.molecules.codec import (
    MoleculeCodec,
    Variables,
    as_molecules,
    empty_batch,
)
from ncgn_jax.molecules.denoiser import MoleculeDenoiser
from ncgn_jax.molecules.process import (
    LatentProcess,
    TrainingTimes,
    carry_guess,
    masked_noise,
)
from ncgn_jax.process import (
    Sampler,
    SamplerState,
    interpolate,
    loss_weight,
    make_sampler,
    take_steps,
    weighted_mse,
)
from ncgn_jax.tasks.bucketed import Objective, row_keys
from ncgn_jax.tasks.sampling import (
    BucketedSampler,
    Reached,
    Sampling,
    Start,
    Stretch,
    as_times,
    guide,
    sample_keys,
)

Tree = Any
SELF_CONDITIONINGS = ("none", "latents", "decoded")
# Times of a batch are spread over this many equally likely parts of [0, 1].
NUM_TIME_BINS = 4


@dataclasses.dataclass(frozen=True)
class DenoiserSettings:
    """The size and kind of the denoising network; see `molecules.denoiser`.

    Attributes:
      network: One of `NETWORKS`, or that of a plug-in.
      width: Hidden features of an atom.
      pair_width: Features of pairs of atoms.
      num_layers: Layers.
      self_conditioning: One of `SELF_CONDITIONINGS`.
      make: Builds the network of a plug-in; None for one of `NETWORKS`.
    """

    network: str
    width: int
    pair_width: int
    num_layers: int
    self_conditioning: str
    make: Callable[..., nn.Module] | None = None


class Conditions(NamedTuple):
    """Properties that generation is conditioned on.

    Attributes:
      names: Their names.
      mean: Mean of each over the training molecules, [property].
      std: Standard deviation of each, [property].
    """

    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """Returns what the network sees of properties, float32 [row, 2 property].

        Beside each value stands whether it is known, to tell it from an average one.

        Args:
          values: [row, property], NaN where unknown.
        """
        values = (values - self.mean) / self.std
        known = np.isfinite(values)
        both = np.concatenate([np.where(known, values, 0.0), known], axis=1)
        return both.astype(np.float32)


class LatentSampler(NamedTuple):
    """What a compiled stretch of the sampler depends on besides shapes."""

    sampler: str
    data_limit: float | None
    guidance: float
    guess_guidance: float


@dataclasses.dataclass(frozen=True, eq=False)
class MoleculeModel:
    """A generative model of molecules.

    Attributes:
      codec: The autoencoder.
      process: Noise and heat.
      signal: Noise variable of the network, `mixing` or `time`.
      objective: Target and loss.
      training_times: Where training times lie.
      latent_noise: Share of a latent's deviation that is added when it is learned.
      network_settings: Size and kind of the denoising network.
      conditions: Properties that generation is conditioned on, None for none.
      condition_dropout: Share of training molecules whose conditions are all hidden.
        Where there are several, each of the others' is hidden half of the time.
    """

    codec: MoleculeCodec
    process: LatentProcess
    signal: str
    objective: Objective
    training_times: TrainingTimes
    latent_noise: float
    network_settings: DenoiserSettings
    conditions: Conditions | None = None
    condition_dropout: float = 0.1

    @property
    def bucket_names(self) -> tuple[str, ...]:
        """A name for each part of the training times."""
        ends = np.linspace(0.0, 1.0, NUM_TIME_BINS + 1, dtype=np.float32)
        ends = np.rint(100 * np.asarray(self.training_times(ends))).astype(int)
        return tuple(f"t{low}_{high}" for low, high in itertools.pairwise(ends))

    @property
    def _has_guess(self) -> bool:
        return self.network_settings.self_conditioning != "none"

    def network(self) -> nn.Module:
        """Returns the network, which is called as `MoleculeDenoiser` is."""
        own, sizes = self.network_settings, self.codec.sizes
        if own.make is not None:
            return own.make(own, sizes)
        decoded = own.self_conditioning == "decoded"
        return MoleculeDenoiser(
            own.network,
            sizes.latent_dim,
            sizes.total,
            own.width,
            own.pair_width,
            own.num_layers,
            self._has_guess,
            self.codec.num_classes if decoded else 0,
        )

    def init(self, rng: jax.Array, codec: Variables | None = None) -> tuple[Tree, Tree]:
        """Returns initial parameters, and the autoencoder as model state.

        Args:
          rng: Random key.
          codec: Variables of a trained autoencoder; untrained ones if None, good for
            shapes and speeds.
        """
        molecules = empty_batch(1, self.codec.max_atoms)
        x = jnp.zeros((1, self.codec.max_atoms, self.codec.sizes.total))
        condition = self.no_condition(1)
        variables = self.network().init(rng, x, jnp.zeros(1), molecules.mask, condition)
        return variables["params"], {"codec": codec or self.codec.init(rng)}

    def loss(
        self,
        params: Tree,
        model_state: Tree,
        batch: dict[str, jax.Array],
        rng: jax.Array,
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns a device's mean loss, the model state, and the loss by time.

        Args:
          params: Parameters.
          model_state: The autoencoder.
          batch: Molecules as `codec.make_batch` returns them, `row`, the number of each
            row in the global batch, and `condition` if there are conditions.
          rng: Key of the step.
        """
        molecules, row = as_molecules(batch), batch["row"]
        keys = row_keys(rng, row, 5)
        codec = model_state["codec"]
        latents = self.codec.draw_latents(
            codec, molecules, keys[:, :2], self.latent_noise
        )
        bins = row % NUM_TIME_BINS
        u = (bins + jax.vmap(jax.random.uniform)(keys[:, 2])) / NUM_TIME_BINS
        t = self.training_times(u)
        noise = masked_noise(keys[:, 3], molecules.mask, latents.shape[-1])
        noise = self.codec.center(noise, molecules.mask)
        target = self.objective.target
        x_t, wanted = self.process.noise(latents, noise, t, molecules.mask, target)
        condition = self._hide_some(batch.get("condition"), keys[:, 4])
        known = (t, molecules.mask, condition)
        guess = None
        if self._has_guess:
            first = self._predict(params, x_t, *known)
            found = self.process.data_hat(first, x_t, t, molecules.mask, target)
            # Every other row of each part of time; the rest start without a guess.
            informed = (row // NUM_TIME_BINS) % 2 == 0
            guess = jnp.where(informed[:, None, None], found, 0.0)
            guess = jax.lax.stop_gradient(guess)
        decoded = self._decode_guess(codec, guess, molecules.mask)
        output = self._predict(params, x_t, *known, guess, decoded)
        weight = loss_weight(self.objective.loss_weight, target, self.process.base, t)
        per_row = weighted_mse(output, wanted, weight, molecules.mask)
        mine = bins[:, None] == jnp.arange(NUM_TIME_BINS)[None]
        sums = jnp.sum(jnp.where(mine, per_row[:, None], 0.0), axis=0)
        per_bin = sums * NUM_TIME_BINS / len(row)
        return jnp.mean(per_row), (model_state, per_bin)

    def draw_sizes(
        self, num: int, seed: int, low: int = 0, high: int = 0
    ) -> np.ndarray:
        """Draws numbers of atoms, int [num].

        Args:
          num: Number of draws.
          seed: Seed of the draws.
          low: Fewest atoms, if `high` is given: known sizes are then equally likely.
          high: Most atoms; 0 draws sizes as often as they occur in training.

        Raises:
          ValueError: If no training molecule has such a size.
        """
        counts = np.asarray(self.codec.facts.size_counts, float)
        if high:
            sizes = np.arange(len(counts))
            counts = ((counts > 0) & (sizes >= low) & (sizes <= high)).astype(float)
        if not counts.any():
            raise ValueError(f"no training molecule has {low} to {high} atoms")
        rng = np.random.default_rng([seed, 0])
        return rng.choice(len(counts), size=num, p=counts / counts.sum())

    def sample(
        self,
        params: Tree,
        codec: Variables,
        sizes: np.ndarray,
        seed: int,
        sampling: Sampling,
        *,
        guess_guidance: float = 0.0,
        wanted: Sequence[float] = (),
        start_from: np.ndarray | None = None,
    ) -> np.ndarray:
        """Samples latents, float32 [molecule, atom, number], 0 in padding.

        Args:
          params: Parameters.
          codec: Variables of the autoencoder.
          sizes: Atoms of each molecule, [molecule].
          seed: Seed of all draws.
          sampling: The sampler's settings.
          guess_guidance: How far to move beyond predictions without a guess.
          wanted: A value for each of the conditions, NaN for any; () for none.
          start_from: Clean latents to blur and noise at t = 0; None for noise alone.
        """
        options = _options(sampling, guess_guidance)
        state = self._sampler.sample(
            options,
            self.stretches(sampling),
            functools.partial(self.start, sizes, seed, wanted, start_from),
            (params, codec),
            len(sizes),
            sampling.batch_size,
        )
        return self.latents_of(state, self.codec.mask_of(sizes))

    def walk(
        self,
        params: Tree,
        codec: Variables,
        start: Start,
        stretches: Sequence[Stretch],
        sampling: Sampling,
        *,
        guess_guidance: float = 0.0,
    ) -> Iterator[Reached]:
        """Samples molecules stretch by stretch; see `latents_of` for the states.

        Args:
          params: Parameters.
          codec: Variables of the autoencoder.
          start: Noise, keys and what is given.
          stretches: What `stretches` returns.
          sampling: Sampler and its settings.
          guess_guidance: How far to move on from predictions without a guess.
        """
        options = _options(sampling, guess_guidance)
        return self._sampler.walk(options, stretches, start, (params, codec))

    def start(
        self,
        sizes: np.ndarray,
        seed: int,
        wanted: Sequence[float],
        start_from: np.ndarray | None,
        rows: np.ndarray,
    ) -> Start:
        """Returns the states of some molecules at t = 0; arguments as `sample`.

        Args:
          sizes: Atoms of every molecule, [molecule].
          seed: Seed of the samples.
          wanted: A value for each of the conditions, NaN for any; () for none.
          start_from: Clean latents of every molecule.
          rows: Numbers of the molecules, int [row].
        """
        mask = self.codec.mask_of(sizes)[rows]
        keys = jax.random.split(jax.random.key(seed), len(sizes))[rows]
        state = self._prior(
            keys, mask, None if start_from is None else start_from[rows]
        )
        given = (mask, self._condition(len(rows), wanted))
        return Start(np.asarray(state), sample_keys(seed, rows), given)

    def latents_of(self, state: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Returns the latents of a sampler's state.

        Args:
          state: As `walk` reaches it, [molecule, mode, number].
          mask: True for real atoms, [molecule, atom].
        """
        latents = self.process.to_latents(jnp.asarray(state), jnp.asarray(mask))
        return np.asarray(latents)

    def stretches(self, sampling: Sampling) -> list[Stretch]:
        """Returns the sampler's time grid, a single stretch: shapes do not change.

        Args:
          sampling: Sampler and its settings.
        """
        dim = self.codec.max_atoms * self.codec.sizes.total
        return [Stretch(None, 0, as_times(sampling.times(self.process.base, dim)))]

    @functools.cached_property
    def _sampler(self) -> BucketedSampler:
        return BucketedSampler(self._program, self._begin)

    def _begin(self, options: LatentSampler, x: jax.Array) -> SamplerState:
        sampler = make_sampler(options.sampler)
        return carry_guess(sampler).begin(x) if self._has_guess else sampler.begin(x)

    def _program(self, options: LatentSampler, bucket: int | None):
        del bucket  # There is one shape.

        def run(state, keys, given, shared, times, offset):
            (mask, condition), (params, codec) = given, shared
            nothing = self.no_condition(len(mask))

            def network(x_t, t, guess=None):
                decoded = self._decode_guess(codec, guess, mask)
                told = self._predict(params, x_t, t, mask, condition, guess, decoded)
                moved = told
                if options.guidance and condition is not None:
                    free = self._predict(params, x_t, t, mask, nothing, guess, decoded)
                    moved = guide(told, free, options.guidance)
                if options.guess_guidance:
                    blank = self._predict(params, x_t, t, mask, condition)
                    moved += options.guess_guidance * (told - blank)
                return moved

            denoise = self.process.denoiser(
                network, self.objective.target, mask, options.data_limit
            )
            is_unrolled = self._has_guess and options.sampler == "heun"
            how = {"unrolled": True} if is_unrolled else {}
            sampler = make_sampler(options.sampler, **how)
            sampler = self._keep_padding(sampler, mask)
            walk = self.process.schedule(mask), state, times, keys, offset
            if self._has_guess:
                return take_steps(carry_guess(sampler), denoise, *walk)
            return take_steps(sampler, denoise, *walk)

        return run

    def _keep_padding(self, sampler, mask):
        """Wraps a sampler so that no noise gets into padding, nor into the centre."""

        def padded(denoise, schedule, state, t, t_next, rng):
            state = sampler.step(denoise, schedule, state, t, t_next, rng)
            latents = self.process.to_latents(state.x, mask)
            latents = jnp.where(mask[:, :, None], latents, 0.0)
            x = self.process.to_state(self.codec.center(latents, mask), mask)
            return state._replace(x=x)

        return Sampler(sampler.begin, padded)

    def _prior(self, keys, mask, start_from):
        """Draws states at t = 0: noise, or blurred and noised latents."""
        noise = self.codec.center(
            masked_noise(keys, mask, self.codec.sizes.total), jnp.asarray(mask)
        )
        state = self.process.to_state(noise, mask)
        if start_from is None:
            alpha, sigma, _, _ = self.process.base.coefficients(0.0)
            return state * jnp.sqrt(alpha**2 + sigma**2)
        data = self.process.to_state(start_from, mask)
        return interpolate(
            self.process.schedule(mask), jnp.zeros(len(mask)), data, state
        )

    def _predict(self, params, x_t, t, mask, condition, guess=None, decoded=None):
        level = self.process.level(t, self.signal)
        inputs = (x_t, level, mask, condition, guess, decoded)
        output = apply_network(self.network(), {"params": params}, *inputs)
        return self.codec.center(output, mask)

    def _decode_guess(self, codec, guess, mask):
        """Returns probabilities of atoms and bonds, 0 where there is no guess.

        None if the network does not read them.
        """
        if self.network_settings.self_conditioning != "decoded":
            return None
        atoms, bonds = self.codec.decode(codec, guess, mask)
        there = jnp.any(guess != 0.0, axis=(1, 2))[:, None, None]
        atoms = jnp.where(there, jax.nn.softmax(atoms), 0.0)
        return atoms, jnp.where(there[..., None], jax.nn.softmax(bonds), 0.0)

    def no_condition(self, count: int) -> jax.Array | None:
        """Returns the condition that says nothing; None for a model without any.

        Args:
          count: Number of molecules.
        """
        if self.conditions is None:
            return None
        return jnp.zeros((count, 2 * len(self.conditions.names)))

    def _condition(self, count: int, wanted: Sequence[float]) -> np.ndarray | None:
        if self.conditions is None:
            return None
        if not len(wanted):
            return np.asarray(self.no_condition(count))
        row = self.conditions.standardise(np.asarray([wanted], np.float32))
        return np.repeat(row, count, axis=0)

    def _hide_some(self, condition, keys):
        """Hides conditions of some rows, so that they can be left out.

        All of a row with probability `condition_dropout`; where there are several, each
        of the rows left by itself with probability 1/2, so that any can be asked alone.
        """
        if self.conditions is None:
            return None
        dropout, num = self.condition_dropout, len(self.conditions.names)
        hide = jax.vmap(lambda key: jax.random.bernoulli(key, dropout))(keys)
        hide = jnp.repeat(hide[:, None], num, axis=1)
        if dropout and num > 1:
            alone = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
            hide |= jax.vmap(lambda key: jax.random.bernoulli(key, shape=(num,)))(alone)
        return jnp.where(jnp.tile(hide, 2), 0.0, condition)


def _options(sampling: Sampling, guess_guidance: float) -> LatentSampler:
    return LatentSampler(
        sampling.sampler, sampling.data_limit, sampling.guidance, guess_guidance
    )
