"""Measures a set of point clouds with all measures, for one row of a results table.

Example:
  >>> import numpy as np
  >>> real = np.random.default_rng(0).uniform(-0.25, 0.25, size=(12, 20, 3))
  >>> row = evaluate_clouds(real[:6], real[6:], EvaluationSettings())
  >>> row["num_generated"], row["w_flat"] > 0, 0 <= row["chamfer_1nna"] <= 1
  (6, True, True)
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncgn_jax.data.batches import split_reference
from ncgn_jax.metrics.table import Row
from ncgn_jax.metrics.transport import (
    draw_subset,
    wasserstein_flat,
    wasserstein_matched,
)
from ncgn_jax.point_clouds.anchors import make_anchor_sets
from ncgn_jax.point_clouds.distances import (
    chamfer_matrix,
    coverage,
    emd_matrix,
    jensen_shannon_divergence,
    minimum_matching_distance,
    nearest_neighbor_halves,
)
from ncgn_jax.point_clouds.statistics import cloud_statistics, statistics_distance

# Measures compare pairs in a set, so it needs two clouds.
_LEAST_COMPARED = 2
_NO_DISTANCES = np.zeros((0, 0))


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Settings of the measurements.

    Attributes:
      half_width: Largest |coordinate| of real clouds as given; 0.25 is published. Both
        W are measured as given, and all other measures on clouds divided by this,
        in [-1, 1].
      max_chamfer_clouds: Most clouds of each set for Chamfer (12 s at 442 on two
        cores, quadratic).
      max_matched_clouds: Most clouds of each set for W matched (20 s at 64,
        quadratic); 0 leaves it out.
      max_emd_clouds: Most clouds of each set for transport scores (30 s at 64,
        quadratic); 0 leaves them out.
      resolution: Cells per side for the Jensen-Shannon divergence.
      seed: Seed of every subset.
    """

    half_width: float = 0.25
    max_chamfer_clouds: int = 512
    max_matched_clouds: int = 64
    max_emd_clouds: int = 64
    resolution: int = 28
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises a ValueError if a setting is out of range."""
        if self.half_width <= 0:
            raise ValueError(f"half_width is {self.half_width}; it must be positive")
        if self.max_chamfer_clouds < 2:
            raise ValueError(
                f"max_chamfer_clouds is {self.max_chamfer_clouds}; at least 2"
            )
        for name in ("max_matched_clouds", "max_emd_clouds"):
            if getattr(self, name) < 0 or getattr(self, name) == 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; 0 (off) or at least 2"
                )


@dataclasses.dataclass(frozen=True)
class PreparedReference:
    """A reference set with all results that do not depend on the generated set.

    Attributes:
      clouds: All reference clouds as given, [T, N, D].
      chamfer_clouds, emd_clouds: Subsets in [-1, 1], [<= T, N, D].
      chamfer_distances, emd_distances: Distances inside them; a smaller generated
        set uses the leading part.
      statistics: `cloud_statistics` of all clouds in [-1, 1].
      settings: The settings it was prepared for.
    """

    clouds: NDArray
    chamfer_clouds: NDArray
    chamfer_distances: NDArray
    emd_clouds: NDArray
    emd_distances: NDArray
    statistics: dict[str, NDArray]
    settings: EvaluationSettings


def prepare_reference(
    reference: ArrayLike,
    settings: EvaluationSettings,
    *,
    num_generated: int | None = None,
) -> PreparedReference:
    """Computes the results that all rows against the same reference share.

    Args:
      reference: Reference clouds, [T, N, D].
      settings: Settings of the measurements.
      num_generated: Size of the largest generated set, which bounds that of all
        subsets; None if unknown.

    Returns:
      The reference, to pass to `evaluate_clouds` in place of the clouds.
    """
    reference = np.asarray(reference)
    scaled = reference / settings.half_width
    most = len(reference) if num_generated is None else num_generated
    chamfer = draw_subset(scaled, min(settings.max_chamfer_clouds, most), settings.seed)
    emd = draw_subset(scaled, min(settings.max_emd_clouds, most), settings.seed)
    if min(len(reference), most) < _LEAST_COMPARED:
        chamfer, emd = chamfer[:0], emd[:0]
    return PreparedReference(
        clouds=reference,
        chamfer_clouds=chamfer,
        chamfer_distances=chamfer_matrix(chamfer) if len(chamfer) else _NO_DISTANCES,
        emd_clouds=emd,
        emd_distances=emd_matrix(emd) if len(emd) else _NO_DISTANCES,
        statistics=cloud_statistics(scaled),
        settings=settings,
    )


def evaluate_clouds(
    generated: ArrayLike,
    reference: ArrayLike | PreparedReference,
    settings: EvaluationSettings,
) -> Row:
    """Measures a generated set against a reference with all measures.

    Keys, with S generated and T reference clouds:
    - `num_generated`, `num_reference`, `num_points`: sizes;
    - `w_flat`: the published W of all clouds, over N, scaling as given;
    - `w_matched`: the same with matched points, on `w_matched_generated` and
      `w_matched_reference` clouds;
    - `chamfer_1nna`, `chamfer_coverage`, `chamfer_mmd` (squared distances), on
      `chamfer_clouds` clouds of each set in [-1, 1]; `chamfer_1nna_generated` and
      `chamfer_1nna_reference` are the two halves of 1-NNA, alike for `emd`;
    - `emd_1nna`, `emd_coverage`, `emd_mmd` (mean distance), on `emd_clouds`;
    - `jsd`: Jensen-Shannon divergence in bits over [-1, 1]^D;
    - `spread`, `spread_reference`: standard deviation of all coordinates of a set,
      as given;
    - `mean_<statistic>` of the generated clouds and `distance_<statistic>` to the
      reference, in [-1, 1] (see `cloud_statistics`).

    Args:
      generated: Generated clouds, [S, N, D], points in random order.
      reference: Reference clouds, [T, N, D], in the same scaling, or the result of
        `prepare_reference` with the same settings.
      settings: Settings of the measurements.

    Returns:
      Plain numbers by name; sizes and spread alone if S or T is 1.

    Raises:
      ValueError: If shapes or settings do not fit or a coordinate is not finite.
    """
    generated = np.asarray(generated)
    if not isinstance(reference, PreparedReference):
        reference = prepare_reference(reference, settings, num_generated=len(generated))
    if reference.settings != settings:
        raise ValueError(
            f"reference prepared for {reference.settings}, asked for {settings}"
        )
    sizes: Row = {
        "num_generated": len(generated),
        "num_reference": len(reference.clouds),
        "num_points": generated.shape[1],
    }
    spreads: Row = {
        "spread": float(np.std(generated, dtype=np.float64)),
        "spread_reference": float(np.std(reference.clouds, dtype=np.float64)),
    }
    if min(len(generated), len(reference.clouds)) < _LEAST_COMPARED:
        return {**sizes, **spreads}
    scaled = generated / settings.half_width
    return {
        **sizes,
        "w_flat": wasserstein_flat(generated, reference.clouds),
        **_matched_row(generated, reference),
        **_chamfer_row(scaled, reference),
        **_emd_row(scaled, reference),
        "jsd": jensen_shannon_divergence(
            scaled,
            reference.clouds / settings.half_width,
            resolution=settings.resolution,
        ),
        **spreads,
        **_statistics_row(scaled, reference),
    }


def evaluate_anchors(
    train: ArrayLike,
    test: ArrayLike,
    settings: EvaluationSettings,
    *,
    num_clouds: int,
    reference: PreparedReference | None = None,
) -> dict[str, Row]:
    """Measures the anchor sets, for comparison with the row of a model.

    Args:
      train: Training clouds in the scaling of the metrics, [R, N, D].
      test: Test clouds, [T, N, D]. `held_out` compares its two halves; all other
        rows are compared with all of it.
      settings: Settings of the measurements; their seed also draws the anchors.
      num_clouds: Size of the generated sets to come.
      reference: `prepare_reference(test, settings)`; computed here if None.

    Returns:
      Rows by anchor name, without `held_out` for fewer than four test clouds.
    """
    sets = make_anchor_sets(train, test, num_clouds=num_clouds, seed=settings.seed)
    held_out = sets.pop("held_out", None)
    if reference is None:
        reference = prepare_reference(test, settings, num_generated=num_clouds)
    rows = {
        name: evaluate_clouds(clouds, reference, settings)
        for name, clouds in sets.items()
    }
    if held_out is not None:
        first_half, _ = split_reference(test, settings.seed)
        rows["held_out"] = evaluate_clouds(held_out, first_half, settings)
    return rows


def _matched_row(generated: NDArray, reference: PreparedReference) -> Row:
    settings = reference.settings
    if not settings.max_matched_clouds:
        return {}
    matched = wasserstein_matched(
        generated,
        reference.clouds,
        max_clouds=settings.max_matched_clouds,
        seed=settings.seed,
    )
    return {
        "w_matched": matched.value,
        "w_matched_generated": matched.num_generated,
        "w_matched_reference": matched.num_reference,
    }


def _chamfer_row(scaled: NDArray, reference: PreparedReference) -> Row:
    size = min(len(scaled), len(reference.chamfer_clouds))
    subset = draw_subset(scaled, size, reference.settings.seed)
    d_gr = chamfer_matrix(subset, reference.chamfer_clouds[:size])
    d_rr = reference.chamfer_distances[:size, :size]
    return _scores("chamfer", chamfer_matrix(subset), d_gr, d_rr)


def _emd_row(scaled: NDArray, reference: PreparedReference) -> Row:
    size = min(len(scaled), len(reference.emd_clouds))
    if not size:
        return {}
    subset = draw_subset(scaled, size, reference.settings.seed)
    d_gr = emd_matrix(subset, reference.emd_clouds[:size])
    return _scores(
        "emd", emd_matrix(subset), d_gr, reference.emd_distances[:size, :size]
    )


def _scores(name: str, d_gg: NDArray, d_gr: NDArray, d_rr: NDArray) -> Row:
    generated, reference = nearest_neighbor_halves(d_gg, d_gr, d_rr)
    return {
        f"{name}_1nna": (generated + reference) / 2,
        f"{name}_1nna_generated": generated,
        f"{name}_1nna_reference": reference,
        f"{name}_coverage": coverage(d_gr),
        f"{name}_mmd": minimum_matching_distance(d_gr),
        f"{name}_clouds": len(d_gr),
    }


def _statistics_row(scaled: NDArray, reference: PreparedReference) -> Row:
    statistics = cloud_statistics(scaled)
    distances = statistics_distance(statistics, reference.statistics)
    return {
        **{f"mean_{name}": float(values.mean()) for name, values in statistics.items()},
        **{f"distance_{name}": value for name, value in distances.items()},
    }
