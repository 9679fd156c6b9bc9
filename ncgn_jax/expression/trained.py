"""Trained models of expression fields: sample."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ncgn_jax.data.whole_files import whole_file
from ncgn_jax.expression.model import ExpressionModel, Fixed
from ncgn_jax.faults import RequestError
from ncgn_jax.tasks.trained import TrainedModel, at_least


@dataclasses.dataclass(frozen=True)
class Fields:
    """Expression fields that a model made.

    Attributes:
      values: In the units of the training data, float32 [field, node, gene].
      positions: Of the nodes of each field, [field, node, dim]; NaN in the padding.
      genes: Name of each gene.
    """

    values: np.ndarray
    positions: np.ndarray
    genes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def save(self, path: str | Path) -> list[Path]:
        """Writes `values`, `positions` and `genes` to one .npz file."""
        path = Path(path)
        if path.suffix.lower() != ".npz":
            raise RequestError(f"path: found {path.name!r}; allowed: .npz")
        with whole_file(path) as file:
            np.savez_compressed(
                file,
                values=self.values,
                positions=self.positions,
                genes=np.asarray(self.genes),
            )
        return [path]


class TrainedFields(TrainedModel[ExpressionModel]):
    """A trained model of expression fields."""

    domain = "expression"

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes of a field, in order."""
        return self.model.facts.genes

    def sample(
        self,
        num: int,
        *,
        positions: np.ndarray | Sequence[np.ndarray] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        seed: int = 0,
    ) -> Fields:
        """Generates fields.

        Args:
          num: Number of fields.
          positions: Nodes to generate expression at, [node, dim], or several such
            layouts that are taken in turn, in the units of the training data; None for
            layouts of training fields.
          steps: Sampler steps; None for those of the model's configuration.
          sampler: One of `process.SAMPLERS`; None for that of the configuration.
          seed: Seed of the noise. The same call gives the same fields.

        Raises:
          RequestError: If an argument is not possible.
        """
        num, model = at_least("num", num, 1), self.model
        sampling = self._settings(steps=steps, sampler=sampler)
        points = self._layouts(positions)
        num_nodes = max(map(len, points))
        if positions is None:
            num_nodes = model.facts.num_nodes
        layouts = model.connect(points, num_nodes)
        index = np.arange(num) % len(points)
        shape = (num, num_nodes, model.num_genes)
        fixed = Fixed(index, np.zeros(shape, bool), np.zeros(shape, np.float32))
        values = model.sample(
            self.params, self.model_state, layouts, fixed, seed, sampling, hold=True
        )
        padding = ~layouts.mask[index][..., None]
        places = np.where(padding, np.nan, layouts.positions[index])
        return Fields(values, places, self.genes)

    def _layouts(
        self, positions: np.ndarray | Sequence[np.ndarray] | None
    ) -> list[np.ndarray]:
        if positions is None:
            return self.model.facts.positions()
        if isinstance(positions, np.ndarray):
            positions = [positions] if positions.ndim == 2 else list(positions)
        found, dim = [], self.model.facts.dim
        for one in positions:
            points = np.asarray(one, np.float32)
            if points.ndim != 2 or points.shape[1] != dim or len(points) < 2:
                raise RequestError(
                    f"positions: found shape {points.shape}; allowed: [node, {dim}]"
                )
            found.append(points)
        if not found:
            raise RequestError("positions: found no layout; allowed: at least one")
        return found
