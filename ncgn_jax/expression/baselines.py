"""Fills hidden values of fields by plain methods, as baselines for learned ones.

Three use the neighbours in space, gene by gene (`nearest_in_space`,
`linear_in_space`, `gaussian_process`), and one uses the other genes of the same node
(`linear_regression`). None reads a hidden value, and all return visible values
unchanged.

Example:
  >>> import numpy as np
  >>> places = np.arange(4.0)[:, None]
  >>> values = np.array([0.0, 1.0, -9.0, 3.0]).reshape(1, 4, 1)
  >>> linear_in_space(values, values < 0, places).ravel().tolist()
  [0.0, 1.0, 2.0, 3.0]
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

# Candidates of the noise variance, as multiples of the signal variance. None is 0,
# because the covariance of a smooth field would have no numerical inverse.
NOISE_RATIOS = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_NUM_LENGTHS = 10

Array = NDArray[np.float64]


class GaussianProcess(NamedTuple):
    """Parameters of one Gaussian process per gene.

    Values are mean + f(place) + noise, with cov(f) = s^2 exp(-d^2 / (2
    length_scale^2)) at distance d and noise variance noise_ratio * s^2. The posterior
    mean does not depend on s^2.
    """

    mean: Array  # [gene]
    length_scale: Array  # [gene], unit of the positions
    noise_ratio: Array  # [gene]


def nearest_in_space(
    values: ArrayLike,
    hidden: ArrayLike,
    positions: ArrayLike,
    fallback: ArrayLike | None = None,
) -> Array:
    """Fills hidden entries with the value of the nearest node where they are visible.

    Args:
      values: Fields, [sample, node, gene].
      hidden: True where a value is hidden, bool, broadcasts to `values`.
      positions: Places of the nodes, [node, dim], or [sample, node, dim].
      fallback: Value per gene, [gene], for samples where it is hidden at all nodes,
        e.g. the mean of the training set; None refuses such samples.

    Returns:
      Filled fields, [sample, node, gene]. The first of equally near nodes is used.

    Raises:
      ValueError: If shapes differ, the mask is not bool, a visible value is not
        finite, or a gene is hidden at all nodes of a sample without a fallback.
    """

    def fill(places: Array, seen: Array, others: Array) -> Array:
        return seen[cdist(others, places).argmin(axis=1)]

    return _fill_in_space(fill, values, hidden, positions, fallback)


def linear_in_space(
    values: ArrayLike,
    hidden: ArrayLike,
    positions: ArrayLike,
    fallback: ArrayLike | None = None,
) -> Array:
    """Interpolates linearly between the visible neighbours of a node on a line.

    Nodes beyond the outermost visible one get its value.

    Args:
      values: Fields, [sample, node, gene].
      hidden: True where a value is hidden, bool, broadcasts to `values`.
      positions: Places on the line in any order, [node, 1] or [sample, node, 1].
      fallback: As in `nearest_in_space`.

    Returns:
      Filled fields, [sample, node, gene].

    Raises:
      ValueError: As `nearest_in_space`, or if positions have more than one axis.
    """
    positions = np.asarray(positions, np.float64)
    if positions.shape[-1:] != (1,):
        raise ValueError(
            f"positions must be on a line, [..., 1]; got {positions.shape}"
        )

    def fill(places: Array, seen: Array, others: Array) -> Array:
        order = places[:, 0].argsort(kind="stable")
        places, seen = places[order, 0], seen[order]
        columns = [np.interp(others[:, 0], places, column) for column in seen.T]
        return np.stack(columns, axis=1)

    return _fill_in_space(fill, values, hidden, positions, fallback)


def gaussian_process(
    values: ArrayLike,
    hidden: ArrayLike,
    positions: ArrayLike,
    parameters: GaussianProcess | None = None,
) -> Array:
    """Fills hidden entries with the posterior mean of a Gaussian process per gene.

    m + k_*^T (K + g I)^-1 (y - m) with K = exp(-d^2 / (2 l^2)), exact (Rasmussen and
    Williams 2006, eq. 2.25), independently for each gene. A gene that is hidden at all
    nodes of a sample gets its mean m.

    Args:
      values: Fields, [sample, node, gene].
      hidden: True where a value is hidden, bool, broadcasts to `values`.
      positions: Places of the nodes, [node, dim], or [sample, node, dim].
      parameters: From `fit_gaussian_process`, on training fields or on these; None
        fits them once to the visible values of all these fields.

    Returns:
      Filled fields, [sample, node, gene].

    Raises:
      ValueError: If shapes differ, the mask is not bool, a visible value is not
        finite, or parameters cannot be fitted because a gene is hidden everywhere.
    """
    if parameters is None:
        parameters = fit_gaussian_process(values, hidden, positions)
    values, hidden, positions = _check(values, hidden, positions)
    if len(parameters.mean) != values.shape[2]:
        raise ValueError(
            f"parameters of {len(parameters.mean)} genes for {values.shape[2]} genes"
        )
    filled = np.where(hidden, parameters.mean, values)
    kernels = np.stack([parameters.length_scale, parameters.noise_ratio])
    for sample, covered, genes in _group_genes(hidden):
        places, others = positions[sample][~covered], positions[sample][covered]
        if not (len(places) and len(others)):
            continue
        # Genes with the same kernel share one factorisation, the most expensive step.
        pairs, group = np.unique(kernels[:, genes], axis=1, return_inverse=True)
        for index, (length, noise) in enumerate(pairs.T):
            members = genes[group.reshape(-1) == index]
            mean = parameters.mean[members]
            seen = values[sample][np.ix_(~covered, members)] - mean
            covariance = _kernel(places, places, length) + noise * np.eye(len(places))
            weights = cho_solve(cho_factor(covariance), seen)
            filled[sample][np.ix_(covered, members)] = (
                mean + _kernel(others, places, length) @ weights
            )
    return filled


def fit_gaussian_process(
    values: ArrayLike,
    hidden: ArrayLike,
    positions: ArrayLike,
    *,
    length_scales: ArrayLike | None = None,
    noise_ratios: ArrayLike = NOISE_RATIOS,
    max_nodes: int = 256,
    max_samples: int = 4,
    seed: int = 0,
) -> GaussianProcess:
    """Chooses a length scale and a noise level per gene by marginal likelihood.

    log p(y) = -1/2 sum log|s^2 (K + g I)| - 1/2 y^T (K + g I)^-1 y / s^2 + const
    (Rasmussen and Williams 2006, eq. 2.30) at the best s^2, summed over samples, is
    maximised over all pairs of a grid; y is the value minus the gene's visible mean.

    Args:
      values: Fields, [sample, node, gene].
      hidden: True where a value is hidden, bool, broadcasts to `values`.
      positions: Places of the nodes, [node, dim], or [sample, node, dim].
      length_scales: Candidates, > 0; None for ten from the median distance of nearest
        nodes to twice the longest side of their bounding box.
      noise_ratios: Candidates for g, > 0.
      max_nodes: Most nodes per sample, drawn among those where the gene is visible;
        the cost grows with their cube.
      max_samples: Most samples, drawn.
      seed: Seed of both draws.

    Returns:
      The parameters; they are arbitrary but for the mean if a gene does not vary.

    Raises:
      ValueError: If shapes differ, the mask is not bool, a visible value is not finite,
        a candidate is not positive, or a gene is hidden everywhere.
    """
    values, hidden, positions = _check(values, hidden, positions)
    count = (~hidden).sum(axis=(0, 1))
    if not count.all():
        raise ValueError(f"gene {count.argmin()} is hidden everywhere")
    mean = values.sum(axis=(0, 1)) / count  # hidden ones are 0
    rng = np.random.default_rng(seed)
    samples = rng.permutation(len(values))[:max_samples]
    # One order for all genes, so that genes hidden together share a factorisation.
    order = rng.permutation(values.shape[1])
    if length_scales is None:
        length_scales = _propose_lengths(positions[samples[0]])
    lengths, noises = (
        np.asarray(c, np.float64).ravel() for c in (length_scales, noise_ratios)
    )
    if not (lengths.size and noises.size and min(lengths.min(), noises.min()) > 0):
        raise ValueError("length_scales and noise_ratios must be positive, one or more")
    shape = (values.shape[2], len(lengths), len(noises))
    squares, log_det, used = np.zeros(shape), np.zeros(shape), np.zeros(shape[0])
    for sample, covered, genes in _group_genes(hidden[samples]):
        nodes = order[~covered[order]][:max_nodes]
        places = positions[samples[sample]][nodes]
        seen = values[samples[sample]][np.ix_(nodes, genes)] - mean[genes]
        used[genes] += len(nodes)
        for index, length in enumerate(lengths):
            eigenvalues, vectors = np.linalg.eigh(_kernel(places, places, length))
            spectrum = np.maximum(eigenvalues, 0.0) + noises[:, None]  # [noise, node]
            projected = np.square(vectors.T @ seen)  # [node, gene]
            squares[genes, index] += ((1 / spectrum) @ projected).T
            log_det[genes, index] += np.log(spectrum).sum(axis=1)
    used = used[:, None, None]
    tiny = np.finfo(np.float64).tiny  # for genes that do not vary
    likelihood = -0.5 * (used * np.log(np.maximum(squares, tiny)) + log_det)
    best = likelihood.reshape(shape[0], -1).argmax(axis=1)
    length, noise = np.unravel_index(best, shape[1:])
    return GaussianProcess(mean, lengths[length], noises[noise])


def linear_regression(
    train_fields: ArrayLike,
    values: ArrayLike,
    hidden: ArrayLike,
    *,
    ridge: float = 1e-3,
) -> Array:
    """Fills the hidden genes of a node by ridge regression on its visible ones.

    mean_h + C_hv (C_vv + ridge * diag C_vv)^-1 (x_v - mean_v) with the covariance C
    over all nodes of the training fields, the ridge regression on standardised
    regressors (Hoerl and Kennard 1970), for each set of visible genes that occurs. A
    node without visible genes gets the training mean.

    Args:
      train_fields: Complete fields, [train_sample, train_node, gene].
      values: Fields to fill, [sample, node, gene].
      hidden: True where a value is hidden, bool, broadcasts to `values`.
      ridge: Penalty in units of each regressor's variance, > 0.

    Returns:
      Filled fields, [sample, node, gene].

    Raises:
      ValueError: If shapes differ, the mask is not bool, a visible value is not finite
        or the ridge is not positive.
    """
    if not ridge > 0:
        raise ValueError(f"ridge={ridge}; must be positive")
    train, _ = _check_values(train_fields, False)
    values, hidden = _check_values(values, hidden)
    num_genes = values.shape[2]
    if train.shape[2] != num_genes:
        raise ValueError(
            f"{train.shape[2]} genes in training, {num_genes} to fill; they must agree"
        )
    known = train.reshape(-1, num_genes)
    mean = known.mean(axis=0)
    covariance = (known - mean).T @ (known - mean) / len(known)
    variance = covariance.diagonal()
    # A regressor that never varies has weight 0, whatever its penalty.
    penalty = np.diag(ridge * np.where(variance > 0, variance, 1.0))
    rows = values.reshape(-1, num_genes) - mean
    masks = hidden.reshape(-1, num_genes)
    patterns, group = np.unique(masks, axis=0, return_inverse=True)
    filled = np.where(masks, mean, rows + mean)
    for index, covered in enumerate(patterns):
        if not covered.any() or covered.all():
            continue
        members = group.reshape(-1) == index
        normal = (covariance + penalty)[np.ix_(~covered, ~covered)]
        weights = np.linalg.solve(normal, covariance[np.ix_(~covered, covered)])
        filled[np.ix_(members, covered)] += rows[np.ix_(members, ~covered)] @ weights
    # Visible values are returned to the last bit.
    return np.where(hidden, filled.reshape(values.shape), values)


def _fill_in_space(
    fill: Callable[[Array, Array, Array], Array],
    values: ArrayLike,
    hidden: ArrayLike,
    positions: ArrayLike,
    fallback: ArrayLike | None,
) -> Array:
    """Applies fill(places, values there, other places) to each sample and mask."""
    values, hidden, positions = _check(values, hidden, positions)
    filled = values.copy()
    for sample, covered, genes in _group_genes(hidden):
        if not covered.any():
            continue
        if covered.all():
            if fallback is None:
                raise ValueError(
                    f"gene {genes[0]} is hidden at all nodes of sample {sample}, and "
                    "there is no fallback"
                )
            of_genes = np.broadcast_to(np.asarray(fallback), values.shape[2])
            filled[sample][:, genes] = of_genes[genes]
            continue
        places = positions[sample]
        filled[sample][np.ix_(covered, genes)] = fill(
            places[~covered], values[sample][np.ix_(~covered, genes)], places[covered]
        )
    return filled


def _group_genes(
    hidden: NDArray[np.bool_],
) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.intp]]]:
    """Yields each mask of a sample once: (sample, mask over nodes, its genes)."""
    for sample, mask in enumerate(hidden):
        patterns, group = np.unique(mask, axis=1, return_inverse=True)
        for index, covered in enumerate(patterns.T):
            yield sample, covered, np.flatnonzero(group.reshape(-1) == index)


def _kernel(a: Array, b: Array, length: float) -> Array:
    return np.exp(-0.5 * cdist(a / length, b / length, "sqeuclidean"))


def _propose_lengths(places: Array) -> Array:
    distances = cdist(places, places)
    np.fill_diagonal(distances, np.inf)
    extent = np.ptp(places, axis=0).max()
    if not extent > 0:
        return np.ones(1)  # all nodes in one place: no length has any effect
    shortest = np.median(distances.min(axis=1))
    shortest = np.clip(shortest, 1e-3 * extent, extent)  # most nodes may coincide
    return np.geomspace(shortest, 2 * extent, _NUM_LENGTHS)


def _check_values(
    values: ArrayLike, hidden: ArrayLike
) -> tuple[Array, NDArray[np.bool_]]:
    """Returns values, 0 where hidden, and the mask, both [sample, node, gene]."""
    values, hidden = np.asarray(values, np.float64), np.asarray(hidden)
    if values.ndim != 3 or not values.size or hidden.dtype != bool:
        raise ValueError(
            "values must be [sample, node, gene], none of them 0, and hidden bool; got "
            f"{values.shape} and {hidden.dtype}"
        )
    hidden = np.broadcast_to(hidden, values.shape)
    bad = np.argwhere(~hidden & ~np.isfinite(values))
    if bad.size:
        raise ValueError(f"visible value at [sample, node, gene] = {bad[0]} not finite")
    # Hidden values become 0, so that nothing downstream can read them.
    return np.where(hidden, 0.0, values), hidden


def _check(
    values: ArrayLike, hidden: ArrayLike, positions: ArrayLike
) -> tuple[Array, NDArray[np.bool_], Array]:
    """Returns values and mask of `_check_values`, and places, [sample, node, dim]."""
    values, hidden = _check_values(values, hidden)
    positions = np.asarray(positions, np.float64)
    if positions.ndim not in (2, 3) or positions.shape[-2] != values.shape[1]:
        raise ValueError(
            f"positions must be [node, dim] or [sample, node, dim] for values "
            f"{values.shape}; got {positions.shape}"
        )
    if not np.isfinite(positions).all():
        raise ValueError("positions are not all finite")
    shape = (*values.shape[:2], positions.shape[-1])
    return values, hidden, np.broadcast_to(positions, shape)
