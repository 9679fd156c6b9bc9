"""Compares two sets of images by the features of a network.

All functions read arrays [image, feature]. Their values depend on the network, so a
table must name it. Distances are biased by the sizes of the sets, so a table needs a
row of real against real data of the same sizes.

Example:
  >>> import numpy as np
  >>> features = np.random.default_rng(0).normal(size=(200, 3))
  >>> round(frechet_distance(features, features + 1), 6)
  3.0
  >>> precision_recall(features, features)
  PrecisionRecall(precision=1.0, recall=1.0)
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scipy.special import rel_entr

# Distances held at once, 32 MB in float64.
_BLOCK = 2**22


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1] of generated and of real images that the other set covers."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density of generated images among real ones, and share of those reached."""

    density: float
    coverage: float


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Measures the Frechet distance between the means and covariances of two sets.

    |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the squared 2-Wasserstein
    distance of Gaussians with these moments (Heusel et al. 2017, arXiv 1706.08500; with
    Inception's features it is the FID). It has the squared unit of the features and is
    a sum over them, not a mean; covariances are divided by the number of images less 1.

    Estimates are biased upward, more so for smaller sets. Sets of no more images than
    features are allowed, but their covariances are singular and the bias is a large
    part of the value.

    Args:
      a: Features, [S, F] with S > 1.
      b: Features, [T, F] with T > 1.

    Returns:
      The distance >= 0.

    Raises:
      ValueError: If shapes do not fit, a set is too small or a value is not finite.
    """
    a, b = _check_sets(a, b, at_least=2)
    covariances = [np.atleast_2d(np.cov(part, rowvar=False)) for part in (a, b)]
    # Tr (A B)^(1/2) = Tr (A^(1/2) B A^(1/2))^(1/2): symmetric, so real and stable.
    root = _square_root(covariances[0])
    values = np.linalg.eigvalsh(root @ covariances[1] @ root)
    cross = np.sqrt(np.maximum(values, 0.0)).sum()
    spread = sum(np.trace(part) for part in covariances) - 2 * cross
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(shift + max(spread, 0.0))


def kernel_distance(
    a: ArrayLike,
    b: ArrayLike,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> float:
    """Measures the squared maximum mean discrepancy with a cubic kernel.

    The kernel is (x . y / F + 1)^3, and pairs of an image with itself are left out, so
    the estimate is unbiased: two sets of one distribution give 0 on average, whatever
    their sizes (Binkowski et al. 2018, arXiv 1801.01401; with Inception's features it
    is the KID). The value depends on the scale of the features.

    Args:
      a: Features, [S, F] with S > 1.
      b: Features, [T, F] with T > 1.
      num_subsets: Random subsets to average over, >= 1.
      subset_size: Images of each set in a subset, >= 2; fewer if a set has fewer.
      seed: Seed of the subsets.

    Returns:
      The estimate; it can be negative if the sets are alike.

    Raises:
      ValueError: If shapes do not fit, a set is too small, a value is not finite, or
        a number is out of range.
    """
    a, b = _check_sets(a, b, at_least=2)
    if num_subsets < 1 or subset_size < 2:
        raise ValueError(
            f"num_subsets={num_subsets}, subset_size={subset_size}; allowed: >= 1, >= 2"
        )
    size = min(subset_size, len(a), len(b))
    if size == len(a) == len(b):
        return _unbiased_discrepancy(a, b)
    rng = np.random.default_rng(seed)
    found = [
        _unbiased_discrepancy(
            *(part[rng.choice(len(part), size, replace=False)] for part in (a, b))
        )
        for _ in range(num_subsets)
    ]
    return float(np.mean(found))


def precision_recall(
    real: ArrayLike, generated: ArrayLike, k: int = 3
) -> PrecisionRecall:
    """Measures the share of each set that lies in the region covered by the other.

    A set covers the closed balls around its features that reach to the k-th nearest
    other feature of the set. Precision is the share of generated images that real ones
    cover, recall the share of real images that generated ones cover (Kynkaanniemi et
    al. 2019, arXiv 1904.06991). Both are shares in [0, 1] and do not change if features
    are scaled; both depend on the sizes of the sets and on k. Two halves of real data
    do not reach 1.

    Args:
      real: Features, [S, F] with S > k.
      generated: Features, [T, F] with T > k.
      k: Which neighbour the balls reach to, >= 1.

    Returns:
      Precision and recall.

    Raises:
      ValueError: If shapes do not fit, a set is too small or a value is not finite.
    """
    real, generated = _check_sets(real, generated, at_least=_neighbors(k) + 1)
    shares = []
    for inside, around in ((generated, real), (real, generated)):
        radii = _neighbor_distances(around, k)
        hits = [
            (distances <= radii).any(axis=1)
            for distances in _distance_blocks(inside, around)
        ]
        shares.append(float(np.concatenate(hits).mean()))
    return PrecisionRecall(*shares)


def density_coverage(
    real: ArrayLike, generated: ArrayLike, k: int = 5
) -> DensityCoverage:
    """Measures how well generated images fill the balls around real ones.

    Balls are open and reach to the k-th nearest other real image. Density is the mean
    number of balls that contain a generated image, divided by k: about 1 for real data,
    more if samples crowd where real images are dense. Coverage is the share in [0, 1]
    of balls that contain a generated image; fresh real images reach about
    1 - (S / (S + T))^k, 0.97 with k = 5 and equal sizes (Naeem et al. 2020,
    arXiv 2002.09797). Neither changes if features are scaled.

    Args:
      real: Features, [S, F] with S > k.
      generated: Features, [T, F] with T >= 1.
      k: Which neighbour the balls reach to, >= 1.

    Returns:
      Density and coverage.

    Raises:
      ValueError: If shapes do not fit, a set is too small or a value is not finite.
    """
    real, generated = _check_sets(real, generated, at_least=1)
    if len(real) <= _neighbors(k):
        raise ValueError(f"{len(real)} real images; allowed: more than k = {k}")
    radii = _neighbor_distances(real, k)
    num_inside, is_hit = 0, np.zeros(len(real), bool)
    for distances in _distance_blocks(generated, real):
        inside = distances < radii
        num_inside += int(inside.sum())
        is_hit |= inside.any(axis=0)
    return DensityCoverage(num_inside / (k * len(generated)), float(is_hit.mean()))


def inception_score(probabilities: ArrayLike) -> float:
    """Measures how confident a classifier is, and how varied its classes are.

    exp(mean over images of KL(p(class | image) || mean of all p)), between 1 and the
    number of classes (Salimans et al. 2016, arXiv 1606.03498). All images are one set;
    published numbers are often means over ten tenths, which is lower. The score does
    not use real images, so print theirs beside it.

    Args:
      probabilities: Class probabilities, [image, class]; each row sums to 1.

    Returns:
      The score.

    Raises:
      ValueError: If rows are not probabilities.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or not probabilities.size:
        raise ValueError(f"shape {probabilities.shape}; allowed: [image, class]")
    sums = probabilities.sum(axis=1)
    if not (np.all(probabilities >= 0) and np.allclose(sums, 1, atol=1e-4)):
        raise ValueError("rows of probabilities must be >= 0 with sum 1")
    marginal = probabilities.mean(axis=0)
    return float(np.exp(rel_entr(probabilities, marginal[None]).sum(axis=1).mean()))


def _check_sets(
    a: ArrayLike, b: ArrayLike, at_least: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1:] != b.shape[1:] or not a.shape[1]:
        raise ValueError(
            "sets must be [image, feature] with equal features; "
            f"got {a.shape} and {b.shape}"
        )
    if min(len(a), len(b)) < at_least:
        raise ValueError(
            f"sets of {len(a)} and {len(b)} images; allowed: at least {at_least}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a feature is not finite")
    return a, b


def _neighbors(k: int) -> int:
    if k < 1:
        raise ValueError(f"k={k}; allowed: >= 1")
    return k


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _unbiased_discrepancy(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    within = 0.0
    for part in (a, b):
        kernel = _cubic_kernel(part, part)
        pairs = len(part) * (len(part) - 1)
        within += (kernel.sum() - np.trace(kernel)) / pairs
    return float(within - 2 * _cubic_kernel(a, b).mean())


def _cubic_kernel(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    base = a @ b.T / a.shape[1] + 1
    return base * base * base


def _distance_blocks(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """Yields squared distances [<= rows, T] of successive rows of `a` to all of `b`."""
    # By differences, not by |x|^2 + |y|^2 - 2 x.y: equal pairs then have one distance
    # in all blocks, which matters for points on the edge of a ball.
    rows = max(1, _BLOCK // len(b))
    for start in range(0, len(a), rows):
        yield cdist(a[start : start + rows], b, "sqeuclidean")


def _neighbor_distances(points: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Returns the squared distance of each point to its k-th nearest other, [S]."""
    found = []
    for distances in _distance_blocks(points, points):
        # The point itself is among them, at distance 0.
        distances.partition(k, axis=1)
        found.append(distances[:, k].copy())  # a view would keep the whole block
    return np.concatenate(found)
