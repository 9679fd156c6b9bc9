"""Makes noise buckets of images, whose patch size and window follow the noise.

Tokens of an image are patches on a grid. As in point clouds, the number of tokens is
n(u) = s0 + (N - s0) u from the coarsest grid to the finest, where u is the
range/resolution schedule of the signal level. Each token attends to k N / n others, so
the number of attended pairs is nearly the same at all noise levels (Pao-Huang et al.
2025, section "Images"). Positions are data, so everything is computed ahead of time.

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

# A bucket with a smaller share of [0, 1] is visited by rounding alone.
_LEAST_SHARE = 1e-6


@dataclasses.dataclass(frozen=True)
class GridBucket:
    """A grid of tokens, its attention window, and the levels that use them.

    Attributes:
      low: Smallest signal level of the bucket, inclusive.
      high: Largest signal level, exclusive (inclusive where it is 1).
      patch: Pixels per side of a patch.
      grid: Tokens along height and width.
      window: Tokens per side of the attention window; shorter axes are seen whole.
    """

    low: float
    high: float
    patch: int
    grid: Grid
    window: int

    @property
    def num_supernodes(self) -> int:
        """Returns the number of tokens per image."""
        return self.grid[0] * self.grid[1]

    @property
    def num_neighbors(self) -> int:
        """Returns the number of tokens that a token attends to, itself included."""
        return min(self.window, self.grid[0]) * min(self.window, self.grid[1])

    @property
    def num_edges(self) -> int:
        """Returns the number of attended pairs per image."""
        return self.num_supernodes * self.num_neighbors


def grid_of(image_size: Grid, patch: int) -> Grid:
    """Returns the number of square patches along height and width of an image.

    Args:
      image_size: Pixels along height and width.
      patch: Pixels per side of a patch.

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

    Grids of a and b tokens meet where n(u) = sqrt(a b). The side of a window is the odd
    number nearest to sqrt(k N / n), the larger one in a tie. A window that leaves out
    at most one row or column becomes the whole grid.

    Args:
      image_size: Pixels along height and width.
      patches: Sizes of patches, each a divisor of both sides, in any order.
      num_neighbors: Tokens that a token of the finest grid attends to, k, before
        rounding; 0 gives full attention in every grid.
      schedule: Range/resolution schedule; the paper's `exp` if None.
      reverse: Fine when noisy and coarse when clean, for comparison.

    Returns:
      Buckets that tile [0, 1] in order of rising signal level, without grids that no
      level uses.

    Raises:
      ValueError: If patches are missing, repeated, not positive or no divisors, the
        image has no pixels, or `num_neighbors` is negative.
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
    # Odd numbers are 2 j + 1, and ties go to the larger.
    window = 2 * math.floor(side / 2) + 1
    whole = max(grid)
    return window if num_neighbors > 0 and window < whole - 1 else whole
