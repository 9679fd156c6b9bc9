"""Says what expression fields teach their model besides its weights."""

import dataclasses
from typing import ClassVar, Self

import numpy as np

from ncgn_jax.expression.sets import FieldDataset, Grid
from ncgn_jax.expression.units import CellUnits

# So many layouts are stored with a model, to sample on without data.
_NUM_LAYOUTS = 16


@dataclasses.dataclass(frozen=True)
class FieldFacts:
    """What the training fields taught a model.

    Attributes:
      genes: Names, in the order of the last axis of fields.
      mean: Mean of each gene over the training nodes.
      scale: Standard deviation of each gene over the training nodes.
      num_nodes: Nodes that fields are padded to.
      layouts: Positions of the nodes of some training fields, as tuples.
      grid: Times and places, if all training fields lie on one grid.
      units: Units of the file of cells; None for other sources.
    """

    relied_on: ClassVar[tuple[str, ...]] = ("genes", "num_nodes", "units")

    genes: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    num_nodes: int
    layouts: tuple[tuple[tuple[float, ...], ...], ...]
    grid: Grid | None = None
    units: CellUnits | None = None

    @property
    def dim(self) -> int:
        """Axes of the positions."""
        return len(self.layouts[0][0])

    @property
    def unit(self) -> str:
        """Unit of the expression that is generated, in words for pictures."""
        if self.units is None:
            return "0 to 1 in training"
        kind = "log(1 + x)" if self.units.logarithm else "x"
        return f"standard deviations of {kind}"

    def positions(self) -> list[np.ndarray]:
        """Returns the layouts as arrays, float32 [node, dim]."""
        return [np.asarray(points, np.float32) for points in self.layouts]

    def with_another_name(self) -> Self:
        """Returns facts with a name more, see `tasks.facts`."""
        return dataclasses.replace(
            self,
            genes=(*self.genes, "another"),
            mean=(*self.mean, 0.0),
            scale=(*self.scale, 1.0),
        )


def learn_facts(dataset: FieldDataset) -> FieldFacts:
    """Finds the facts of a data set."""
    train, (mean, scale) = dataset.train, dataset.moments()
    layouts = [np.asarray(points).tolist() for points in train.layouts[:_NUM_LAYOUTS]]
    return FieldFacts(
        genes=tuple(dataset.genes),
        mean=tuple(mean.astype(np.float32).tolist()),
        scale=tuple(scale.astype(np.float32).tolist()),
        num_nodes=train.values.shape[1],
        layouts=tuple(tuple(map(tuple, points)) for points in layouts),
        grid=train.grid,
        units=dataset.units,
    )
