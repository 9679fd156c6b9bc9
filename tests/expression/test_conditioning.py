"""Masks of the tasks, random masks, and samplers that keep to what is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.expression.conditioning import (
    FIELD_TASKS,
    given_mask,
    num_generated_times,
    random_masks,
)
from ncgn_jax.expression.sets import FieldSet
from ncgn_jax.faults import DataError
from ncgn_jax.process import integrate, make_sampler, make_schedule
from ncgn_jax.process.given import keep_given

TIMES, PLACES = tuple(range(8)), tuple(range(12))
GRID = FieldSet(
    values=np.ones((3, 96, 3), np.float32),
    layouts=(np.zeros((96, 2), np.float32),),
    layout=np.zeros(3, np.int32),
    grid=(TIMES, PLACES),
    knocked_out=np.array([0, 2, 1], np.int32),
)
TISSUE = FieldSet(
    values=np.ones((2, 40, 3), np.float32),
    layouts=(
        np.random.default_rng(0).normal(size=(40, 2)),
        np.ones((25, 2)) * [[1, 2]],
    ),
    layout=np.arange(2, dtype=np.int32),
)


def on_grid(task, hidden=(1,)):
    return given_mask(task, GRID, hidden).reshape(3, 8, 12, 3)


def test_masks_of_the_published_tasks():
    assert not on_grid("unconditional").any()
    forward = np.zeros((8, 12, 3), bool)
    forward[0] = True
    np.testing.assert_array_equal(on_grid("forward")[1], forward)
    forward[-1] = True
    np.testing.assert_array_equal(on_grid("interpolation")[2], forward)
    genes = on_grid("gene_imputation")
    assert genes[..., [0, 2]].all()
    assert not genes[..., 1].any()
    places = on_grid("space_imputation").any(axis=(0, 1, 3))
    np.testing.assert_array_equal(np.flatnonzero(places), [0, 1, 5, 6, 10, 11])
    knocked = on_grid("knockout")
    for row, gene in enumerate(GRID.knocked_out):
        assert knocked[row, ..., gene].all()
        assert knocked[row].sum() == 96


def test_padding_is_never_given_and_nodes_of_a_tissue_are_drawn_by_number():
    given = given_mask("space_imputation", TISSUE, (1,))
    assert not given[1, 25:].any()
    np.testing.assert_array_equal(given.sum(axis=(1, 2)), [3 * 28, 3 * 18])
    np.testing.assert_array_equal(given, given_mask("space_imputation", TISSUE, (1,)))
    alone = given_mask("space_imputation", TISSUE.first(1), (1,))
    np.testing.assert_array_equal(alone, given[:1])


@pytest.mark.parametrize(
    ("task", "hidden", "match"),
    [
        ("gene_imputation", (), "gives everything"),
        ("gene_imputation", (0, 1, 2), "gives nothing of sample 0, of 3 genes"),
    ],
)
def test_masks_of_everything_or_nothing_are_refused(task, hidden, match):
    with pytest.raises(DataError, match=match):
        given_mask(task, GRID, hidden)


def test_tasks_that_the_data_do_not_allow_are_refused():
    with pytest.raises(DataError, match="forward needs fields on a grid"):
        given_mask("forward", TISSUE, (1,))
    with pytest.raises(DataError, match="knockout needs"):
        given_mask("knockout", TISSUE, (1,))


def test_numbers_of_generated_times():
    found = [num_generated_times(task, GRID) for task in FIELD_TASKS]
    assert found == [8, 7, 6, 8, 8, 8]
    assert num_generated_times("space_imputation", TISSUE) == 1


def test_random_masks_are_of_four_kinds_at_equal_odds():
    rng = np.random.default_rng(0)
    positions = jnp.asarray(rng.uniform(size=(4000, 30, 2)))
    keys = jax.random.split(jax.random.key(0), 4000)
    masks = np.asarray(jax.jit(random_masks, static_argnums=2)(keys, positions, 5))
    whole_nodes = (masks == masks[..., :1]).all(axis=(1, 2))
    whole_genes = (masks == masks[:, :1]).all(axis=(1, 2))
    nothing = ~masks.any(axis=(1, 2))
    assert (whole_nodes | whole_genes).all()
    # Genes at random but for the two draws that are all alike.
    assert abs((whole_genes & ~whole_nodes).mean() - 0.25 * (1 - 2 / 32)) < 0.03
    assert 0.25 < nothing.mean() < 0.35
    # An interval of a coordinate is hidden: what is given lies outside it.
    by_node = masks[whole_nodes & ~whole_genes][..., 0]
    places = positions[whole_nodes & ~whole_genes]
    split = [
        any(
            not by[(x >= x[~by].min()) & (x <= x[~by].max())].any()
            for x in np.asarray(points).T
        )
        for by, points in zip(by_node, places, strict=True)
    ]
    assert np.mean(split) > 0.4


@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim", "ab2", "dpmpp_2m"])
@pytest.mark.parametrize("schedule", ["linear", "ddpm_cosine"])
def test_given_entries_follow_their_interpolant(sampler, schedule):
    rng = np.random.default_rng(1)
    data, noise, wrong = (
        jnp.asarray(rng.normal(size=(2, 6, 3)), jnp.float32) for _ in range(3)
    )
    given = jnp.asarray(rng.random((2, 6, 3)) < 0.5)
    process = make_schedule(schedule)
    seen = []

    def denoise(x_t, t):
        seen.append(x_t)
        return wrong, wrong

    held = keep_given(denoise, given, data, noise, hold=True)
    free = keep_given(denoise, given, data, noise, hold=False)
    times = np.linspace(0.3, 0.6, 31, dtype=np.float32)
    alpha, sigma = process.alpha(times[0]), process.sigma(times[0])
    start = alpha * data + sigma * noise
    walker = make_sampler(sampler)
    end = integrate(walker, free, process, start, times, jax.random.key(0))
    expected = process.alpha(times[-1]) * data + process.sigma(times[-1]) * noise
    # First or second order in the step on a curved path, exact on a straight one.
    exact = schedule == "linear" or sampler in ("ddim", "dpmpp_2m")
    atol = 1e-5 if exact else 0.03 if sampler == "euler" else 1e-3
    np.testing.assert_allclose(end[given], expected[given], atol=atol)
    assert float(jnp.abs(end - expected)[~given].max()) > 0.05
    x_t = jnp.full_like(data, 7.0)
    seen.clear()
    held(x_t, times[:2])
    np.testing.assert_array_equal(seen[0], jnp.where(given, data, x_t))
    free(x_t, times[:2])
    np.testing.assert_array_equal(seen[1], x_t)
