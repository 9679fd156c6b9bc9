"""Loads expression fields on graphs of known positions.

A field holds the expression of a few genes at every node of a layout. Layouts may
differ in size; arrays are padded to the largest. The sources are simulations of a
Turing system (`turing`), profiles along an axis measured at several times
(`profiles`), and tissue cut into patches of neighbouring cells (`cells`).
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
from scipy.spatial import cKDTree

from ncgn_jax.data.array_files import read_npz
from ncgn_jax.data.cache import cached_arrays
from ncgn_jax.data.report import DataReport, Reading, count_repeated
from ncgn_jax.expression.cell_files import CellOptions, CellTable, load_cells
from ncgn_jax.expression.host_memory import require_bytes
from ncgn_jax.expression.sections import hold_out
from ncgn_jax.expression.turing import (
    GENES,
    SIMULATOR_VERSION,
    TRAIN_PLACES,
    TRAIN_TIMES,
    TimeNormaliser,
    simulate,
    turing_sets,
)
from ncgn_jax.expression.units import CellUnits
from ncgn_jax.faults import DataError

FIELD_SOURCES = ("turing", "profiles", "cells")
_PROFILE_ARRAYS = ("expression", "genes", "age_minutes", "time")
# Genes that are in double precision together.
_BLOCK = 512
# From so many genes on, the report proposes to choose some.
_MANY_GENES = 2000
Grid = tuple[tuple[float, ...], tuple[float, ...]]  # times and places
# Published positions are divided by the largest of the training grid.
_UNITS = np.asarray([max(TRAIN_TIMES), max(TRAIN_PLACES)], np.float64)


@dataclasses.dataclass(frozen=True)
class FieldSet:
    """Fields on their layouts.

    Attributes:
      values: Expression, float32 [sample, node, gene]; 0 in the padding.
      layouts: Positions of each layout, float32 [node, dim].
      layout: Layout of each sample, int32 [sample].
      grid: Times and places if all samples lie on one grid, whose nodes are ordered by
        time, then by place.
      knocked_out: Gene held at 0 in each sample, int32 [sample]; None if there is none.
    """

    values: np.ndarray
    layouts: tuple[np.ndarray, ...]
    layout: np.ndarray
    grid: Grid | None = None
    knocked_out: np.ndarray | None = None

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(self.values)

    @property
    def layout_mask(self) -> np.ndarray:
        """Returns False for padding, bool [layout, node]."""
        sizes = np.asarray([len(points) for points in self.layouts])
        return np.arange(self.values.shape[1])[None, :] < sizes[:, None]

    @property
    def point_mask(self) -> np.ndarray:
        """Returns False for padding, bool [sample, node]."""
        return self.layout_mask[self.layout]

    @property
    def is_profile(self) -> bool:
        """Returns whether every layout is a line, with one time for all its nodes."""
        return self.grid is None and all(
            points.shape[1] == 1 or (points.shape[1] == 2 and np.ptp(points[:, 1]) == 0)
            for points in self.layouts
        )

    def padded_positions(self) -> np.ndarray:
        """Returns the positions of each layout, padded by 0, [layout, node, dim]."""
        shape = (len(self.layouts), self.values.shape[1], self.layouts[0].shape[1])
        out = np.zeros(shape, np.float32)
        for row, points in zip(out, self.layouts, strict=True):
            row[: len(points)] = points
        return out

    def first(self, count: int) -> "FieldSet":
        """Returns the first samples."""
        knocked_out = self.knocked_out
        return dataclasses.replace(
            self,
            values=self.values[:count],
            layout=self.layout[:count],
            knocked_out=None if knocked_out is None else knocked_out[:count],
        )


@dataclasses.dataclass(frozen=True)
class FieldDataset:
    """Training and test fields.

    Attributes:
      name: Name in every table.
      report: How the fields were found or made, and prepared.
      genes: Name of each gene.
      train: Training fields.
      test: Test fields.
      knockout: Test fields with one gene held at 0; None if there are none.
      floor: Independent fields of the training distribution on the layout of the test
        fields, as many as those, [sample, node, gene]; None if there are none.
      zero: An expression of 0 in the units of the fields, [node, gene] of the test
        layout; None without knock-outs.
      units: Units of the file of cells; None for other sources.
    """

    name: str
    report: DataReport
    genes: tuple[str, ...]
    train: FieldSet
    test: FieldSet
    knockout: FieldSet | None = None
    floor: np.ndarray | None = None
    zero: np.ndarray | None = None
    units: CellUnits | None = None

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns each gene's mean and standard deviation over the training nodes."""
        values, real = self.train.values, self.train.point_mask
        mean, scale = np.empty((2, values.shape[2]))
        # Some genes at a time, because double precision takes twice the memory.
        for start in range(0, values.shape[2], _BLOCK):
            genes = slice(start, start + _BLOCK)
            nodes = values[..., genes][real].astype(np.float64)
            mean[genes], scale[genes] = nodes.mean(axis=0), nodes.std(axis=0)
        return mean, np.where(scale > 1e-6, scale, 1.0)


def load_turing(
    num_train: int,
    num_test: int,
    test_times: Sequence[float],
    test_places: Sequence[float],
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> FieldDataset:
    """Simulates the published training set, and a test set on any grid.

    Expression is scaled to [0, 1] by the smallest and largest value of the training
    simulations at each time. They are simulated at the times of the test set too,
    because bounds that grow exponentially cannot be interpolated. Positions are
    [place / 54, time / 90].

    Args:
      num_train: Training simulations.
      num_test: Test simulations, and as many knock-outs.
      test_times: Times of the test set.
      test_places: Places of the test set.
      seed: Seed of all simulations.
      cache_dir: Folder that keeps the simulations; None to keep nothing.

    Raises:
      DataError: If times or places lie outside the simulated domain.
    """
    grid = tuple(map(float, test_times)), tuple(map(float, test_places))
    sets = turing_sets(num_train, num_test, seed, cache_dir, test_grid=grid)
    all_times = sorted({*map(float, TRAIN_TIMES), *grid[0]})
    settings = {
        "seed": seed,
        "counts": [num_train, num_test],
        "grid": grid,
        "version": SIMULATOR_VERSION,
    }

    def build() -> dict[str, np.ndarray]:
        return {
            "floor": simulate(num_test, *grid, [seed, 1]),
            "bounds": simulate(num_train, all_times, TRAIN_PLACES, [seed, 1]),
        }

    # The training simulations at times and places that `turing_sets` leaves out.
    other = cached_arrays(cache_dir, "turing-train", settings, build)
    bounds = TimeNormaliser.fit(other["bounds"], all_times)

    def prepare(fields: np.ndarray, times: Sequence[float]) -> np.ndarray:
        fields = bounds.apply(fields, times).astype(np.float32)
        return fields.reshape(len(fields), -1, len(GENES))

    def make(
        fields: np.ndarray, grid: Grid, knocked_out: np.ndarray | None = None
    ) -> FieldSet:
        layout = np.zeros(len(fields), np.int32)
        positions = (_grid_positions(*grid),)
        return FieldSet(prepare(fields, grid[0]), positions, layout, grid, knocked_out)

    num_places = len(grid[1])
    zero = np.zeros((1, len(grid[0]), num_places, len(GENES)), np.float32)
    return FieldDataset(
        name=f"Turing system, {len(grid[0])} x {num_places} times and places",
        report=Reading(f"simulated with seed {seed}", "fields").report(
            {"train": num_train, "test": num_test},
            "simulations of their own",
            contents=(
                f"{len(GENES)} genes ({', '.join(GENES)})",
                f"{len(TRAIN_TIMES)} x {len(TRAIN_PLACES)} times and places in "
                f"training, {len(grid[0])} x {num_places} in the test",
                f"{num_test} knock-outs",
                "scaled to [0, 1] at each time by the training simulations",
            ),
        ),
        genes=GENES,
        train=make(sets["train"], (TRAIN_TIMES, TRAIN_PLACES)),
        test=make(sets["test"], grid),
        knockout=make(sets["knockout"], grid, sets["knocked_out_gene"]),
        floor=prepare(other["floor"], grid[0]),
        zero=prepare(zero, grid[0])[0],
    )


def load_profiles(
    path: str | os.PathLike[str],
    genes: Sequence[str] = (),
    num_nodes: int = 100,
    extent: tuple[float, float] = (0.1, 0.9),
    test_fraction: float = 0.2,
) -> FieldDataset:
    """Loads profiles along an axis, each measured at its own time.

    Every profile is one graph. Its nodes lie at [place, time], both in [0, 1], with one
    time for all nodes. Genes are scaled to [0, 1] by the smallest and largest value of
    the training profiles. In order of time, every k-th profile is held out, where
    1 / k is the test fraction.

    Args:
      path: `.npz` with `expression` [profile, place, gene], a time for each profile in
        `age_minutes` or `time` [profile], and `genes` [gene].
      genes: Names of the genes, in this order; () for all.
      num_nodes: Nodes per graph, at equal distances within `extent`.
      extent: Part of the axis to keep, as fractions, because ends are often not
        measured.
      test_fraction: Share of profiles held out.

    Raises:
      DataError: If an array is absent, shapes differ, a gene does not exist or a kept
        value is not finite.
    """
    arrays = read_npz(path, ("expression", "genes"))
    clock_name = "age_minutes" if "age_minutes" in arrays else "time"
    expression, known = arrays["expression"], [str(g) for g in arrays["genes"]]
    if clock_name not in arrays:
        raise DataError(f"{path}: no array 'age_minutes' or 'time'")
    times = arrays[clock_name]
    if "time" in arrays and clock_name != "time":
        raise DataError(
            f"{path}: arrays 'age_minutes' and 'time'; allowed: one of them"
        )
    if expression.ndim != 3 or expression.shape[::2] != (len(times), len(known)):
        raise DataError(
            f"{path}: expression {expression.shape} for {len(times)} times and "
            f"{len(known)} genes; allowed: [profile, place, gene]"
        )
    kept = _choose(path, known, genes or known)
    length = expression.shape[1]
    places = np.linspace(extent[0] * (length - 1), extent[1] * (length - 1), num_nodes)
    places = np.unique(np.round(places).astype(int))
    if len(places) < num_nodes:
        raise DataError(
            f"{path}: {num_nodes} nodes asked of {len(places)} measured places"
        )
    values = expression[:, places][..., kept].astype(np.float32)
    _refuse_nan(path, values, [f"profile {i}" for i in range(len(values))], known, kept)
    if not np.isfinite(times).all():
        raise DataError(f"{path}: profile {np.argmin(np.isfinite(times))} has no time")
    reading = Reading(path, "profiles")
    reading.find("profiles", count=len(values))
    reading.find("genes", known[0], len(known))
    if len(kept) < len(known):
        others = [gene for i, gene in enumerate(known) if i not in kept]
        reading.leave_out("genes that were not asked for", others[0], len(others))
    unused = [
        name for name in arrays if name not in ("expression", "genes", clock_name)
    ]
    if unused:
        reading.leave_out("arrays", unused[0], len(unused))
    reading.leave_out(
        "places outside data.extent or between nodes", "", length - num_nodes
    )
    every = max(2, round(1 / test_fraction))
    rank = np.argsort(np.argsort(times, kind="stable"), kind="stable")
    is_test = rank % every == every // 2
    low = values[~is_test].min(axis=(0, 1))
    high = values[~is_test].max(axis=(0, 1))
    values = (values - low) / np.maximum(high - low, 1e-12)
    clock = (times - times.min()) / max(np.ptp(times), 1e-12)
    layouts = [
        np.stack([places / (length - 1), np.full(num_nodes, t)], axis=1) for t in clock
    ]
    train, test = (
        FieldSet(
            values[rows].astype(np.float32),
            tuple(layouts[i].astype(np.float32) for i in np.flatnonzero(rows)),
            np.arange(rows.sum(), dtype=np.int32),
        )
        for rows in (~is_test, is_test)
    )
    return FieldDataset(
        name=f"{Path(path).stem} ({num_nodes} places)",
        report=reading.report(
            {"train": len(train), "test": len(test)},
            f"every {every}th in order of time is test",
            contents=(
                f"{len(kept)} genes ({', '.join(known[i] for i in kept)})",
                f"{num_nodes} of {length} places in [{extent[0]:g}, {extent[1]:g}]",
                f"{clock_name} {times.min():.3g} to {times.max():.3g}",
                "genes scaled to [0, 1] by the training profiles",
            ),
            num_repeated=count_repeated(values),
        ),
        genes=tuple(known[i] for i in kept),
        train=train,
        test=test,
        floor=_nearest_in_time(train, test),
    )


def load_tissue(
    path: str | os.PathLike[str],
    *,
    num_nodes: int = 128,
    num_train: int = 500,
    num_test: int = 100,
    test_fraction: float = 0.2,
    seed: int = 0,
    logarithm: bool = False,
    library_size: float | str | None = None,
    **options: Unpack[CellOptions],
) -> FieldDataset:
    """Loads a tissue and cuts it into patches of neighbouring cells, each one graph.

    The test patches come from an end of the longest axis that no training patch
    reaches, in each section. A patch is a cell with its nearest ones of the same
    section and time. A section with fewer cells than `num_nodes` is one smaller graph.
    Positions are relative to the middle of the patch, in units of a typical patch's
    half-width, followed by the time if there is one. Counts are scaled to a library
    size and taken the logarithm of, as asked; then genes are standardised by the
    training cells.

    Args:
      path: Expression, see `cell_files.load_cells`.
      num_nodes: Cells per patch.
      num_train: Training patches.
      num_test: Test patches.
      test_fraction: Share of the cells of each section that is held out.
      seed: Seed of the cells at the middle of the patches.
      logarithm: Whether to take log(1 + expression), for counts.
      library_size: What the counts of all genes of a cell are scaled to first, a number
        or `median` for the median of the training cells; None leaves them.
      **options: How the file is read, see `load_cells`.

    Raises:
      DataError: As `load_cells`, or if a count under the logarithm is negative, a part
        has fewer than two cells, or the patches do not fit into memory.
    """
    table = load_cells(path, **options, with_totals=library_size is not None)
    reading, (num_cells, num_genes) = table.reading, table.expression.shape
    _check_counts(table, logarithm, library_size is not None, path)
    # Patches are held twice: as they are, and standardised for training.
    num_patches = min(num_train, num_cells) + min(num_test, num_cells)
    require_bytes(
        4 * num_genes * (2 * num_nodes * num_patches + num_cells),
        f"{path}: {num_patches:,} patches of {num_nodes} cells x {num_genes:,} genes",
        "data.genes=top:500, which reads the most variable, or fewer of data.num_train "
        "and data.num_test",
    )
    if num_genes >= _MANY_GENES:
        reading.say(
            f"{num_genes:,} genes are inputs and outputs of every node; "
            "data.genes=top:500 reads the most variable"
        )
    sections = None
    if table.sections is not None:
        sections = np.unique(table.sections, return_inverse=True)[1]
    is_test, rule = hold_out(table.positions, sections, test_fraction)
    units = _learn_units(table, sections, ~is_test, num_nodes, logarithm, library_size)
    values = np.empty(table.expression.shape, np.float32)
    for genes in _gene_blocks(num_genes):
        part = units.select(genes)
        values[:, genes] = part.to_fields(table.expression[:, genes], table.totals)
    rng = np.random.default_rng(seed)
    parts = []
    for rows, count in ((~is_test, num_train), (is_test, num_test)):
        parts.append(
            _cut(table, sections, values, rows, count, num_nodes, units, rng, path)
        )
    contents = (
        *table.contents,
        f"{len(parts[0]):,} training and {len(parts[1]):,} test patches of "
        f"{num_nodes} cells, half-width {units.half_width:.4g} in the unit of the file",
        _describe_units(units),
    )
    return FieldDataset(
        name=f"{Path(path).stem} (patches of {num_nodes} cells)",
        report=reading.report(
            {"train": int((~is_test).sum()), "test": int(is_test.sum())},
            rule,
            contents=contents,
            num_repeated=table.num_repeated,
        ),
        genes=table.genes,
        train=parts[0],
        test=parts[1],
        units=units,
    )


def _check_counts(
    table: CellTable,
    logarithm: bool,
    is_scaled: bool,
    path: str | os.PathLike[str],
) -> None:
    """Refuses negative counts, and says what looks as if it were no counts."""
    values, say = table.expression, table.reading.say
    lowest = values.min()
    is_whole = all(
        bool((values[:, genes] == np.round(values[:, genes])).all())
        for genes in _gene_blocks(values.shape[1])
    )
    asked = "data.library_size" if is_scaled else "data.logarithm"
    if (logarithm or is_scaled) and lowest < 0:
        raise DataError(
            f"{path}: expression {lowest:.4g} is negative; {asked} is for counts "
            "(data.layer may name those of AnnData)"
        )
    if (logarithm or is_scaled) and not is_whole:
        say(
            f"expression has fractions, and {asked} is for counts: perhaps it was "
            "scaled already (data.layer may name the counts of AnnData)"
        )
    if not logarithm and is_whole and lowest >= 0 and values.max() > 1:
        say(
            f"counts up to {values.max():.6g} are trained on as they are; "
            "data.logarithm=true takes log(1 + count), data.library_size=median scales "
            "cells to equal sums before"
        )
    if table.totals is not None and (table.totals == 0).any():
        say(f"{(table.totals == 0).sum():,} cells have no counts and stay at 0")


def _learn_units(
    table: CellTable,
    sections: np.ndarray | None,
    is_train: np.ndarray,
    num_nodes: int,
    logarithm: bool,
    library_size: float | str | None,
) -> CellUnits:
    """Finds scales of the training cells."""
    usual, target, shares = None, None, np.zeros(0)
    totals = table.totals
    if totals is not None and library_size is not None:
        some = totals[is_train & (totals > 0)]
        if not some.size:
            raise DataError(f"{table.reading.origin}: no training cell has counts")
        usual = float(np.median(some))
        target = usual if library_size == "median" else float(library_size)
        counts = table.expression[is_train].sum(axis=0, dtype=np.float64)
        shares = counts / totals[is_train].sum()
    times, num_genes = table.time, table.expression.shape[1]
    blank = CellUnits(
        bool(logarithm),
        (),
        (),
        _half_width(table, sections, num_nodes),
        None if times is None else float(times.min()),
        None if times is None else float(np.ptp(times)),
        target,
        usual,
        tuple(shares.tolist()),
        table.layer,
    )
    mean, scale = np.empty((2, num_genes))
    for genes in _gene_blocks(num_genes):
        known = blank.transform(
            table.expression[is_train, genes],
            None if totals is None else totals[is_train],
        )
        mean[genes], scale[genes] = known.mean(axis=0), known.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    return dataclasses.replace(
        blank, mean=tuple(mean.tolist()), scale=tuple(scale.tolist())
    )


def _describe_units(units: CellUnits) -> str:
    """Returns how expression was prepared, in order."""
    steps = []
    if units.library_size is not None:
        steps.append(
            f"cells scaled to a sum of {units.library_size:.6g} over all genes (median "
            f"{units.usual_total:.6g}, which generated cells get)"
        )
    if units.logarithm:
        steps.append("log(1 + x)")
    steps.append("genes standardised by the training cells")
    return "expression: " + ", then ".join(steps)


def _gene_blocks(num_genes: int) -> list[slice]:
    """Cuts genes into slices, because double precision takes twice the memory."""
    return [slice(i, i + _BLOCK) for i in range(0, num_genes, _BLOCK)]


def _grid_positions(times: Sequence[float], places: Sequence[float]) -> np.ndarray:
    time, place = np.meshgrid(times, places, indexing="ij")
    return (np.stack([place, time], axis=-1) / _UNITS[::-1]).reshape(-1, 2).astype("f4")


def _nearest_in_time(train: FieldSet, test: FieldSet) -> np.ndarray:
    """Returns the training profile nearest in time to every test profile."""
    known, asked = (
        np.asarray([part.layouts[i][0, -1] for i in part.layout])
        for part in (train, test)
    )
    return train.values[np.abs(asked[:, None] - known[None, :]).argmin(axis=1)]


def _half_width(table: CellTable, sections: np.ndarray | None, num_nodes: int) -> float:
    """Estimates the root mean square half-width of a patch of evenly spread cells."""
    dim = table.positions.shape[1]
    group = np.zeros(len(table.cells), int) if sections is None else sections
    found = []
    for section in np.unique(group):
        own = table.positions[group == section]
        some = own[:: max(1, len(own) // 200)]
        far, _ = cKDTree(own).query(some, k=[min(num_nodes, len(own))])
        found.append(far)
    return float(np.median(np.concatenate(found))) / math.sqrt(dim) + 1e-12


def _cut(
    table: CellTable,
    sections: np.ndarray | None,
    expression: np.ndarray,
    rows: np.ndarray,
    count: int,
    num_nodes: int,
    units: CellUnits,
    rng: np.random.Generator,
    path: str | os.PathLike[str],
) -> FieldSet:
    """Cuts `count` patches out of the chosen rows of a table, of each section."""
    index = np.flatnonzero(rows)
    if len(index) < 2:
        raise DataError(
            f"{path}: {len(index)} cells on one side of the split; allowed: >= 2"
        )
    moments = np.zeros(len(index)) if table.time is None else table.time[index]
    pieces = np.zeros(len(index)) if sections is None else sections[index]
    keys = np.stack([pieces, moments], axis=1)
    kinds, kind = np.unique(keys, axis=0, return_inverse=True)
    patches, num_small = [], 0
    for number in range(len(kinds)):
        own = index[kind.reshape(-1) == number]
        if len(own) < 2 < len(index):
            name = table.cells[own[0]]
            table.reading.leave_out("cells alone in their part of a section", name)
            continue
        if len(own) <= num_nodes:
            num_small += len(own) < num_nodes
            patches.append(own)
            continue
        tree = cKDTree(table.positions[own])
        wanted = max(1, round(count * len(own) / len(index)))
        middles = rng.choice(len(own), min(wanted, len(own)), replace=False)
        _, nearest = tree.query(table.positions[own[middles]], k=num_nodes)
        patches.extend(own[near] for near in nearest)
    if not patches:
        raise DataError(
            f"{path}: no two cells of one section and time on one side of the split"
        )
    if num_small:
        table.reading.say(
            f"{num_small} of {len(kinds)} pieces of tissue, each of one section, time "
            f"and split, have fewer than data.num_nodes={num_nodes} cells and are one "
            "smaller graph each"
        )
    longest = max(map(len, patches))
    values = np.zeros((len(patches), longest, expression.shape[1]), np.float32)
    layouts = []
    for row, patch in zip(values, patches, strict=True):
        row[: len(patch)] = expression[patch]
        times = None if table.time is None else table.time[patch]
        layouts.append(units.place(table.positions[patch], times))
    return FieldSet(values, tuple(layouts), np.arange(len(patches), dtype=np.int32))


def _choose(
    path: str | os.PathLike[str], known: Sequence[str], wanted: Sequence[str]
) -> list[int]:
    missing = [gene for gene in wanted if gene not in known]
    if missing:
        raise DataError(
            f"{path}: no gene {', '.join(missing)}; allowed: {', '.join(known)}"
        )
    return [known.index(gene) for gene in wanted]


def _refuse_nan(
    path: str | os.PathLike[str],
    values: np.ndarray,
    samples: Sequence[str],
    known: Sequence[str],
    kept: Sequence[int],
) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        sample, node, gene = bad[0]
        raise DataError(
            f"{path}: {samples[sample]}, node {node}, gene {known[kept[gene]]}: "
            f"found {values[tuple(bad[0])]}; allowed: finite numbers (narrow "
            "data.extent if the ends were not measured)"
        )
