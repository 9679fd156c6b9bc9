"""Chooses the genes of a file of cells: by name, or those that vary most."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse

from ncgn_jax.data.report import Reading
from ncgn_jax.expression.cell_matrices import Source
from ncgn_jax.expression.cell_names import (
    CELL_COLUMNS,
    is_no_gene,
    list_some,
    make_unique,
)
from ncgn_jax.expression.cell_tables import check_unique, has_number
from ncgn_jax.faults import DataError

# Genes that are made dense together.
_BLOCK = 512


def find_candidates(source: Source, used: set[str | None]) -> list[int]:
    """Returns the numbers of what may be genes."""
    if source.matrix is not None:
        return list(range(len(source.genes)))
    used = {*used, source.cells.name_column}
    return [
        number
        for number, column in enumerate(source.genes)
        if column not in used and column.lower() not in CELL_COLUMNS
    ]


def choose_genes(
    source: Source,
    candidates: Sequence[int],
    chosen: Sequence[str] | None,
    reading: Reading,
) -> tuple[list[int], list[str]]:
    """Returns numbers and names of the genes to read."""
    where, names = source.where, [source.genes[i] for i in candidates]
    unique = make_unique(names)
    if chosen is not None:
        if names:
            reading.find("genes", names[0], len(names))
        return _find_genes(where, candidates, names, unique, list(chosen))
    kept, own = [], []
    for number, name, other in zip(candidates, names, unique, strict=True):
        if number in source.controls:
            reading.leave_out(source.controls[number], name)
        elif source.matrix is None and is_no_gene(name):
            reading.leave_out("columns that by their names are no genes", name)
        elif not _has_number(source, number):
            reading.leave_out("columns without a number", name)
        else:
            kept.append(number)
            own.append(other)
    if not kept:
        raise DataError(
            f"{where}: no genes; allowed: one or more of {list_some(names)}, by "
            "data.genes"
        )
    reading.find("genes", own[0], len(own))
    renamed = [
        name
        for name, number in zip(own, kept, strict=True)
        if name != source.genes[number]
    ]
    if renamed:
        reading.say(
            f"{len(renamed):,} genes have the name of an earlier one and are called "
            f"{list_some(renamed, 3)}"
        )
    return kept, own


def _find_genes(
    where: str,
    candidates: Sequence[int],
    names: Sequence[str],
    unique: Sequence[str],
    chosen: list[str],
) -> tuple[list[int], list[str]]:
    """Returns the genes that are asked for, in that order."""
    counts = Counter(names)
    number_of = dict(zip(unique, candidates, strict=True))
    absent = [gene for gene in chosen if gene not in number_of]
    if absent or not chosen:
        raise DataError(
            f"{where}: {'no gene ' + list_some(absent) if absent else 'no genes'}; "
            f"allowed: one or more of {list_some(names)}"
        )
    check_unique(chosen, f"{where}, data.genes", "gene")
    double = [gene for gene in chosen if counts[gene] > 1]
    if double:
        raise DataError(
            f"{where}: gene {double[0]!r} appears {counts[double[0]]} times; leave it "
            "out of data.genes, or give the genes of the file different names (in "
            "AnnData by `var_names_make_unique()`)"
        )
    return [number_of[gene] for gene in chosen], chosen


def _has_number(source: Source, gene: int) -> bool:
    """Tells whether any cell has a number for a candidate."""
    if source.matrix is None:
        return has_number(source.cells.values[gene])
    if isinstance(source.matrix, np.ndarray) and source.matrix.dtype.kind == "O":
        return has_number(source.matrix[:, gene])
    return True


def dense_blocks(
    source: Source, genes: Sequence[int], rows: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the first number and the dense expression of some genes at a time."""
    is_sparse = scipy.sparse.issparse(source.matrix)
    matrix = source.sparse(genes, rows).tocsc() if is_sparse else None
    for start in range(0, len(genes), _BLOCK):
        if matrix is not None:
            yield start, matrix[:, start : start + _BLOCK].toarray()
        else:
            yield start, source.take(genes[start : start + _BLOCK], rows)


def sum_counts(source: Source, genes: Sequence[int], rows: np.ndarray) -> np.ndarray:
    """Returns the sum over genes in each cell, float64 [cell].

    Raises:
      DataError: If a value is missing or negative.
    """
    total = np.zeros(len(rows))
    if scipy.sparse.issparse(source.matrix):
        matrix = source.sparse(genes, rows)
        total[:] = np.asarray(matrix.sum(axis=1, dtype=np.float64)).reshape(-1)
        low = matrix.data.min(initial=0)
    else:
        low = 0.0
        for start in range(0, len(genes), _BLOCK):
            part = source.take(genes[start : start + _BLOCK], rows)
            total += part.sum(axis=1, dtype=np.float64)
            low = min(low, float(part.min()))
    if not np.isfinite(total).all() or low < 0:
        found = f"expression {low:.4g} is negative" if low < 0 else "a value is missing"
        raise DataError(
            f"{source.where}: {found}; data.library_size needs the counts of all "
            "genes, none negative (data.layer may name those of AnnData)"
        )
    return total


def most_variable(
    source: Source, genes: Sequence[int], rows: np.ndarray, count: int
) -> tuple[list[int], str]:
    """Chooses the genes that vary most over cells, in the order of the file.

    Counts are first scaled to the median of the cells' sums and taken log(1 + x), since
    the variance of counts follows their mean; other values are taken as they are.

    Args:
      source: The cells.
      genes: Numbers of the genes to choose from.
      rows: Numbers of the cells to look at.
      count: How many genes, at most.

    Returns:
      Numbers of genes, and the rule in words.
    """
    if scipy.sparse.issparse(source.matrix):
        variance, are_counts = _variance_of_sparse(source.sparse(genes, rows).tocsc())
    else:
        variance, are_counts = _variance_of_dense(source, genes, rows)
    # Genes with missing values come last.
    order = np.argsort(-np.nan_to_num(variance, nan=-1.0), kind="stable")[:count]
    of_what = "log(1 + counts per median cell)" if are_counts else "expression"
    rule = (
        f"the {len(order):,} genes of largest variance of {of_what} over all cells, "
        f"out of {len(genes):,}"
    )
    return [genes[i] for i in sorted(order)], rule


def _variance_of_sparse(matrix: scipy.sparse.csc_matrix) -> tuple[np.ndarray, bool]:
    """Returns the variance of each gene, and whether the values are counts."""
    values = matrix.data.astype(np.float64)
    are_counts = _are_counts(values)
    if are_counts:
        total = np.asarray(matrix.sum(axis=1, dtype=np.float64)).reshape(-1)
        # Logarithms of zeros are zeros, and stay away.
        values = np.log1p(values * _factors(total)[matrix.indices])
    owner = np.repeat(np.arange(matrix.shape[1]), np.diff(matrix.indptr))
    first, second = (
        np.bincount(owner, power, matrix.shape[1]) / matrix.shape[0]
        for power in (values, values**2)
    )
    return second - first**2, are_counts


def _variance_of_dense(
    source: Source, genes: Sequence[int], rows: np.ndarray
) -> tuple[np.ndarray, bool]:
    """Returns the same for a dense matrix, some genes at a time."""
    starts = range(0, len(genes), _BLOCK)

    def block(start: int) -> np.ndarray:
        return source.take(genes[start : start + _BLOCK], rows).astype(np.float64)

    total, are_counts = np.zeros(len(rows)), True
    for start in starts:
        part = block(start)
        are_counts &= _are_counts(part)
        total += part.sum(axis=1)
    variance = np.empty(len(genes))
    for start in starts:
        part = block(start)
        if are_counts:
            part = np.log1p(part * _factors(total)[:, None])
        with np.errstate(invalid="ignore"):
            variance[start : start + part.shape[1]] = part.var(axis=0)
    return variance, are_counts


def _are_counts(values: np.ndarray) -> bool:
    return bool((values >= 0).all() and (values == np.round(values)).all())


def _factors(total: np.ndarray) -> np.ndarray:
    """Returns what scales cells to the median of their sums; 0 for empty cells."""
    has_some = total > 0
    usual = np.median(total[has_some]) if has_some.any() else 1.0
    return np.divide(usual, total, out=np.zeros_like(total), where=has_some)
