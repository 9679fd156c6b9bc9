"""Declares the columns of a table of point clouds, and how to read W in it.

Example:
  >>> rows = {"train": {"w_flat": 0.012}, "model": {"w_flat": 0.0105}}
  >>> warn_below_floor(rows)
  ['model: W below the floor: collapse or narrow spread, not success']
"""

from collections.abc import Mapping

from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.point_clouds.anchors import ANCHOR_NAMES

FLOOR_ROW = "train"
# Two draws of real shapes differ by about 1 % in W; less than that says nothing.
_FLOOR_TOLERANCE = 0.985
_WARNING = "W below the floor: collapse or narrow spread, not success"

POINT_CLOUD_COLUMNS = (
    Column(
        "w_flat",
        "W e-2",
        100,
        3,
        "exact transport of flattened clouds / N, x 100, coordinates as given; "
        "blind to shape, rewards collapse: the train row is the floor",
    ),
    Column("w_over_floor", "W/floor", 1, 3, "W over the train row's; 1 is right"),
    Column(
        "w_matched",
        "W match e-2",
        100,
        3,
        "W with the points of each pair matched, / N, x 100, on a subset; lower",
    ),
    Column(
        "chamfer_1nna", "1-NNA CD", 100, 1, "1-NN accuracy, Chamfer, %; 50 is perfect"
    ),
    Column("chamfer_1nna_generated", "of samples", 100, 1, "1-NNA on samples alone, %"),
    Column(
        "chamfer_1nna_reference",
        "of test",
        100,
        1,
        "1-NNA on test clouds alone, %; high if samples cover too little",
    ),
    Column("emd_1nna", "1-NNA EMD", 100, 1, "the same with exact transport, a subset"),
    Column(
        "chamfer_coverage", "COV CD", 100, 1, "reference clouds hit, %, Chamfer; higher"
    ),
    Column(
        "chamfer_mmd",
        "MMD CD e-3",
        1000,
        2,
        "mean squared nearest distances, both ways summed, in [-1, 1], x 1000; lower",
    ),
    Column(
        "emd_mmd",
        "MMD EMD e-2",
        100,
        2,
        "mean matched distance, in [-1, 1], x 100, on a subset; lower",
    ),
    Column(
        "jsd", "JSD", 1, 4, "shares of points in equal cells of [-1, 1], bits; lower"
    ),
    Column("spread", "spread", 1, 4, "std of all coordinates as given; as the data's"),
    Column("distance_planarity", "d planar", 1, 4, "1-D transport of planarity; lower"),
    Column(
        "distance_nearest_distance",
        "d near e-2",
        100,
        2,
        "1-D transport of nearest-neighbour distances, in [-1, 1], x 100; lower",
    ),
    Column(
        "mean_num_stray",
        "stray",
        1,
        2,
        "points of a cloud over three mean neighbour distances from all others",
    ),
)


def add_floor(rows: Mapping[str, Row]) -> dict[str, Row]:
    """Adds `w_over_floor` to every row, the ratio of its W to the floor row's.

    Rows without W, and tables without the floor row, come back as they are.
    """
    base = rows.get(FLOOR_ROW, {}).get("w_flat")
    if not base:
        return {name: dict(row) for name, row in rows.items()}
    return {
        name: {**row, "w_over_floor": row["w_flat"] / base}
        if "w_flat" in row
        else dict(row)
        for name, row in rows.items()
    }


def warn_below_floor(rows: Mapping[str, Row]) -> list[str]:
    """Warns readers of the W column, one line each.

    A model's W under 0.985 of the floor is a warning, not a success. W falls as sets
    grow, so rows of other sizes than the floor's are pointed out too.
    """
    if not any("w_flat" in row for row in rows.values()):
        return []
    base = rows.get(FLOOR_ROW)
    if base is None or "w_flat" not in base:
        return [f"no {FLOOR_ROW!r} row: W cannot be read without its floor"]
    lines = []
    for name, row in add_floor(rows).items():
        if name in ANCHOR_NAMES or name == FLOOR_ROW or "w_flat" not in row:
            continue
        if row["w_over_floor"] < _FLOOR_TOLERANCE:
            lines.append(f"{name}: {_WARNING}")
        sizes = [(r.get("num_generated"), r.get("num_reference")) for r in (row, base)]
        if sizes[0] != sizes[1]:
            lines.append(f"{name}: sizes {sizes[0]}, but the floor's are {sizes[1]}")
    return lines


def say_unmeasured(rows: Mapping[str, Row]) -> list[str]:
    """Says which rows are too small to be measured, one line each.

    Example:
      >>> say_unmeasured({"model": {"num_generated": 1, "num_reference": 3}})
      ['model: 1 generated and 3 reference clouds; measures need 2 of each']
    """
    lines = [
        f"{name}: {row['num_generated']} generated and {row['num_reference']} "
        "reference clouds; measures need 2 of each"
        for name, row in rows.items()
        if min(row.get("num_generated", 2), row.get("num_reference", 2)) < 2
    ]
    if FLOOR_ROW in rows and "held_out" not in rows:
        lines.append("held_out: left out, since its two halves need 4 test clouds")
    return lines
