"""Trained models of expression fields: sample, and impute what was not measured."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from ncgn_jax.data.whole_files import whole_file
from ncgn_jax.expression.cell_names import SPATIAL_KEYS
from ncgn_jax.expression.cell_tables import to_names
from ncgn_jax.expression.model import ExpressionModel, Fixed, Layouts
from ncgn_jax.expression.sections import NONE, choose_section_column
from ncgn_jax.expression.units import CellUnits
from ncgn_jax.faults import DataError, RequestError, did_you_mean
from ncgn_jax.run.model_file import ModelFile, Weights
from ncgn_jax.tasks.sampling import Sampling
from ncgn_jax.tasks.trained import TrainedModel, at_least, in_range_of_seeds

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
        """Writes `values`, `positions` and `genes` to one .npz file.

        Args:
          path: File; its ending is .npz.

        Returns:
          The file written.
        """
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
    formats = (".npz",)

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

        Of counts that were scaled to a library size, those of generated cells are
        scaled back to the median of the training cells.

        Args:
          num: Number of fields.
          positions: Nodes to generate expression at, [node, dim], or several such
            layouts that are taken in turn, in the units of the training file (the time
            last, for a model with times); None for layouts of training fields, which
            lie about their middle in units of a patch.
          steps: Sampler steps; None for those of the model's configuration.
          sampler: One of `process.SAMPLERS`; None for that of the configuration.
          seed: Seed of the noise. The same call gives the same fields.

        Returns:
          The fields, in the units of the data.

        Raises:
          RequestError: If an argument is not possible.
        """
        seed = in_range_of_seeds(seed)
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
        # In double precision if the caller gave it, because frames may lie far off.
        kind = places[0].dtype
        found = np.full((num, num_nodes, places[0].shape[1]), np.nan, kind)
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
        sections: ArrayLike | str | None = None,
        draws: int = 1,
        steps: int | None = None,
        seed: int = 0,
        spatial_key: str | None = None,
        layer: str | None = None,
    ) -> Any:
        """Fills in genes and entries that were not measured.

        Columns are matched by name. Genes of the model that the cells lack are filled
        in for all cells, as are those named in `genes`; of the others the entries that
        are NaN. The cells are cut into patches of neighbours as in training, and each
        is filled in from the patch whose middle is nearest. Patches never mix sections.

        A model of counts that were scaled to a library size scales these by the sum of
        the known counts of each cell, over the share that these genes have in training.

        Args:
          cells: An AnnData object; or expression in the units of the training file,
            [cell, gene], NaN where not measured.
          positions: Place of each cell, [cell, axis], if `cells` is an array.
          gene_names: Name of each column, if `cells` is an array.
          genes: Genes to fill in for all cells, measured or not.
          times: Time of each cell, for a model with times.
          sections: Section of each cell; for AnnData the column of `obs`, where None
            takes one with a usual name and `none` says that all are of one.
          draws: Fields that are generated for each patch; the mean is returned.
          steps: Sampler steps; None for those of the model's configuration.
          seed: Seed of the noise.
          spatial_key: Where an AnnData object has the places, in `obsm`; None for a
            usual key.
          layer: Layer of an AnnData object with the expression, `X` for that matrix;
            None for the layer of the training file.

        Returns:
          For an array `Imputed`. For an AnnData object a copy with the genes of the
          model, those that were missing NaN in X, and layers `imputed` and
          `imputed_std`; X is in the units of the matrix that was read.

        Raises:
          RequestError: If an argument is not possible.
        """
        seed = in_range_of_seeds(seed)
        draws, units = at_least("draws", draws, 1), self.model.facts.units
        if units is None:
            raise RequestError(
                "impute: this model was not trained on cells of a tissue, so that no "
                "file has its units"
            )
        if hasattr(cells, "obsm"):
            table = _read_annotated(cells, spatial_key, layer, units.layer, sections)
        else:
            table = _read_arrays(cells, positions, gene_names, sections)
        known = self._match(table, genes)
        of_counts = units.logarithm or units.library_size is not None
        if of_counts and np.nanmin(known) < 0:
            raise RequestError(
                f"cells: found {np.nanmin(known):g}; allowed: counts, which the model "
                "scales or takes the logarithm of"
            )
        totals = None
        if units.library_size is not None:
            totals = _library_sizes(table, known, self.genes, np.asarray(units.shares))
        times = self._times(times, len(known))
        num_axes = self.model.facts.dim - (times is not None)
        if table.positions.shape[1] != num_axes:
            raise RequestError(
                f"positions: found {table.positions.shape[1]} axes; allowed: {num_axes}"
            )
        places, num_nodes = table.positions, self.model.facts.num_nodes
        patches = _cover(places, times, num_nodes, table.sections)
        laid = [units.place(places[rows], _part(times, rows)) for rows in patches]
        layouts = self.model.connect(laid, num_nodes)
        fixed = self._fix(known, patches, units, totals)
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
        mean = self._to_file(made.mean(axis=0), totals)
        spread = self._to_file(made, totals).std(axis=0)
        values = np.where(is_known, known, mean).astype(np.float32)
        std = np.where(is_known, 0, spread).astype(np.float32)
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

    def _match(self, table: "_CellArrays", genes: Sequence[str]) -> np.ndarray:
        """Returns expression of the model's genes, NaN where it is to be filled in."""
        asked = [genes] if isinstance(genes, str) else list(genes)
        for name in asked:
            if name not in self.genes:
                hint = did_you_mean(name, self.genes)
                raise RequestError(
                    f"genes: found {name!r}; allowed: {_listed(self.genes)}{hint}"
                )
        column = {name: i for i, name in enumerate(table.genes)}
        double = sorted(name for name in self.genes if table.genes.count(name) > 1)
        if double:
            raise RequestError(
                f"cells: gene {double[0]!r} stands there more than once; give each a "
                "name of its own (in AnnData by `var_names_make_unique()`)"
            )
        common = [name for name in self.genes if name in column]
        if not set(common) - set(asked):
            raise RequestError(
                "cells: none of their genes is both one of the model and measured; "
                f"the model has {_listed(self.genes)}"
            )
        known = np.full((len(table.positions), len(self.genes)), np.nan)
        for i, name in enumerate(self.genes):
            if name in column and name not in asked:
                known[:, i] = table.take(column[name])
        return known

    def _fix(
        self,
        known: np.ndarray,
        patches: Sequence[np.ndarray],
        units: CellUnits,
        totals: np.ndarray | None,
    ) -> Fixed:
        shape = (len(patches), self.model.facts.num_nodes, self.model.num_genes)
        given, values = np.zeros(shape, bool), np.zeros(shape, np.float32)
        # Filled-in entries stand for anything; 0 has a logarithm.
        whole = units.to_fields(np.where(np.isfinite(known), known, 0.0), totals)
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

    def _to_file(
        self, values: np.ndarray, totals: np.ndarray | None = None
    ) -> np.ndarray:
        units = self.model.facts.units
        found = values if units is None else units.to_file(values, totals)
        return np.asarray(found, np.float32)

    def _place(self, points: np.ndarray) -> np.ndarray:
        units = self.model.facts.units
        if units is None:
            return points.astype(np.float32)
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
            points = np.asarray(one, np.float64)
            if points.ndim != 2 or points.shape[1] != dim or len(points) < 2:
                raise RequestError(
                    f"positions: found shape {points.shape}; allowed: [node, {dim}]"
                )
            found.append(points)
        if not found:
            raise RequestError("positions: found no layout; allowed: at least one")
        return found


class _CellArrays(NamedTuple):
    expression: Any  # [cell, gene], NaN where not measured, maybe sparse
    positions: np.ndarray  # [cell, axis]
    genes: tuple[str, ...]
    sections: np.ndarray | None  # number of the section of each cell

    def take(self, gene: int) -> np.ndarray:
        """Returns one gene of all cells, float64 [cell]."""
        column = self.expression[:, [gene]]
        column = column.toarray() if hasattr(column, "toarray") else column
        return np.asarray(column, np.float64)[:, 0]


def _read_annotated(
    cells: Any,
    spatial_key: str | None,
    layer: str | None,
    usual_layer: str,
    sections: ArrayLike | str | None,
) -> _CellArrays:
    """Takes expression, places, names and sections from an AnnData object."""
    if spatial_key is None:
        usual = [key for key in SPATIAL_KEYS if key in cells.obsm]
        spatial_key = usual[0] if usual else SPATIAL_KEYS[0]
    if spatial_key not in cells.obsm:
        known = ", ".join(map(str, cells.obsm)) or "nothing"
        raise RequestError(f"spatial_key: found {spatial_key!r}; obsm has {known}")
    asked = layer or usual_layer or "X"
    if asked == "X" and "X" not in cells.layers:
        expression, names = cells.X, cells.var_names
    elif asked in cells.layers:
        expression, names = cells.layers[asked], cells.var_names
    elif asked == "raw" and cells.raw is not None:
        expression, names = cells.raw.X, cells.raw.var_names
    else:
        known = ", ".join(["X", *map(str, cells.layers)])
        raise RequestError(
            f"layer: found {asked!r}{'' if layer else ', that of training'}; "
            f"allowed: {known}"
        )
    if expression is None:
        raise RequestError(
            f"layer: X is empty; allowed: {', '.join(map(str, cells.layers)) or 'none'}"
        )
    places = np.asarray(cells.obsm[spatial_key], np.float64)
    return _checked(expression, places, names, _sections_of(cells, sections, places))


def _sections_of(
    cells: Any, column: ArrayLike | str | None, places: np.ndarray
) -> ArrayLike | None:
    """Returns the section of each cell of an AnnData object."""
    if column is not None and not isinstance(column, str):
        return column
    if column == NONE:
        return None
    if column is not None:
        if column not in cells.obs:
            raise RequestError(
                f"sections: no column {column!r} in obs; it has "
                f"{_listed(list(map(str, cells.obs.columns)))}"
            )
        return to_names(cells.obs[column])
    try:
        found = choose_section_column(
            list(map(str, cells.obs.columns)),
            lambda name: cells.obs[name].to_numpy(),
            places,
            lambda note: None,
        )
    except DataError as error:
        raise RequestError(f"sections: {error}") from error
    return None if found is None else to_names(cells.obs[found])


def _read_arrays(
    cells: Any,
    positions: ArrayLike | None,
    gene_names: Sequence[str] | None,
    sections: ArrayLike | str | None,
) -> _CellArrays:
    """Takes expression, places and names from arrays."""
    if positions is None or gene_names is None:
        raise RequestError("positions and gene_names: needed beside an array of cells")
    if isinstance(sections, str):
        raise RequestError("sections: found a name; allowed: one for each cell")
    is_sparse = hasattr(cells, "toarray")
    expression = cells if is_sparse else np.asarray(cells, np.float64)
    return _checked(expression, positions, gene_names, sections)


def _checked(
    expression: Any,
    positions: ArrayLike,
    gene_names: Sequence[str],
    sections: ArrayLike | None,
) -> _CellArrays:
    """Checks that the parts fit each other."""
    if hasattr(expression, "tocsc"):
        expression = expression.tocsc()
    places, names = np.asarray(positions, np.float64), tuple(map(str, gene_names))
    if expression.ndim != 2 or expression.shape[1] != len(names):
        raise RequestError(
            f"cells: found shape {expression.shape}; allowed: [cell, {len(names)}]"
        )
    num_cells = expression.shape[0]
    if places.ndim != 2 or len(places) != num_cells:
        raise RequestError(
            f"positions: found shape {places.shape}; allowed: [{num_cells}, axis]"
        )
    if not np.isfinite(places).all():
        raise RequestError("positions: found places that are not finite")
    group = None
    if sections is not None:
        labels = np.asarray(sections)
        if labels.shape != (num_cells,):
            raise RequestError(
                f"sections: found shape {labels.shape}; allowed: ({num_cells},)"
            )
        group = np.unique(labels.astype(str), return_inverse=True)[1]
    return _CellArrays(expression, places, names, group)


def _library_sizes(
    table: _CellArrays, known: np.ndarray, genes: Sequence[str], shares: np.ndarray
) -> np.ndarray:
    """Estimates the sum of all counts of each cell, as if all had been measured.

    That is the sum of what is known over the share that it has in training. Genes that
    the model has not were counted in training too; if the table has any, they count.

    Args:
      table: The cells.
      known: Expression of the model's genes, NaN where unknown, [cell, gene].
      genes: Names of these.
      shares: Share of each in all counts of training.
    """
    is_known = np.isfinite(known)
    total = np.where(is_known, known, 0.0).sum(axis=1)
    share = (is_known * shares).sum(axis=1)
    others = [i for i, name in enumerate(table.genes) if name not in set(genes)]
    if others:
        rest = table.expression[:, others]
        if hasattr(rest, "toarray"):
            total += np.asarray(rest.sum(axis=1), np.float64).reshape(-1)
        else:
            total += np.nansum(np.asarray(rest, np.float64), axis=1)
        share += max(0.0, 1.0 - shares.sum())
    return np.divide(total, share, out=np.zeros_like(total), where=share > 0)


def _annotated(
    cells: Any, table: _CellArrays, genes: tuple[str, ...], values: Any, std: Any
) -> Any:
    """Returns a copy of an AnnData object with the genes of the model."""
    import anndata

    column = {name: i for i, name in enumerate(table.genes)}
    known = np.full(values.shape, np.nan, np.float32)
    for i, name in enumerate(genes):
        if name in column:
            known[:, i] = table.take(column[name])
    var = cells.var[~cells.var_names.duplicated()].reindex(list(genes))
    return anndata.AnnData(
        known,
        obs=cells.obs.copy(),
        var=var,
        obsm={key: np.asarray(value) for key, value in cells.obsm.items()},
        layers={"imputed": values, "imputed_std": std},
    )


def _cover(
    positions: np.ndarray,
    times: np.ndarray | None,
    num_nodes: int,
    sections: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Cuts cells of each section and time into patches that cover all of them."""
    keys = np.zeros((len(positions), 2))
    for axis, part in enumerate((sections, times)):
        if part is not None:
            keys[:, axis] = part
    kind = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    patches = []
    for number in range(kind.max() + 1):
        own = np.flatnonzero(kind == number)
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
