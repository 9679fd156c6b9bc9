"""Trains and evaluates models of molecules, in two stages of one run.

The autoencoder (`molecules.autoencoder_task`) comes first; then, with it frozen, a
network that denoises the latents of a molecule's atoms.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.data.batches import batch_indices
from ncgn_jax.data.report import DataReport
from ncgn_jax.faults import Faults
from ncgn_jax.metrics.table import Row
from ncgn_jax.molecules.autoencoder_task import AutoencoderTask, reconstruct
from ncgn_jax.molecules.codec import Variables, make_batch
from ncgn_jax.molecules.config import (
    FIELDS,
    NAME,
    check,
    check_training,
    first_stage_config,
    make_model,
)
from ncgn_jax.molecules.facts import MoleculeFacts, check_wanted, learn_facts
from ncgn_jax.molecules.load import load_dataset, recognise
from ncgn_jax.molecules.own_data import write_molecules
from ncgn_jax.molecules.process import masked_noise
from ncgn_jax.molecules.scores import COLUMNS, PUBLISHED_SIZES, evaluate_molecules
from ncgn_jax.molecules.sets import MoleculeDataset
from ncgn_jax.molecules.trained import TrainedMolecules
from ncgn_jax.run.model_file import ModelFile, Weights
from ncgn_jax.tasks import Arrays, Task, Tree
from ncgn_jax.tasks.sampling import Start, cut_further
from ncgn_jax.tasks.settings import make_sampling

_NUM_PATHS = 5
_NUM_PIECES = 5


class MoleculeTask(Task[MoleculeDataset, MoleculeFacts]):
    """Joins a model of molecules with its data; its first stage is adopted."""

    name = NAME
    facts_type = MoleculeFacts
    usual_config = "molecules"
    fields = FIELDS
    anchors = ("train", "held_out")
    extra_samples = ("sample.num_published", "sample.num_reconstructed")
    samples_beside_data = True
    columns = COLUMNS

    def __init__(
        self,
        config: ConfigDict,
        dataset: MoleculeDataset | None,
        facts: MoleculeFacts | None = None,
    ) -> None:
        super().__init__(config, dataset, facts)
        check_wanted(config.sample.condition_values, self.facts)
        self.model = make_model(config, self.facts)
        self.sampling = make_sampling(config)
        self.bucket_names = self.model.bucket_names
        self._adopted: Variables | None = None

    @classmethod
    def check(cls, config: ConfigDict, faults: Faults) -> None:
        """Checks what holds between fields."""
        check(config, faults)

    @classmethod
    def check_training(cls, config: ConfigDict, faults: Faults) -> None:
        """Checks what must hold on these devices to train."""
        check_training(config, faults)

    @classmethod
    def load_dataset(cls, config: ConfigDict) -> MoleculeDataset:
        """Loads the molecules of a configuration."""
        return load_dataset(config)

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        """Recognises files, folders and archives of molecules, and QM9."""
        return recognise(path)

    @classmethod
    def write_data(cls, data: Any, stem: Path) -> tuple[Path, dict[str, Any]]:
        """Writes data as `own_data.write_molecules`."""
        path, properties = write_molecules(data, stem)
        return path, {
            "data.source": "file",
            "data.smiles_column": "smiles",
            "data.properties": properties,
            "data.split": "random",
        }

    def trained(self, weights: Weights, about: ModelFile) -> TrainedMolecules:
        """Joins the model with weights to one that stands on its own."""
        return TrainedMolecules(self.model, self.sampling, weights, about)

    @classmethod
    def learn(cls, config: ConfigDict, dataset: MoleculeDataset) -> MoleculeFacts:
        """Finds atom classes, sizes and conditions of the training molecules."""
        return learn_facts(dataset.train, config.model.conditions)

    @functools.cached_property
    def _conditions(self) -> np.ndarray | None:
        """What the network sees of the properties of the training molecules."""
        conditions, known = self.model.conditions, self.dataset.train.properties
        if conditions is None:
            return None
        values = np.stack([known[name] for name in conditions.names], axis=1)
        return conditions.standardise(values)

    @classmethod
    def first_stage_config(cls, config: ConfigDict) -> ConfigDict:
        """Returns what the first stage of a configuration trains."""
        return first_stage_config(config)

    def describe_data(self) -> list[str]:
        """Describes the data in a few lines."""
        return self.dataset.report.lines(self.dataset.name)

    @property
    def report(self) -> DataReport | None:
        """How the data were read; None without them."""
        return self._dataset.report if self._dataset is not None else None

    def describe_model(self) -> list[str]:
        """Describes stages and process in a few lines."""
        model, process = self.config.model, self.config.process
        heat = "" if process.heat == "none" else f", {process.heat} heat"
        if process.still_noise is not None:
            kind = f"constant noise {process.still_noise}"
        else:
            kind = f"{process.schedule} process"
        return [
            self.model.codec.settings.describe(),
            f"model: {model.network}, width {model.width}, {model.num_layers} layers; "
            f"{kind}{heat}, {process.target} target",
        ]

    def first_stage(self) -> tuple[ConfigDict, AutoencoderTask]:
        """Returns the configuration and the task of the autoencoder."""
        config = first_stage_config(self.config)
        return config, AutoencoderTask(config, self.dataset)

    def adopt(self, params: Tree, model_state: Tree) -> None:
        """Takes over the trained first stage: parameters and statistics."""
        self._adopted = {"params": params, **model_state}

    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters, and the adopted autoencoder as model state."""
        return self.model.init(rng, self._adopted)

    def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """Returns molecules, their properties and `row` of some rows."""
        size, train = self.config.train.batch_size, self.dataset.train
        index = batch_indices(len(train), size, step, self.config.seed)[rows]
        batch = {**make_batch(train, index), "row": np.arange(size)[rows]}
        if self._conditions is not None:
            batch["condition"] = self._conditions[index]
        return batch

    def loss(
        self, params: Tree, model_state: Tree, batch: Tree, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns a device's mean loss, the model state, and the loss by time."""
        return self.model.loss(params, model_state, batch, rng)

    def sample(
        self, params: Tree, model_state: Tree, num_samples: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Generates molecules, and what they are to be read beside.

        Returns:
          `atoms`, `bonds` and `bonds_valency` as `MoleculeCodec.decode_all`, and
          `latents`; the same with the prefixes `published_` (sizes as the paper draws
          them), `control_` (pure noise through the same decoder) and `decoded_` (test
          molecules from their own latents).
        """
        codec, sample, model = model_state["codec"], self.config.sample, self.model
        sizes = model.draw_sizes(num_samples, seed)
        latents = self._generate(params, codec, sizes, seed)
        arrays = {"latents": latents, **self._decode(codec, latents, sizes)}
        low, high = PUBLISHED_SIZES
        if sample.num_published and any(self.facts.size_counts[low : high + 1]):
            sizes = model.draw_sizes(sample.num_published, seed + 1, low, high)
            latents = self._generate(params, codec, sizes, seed + 1)
            parts = self._decode(codec, latents, sizes)
            arrays |= {f"published_{name}": part for name, part in parts.items()}
        num_control = min(num_samples, self.config.evaluate.max_reference)
        sizes = model.draw_sizes(num_control, seed + 2)
        keys = jax.random.split(jax.random.key(seed + 2), len(sizes))
        mask = model.codec.mask_of(sizes)
        noise = masked_noise(keys, jnp.asarray(mask), model.codec.sizes.total)
        parts = self._decode(codec, np.asarray(noise), sizes)
        arrays |= {f"control_{name}": part for name, part in parts.items()}
        if sample.num_reconstructed and self._dataset is not None:
            parts = reconstruct(
                model.codec, codec, self.dataset.test, sample.num_reconstructed, seed
            )
            arrays |= {f"decoded_{name}": part for name, part in parts.items()}
        return arrays

    def caption(self) -> dict[str, object]:
        """States what the table is measured on."""
        data, sample = self.dataset, self.config.sample
        caption: dict[str, object] = {
            "data_set": data.name,
            "split": "test",
            "sizes": f"{sample.num_samples} generated, {len(data.train)} training, "
            f"{len(data.test)} test molecules",
        }
        if self.model.conditions is not None:
            names = self.model.conditions.names
            values = sample.condition_values or ("not given",) * len(names)
            pairs = zip(names, values, strict=True)
            caption["conditions"] = ", ".join(f"{name} {v}" for name, v in pairs)
            caption["guidance"] = self.sampling.guidance
        if sample.guess_guidance:
            caption["guess_guidance"] = sample.guess_guidance
        return caption

    def evaluate(self, samples: Mapping[str, Arrays]) -> dict[str, Row]:
        """Measures generated molecules beside training and test molecules."""
        return evaluate_molecules(
            self.dataset, samples, self.config.evaluate.max_reference
        )

    def draw(
        self, params: Tree, model_state: Tree, samples: Arrays, folder: Path
    ) -> list[Path]:
        """Saves pictures of molecules and latents, and the molecules as files."""
        from ncgn_jax.molecules.pictures import draw_all

        codec = model_state["codec"]
        return draw_all(
            self.model.codec,
            codec,
            samples,
            self._dataset,
            self.first_paths(params, codec),
            folder,
        )

    def first_paths(
        self, params: Tree, codec: Variables
    ) -> list[tuple[np.ndarray, float, np.ndarray]]:
        """Walks the first samples as `sample` does.

        Returns:
          Latents [molecule, atom, number], t, and the mask of real atoms, from the
          noise to the samples.
        """
        seed, num_samples = self.config.seed, self.config.sample.num_samples
        model, sampling = self.model, self.sampling
        sizes = model.draw_sizes(num_samples, seed)
        rows = np.arange(min(_NUM_PATHS, num_samples))
        start = self._start(codec, sizes, seed, rows)
        mask = model.codec.mask_of(sizes[rows])
        path = [(model.latents_of(start.x, mask), 0.0, mask)]
        stretches = cut_further(model.stretches(sampling), _NUM_PIECES)
        for reached in model.walk(
            params,
            codec,
            start,
            stretches,
            sampling,
            guess_guidance=self.config.sample.guess_guidance,
        ):
            path.append((model.latents_of(reached.x, mask), reached.t, mask))
        return path

    def _start(
        self, codec: Variables, sizes: np.ndarray, seed: int, rows: np.ndarray
    ) -> Start:
        wanted = self.config.sample.condition_values
        latents = self._start_from(codec, sizes, seed)
        return self.model.start(sizes, seed, wanted, latents, rows)

    def _generate(self, params, codec, sizes: np.ndarray, seed: int) -> np.ndarray:
        sample = self.config.sample
        return self.model.sample(
            params,
            codec,
            sizes,
            seed,
            self.sampling,
            guess_guidance=sample.guess_guidance,
            wanted=sample.condition_values,
            start_from=self._start_from(codec, sizes, seed),
        )

    def _start_from(
        self, codec: Variables, sizes: np.ndarray, seed: int
    ) -> np.ndarray | None:
        """Returns latents of random training molecules of these sizes, if asked for.

        There are such: sizes are drawn from the training molecules.
        """
        if self.config.sample.prior == "noise":
            return None
        rng, train = np.random.default_rng([seed, 1]), self.dataset.train
        index = np.zeros(len(sizes), int)
        for size in np.unique(sizes):
            own = np.flatnonzero(train.num_atoms == size)
            index[sizes == size] = rng.choice(own, size=(sizes == size).sum())
        share = self.config.process.latent_noise
        return self.model.codec.encode_all(
            codec, train.take(index), len(index), seed, share
        )

    def _decode(self, codec, latents, sizes) -> dict[str, np.ndarray]:
        own = self.model.codec
        return own.decode_all(codec, latents, own.mask_of(sizes))
