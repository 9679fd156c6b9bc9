"""Long steps: which there are, their targets, layouts, and exact maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.graphs import make_noise_buckets
from ncgn_jax.process import expand_like, make_schedule
from ncgn_jax.tasks.bucketed import BucketedTime, Objective, mean_loss
from ncgn_jax.tasks.flow_map import (
    STEP_GRAPHS,
    DrawnSteps,
    FlowMap,
    MapPart,
    mean_of_halves,
)

SPREAD = 0.6  # standard deviation of Gaussian data


@functools.cache
def make_time(process="linear"):
    return BucketedTime(make_schedule(process), make_noise_buckets(256, 7, 3))


def deviation(t):
    """Returns the standard deviation of x_t for Gaussian data, of flow matching."""
    return jnp.sqrt((t * SPREAD) ** 2 + (1 - t) ** 2)


def exact_velocities(asked):
    """Returns the exact map of Gaussian data: x_s = x_t deviation(s) / deviation(t)."""
    found = []
    for question in asked:
        t, span = question.t, question.span
        whole = (deviation(t + span) / deviation(t) - 1) / jnp.where(span, span, 1.0)
        rate = (t * SPREAD**2 - (1 - t)) / deviation(t) ** 2
        u = jnp.where(span > 0, whole, rate)
        found.append(expand_like(u, question.x) * question.x)
    return found


@pytest.mark.parametrize("graph", STEP_GRAPHS)
@pytest.mark.parametrize("num_steps", [2, 8])
def test_parts_hold_every_step_once_with_its_graphs(graph, num_steps):
    time, flow_map = make_time(), FlowMap(num_steps, 0.5, graph)
    moment = {
        "start": lambda a, c: a,
        "middle": lambda a, c: (a + c) / 2,
        "end": lambda a, c: c,
    }[graph]
    lows = [low for low, _ in time.intervals()]

    def bucket(a, c):
        return max(i for i, low in enumerate(lows) if low <= moment(a, c))

    found = {}
    for part in flow_map.parts(time):
        columns = part.start, part.stop, part.is_shortest, part.share
        for a, c, is_shortest, share in zip(*columns, strict=True):
            b = (a + c) / 2
            halves = ((a, a), (b, b)) if is_shortest else ((a, b), (b, c))
            assert part[:3] == (bucket(a, c), *(bucket(*half) for half in halves))
            found[a, c] = is_shortest, share
    rungs = [num_steps]
    while rungs[-1] > 1:
        rungs.append(rungs[-1] // 2)
    assert flow_map.rungs == tuple(rungs)
    expected = {
        (i / n, (i + 1) / n): (n == num_steps, 1 / n / len(rungs))
        for n in rungs
        for i in range(n)
    }
    assert found.keys() == expected.keys()
    for step, (is_shortest, share) in expected.items():
        assert found[step] == (is_shortest, pytest.approx(share))


@pytest.mark.parametrize("graph", STEP_GRAPHS)
def test_walks_have_the_steps_and_graphs_that_are_trained(graph):
    time, flow_map = make_time(), FlowMap(8, 0.5, graph)
    trained = {
        (a, c): part.step
        for part in flow_map.parts(time)
        for a, c in zip(part.start, part.stop, strict=True)
    }
    for num_steps in flow_map.rungs:
        walk = flow_map.stretches(time, num_steps)
        steps = [
            (bucket, *pair)
            for bucket, _, times in walk
            for pair in zip(times[:-1].tolist(), times[1:].tolist(), strict=True)
        ]
        assert [a for _, a, _ in steps] == [i / num_steps for i in range(num_steps)]
        assert all(trained[a, c] == bucket for bucket, a, c in steps)
        assert [s.offset for s in walk] == np.cumsum(
            [0, *(len(s.times) - 1 for s in walk[:-1])]
        ).tolist()


@pytest.mark.parametrize("num_devices", [1, 8])
def test_the_layout_weighs_parts_as_their_steps_are(num_devices):
    time, flow_map = make_time(), FlowMap(8, 0.3)
    parts = flow_map.parts(time)
    layout = flow_map.layout(time, 144, num_devices)
    assert layout.num_groups % num_devices == 0
    assert layout.num_groups * layout.group_size == 144
    mass = np.multiply(layout.counts, layout.weights) / layout.group_size
    lengths = np.diff(time.intervals(), axis=1)[:, 0]
    np.testing.assert_allclose(mass[: len(lengths)], 0.7 * lengths, rtol=1e-6)
    steps = [0.3 * sum(part.share) for part in parts]
    np.testing.assert_allclose(mass[len(lengths) :], steps, rtol=1e-6)
    np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-6)


def test_batches_too_small_for_all_parts_are_refused():
    with pytest.raises(ValueError, match="each of the 9 noise buckets and parts of"):
        FlowMap(8).layout(make_time(), 64, 8)


def draw(flow_map, velocities, target="velocity", batch=144, process="linear"):
    time = make_time(process)
    layout = flow_map.layout(time, batch, 1)
    rng = np.random.default_rng(0)
    data = (SPREAD * rng.normal(size=(batch, 5, 3))).astype(np.float32)
    noise = rng.normal(size=(batch, 5, 3)).astype(np.float32)
    goal = Objective(target, "uniform")

    @jax.jit
    def noise_steps(data, noise):
        keys = jax.random.split(jax.random.key(1), batch)
        rest = layout, goal, data, noise, keys, velocities
        return flow_map.noise_steps(time, *rest)

    return data, noise, layout, *noise_steps(data, noise)


def on_host(tree):
    return jax.tree.map(np.asarray, tree)


def test_rows_are_drawn_as_often_as_steps_have_shares():
    flow_map = FlowMap(8)
    parts = flow_map.parts(make_time())
    data, noise, layout, *drawn = draw(flow_map, exact_velocities, batch=4800)
    asked, rows = on_host(drawn)
    count = {}
    for i, (part, question, row) in enumerate(zip(parts, asked, rows, strict=True)):
        place = len(layout.counts) - len(parts) + i
        own, eps = (layout.take(array, place) for array in (data, noise))
        t = question.t[:, None, None]
        np.testing.assert_allclose(question.x, t * own + (1 - t) * eps, atol=1e-6)
        np.testing.assert_array_equal(question.x, row.x_t)
        np.testing.assert_array_equal(question.t, row.t)
        weight = layout.weights[place]
        for a, span in zip(question.t.tolist(), question.span.tolist(), strict=True):
            assert a in part.start
            count[a, a + span] = count.get((a, a + span), 0) + weight
    expected = {
        (i / n, (i + 1) / n): 4800 * flow_map.share / n / 4
        for n in (1, 2, 4, 8)
        for i in range(n)
    }
    assert set(count) == set(expected)
    for step, number in expected.items():
        assert count[step] == pytest.approx(number, rel=0.05, abs=2.5), step


def test_targets_are_two_steps_written_out():
    """u = x + 10 t + 100 span, so that a wrong time, span or half shows."""
    part = MapPart(0, 1, 2, *[np.zeros(0)] * 4)
    step = DrawnSteps(
        np.float32([[2.0], [4.0]]),
        np.float32([0.25, 0.5]),
        np.float32([0.75, 0.75]),
        np.asarray([False, True]),
    )
    buckets = []

    def velocities(asked):
        (question,) = asked
        buckets.append(question.bucket)
        return [question.x + (10 * question.t + 100 * question.span)[:, None]]

    (found,) = jax.jit(lambda step: mean_of_halves([part], [step], velocities))(step)
    assert buckets == [1, 2]
    first = 2 + 2.5 + 25
    long = (first + (2 + 0.25 * first) + 5.0 + 25) / 2
    middle = (4 + 0.125 * (4 + 5.0)) + 6.25
    np.testing.assert_allclose(found, [[long], [middle]], rtol=1e-6)


@pytest.mark.parametrize(
    "target", ["data", pytest.param("velocity", marks=pytest.mark.thorough)]
)
def test_the_exact_map_is_the_target_but_for_the_error_of_shortest_steps(target):
    errors = {}
    for num_steps in (4, 8):
        flow_map = FlowMap(num_steps)
        _, _, _, *drawn = draw(flow_map, exact_velocities, target)
        asked, rows = on_host(drawn)
        exact = on_host(jax.jit(exact_velocities)(asked))
        worst = 0.0
        for question, row, u in zip(asked, rows, exact, strict=True):
            t = question.t[:, None, None]
            wanted = u if target == "velocity" else question.x + (1 - t) * u
            is_long = question.span > 1 / num_steps
            gap = np.abs(row.target - wanted)
            np.testing.assert_allclose(gap[is_long], 0.0, atol=3e-6)
            worst = max(worst, gap[~is_long].max(initial=0.0))
        errors[num_steps] = worst
    # The midpoint rule's mean velocity errs by the square of the step.
    assert 0 < errors[8] < 0.35 * errors[4]


def test_no_gradient_goes_through_targets():
    def loss(scale):
        def velocities(asked):
            return [scale * u for u in exact_velocities(asked)]

        _, _, layout, asked, rows = draw(FlowMap(2), velocities)
        return sum(jnp.sum(row.target) for row in rows)

    assert jax.jit(jax.grad(loss))(1.0) == 0.0


def test_a_part_belongs_to_the_mean_loss():
    """Errors of 1 in the steps alone count as their share."""
    flow_map, time = FlowMap(4, 0.3), make_time()
    _, _, layout, _, rows = draw(flow_map, exact_velocities)
    rows = on_host(rows)
    of_buckets = [
        rows[0]._replace(
            x_t=np.zeros((layout.num_groups * count, 5, 3), np.float32),
            t=np.zeros(layout.num_groups * count),
            target=np.zeros((layout.num_groups * count, 5, 3), np.float32),
            weight=np.ones(layout.num_groups * count),
        )
        for count in layout.counts[: len(time.buckets)]
    ]
    parts = [*of_buckets, *rows]
    output = np.concatenate(
        [*(part.target for part in of_buckets), *(row.target + 1.0 for row in rows)]
    )
    loss, per_part = jax.jit(functools.partial(mean_loss, layout))(parts, output)
    assert loss == pytest.approx(0.3, rel=1e-5)
    np.testing.assert_allclose(per_part[: len(of_buckets)], 0.0)
    np.testing.assert_allclose(per_part[len(of_buckets) :], 1.0, rtol=1e-5)
