"""Trained models of expression fields: sample, and impute what was not measured."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from ncgn_jax.data.whole_files import whole_file
from ncgn_jax.expression.model import ExpressionModel, Fixed, Layouts
from ncgn_jax.expression.units import CellUnits
from ncgn_jax.faults import RequestError, did_you_mean
from ncgn_jax.run.model_file import ModelFile, Weights
from ncgn_jax.tasks.sampling import Sampling
from ncgn_jax.tasks.trained import TrainedModel, at_least

# Seeds of draws lie far apart, since the seed next to one is that of its sampler.
_SEED_STEP = 1000


@dataclasses.dataclass(frozen=True)
class Fields:
    """Expression fields that a model made.

    Attributes:
      values: In the units of the training file, float32 [field, node, gene].
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


@dataclasses.dataclass(frozen=True)
class Imputed:
    """Expression with what was not measured filled in.

    Attributes:
      values: In the units of what was given, float32 [cell, gene]; measured values are
        unchanged, the others are the mean of the draws. The mean is taken in the units
        of training (of logarithms, if the model takes them), as `evaluate` does, so
        that a single draw far off does not decide.
      std: Standard deviation of the draws, in the units of what was given; 0 where
        measured.
      genes: Name of each gene, those of the model.
    """

    values: np.ndarray
    std: np.ndarray
    genes: tuple[str, ...]


class TrainedFields(TrainedModel[ExpressionModel]):
    """A trained model of expression fields."""

    domain = "expression"

    def __init__(
        self,
        model: ExpressionModel,
        sampling: Sampling,
        weights: Weights,
        about: ModelFile,
        *,
        hold: bool,
    ) -> None:
        """Joins a model with weights; see `TrainedModel`.

        Args:
          model: The model.
          sampling: Settings of the sampler.
          weights: Arrays by path.
          about: Where they come from.
          hold: Whether the network sees given entries clean, see
            `process.given.keep_given`.
        """
        super().__init__(model, sampling, weights, about)
        self._hold = hold

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
            layouts that are taken in turn, in the units of the training file (the time
            last, for a model with times); None for layouts of training fields.
          steps: Sampler steps; None for those of the model's configuration.
          sampler: One of `process.SAMPLERS`; None for that of the configuration.
          seed: Seed of the noise. The same call gives the same fields.

        Raises:
          RequestError: If an argument is not possible.
        """
        num, model = at_least("num", num, 1), self.model
        sampling = self._settings(steps=steps, sampler=sampler)
        if positions is None:
            places = points = model.facts.positions()
            num_nodes = model.facts.num_nodes
        else:
            places = self._layouts(positions)
            points = [self._place(one) for one in places]
            num_nodes = max(map(len, points))
        layouts = model.connect(points, num_nodes)
        index = np.arange(num) % len(points)
        shape = (num, num_nodes, model.num_genes)
        fixed = Fixed(index, np.zeros(shape, bool), np.zeros(shape, np.float32))
        values = self._generate(layouts, fixed, seed, sampling)
        found = np.full((num, num_nodes, places[0].shape[1]), np.nan, np.float32)
        for row, which in zip(found, index, strict=True):
            row[: len(places[which])] = places[which]
        real = layouts.mask[index][..., None]
        return Fields(np.where(real, self._to_file(values), 0), found, self.genes)

    def impute(
        self,
        cells: Any,
        positions: ArrayLike | None = None,
        gene_names: Sequence[str] | None = None,
        *,
        genes: Sequence[str] = (),
        times: ArrayLike | None = None,
        draws: int = 1,
        steps: int | None = None,
        seed: int = 0,
        spatial_key: str = "spatial",
    ) -> Any:
        """Fills in genes and entries that were not measured.

        Columns are matched by name. Genes of the model that the cells lack are filled
        in for all cells, as are those named in `genes`; of the others the entries that
        are NaN. The cells are cut into patches of neighbours as in training, and each
        is filled in from the patch whose middle is nearest.

        Args:
          cells: An AnnData object; or expression in the units of the training file,
            [cell, gene], NaN where not measured.
          positions: Place of each cell, [cell, axis], if `cells` is an array.
          gene_names: Name of each column, if `cells` is an array.
          genes: Genes to fill in for all cells, measured or not.
          times: Time of each cell, for a model with times.
          draws: Fields that are generated for each patch; the mean is returned.
          steps: Sampler steps; None for those of the model's configuration.
          seed: Seed of the noise.
          spatial_key: Where an AnnData object has the places, in `obsm`.

        Returns:
          For an array `Imputed`. For an AnnData object a copy with the genes of the
          model, those that were missing NaN in X, and layers `imputed` and
          `imputed_std`.

        Raises:
          RequestError: If an argument is not possible.
        """
        draws, units = at_least("draws", draws, 1), self.model.facts.units
        if units is None:
            raise RequestError(
                "impute: this model was not trained on cells of a tissue, so that no "
                "file has its units"
            )
        table = _read_cells(cells, positions, gene_names, spatial_key)
        known = self._match(table, genes)
        if units.logarithm and np.nanmin(known) < 0:
            raise RequestError(
                f"cells: found {np.nanmin(known):g}; allowed: counts, of which the "
                "model takes the logarithm"
            )
        times = self._times(times, len(known))
        num_axes = self.model.facts.dim - (times is not None)
        if table.positions.shape[1] != num_axes:
            raise RequestError(
                f"positions: found {table.positions.shape[1]} axes; allowed: {num_axes}"
            )
        places, num_nodes = table.positions, self.model.facts.num_nodes
        patches = _cover(places, times, num_nodes)
        laid = [units.place(places[rows], _part(times, rows)) for rows in patches]
        layouts = self.model.connect(laid, num_nodes)
        fixed = self._fix(known, patches, units)
        sampling = self._settings(steps=steps)
        owners = _owners(places, patches)
        seeds = [seed + _SEED_STEP * k for k in range(draws)]
        made = np.stack(
            [
                self._gather(layouts, fixed, patches, owners, one, sampling)
                for one in seeds
            ]
        )
        is_known = np.isfinite(known)
        mean = self._to_file(made.mean(axis=0))
        values = np.where(is_known, known, mean).astype(np.float32)
        std = np.where(is_known, 0, self._to_file(made).std(axis=0)).astype(np.float32)
        if hasattr(cells, "obsm"):
            return _annotated(cells, table, self.genes, values, std)
        return Imputed(values, std, self.genes)

    def _generate(
        self, layouts: Layouts, fixed: Fixed, seed: int, sampling: Sampling
    ) -> np.ndarray:
        return self.model.sample(
            self.params,
            self.model_state,
            layouts,
            fixed,
            seed,
            sampling,
            hold=self._hold,
        )

    def _gather(self, layouts, fixed, patches, owners, seed, sampling) -> np.ndarray:
        """Generates all patches once; returns the cells, in the units of fields."""
        fields = self._generate(layouts, fixed, seed, sampling)
        cells = np.zeros((len(owners), self.model.num_genes))
        for number, (rows, field) in enumerate(zip(patches, fields, strict=True)):
            mine = owners[rows] == number
            cells[rows[mine]] = field[: len(rows)][mine]
        return cells

    def _match(self, table: "_Cells", genes: Sequence[str]) -> np.ndarray:
        """Returns expression of the model's genes, NaN where it is to be filled in."""
        asked = [genes] if isinstance(genes, str) else list(genes)
        for name in asked:
            if name not in self.genes:
                hint = did_you_mean(name, self.genes)
                raise RequestError(
                    f"genes: found {name!r}; allowed: {_listed(self.genes)}{hint}"
                )
        column = {name: i for i, name in enumerate(table.genes)}
        common = [name for name in self.genes if name in column]
        if not set(common) - set(asked):
            raise RequestError(
                "cells: none of their genes is both one of the model and measured; "
                f"the model has {_listed(self.genes)}"
            )
        known = np.full((len(table.positions), len(self.genes)), np.nan)
        for i, name in enumerate(self.genes):
            if name in column and name not in asked:
                known[:, i] = table.expression[:, column[name]]
        return known

    def _fix(
        self, known: np.ndarray, patches: Sequence[np.ndarray], units: CellUnits
    ) -> Fixed:
        shape = (len(patches), self.model.facts.num_nodes, self.model.num_genes)
        given, values = np.zeros(shape, bool), np.zeros(shape, np.float32)
        # Filled-in entries stand for anything; 0 has a logarithm.
        whole = units.to_fields(np.where(np.isfinite(known), known, 0.0))
        for i, rows in enumerate(patches):
            given[i, : len(rows)] = np.isfinite(known[rows])
            values[i, : len(rows)] = whole[rows]
        return Fixed(np.arange(len(patches)), given, values)

    def _times(self, times: ArrayLike | None, num_cells: int) -> np.ndarray | None:
        units = self.model.facts.units
        needed = units is not None and units.time_span is not None
        if needed != (times is not None):
            raise RequestError(
                "times: needed by this model" if needed else "times: the model has none"
            )
        if times is None:
            return None
        found = np.asarray(times, np.float64)
        if found.shape != (num_cells,):
            raise RequestError(
                f"times: found shape {found.shape}; allowed: ({num_cells},)"
            )
        return found

    def _to_file(self, values: np.ndarray) -> np.ndarray:
        units = self.model.facts.units
        found = values if units is None else units.to_file(values)
        return np.asarray(found, np.float32)

    def _place(self, points: np.ndarray) -> np.ndarray:
        units = self.model.facts.units
        if units is None:
            return points
        if units.time_span is None:
            return units.place(points)
        return units.place(points[:, :-1], points[:, -1])

    def _layouts(
        self, positions: np.ndarray | Sequence[np.ndarray]
    ) -> list[np.ndarray]:
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


class _Cells(NamedTuple):
    expression: np.ndarray  # [cell, gene], NaN where not measured
    positions: np.ndarray  # [cell, axis]
    genes: tuple[str, ...]


def _read_cells(
    cells: Any,
    positions: ArrayLike | None,
    gene_names: Sequence[str] | None,
    spatial_key: str,
) -> _Cells:
    """Takes expression, places and names from what was given, and checks them."""
    if hasattr(cells, "obsm"):
        if spatial_key not in cells.obsm:
            known = ", ".join(map(str, cells.obsm)) or "nothing"
            raise RequestError(f"spatial_key: found {spatial_key!r}; obsm has {known}")
        positions, gene_names = np.asarray(cells.obsm[spatial_key]), cells.var_names
        cells = cells.X.toarray() if hasattr(cells.X, "toarray") else cells.X
    if positions is None or gene_names is None:
        raise RequestError("positions and gene_names: needed beside an array of cells")
    expression = np.asarray(cells, np.float64)
    places, names = np.asarray(positions, np.float64), tuple(map(str, gene_names))
    if expression.ndim != 2 or expression.shape[1] != len(names):
        raise RequestError(
            f"cells: found shape {expression.shape}; allowed: [cell, {len(names)}]"
        )
    if places.ndim != 2 or len(places) != len(expression):
        raise RequestError(
            f"positions: found shape {places.shape}; allowed: [{len(expression)}, axis]"
        )
    if not np.isfinite(places).all():
        raise RequestError("positions: found places that are not finite")
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"gene_names: {double!r} stands there more than once")
    return _Cells(expression, places, names)


def _annotated(
    cells: Any, table: _Cells, genes: tuple[str, ...], values: Any, std: Any
) -> Any:
    """Returns a copy of an AnnData object with the genes of the model."""
    import anndata

    column = {name: i for i, name in enumerate(table.genes)}
    known = np.full(values.shape, np.nan, np.float32)
    for i, name in enumerate(genes):
        if name in column:
            known[:, i] = table.expression[:, column[name]]
    return anndata.AnnData(
        known,
        obs=cells.obs.copy(),
        var=cells.var.reindex(list(genes)),
        obsm={key: np.asarray(value) for key, value in cells.obsm.items()},
        layers={"imputed": values, "imputed_std": std},
    )


def _cover(
    positions: np.ndarray, times: np.ndarray | None, num_nodes: int
) -> list[np.ndarray]:
    """Cuts cells of each time into patches of neighbours that cover all of them."""
    moments = np.zeros(len(positions)) if times is None else times
    patches = []
    for moment in np.unique(moments):
        own = np.flatnonzero(moments == moment)
        if len(own) <= num_nodes:
            patches.append(own)
            continue
        tree, is_covered = cKDTree(positions[own]), np.zeros(len(own), bool)
        # From one end to the other, so that patches do not leave crumbs.
        for cell in np.argsort(positions[own, 0], kind="stable"):
            if not is_covered[cell]:
                near = np.sort(tree.query(positions[own[cell]], k=num_nodes)[1])
                is_covered[near] = True
                patches.append(own[near])
    return patches


def _owners(positions: np.ndarray, patches: Sequence[np.ndarray]) -> np.ndarray:
    """Returns for each cell the patch that holds it nearest to its middle."""
    best = np.full(len(positions), np.inf)
    owners = np.zeros(len(positions), int)
    for number, rows in enumerate(patches):
        middle = positions[rows].mean(axis=0)
        far = np.linalg.norm(positions[rows] - middle, axis=1)
        nearer = far < best[rows]
        best[rows[nearer]], owners[rows[nearer]] = far[nearer], number
    return owners


def _part(times: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if times is None else times[rows]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
