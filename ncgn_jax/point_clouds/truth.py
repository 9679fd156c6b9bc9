"""Compares generated clouds with the closed form of their training distribution.

It serves `data.source = "primitives"` (spheres, tori and boxes). Distances between
sets of samples have a floor that depends on the sizes of the sets; the distance to
the nearest surface is zero for the truth.

Example:
  >>> from ncgn_jax.point_clouds.primitives import make_primitives
  >>> row = truth_row(make_primitives(3, 60, seed=0)[0])
  >>> row["truth_rms"] < 1e-4, row["truth_in_prior"], row["truth_clouds"]
  (True, 1.0, 3)
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.metrics.transport import draw_subset
from ncgn_jax.point_clouds.anchors import make_anchor_sets
from ncgn_jax.point_clouds.primitive_fits import best_fit
from ncgn_jax.point_clouds.primitives import CLASS_NAMES, in_prior

MAX_CLOUDS = 64  # about 50 ms each
# Sizes fitted to slightly noisy points miss the true ones by about this much.
TOLERANCE = 0.02
_ANCHORS = ("noise", "train", "held_out")

TRUTH_COLUMNS = (
    Column(
        "truth_rms",
        "rms e-2",
        100,
        2,
        "rms distance of points to the best-fitting sphere, torus or box, in [-1, 1], "
        f"x 100, mean over at most {MAX_CLOUDS} clouds; the truth has 0",
    ),
    Column(
        "truth_in_prior",
        "in prior",
        100,
        1,
        "clouds whose fitted centre and sizes the distribution can draw, "
        f"+-{TOLERANCE}, %, the same clouds; the truth has 100",
    ),
    Column(
        "truth_class_distance",
        "TV class",
        1,
        3,
        "total variation between fitted classes and a third each; the train row, as "
        "many true clouds, shows what chance gives",
    ),
)


def truth_row(clouds: ArrayLike, *, max_clouds: int = MAX_CLOUDS) -> Row:
    """Measures clouds against the distribution of `make_primitives`.

    A cloud whose points all coincide counts as outside the prior and of no class, and
    is left out of the rms distance.

    Args:
      clouds: In the data's own units, [cloud, point, 3], at least 12 points each.
      max_clouds: Most clouds to fit, a random subset with a fixed seed.

    Returns:
      `truth_rms` (mean over clouds of the rms distance to the fitted surface, NaN if
      none was fitted), `truth_in_prior` (share in [0, 1]), `truth_class_distance`
      (1/2 sum_c |p_c - 1/3|, in [0, 1]) and `truth_clouds`, the number fitted.
    """
    clouds = draw_subset(np.asarray(clouds), max_clouds, seed=0)
    distances, inside = [], 0
    # The last class is `none`.
    counts = np.zeros(len(CLASS_NAMES) + 1)
    for cloud in clouds:
        try:
            label, parameters, rms = best_fit(cloud)
        except ValueError:
            counts[-1] += 1
            continue
        counts[label] += 1
        distances.append(rms)
        inside += in_prior(label, parameters, TOLERANCE)
    truth = np.append(np.full(len(CLASS_NAMES), 1 / len(CLASS_NAMES)), 0.0)
    return {
        "truth_rms": float(np.mean(distances)) if distances else float("nan"),
        "truth_in_prior": inside / len(clouds),
        "truth_class_distance": float(np.abs(counts / len(clouds) - truth).sum() / 2),
        "truth_clouds": len(distances),
    }


def add_truth(
    rows: Mapping[str, Row],
    samples: Mapping[str, Mapping[str, np.ndarray]],
    train: np.ndarray,
    test: np.ndarray,
    *,
    num_clouds: int,
    half_width: float,
) -> dict[str, Row]:
    """Adds the truth columns to the rows of samples and of anchors.

    Args:
      rows: Rows by name, of the samples and of the anchors.
      samples: Generated `points` in the data's own units, by row.
      train: Training clouds of the anchors, in the scaling of the metrics.
      test: Test clouds in that scaling.
      num_clouds: Size of the anchor sets.
      half_width: Factor from the data's own units to that scaling.

    Returns:
      New rows. `origin` has no surface and is not changed.
    """
    sets = make_anchor_sets(train, test, num_clouds=num_clouds, seed=0)
    clouds = {name: sets[name] / half_width for name in _ANCHORS if name in sets}
    clouds |= {name: arrays["points"] for name, arrays in samples.items()}
    return {
        name: {**row, **truth_row(clouds[name])} if name in clouds else dict(row)
        for name, row in rows.items()
    }
