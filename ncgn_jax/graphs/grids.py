"""Noise buckets of images: patch size and attention window follow the noise.

Tokens of an image are patches on a grid. As in point clouds, the number of tokens is
n(u) = s0 + (N - s0) u, u being the range/resolution schedule of the signal level, from
the coarsest grid to the finest, and each token attends to k N / n of them, so that the
number of attended pairs is nearly the same at all noise levels (Pao-Huang et al. 2025,
section "Images"). Positions are data: everything is known ahead of time.

>>> for bucket in make_grid_buckets((32, 32), patches=(1, 2, 4), num_neighbors=4):
...     print(bucket.grid, bucket.window, bucket.num_neighbors, round(bucket.low, 3))
(8, 8) 8 64 0.0
(16, 16) 5 25 0.729
(32, 32) 3 9 0.924
"""

import dataclasses
import itertools
import math

from ncgn_jax.graphs.buckets import level_of_crossing
from ncgn_jax.graphs.range_resolution import RangeResolution
from ncgn_jax.graphs.windows import Grid

# A bucket of less of [0, 1] than this is never visited, or by rounding alone.
_LEAST_SHARE = 1e-6


@dataclasses.dataclass(frozen=True)
class GridBucket:
    """One grid of tokens, its attention window, and the levels that use them.

    Attributes:
      low: Smallest signal level of the bucket, inclusive.
      high: Largest signal level, exclusive (inclusive where it is 1).
      patch: Pixels a side of a patch.
      grid: Tokens along height and width.
      window: Tokens a side of the attention window; an axis with fewer is seen whole.
    """

    low: float
    high: float
    patch: int
    grid: Grid
    window: int

    @property
    def num_supernodes(self) -> int:
        """Tokens of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def num_neighbors(self) -> int:
        """Tokens that each token attends to, itself included."""
        return min(self.window, self.grid[0]) * min(self.window, self.grid[1])

    @property
    def num_edges(self) -> int:
        """Attended pairs of one image."""
        return self.num_supernodes * self.num_neighbors


def grid_of(image_size: Grid, patch: int) -> Grid:
    """Returns how many square patches an image has along height and width.

    Args:
      image_size: Pixels along height and width.
      patch: Pixels a side of a patch.

    Raises:
      ValueError: If the patch does not divide both, or a number is not positive.
    """
    height, width = image_size
    if min(height, width, patch) < 1:
        raise ValueError(
            "image_size and patch must be positive, "
            f"found {height} x {width} and {patch}"
        )
    if height % patch or width % patch:
        raise ValueError(
            f"patch must divide the image, found patch {patch} and "
            f"image_size {height} x {width}"
        )
    return height // patch, width // patch


def make_grid_buckets(
    image_size: Grid,
    patches: tuple[int, ...],
    num_neighbors: int,
    schedule: RangeResolution | None = None,
    reverse: bool = False,
) -> tuple[GridBucket, ...]:
    """Cuts [0, 1] into buckets of one patch size each, coarsest noise level first.

    Two grids of a and b tokens meet where n(u) = sqrt(a b). A window is the odd number
    nearest to sqrt(k N / n) a side, the larger of two; one that leaves out a single
    row or column, or none, becomes the whole grid.

    Args:
      image_size: Pixels along height and width.
      patches: Sizes of patches, each a divisor of both sides, in any order.
      num_neighbors: Tokens that a token of the finest grid attends to, k, before
        rounding; 0 is full attention in every grid.
      schedule: Range/resolution schedule; the paper's `exp` if None.
      reverse: Fine when noisy and coarse when clean, for comparison.

    Returns:
      Buckets that tile [0, 1] in order of rising signal level; grids that no level
      asks for are left out.

    Raises:
      ValueError: For patches that are none, repeated, not positive or no divisors,
        an image without pixels, or a negative `num_neighbors`.
    """
    if num_neighbors < 0:
        raise ValueError(f"num_neighbors must not be negative, found {num_neighbors}")
    if not patches or len(set(patches)) < len(patches):
        raise ValueError(
            f"patches must be one or more different sizes, found {patches}"
        )
    schedule = schedule or RangeResolution()
    grids = {
        patch: grid_of(image_size, patch) for patch in sorted(patches, reverse=True)
    }
    sizes = [math.prod(grid) for grid in grids.values()]
    coarsest, finest = sizes[0], sizes[-1]

    def curve(signal_level: float) -> float:
        return coarsest + (finest - coarsest) * schedule.weight(signal_level)

    edges = [
        level_of_crossing(curve, math.sqrt(a * b)) for a, b in itertools.pairwise(sizes)
    ]
    visited = [
        (low, patch)
        for low, high, patch in zip([0.0, *edges], [*edges, 1.0], grids, strict=True)
        if high - low >= _LEAST_SHARE
    ]
    bounds = [0.0, *(low for low, _ in visited[1:]), 1.0]
    buckets = [
        GridBucket(
            low, high, patch, grids[patch], _window(grids[patch], finest, num_neighbors)
        )
        for (low, high), (_, patch) in zip(
            itertools.pairwise(bounds), visited, strict=True
        )
    ]
    if reverse:
        buckets = [
            dataclasses.replace(bucket, low=1.0 - bucket.high, high=1.0 - bucket.low)
            for bucket in reversed(buckets)
        ]
    return tuple(buckets)


def _window(grid: Grid, finest: int, num_neighbors: int) -> int:
    """Returns the side of the window that keeps the number of attended pairs."""
    side = math.sqrt(num_neighbors * finest / math.prod(grid))
    # Odd numbers are 2 j + 1; halves are rounded up.
    window = 2 * math.floor(side / 2) + 1
    whole = max(grid)
    return window if num_neighbors > 0 and window < whole - 1 else whole
