"""Loads expression fields on graphs of known positions.

A field holds the expression of a few genes at every node of a layout. Layouts may
differ in size; arrays are padded to the largest. The sources are simulations of a
Turing system (`turing`), profiles along an axis measured at several times
(`profiles`), and tissue cut into patches of neighbouring cells (`cells`, in
`expression.tissue`).
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ncgn_jax.data.array_files import read_npz
from ncgn_jax.data.cache import cached_arrays
from ncgn_jax.data.report import DataReport, Reading, count_repeated
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
# Genes, and values of them, that are in double precision together.
_BLOCK, _FEWEST = 512, 8
_MOST_VALUES = 2**23
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
        # Some genes at a time, because double precision takes twice the memory. A
        # column by itself would be summed in another order.
        num_genes = values.shape[2]
        width = max(_FEWEST, min(_BLOCK, _MOST_VALUES // max(1, real.sum())))
        num_blocks = max(1, num_genes // width)
        bounds = np.linspace(0, num_genes, num_blocks + 1).astype(int)
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            genes = slice(start, stop)
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
