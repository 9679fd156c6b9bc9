"""Cuts a tissue into patches of neighbouring cells, each one expression field."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Unpack

import numpy as np
from scipy.spatial import cKDTree

from ncgn_jax.data.host_memory import require_bytes
from ncgn_jax.expression.cell_files import CellOptions, CellTable, load_cells
from ncgn_jax.expression.cell_folders import name_of
from ncgn_jax.expression.sections import hold_out
from ncgn_jax.expression.sets import FieldDataset, FieldSet
from ncgn_jax.expression.units import CellUnits
from ncgn_jax.faults import DataError

# Genes that are in double precision together.
_BLOCK = 512
# From so many genes on, the report proposes to choose some.
_MANY_GENES = 2000


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
    if num_cells > 1 and not np.ptp(table.positions, axis=0).any():
        raise DataError(
            f"{path}: all {num_cells:,} cells lie at one place; allowed: positions "
            "that differ (data.spatial_key, coordinate_columns or coordinates)"
        )
    _check_counts(table, logarithm, library_size is not None, path)
    # Patches are held twice: as they are, and standardised for training.
    num_patches = min(num_train, num_cells) + min(num_test, num_cells)
    require_bytes(
        4 * num_genes * (2 * num_nodes * num_patches + num_cells),
        f"{path}: {num_patches:,} patches of {num_nodes} cells x {num_genes:,} genes",
        "data.genes=top:500, which reads the most variable, or fewer of data.num_train "
        "and data.num_test",
        {"data.genes": "top:500"},
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
    for split, rows in (("training", ~is_test), ("test", is_test)):
        if rows.sum() < 2:
            raise DataError(
                f"{path}: {rows.sum()} {split} cells; allowed: at least 2, see "
                "data.test_fraction"
            )
    units = _learn_units(table, sections, ~is_test, num_nodes, logarithm, library_size)
    values = np.empty(table.expression.shape, np.float32)
    for genes in _gene_blocks(num_genes):
        part = units.select(genes)
        values[:, genes] = part.to_fields(table.expression[:, genes], table.totals)
    rng = np.random.default_rng(seed)
    parts = []
    for split, rows, count in (
        ("training", ~is_test, num_train),
        ("test", is_test, num_test),
    ):
        parts.append(
            _cut(table, sections, values, split, rows, count, num_nodes, units, rng)
        )
    contents = (
        *table.contents,
        f"{len(parts[0]):,} training and {len(parts[1]):,} test patches of "
        f"{num_nodes} cells, half-width {units.half_width:.4g} in the unit of the file",
        _describe_units(units),
    )
    return FieldDataset(
        name=f"{name_of(Path(path))} (patches of {num_nodes} cells)",
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
    constant = np.flatnonzero(scale <= 1e-9)
    if len(constant) == num_genes:
        raise DataError(
            f"{table.reading.origin}: no gene varies over the training cells; allowed: "
            "at least one that does"
        )
    if constant.size:
        table.reading.say(
            f"{len(constant):,} of {num_genes:,} genes are equal in all training cells "
            f"(first {table.genes[constant[0]]}); data.genes may leave them out"
        )
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
    split: str,
    rows: np.ndarray,
    count: int,
    num_nodes: int,
    units: CellUnits,
    rng: np.random.Generator,
) -> FieldSet:
    """Cuts `count` patches out of the chosen rows of a table, of each section."""
    index = np.flatnonzero(rows)
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
            f"{table.reading.origin}: no two {split} cells of one section and time"
        )
    if num_small:
        table.reading.say(
            f"{num_small} of {len(kinds)} pieces of {split} cells, each of one section "
            f"and time, have fewer than data.num_nodes={num_nodes} cells and are one "
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
