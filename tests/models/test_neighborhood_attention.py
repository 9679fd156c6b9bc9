"""Compares neighbourhood attention with dense attention in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import attention
from ncgn_jax.models.neighborhood_attention import neighborhood_attention

pytestmark = pytest.mark.usefixtures("compile_quickly")

BATCH, HEADS, FEATURES = 2, 2, 3
# Square and not, divided by tiles of four and not; windows odd, even, larger than the
# grid along one side or both.
SQUARE = ((4, 4), (8, 8), (11, 11), (16, 16))
CASES = [
    *itertools.product(SQUARE, ((1, 1), (2, 2), (3, 3), (5, 5))),
    ((8, 8), (8, 8)),
    ((16, 16), (8, 8)),
    *itertools.product(((9, 18), (21, 6), (1, 13)), ((2, 5), (4, 3), (6, 30))),
    ((1, 1), (1, 1)),
    ((2, 3), (7, 7)),
    ((17, 17), (9, 10)),
    ((14, 14), (13, 3)),
    ((24, 24), (3, 3)),
]


def first_key(i, length, window):
    half, odd = window // 2, window % 2
    return min(max(i, half), length - 1 - (half + odd - 1)) - half


def slow_mask(grid, window):
    """Returns whether the row sees the column, by NATTEN's formula for every pair."""
    tall, wide = (min(size, length) for size, length in zip(window, grid, strict=True))
    places = list(np.ndindex(*grid))
    mask = np.zeros((len(places), len(places)), bool)
    for i, (y, x) in enumerate(places):
        top, left = first_key(y, grid[0], tall), first_key(x, grid[1], wide)
        for v, u in itertools.product(range(top, top + tall), range(left, left + wide)):
            mask[i, v * grid[1] + u] = True
    return mask


def dense_attention(query, key, value, cotangent, mask):
    """Returns the result and the gradients in query, key and value."""
    query, key, value, cotangent = (
        np.asarray(x, np.float64).transpose(0, 2, 1, 3)
        for x in (query, key, value, cotangent)
    )
    scale = query.shape[-1] ** -0.5
    logits = np.where(mask, query @ key.swapaxes(2, 3) * scale, -np.inf)
    share = np.exp(logits - logits.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    slope = cotangent @ value.swapaxes(2, 3)
    slope = share * (slope - (share * slope).sum(-1, keepdims=True)) * scale
    results = (
        share @ value,
        slope @ key,
        slope.swapaxes(2, 3) @ query,
        share.swapaxes(2, 3) @ cotangent,
    )
    return [x.transpose(0, 2, 1, 3) for x in results]


def draw(grid, num, features=FEATURES):
    rng = np.random.default_rng(0)
    shape = (BATCH, grid[0] * grid[1], HEADS, features)
    return [rng.normal(size=shape).astype("f4") for _ in range(num)]


def with_gradients(grid, window):
    def run(query, key, value, cotangent):
        attend = lambda *arrays: neighborhood_attention(*arrays, grid, window)  # noqa: E731
        out, pull_back = jax.vjp(attend, query, key, value)
        return out, *pull_back(cotangent)

    return run


@pytest.mark.parametrize(
    ("grid", "window"),
    [
        pytest.param(*case, marks=pytest.mark.thorough if place % 2 else ())
        for place, case in enumerate(CASES)
    ],
)
def test_windows_are_attended_to_exactly(grid, window):
    arrays = draw(grid, 4)
    found = jax.jit(with_gradients(grid, window))(*arrays)
    expected = dense_attention(*arrays, slow_mask(grid, window))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_window_of_the_whole_grid_is_full_attention(primitives):
    arrays = draw((9, 6), 3)
    full = jax.jit(jax.nn.dot_product_attention)(*arrays)
    for window in ((9, 6), (10, 99)):
        attend = functools.partial(neighborhood_attention, grid=(9, 6), window=window)
        np.testing.assert_allclose(jax.jit(attend)(*arrays), full, atol=1e-6)
        names = primitives(jax.make_jaxpr(attend)(*arrays).jaxpr)
        assert "dot_general" in names
        assert not {"select_n", "concatenate", "pad"} & names


def test_softmax_is_float32_for_bfloat16():
    query, key, value = (jnp.asarray(x, jnp.bfloat16) for x in draw((6, 6), 3))
    query = 30 * query  # large logits, whose differences bfloat16 would lose
    attend = functools.partial(neighborhood_attention, grid=(6, 6), window=(3, 3))
    found = jax.jit(attend)(query, key, value)
    assert found.dtype == jnp.bfloat16
    mask = slow_mask((6, 6), (3, 3))
    expected = dense_attention(query, key, value, value, mask)[0]
    np.testing.assert_allclose(found.astype("f4"), expected, rtol=0.02, atol=0.02)


def test_logits_are_never_those_of_all_pairs():
    sizes = {
        variable.aval.size
        for equation in jax.make_jaxpr(with_gradients((32, 32), (3, 3)))(
            *draw((32, 32), 4)
        ).eqns
        for variable in equation.outvars
    }
    # The sixteen queries of a tile share six by six keys.
    assert max(sizes) == BATCH * HEADS * 1024 * 36


def test_gradients_scatter_nothing(primitives):
    for grid, window in (((16, 16), (5, 5)), ((30, 9), (3, 4))):
        jaxpr = jax.make_jaxpr(with_gradients(grid, window))(*draw(grid, 4))
        names = primitives(jaxpr.jaxpr)
        assert "dot_general" in names
        assert not any("scatter" in name or "gather" in name for name in names)


def test_impossible_requests_are_refused():
    arrays = draw((4, 4), 3)
    with pytest.raises(ValueError, match="4 x 5 tokens wanted, found 16 nodes"):
        neighborhood_attention(*arrays, (4, 5), (3, 3))
    with pytest.raises(ValueError, match="window must be positive, found 4 and 0"):
        neighborhood_attention(*arrays, (4, 4), (3, 0))


def test_the_benchmark_compares_ways_that_agree(capsys):
    attention.main(["attention", "--small", "--repeats=2"])
    printed = capsys.readouterr().out
    assert "6x5 w3; 2 images, 2 heads of 4" in printed
    rows = attention.benchmark(repeats=2, small=True)["6x5 w3"]
    assert list(rows) == ["tiles", "windows", "dense"]
    for row in rows.values():
        assert 0 < row["fastest"] <= row["milliseconds"] <= row["slowest"]
        assert row["scratch"] > 0
        assert row["error"] < 1e-5
