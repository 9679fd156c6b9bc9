"""Molecules: diffusion in the latents of an autoencoder (arXiv 2501.03696, mended).

Two stages in one run: the autoencoder (`tasks.molecule_autoencoder`), then, with it
frozen, a network that denoises the latents of a molecule's atoms. Noise, flow
matching and heat dissipation are one interpolant; the autoencoder travels in the
model state, so that a checkpoint is all that sampling needs.
"""

import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.data.batches import batch_indices
from ncgn_jax.faults import DataError
from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.molecules.autoencoder_task import (
    AutoencoderTask,
    describe_autoencoder,
    reconstruct,
)
from ncgn_jax.molecules.codec import (
    MoleculeCodec,
    Variables,
    as_molecules,
    empty_batch,
    make_batch,
)
from ncgn_jax.molecules.config import (
    NUM_TIME_BINS,
    default_config,
    first_stage_config,
    validate,
)
from ncgn_jax.molecules.denoiser import MoleculeDenoiser
from ncgn_jax.molecules.load import load_dataset
from ncgn_jax.molecules.process import (
    carry_guess,
    draw_sizes,
    make_process,
    make_training_times,
    masked_noise,
)
from ncgn_jax.molecules.scores import (
    COLUMNS,
    PUBLISHED_SIZES,
    evaluate_molecules,
)
from ncgn_jax.molecules.sets import MoleculeDataset
from ncgn_jax.parallel import map_over_devices
from ncgn_jax.process import (
    integrate,
    interpolate,
    loss_weight,
    make_sampler_step,
    weighted_mse,
)
from ncgn_jax.tasks.bucketed import row_keys, sample_chunks
from ncgn_jax.tasks.settings import make_sample_times

__all__ = [
    "MoleculeTask",
    "default_config",
    "first_stage_config",
    "make_task",
    "validate",
]


def make_task(config: ConfigDict) -> "MoleculeTask":
    """Loads the data and builds the task; its first stage is still to be adopted."""
    return MoleculeTask(config, load_dataset(config))


class MoleculeTask:
    """Latents, their process, network, loss and samples; see `tasks.Task`."""

    columns: tuple[Column, ...] = COLUMNS

    def __init__(self, config: ConfigDict, dataset: MoleculeDataset):
        self.config = config
        self.dataset = dataset
        self.codec = MoleculeCodec(config, dataset.train)
        self.process = make_process(config, self.codec.max_atoms)
        self._training_times = make_training_times(config)
        ends = np.linspace(0.0, 1.0, NUM_TIME_BINS + 1, dtype=np.float32)
        ends = np.rint(100 * np.asarray(self._training_times(ends))).astype(int)
        self.bucket_names = tuple(
            f"t{low}_{high}" for low, high in itertools.pairwise(ends)
        )
        self._adopted: Variables | None = None
        self._conditions = self._standard_conditions()

    def describe(self) -> list[str]:
        """Says in a few lines which data, stages and process are used."""
        model, process = self.config.model, self.config.process
        heat = "" if process.heat == "none" else f", {process.heat} heat"
        if process.still_noise is not None:
            kind = f"constant noise {process.still_noise}"
        else:
            kind = f"{process.schedule} process"
        return [
            f"data: {self.dataset.source}",
            describe_autoencoder(self.config),
            f"model: {model.network}, width {model.width}, {model.num_layers} layers; "
            f"{kind}{heat}, {process.target} target",
        ]

    def first_stage(self) -> tuple[ConfigDict, AutoencoderTask]:
        """Returns the configuration and the task of the autoencoder."""
        config = first_stage_config(self.config)
        return config, AutoencoderTask(config, self.dataset)

    def adopt(self, params: Any, model_state: Any) -> None:
        """Takes over the trained first stage: parameters and statistics."""
        self._adopted = {"params": params, **model_state}

    def network(self) -> MoleculeDenoiser:
        """Returns the denoising network."""
        model, sizes = self.config.model, self.codec.sizes
        return MoleculeDenoiser(
            model.network,
            sizes.latent_dim,
            sizes.total,
            model.width,
            model.pair_width,
            model.num_layers,
            model.self_conditioning != "none",
            self.codec.num_classes if model.self_conditioning == "decoded" else 0,
        )

    def init(self, rng: jax.Array) -> tuple[Any, Any]:
        """Returns initial parameters, and the autoencoder as model state.

        An autoencoder that was not adopted is untrained: good for shapes and speeds.
        """
        molecules = empty_batch(1, self.codec.max_atoms)
        x = jnp.zeros((1, self.codec.max_atoms, self.codec.sizes.total))
        condition = self._no_condition(1)
        variables = self.network().init(rng, x, jnp.zeros(1), molecules.mask, condition)
        codec = self._adopted or self.codec.init(rng)
        return variables["params"], {"codec": codec}

    def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """Returns molecules, their properties and `row` of some rows."""
        size, train = self.config.train.batch_size, self.dataset.train
        index = batch_indices(len(train), size, step, self.config.seed)[rows]
        batch = {**make_batch(train, index), "row": np.arange(size)[rows]}
        if self._conditions is not None:
            batch["condition"] = self._conditions[index]
        return batch

    def loss(
        self, params: Any, model_state: Any, batch: dict[str, jax.Array], rng: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        """Returns a device's mean loss, the model state, and the loss by time."""
        molecules, row = as_molecules(batch), batch["row"]
        keys = row_keys(rng, row, 5)
        share, codec = self.config.process.latent_noise, model_state["codec"]
        latents = self.codec.draw_latents(codec, molecules, keys[:, :2], share)
        bins = row % NUM_TIME_BINS
        u = (bins + jax.vmap(jax.random.uniform)(keys[:, 2])) / NUM_TIME_BINS
        t = self._training_times(u)
        noise = masked_noise(keys[:, 3], molecules.mask, latents.shape[-1])
        noise = self.codec.center(noise, molecules.mask)
        target = self.config.process.target
        x_t, wanted = self.process.noise(latents, noise, t, molecules.mask, target)
        condition = self._hide_some(batch.get("condition"), keys[:, 4])
        known = (t, molecules.mask, condition)
        guess = None
        if self.config.model.self_conditioning != "none":
            first = self._predict(params, x_t, *known)
            found = self.process.data_hat(first, x_t, t, molecules.mask, target)
            # Every other row of each part of time; the rest start without a guess.
            informed = (row // NUM_TIME_BINS) % 2 == 0
            guess = jnp.where(informed[:, None, None], found, 0.0)
            guess = jax.lax.stop_gradient(guess)
        decoded = self._decode_guess(codec, guess, molecules.mask)
        output = self._predict(params, x_t, *known, guess, decoded)
        weight = loss_weight(
            self.config.process.loss_weight, target, self.process.base, t
        )
        per_row = weighted_mse(output, wanted, weight, molecules.mask)
        mine = bins[:, None] == jnp.arange(NUM_TIME_BINS)[None]
        sums = jnp.sum(jnp.where(mine, per_row[:, None], 0.0), axis=0)
        per_bin = sums * NUM_TIME_BINS / len(row)
        return jnp.mean(per_row), (model_state, per_bin)

    def sample(
        self, params: Any, model_state: Any, num_samples: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Generates molecules, and what they are to be read beside.

        Returns:
          `atoms`, `bonds` and `bonds_valency` as `MoleculeCodec.decode_all`, and
          `latents`; the same with the prefixes `published_` (sizes as the paper draws
          them), `control_` (pure noise through the same decoder) and `decoded_` (test
          molecules from their own latents).
        """
        codec, sample = model_state["codec"], self.config.sample
        train = self.dataset.train.num_atoms
        sizes = draw_sizes(train, num_samples, seed)
        latents = self.generate_latents(params, codec, sizes, seed)
        arrays = {"latents": latents, **self._decode(codec, latents, sizes)}
        low, high = PUBLISHED_SIZES
        allowed = np.unique(train[(train >= low) & (train <= high)])
        if sample.num_published and len(allowed):
            sizes = draw_sizes(allowed, sample.num_published, seed + 1)
            latents = self.generate_latents(params, codec, sizes, seed + 1)
            parts = self._decode(codec, latents, sizes)
            arrays |= {f"published_{name}": part for name, part in parts.items()}
        num_control = min(num_samples, self.config.evaluate.max_reference)
        sizes = draw_sizes(train, num_control, seed + 2)
        keys = jax.random.split(jax.random.key(seed + 2), len(sizes))
        noise = masked_noise(keys, self.codec.mask_of(sizes), self.codec.sizes.total)
        parts = self._decode(codec, np.asarray(noise), sizes)
        arrays |= {f"control_{name}": part for name, part in parts.items()}
        if sample.num_reconstructed:
            parts = reconstruct(
                self.codec, codec, self.dataset.test, sample.num_reconstructed, seed
            )
            arrays |= {f"decoded_{name}": part for name, part in parts.items()}
        return arrays

    def generate_latents(
        self, params: Any, codec: Variables, sizes: np.ndarray, seed: int
    ) -> np.ndarray:
        """Samples the latents of molecules of given sizes.

        Args:
          params: Of the network.
          codec: Variables of the autoencoder, for the prior `train`.
          sizes: Atoms of each molecule, [molecule].
          seed: Seed of all draws.

        Returns:
          float32 [molecule, atom, number], 0 in padding.
        """
        mask = self.codec.mask_of(sizes)
        keys = jax.random.split(jax.random.key(seed), len(sizes))
        start = np.asarray(self._prior(codec, keys, mask, seed))
        keys, parts = row_keys(jax.random.key(seed + 1), np.arange(len(sizes))), []
        for rows in sample_chunks(len(sizes), self.config.sample.batch_size):
            last = self._sampler(
                start[rows], mask[rows], keys[rows], params, codec, self._times()
            )
            parts.append(np.asarray(last)[: len(sizes) - rows[0]])
        return np.concatenate(parts)

    def walk(self, params: Any, codec: Variables, sizes: np.ndarray, seed: int):
        """Yields latents [molecule, atom, number] and t along the path of a sample."""
        mask = self.codec.mask_of(sizes)
        keys = jax.random.split(jax.random.key(seed), len(sizes))
        state = np.asarray(self._prior(codec, keys, mask, seed))
        times = self._times()
        yield np.asarray(self.process.to_latents(state, mask)), 0.0
        cuts = np.unique(np.linspace(0, len(times) - 1, 6).astype(int))
        for first, last in zip(cuts[:-1], cuts[1:], strict=True):
            rng = jax.random.fold_in(jax.random.key(seed + 1), first)
            leg, own = times[first : last + 1], row_keys(rng, np.arange(len(sizes)))
            latents = self._sampler(state, mask, own, params, codec, leg)
            state = np.asarray(self.process.to_state(latents, mask))
            yield np.asarray(latents), float(leg[-1])

    def evaluate(
        self, samples: dict[str, dict[str, np.ndarray]]
    ) -> tuple[dict[str, Row], dict[str, object]]:
        """Measures generated molecules beside training and test molecules."""
        rows = evaluate_molecules(
            self.dataset, samples, self.config.evaluate.max_reference
        )
        count = max(len(arrays["atoms"]) for arrays in samples.values())
        meta = {
            "data_set": self.dataset.name,
            "split": "test",
            "sizes": f"{count} generated, {len(self.dataset.train)} training, "
            f"{len(self.dataset.test)} test molecules",
        }
        return rows, meta

    def draw(
        self,
        params: Any,
        model_state: Any,
        samples: dict[str, np.ndarray],
        folder: str | Path,
    ) -> list[Path]:
        """Saves pictures of molecules and latents, and the molecules as files."""
        from ncgn_jax.molecules.pictures import draw_all

        return draw_all(self, params, model_state, samples, Path(folder))

    def _predict(self, params, x_t, t, mask, condition, guess=None, decoded=None):
        level = self.process.level(t, self.config.process.signal)
        network = functools.partial(self.network().apply, {"params": params})
        output = network(x_t, level, mask, condition, guess, decoded)
        return self.codec.center(output, mask)

    def _decode_guess(self, codec, guess, mask):
        """Returns probabilities of atoms and bonds, 0 where there is no guess.

        None if the network does not read them.
        """
        if self.config.model.self_conditioning != "decoded":
            return None
        atoms, bonds = self.codec.decode(codec, guess, mask)
        there = jnp.any(guess != 0.0, axis=(1, 2))[:, None, None]
        atoms = jnp.where(there, jax.nn.softmax(atoms), 0.0)
        return atoms, jnp.where(there[..., None], jax.nn.softmax(bonds), 0.0)

    def _decode(self, codec, latents, sizes) -> dict[str, np.ndarray]:
        return self.codec.decode_all(codec, latents, self.codec.mask_of(sizes))

    def _times(self) -> np.ndarray:
        dim = self.codec.max_atoms * self.codec.sizes.total
        times = make_sample_times(self.config, self.process.base, dim)
        return times.astype(np.float32)

    def _prior(self, codec, keys, mask, seed):
        """Draws states at t = 0: noise, or blurred and noised training latents."""
        noise = self.codec.center(
            masked_noise(keys, mask, self.codec.sizes.total), jnp.asarray(mask)
        )
        state = self.process.to_state(noise, mask)
        schedule = self.process.schedule(mask)
        if self.config.sample.prior == "noise":
            alpha, sigma, _, _ = self.process.base.coefficients(0.0)
            return state * jnp.sqrt(alpha**2 + sigma**2)
        data = self.process.to_state(self._start_from(codec, mask, seed), mask)
        return interpolate(schedule, jnp.zeros(len(mask)), data, state)

    def _start_from(self, codec, mask, seed):
        """Returns latents of random training molecules of the same sizes.

        There are such: sizes are drawn from the training molecules.
        """
        rng, train = np.random.default_rng([seed, 1]), self.dataset.train
        sizes, counts = mask.sum(axis=1), train.num_atoms
        index = np.zeros(len(mask), int)
        for size in np.unique(sizes):
            own = np.flatnonzero(counts == size)
            index[sizes == size] = rng.choice(own, size=(sizes == size).sum())
        share = self.config.process.latent_noise
        return self.codec.encode_all(codec, train.take(index), len(index), seed, share)

    @functools.cached_property
    def _sampler(self):
        """Compiles the sampler over all devices."""
        sample, target = self.config.sample, self.config.process.target
        remember = self.config.model.self_conditioning != "none"

        def run(state, mask, keys, params, codec, times):
            condition = self._wanted_condition(len(mask))
            nothing = self._no_condition(len(mask))

            def network(x_t, t, guess=None):
                decoded = self._decode_guess(codec, guess, mask)
                told = self._predict(params, x_t, t, mask, condition, guess, decoded)
                moved = told
                if sample.guidance and condition is not None:
                    free = self._predict(params, x_t, t, mask, nothing, guess, decoded)
                    moved += sample.guidance * (told - free)
                if sample.guess_guidance:
                    blank = self._predict(params, x_t, t, mask, condition)
                    moved += sample.guess_guidance * (told - blank)
                return moved

            denoise = self.process.denoiser(network, target, mask, sample.data_limit)
            step = self._keep_padding(make_sampler_step(sample.sampler), mask)
            schedule = self.process.schedule(mask)
            if remember:
                step = carry_guess(step)
                state = jnp.concatenate([state, jnp.zeros_like(state)], axis=-1)
            state = integrate(step, denoise, schedule, state, times, keys)
            return self.process.to_latents(state[..., : self.codec.sizes.total], mask)

        return map_over_devices(run, batch_argnums=(0, 1, 2))

    def _keep_padding(self, step, mask):
        """Wraps a step so that no noise gets into padding, nor into the centre."""

        def padded(denoise, schedule, x_t, t, t_next, rng):
            x_next = step(denoise, schedule, x_t, t, t_next, rng)
            latents = self.process.to_latents(x_next, mask)
            latents = jnp.where(mask[:, :, None], latents, 0.0)
            return self.process.to_state(self.codec.center(latents, mask), mask)

        return padded

    def _standard_conditions(self) -> np.ndarray | None:
        """Returns the properties of the training molecules at unit variance."""
        names, train = self.config.model.conditions, self.dataset.train
        if not names:
            return None
        for name in names:
            if name not in train.properties:
                known = ", ".join(sorted(train.properties)) or "none"
                raise DataError(
                    f"model.conditions: the data has no property {name!r}; it has "
                    f"{known}"
                )
            if not np.isfinite(train.properties[name]).any():
                raise DataError(f"model.conditions: {name!r} is known of no molecule")
        values = np.stack([train.properties[name] for name in names], axis=1)
        self._moments = np.nanmean(values, axis=0), np.nanstd(values, axis=0) + 1e-8
        values = (values - self._moments[0]) / self._moments[1]
        known = np.isfinite(values)
        # What is unknown is told apart from what is average.
        values = np.concatenate([np.where(known, values, 0.0), known], axis=1)
        return values.astype(np.float32)

    def _no_condition(self, count: int) -> jax.Array | None:
        if self._conditions is None:
            return None
        return jnp.zeros((count, self._conditions.shape[1]))

    def _wanted_condition(self, count: int) -> jax.Array | None:
        values = np.asarray(self.config.sample.condition_values, np.float32)
        if self._conditions is None or not len(values):
            return self._no_condition(count)
        values = (values - self._moments[0]) / self._moments[1]
        row = np.concatenate([values, np.ones_like(values)]).astype(np.float32)
        return jnp.broadcast_to(jnp.asarray(row)[None], (count, len(row)))

    def _hide_some(self, condition, keys):
        """Hides the condition of some rows, so that it can be left out."""
        if condition is None:
            return None
        dropout = self.config.model.condition_dropout
        hide = jax.vmap(lambda key: jax.random.bernoulli(key, dropout))(keys)
        return jnp.where(hide[:, None], 0.0, condition)
