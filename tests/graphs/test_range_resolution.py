"""Compares range/resolution schedules with the published table and hand values."""

import csv
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax.graphs import RANGE_SCHEDULES, RangeResolution, range_and_resolution
from ncgn_jax.graphs.range_resolution import num_supernodes_exact

LEVELS = st.floats(0.0, 1.0)


@st.composite
def schedules(draw):
    """Draws any valid schedule, with tables and extreme parameters."""
    name = draw(st.sampled_from(RANGE_SCHEDULES))
    table = ()
    if name == "table":
        inner = draw(st.lists(st.floats(0.01, 0.99), max_size=4, unique=True))
        size = len(inner) + 2
        weights = draw(st.lists(LEVELS, min_size=size, max_size=size))
        table = tuple(zip([0.0, *sorted(inner), 1.0], sorted(weights), strict=True))
    return RangeResolution(
        name=name,
        curvature=draw(st.floats(1e-3, 1e4)),
        split=draw(st.floats(0.0, 0.99)),
        exponent=draw(st.floats(0.01, 20.0)),
        table=table,
    )


def test_published_table_to_the_integer(fixtures):
    with (fixtures / "dmp_schedules.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 336
    for row in rows:
        found = range_and_resolution(
            float(row["t"]),
            int(row["n_nodes"]),
            int(row["k"]),
            RangeResolution(row["schedule"]),
        )
        assert found == (int(row["n_clusters"]), int(row["n_neighbors"])), row


@settings(max_examples=300, deadline=None, derandomize=True)
@given(schedules(), st.integers(1, 3000), st.integers(1, 20), LEVELS, LEVELS)
def test_more_signal_means_finer_and_nearer(schedule, num_nodes, k, a, b):
    low, high = sorted((a, b))
    coarse, far = range_and_resolution(low, num_nodes, k, schedule)
    fine, near = range_and_resolution(high, num_nodes, k, schedule)
    assert coarse <= fine
    assert far >= near >= k
    smallest = min(math.ceil(math.sqrt(k * num_nodes)), num_nodes)
    assert smallest <= coarse
    assert fine <= num_nodes


@settings(max_examples=200, deadline=None, derandomize=True)
@given(schedules(), st.integers(1, 3000), st.integers(1, 20), LEVELS)
def test_the_edge_budget_is_k_times_n(schedule, num_nodes, k, level):
    supernodes, neighbors = range_and_resolution(level, num_nodes, k, schedule)
    budget = k * num_nodes
    # Two roundings up, by less than one each.
    assert budget - 1e-6 <= supernodes * neighbors + 1e-6 * budget
    assert (supernodes - 1) * (neighbors - 1) < budget * (1 + 1e-9)


@pytest.mark.parametrize("name", ["exp", "linear", "relu", "log", "power"])
def test_ends(name):
    schedule = RangeResolution(name)
    assert range_and_resolution(0.0, 400, 7, schedule) == (53, 53)
    assert range_and_resolution(1.0, 400, 7, schedule) == (400, 7)
    assert num_supernodes_exact(0.0, 400, 7, schedule) == math.sqrt(2800)
    assert num_supernodes_exact(1.0, 400, 7, schedule) == 400


def test_constant_is_always_the_full_graph():
    schedule = RangeResolution("constant")
    assert range_and_resolution(0.0, 400, 7, schedule) == (400, 7)


@pytest.mark.parametrize(
    ("schedule", "level", "weight"),
    [
        (RangeResolution("exp"), 0.9, 0.3678507),  # (e^9 - 1)/(e^10 - 1)
        (RangeResolution("log"), 0.1, 0.2890648),  # ln 2 / ln 11
        (RangeResolution("relu"), 0.8, 0.5),
        (RangeResolution("relu", split=0.0), 0.25, 0.25),
        (RangeResolution("power", exponent=3.0), 0.5, 0.125),
        (RangeResolution("linear"), 0.3, 0.3),
        (RangeResolution("table", table=((0, 0), (0.5, 0.2), (1, 1))), 0.75, 0.6),
        (RangeResolution("table", table=((0, 0.1), (1, 0.3))), 0.5, 0.2),
    ],
)
def test_weights_worked_out_by_hand(schedule, level, weight):
    assert schedule.weight(level) == pytest.approx(weight, abs=1e-7)


def test_an_extreme_curvature_does_not_overflow():
    steep = RangeResolution("exp", curvature=5000.0)
    assert steep.weight(0.5) == 0.0
    assert steep.weight(1.0) == 1.0


def test_few_points_and_many_neighbors():
    # sqrt(kN) > N: the coarsest graph is the full one.
    assert range_and_resolution(0.0, 3, 9) == (3, 9)
    assert range_and_resolution(0.0, 1, 1) == (1, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "cosine"},
        {"curvature": 0.0},
        {"curvature": -1.0},
        {"exponent": 0.0},
        {"split": 1.0},
        {"split": -0.1},
        {"name": "table"},
        {"name": "table", "table": ((0, 0),)},
        {"name": "table", "table": ((0, 0), (0.9, 1))},
        {"name": "table", "table": ((0.1, 0), (1, 1))},
        {"name": "table", "table": ((0, 0), (0.6, 0.5), (0.4, 0.7), (1, 1))},
        {"name": "table", "table": ((0, 0.5), (1, 0.4))},
        {"name": "table", "table": ((0, 0), (1, 1.5))},
    ],
)
def test_parameters_that_would_break_monotonicity_are_refused(fields):
    with pytest.raises(ValueError, match="range/resolution schedule"):
        RangeResolution(**fields)


@pytest.mark.parametrize("arguments", [(-0.1, 4, 1), (1.1, 4, 1), (0, 0, 1), (0, 4, 0)])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="found"):
        range_and_resolution(*arguments)
