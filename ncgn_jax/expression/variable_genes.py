"""Sums the counts of cells, and finds the genes that vary most over cells."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse

from ncgn_jax.expression.cell_matrices import Source
from ncgn_jax.faults import DataError

# Genes that are made dense together.
_BLOCK = 512


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
    is_sparse = scipy.sparse.issparse(source.matrix)
    matrix = source.sparse(genes, rows).tocsc() if is_sparse else None
    starts = range(0, len(genes), _BLOCK)

    def block(start: int) -> np.ndarray:
        if matrix is not None:
            return matrix[:, start : start + _BLOCK].toarray().astype(np.float64)
        return source.take(genes[start : start + _BLOCK], rows).astype(np.float64)

    total, are_counts = np.zeros(len(rows)), True
    for start in starts:
        part = block(start)
        are_counts &= bool((part >= 0).all() and (part == np.round(part)).all())
        total += part.sum(axis=1)
    factor = np.median(total[total > 0]) if (total > 0).any() else 1.0
    scale = np.where(total > 0, factor / np.where(total > 0, total, 1.0), 0.0)
    variance = np.empty(len(genes))
    for start in starts:
        part = block(start)
        if are_counts:
            part = np.log1p(part * scale[:, None])
        with np.errstate(invalid="ignore"):
            variance[start : start + part.shape[1]] = part.var(axis=0)
    # Genes with missing values come last.
    order = np.argsort(-np.nan_to_num(variance, nan=-1.0), kind="stable")[:count]
    of_what = "log(1 + counts per median cell)" if are_counts else "expression"
    rule = (
        f"the {len(order):,} genes of largest variance of {of_what} over all cells, "
        f"out of {len(genes):,}"
    )
    return [genes[i] for i in sorted(order)], rule
