"""Tells the sections of a file of cells apart, and holds out a region of each.

A section is a piece of tissue. Sections that share a frame of coordinates lie on top of
each other there, so that neighbours in the frame are none in the tissue.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from ncgn_jax.expression.cell_names import (
    SECTION_COLUMNS,
    TILE_COLUMNS,
    find_columns,
    list_some,
)
from ncgn_jax.expression.cell_tables import to_names, to_numbers
from ncgn_jax.faults import DataError

# Values of `data.section_column` that are no column.
AUTO, NONE = "auto", "none"
# With fewer cells for each value, a column names something else than sections.
_FEWEST_CELLS = 4
# What stands before the first mark in the name of a cell.
_FIRST = r"^([^-_.:#]+)[-_.:#]"
# Share of cells inside the frames of others from which on frames overlap.
_OVERLAP = 0.5


def choose_section_column(
    columns: Sequence[str],
    column_of: Callable[[str], np.ndarray],
    positions: np.ndarray,
    say: Callable[[str], None],
    stated: Sequence[str] = (),
) -> str | None:
    """Finds the column that tells sections apart by its name.

    Args:
      columns: Names of all columns.
      column_of: Returns a column.
      positions: Of the cells, [cell, axis].
      say: Takes what was decided by a rule.
      stated: Columns of which the file says that they are it.

    Returns:
      The column, None if the cells are of one section.

    Raises:
      DataError: If two columns cut the cells up in different ways.
    """
    way_out = "data.section_column names another, or `none`"
    groups, are_texts = {}, {}
    for name in [*stated, *find_columns(columns, (*SECTION_COLUMNS, *TILE_COLUMNS))]:
        if name not in columns or name in groups:
            continue
        values, group = np.unique(to_names(column_of(name)), return_inverse=True)
        if len(values) == 1:
            continue
        if len(group) < _FEWEST_CELLS * len(values):
            say(
                f"column {name!r} with {len(values):,} values for {len(group):,} cells "
                f"is not taken for sections; {way_out}"
            )
        elif name.lower() in TILE_COLUMNS and _overlap(positions, group) < _OVERLAP:
            say(
                f"column {name!r}: {len(values):,} tiles of one frame are taken "
                f"together; data.section_column={name} keeps them apart"
            )
        else:
            groups[name] = group
            are_texts[name] = not np.isfinite(to_numbers(values.astype(object))).all()
    # One that divides all others as well is the finest.
    finest = [
        name
        for name, group in groups.items()
        if all(_refines(group, other) for other in groups.values())
    ]
    if groups and not finest:
        raise DataError(
            f"columns {list_some(groups)} may all tell sections apart, and cut the "
            f"cells up in different ways; {way_out}"
        )
    if not finest:
        return None
    # Of equal ones that with names rather than numbers.
    best = next((name for name in finest if are_texts[name]), finest[0])
    count = len(np.unique(groups[best]))
    say(f"{count:,} sections by column {best!r}, found by its name; {way_out}")
    return best


def suspect_names(
    names: Sequence[str], positions: np.ndarray, say: Callable[[str], None]
) -> None:
    """Says if names of cells look as if several sections were joined in one frame."""
    for side, pattern in (("end in", r"[-_.:#]([^-_.:#]+)$"), ("begin with", _FIRST)):
        found = [re.search(pattern, name) for name in names]
        parts = [match[1] for match in found if match]
        if len(parts) < len(names):
            continue
        values, group = np.unique(parts, return_inverse=True)
        if len(values) < 2 or len(names) < _FEWEST_CELLS * len(values):
            continue
        if _overlap(positions, group) >= _OVERLAP:
            say(
                f"names of cells {side} {list_some(values, 3)}, and these overlap: "
                "perhaps several sections in one frame; data.section_column names a "
                "column that tells them apart"
            )
            return


def hold_out(
    positions: np.ndarray, sections: np.ndarray | None, test_fraction: float
) -> tuple[np.ndarray, str]:
    """Chooses test cells at an end of the longest axis of each section.

    Args:
      positions: Of the cells, [cell, axis].
      sections: Number of the section of each cell; None for one section.
      test_fraction: Share of the cells.

    Returns:
      True for test cells, bool [cell], and the rule in words.
    """
    is_test = np.zeros(len(positions), bool)
    group = np.zeros(len(positions), int) if sections is None else sections
    for section in np.unique(group):
        own = group == section
        axis = int(np.argmax(np.ptp(positions[own], axis=0)))
        along = positions[own, axis]
        cut = np.quantile(along, 1 - test_fraction)
        is_test[own] = along >= cut
    if sections is None:
        return is_test, f"test where axis {axis} >= {cut:.10g}"
    return (
        is_test,
        f"test: {test_fraction:.0%} at an end of each section's longest axis",
    )


def _refines(group: np.ndarray, other: np.ndarray) -> bool:
    """Tells whether cells of one value have one value of the other column too."""
    return len(np.unique(group)) == len(np.unique(np.stack([group, other]), axis=1).T)


def _overlap(positions: np.ndarray, group: np.ndarray) -> float:
    """Returns the share of cells that lie in the frame of another group."""
    if not positions.shape[1]:
        return 1.0
    inside = np.zeros(len(positions), bool)
    for one in np.unique(group):
        own = positions[group == one]
        low, high = own.min(axis=0), own.max(axis=0)
        within = ((positions >= low) & (positions <= high)).all(axis=1)
        inside |= within & (group != one)
    return float(inside.mean())
