"""Tests norms with hand-written gradients, dense layers and safe lengths."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from ncgn_jax.models.layers import (
    MLP,
    NORMS,
    Norm,
    PairDense,
    batch_norm,
    exact_gelu,
    layer_norm,
    rms_norm,
    safe_norm,
)

pytestmark = pytest.mark.usefixtures("compile_quickly")


def plain_rms(values, scale, bias):
    row = (1,) * (values.ndim - 1) + (-1,)
    root = jnp.sqrt(jnp.mean(values**2, axis=-1, keepdims=True) + 1e-5)
    return values / root * scale.reshape(row) + bias.reshape(row)


def plain_layer(values, scale, bias):
    row = (1,) * (values.ndim - 1) + (-1,)
    centred = values - values.mean(axis=-1, keepdims=True)
    root = jnp.sqrt(values.var(axis=-1, keepdims=True) + 1e-5)
    return centred / root * scale.reshape(row) + bias.reshape(row)


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8)])
@pytest.mark.parametrize(
    ("ours", "plain"), [(rms_norm, plain_rms), (layer_norm, plain_layer)]
)
def test_norms_and_their_gradients_equal_the_plain_formula(ours, plain, shape):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        values, weight = (jnp.asarray(rng.normal(size=shape)) for _ in range(2))
        values = values.at[0].multiply(1e-3)  # where the 1e-5 matters
        scale, bias = (jnp.asarray(rng.normal(size=shape[-1])) for _ in range(2))
        results = [
            jax.jit(
                jax.value_and_grad(
                    lambda v, s, b, f=form: jnp.sum(weight * jnp.sin(f(v, s, b))),
                    argnums=(0, 1, 2),
                )
            )(values, scale, bias)
            for form in (ours, plain)
        ]
        for found, expected in zip(*map(jax.tree.leaves, results), strict=True):
            assert found.dtype == jnp.float64
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", [rms_norm, layer_norm])
def test_norms_of_constant_rows_are_finite(norm):
    values, ones = jnp.zeros((3, 4)), jnp.ones(4)
    gradient = jax.jit(jax.grad(lambda v: norm(v, ones, ones).sum()))(values)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(jax.jit(norm)(values, ones, ones), 1.0)


def plain_batch(values, scale, bias, mask):
    # Flax's own norm, whose gradient is automatic.
    norm = nn.BatchNorm(use_running_average=False, momentum=0.0, epsilon=1e-5)
    zeros = {"mean": jnp.zeros_like(scale), "var": jnp.zeros_like(scale)}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": zeros}
    rows = None if mask is None else mask[:, None]
    out, state = norm.apply(variables, values, mask=rows, mutable=["batch_stats"])
    return out, state["batch_stats"]["mean"], state["batch_stats"]["var"]


@pytest.mark.parametrize("num_real", [None, 7])
def test_batch_norm_and_its_gradients_equal_those_of_flax(num_real):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        values, weight = (jnp.asarray(rng.normal(2, 3, (12, 5))) for _ in range(2))
        values = values.at[:, 0].multiply(1e-3)  # where the 1e-5 matters
        scale, bias = (jnp.asarray(rng.normal(size=5)) for _ in range(2))
        mask = None if num_real is None else jnp.arange(12) < num_real
        results = []
        for form in (batch_norm, plain_batch):

            def loss(v, s, b, form=form):
                out, mean, var = form(v, s, b, mask)
                return jnp.sum(weight * jnp.sin(out)), (out, mean, var)

            graded = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
            results.append(jax.jit(graded)(values, scale, bias))
        for found, expected in zip(*map(jax.tree.leaves, results), strict=True):
            assert found.dtype == jnp.float64
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_batch_norm_over_devices_equals_one_device():
    rng = np.random.default_rng(3)
    values, weight = (rng.normal(1, 2, (4, 6, 3)).astype("f4") for _ in range(2))
    scale, bias = (rng.normal(size=3).astype("f4") for _ in range(2))

    def graded(values, weight, axis_name):
        def loss(v, s, b):
            out, *moments = batch_norm(v, s, b, None, axis_name)
            return jnp.sum(weight * jnp.sin(out)), moments

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(values, scale, bias)

    lifted = jax.vmap(functools.partial(graded, axis_name="device"), axis_name="device")
    (each, each_scale, each_bias), each_moments = lifted(values, weight)
    flat = [part.reshape(24, 3) for part in (values, weight)]
    (whole, whole_scale, whole_bias), moments = graded(*flat, None)
    np.testing.assert_allclose(np.asarray(each).reshape(24, 3), whole, atol=1e-4)
    np.testing.assert_allclose(each_scale.sum(axis=0), whole_scale, atol=1e-4)
    np.testing.assert_allclose(each_bias.sum(axis=0), whole_bias, atol=1e-4)
    for found, expected in zip(each_moments, moments, strict=True):
        np.testing.assert_allclose(found, np.stack([expected] * 4), rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_batch_norm_leaves_masked_rows_out_of_its_statistics(masked):
    rng = np.random.default_rng(1)
    values = rng.normal(2.0, 3.0, size=(20, 4)).astype("f4")
    mask = np.arange(20) < 13 if masked else None
    real = values[:13] if masked else values
    values[13:] *= 1e3 if masked else 1.0
    norm = Norm("batch")
    out, state = jax.jit(
        lambda v: norm.init_with_output(jax.random.key(0), v, train=True, mask=mask)
    )(values)
    stats = state["batch_stats"]["BatchNorm_0"]
    mean, var = real.mean(axis=0), real.var(axis=0)
    np.testing.assert_allclose(
        np.asarray(out)[: len(real)], (real - mean) / np.sqrt(var + 1e-5), atol=2e-4
    )
    # A step moves the running statistics by a tenth, initialisation does not.
    np.testing.assert_array_equal(stats["mean"], 0.0)
    np.testing.assert_array_equal(stats["var"], 1.0)
    _, moved = jax.jit(
        lambda v, s: norm.apply(s, v, train=True, mask=mask, mutable=["batch_stats"])
    )(values, state)
    moved = moved["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(moved["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * var, rtol=1e-4)


def test_batch_norm_uses_running_statistics_outside_training():
    stats = {"mean": jnp.full(2, 3.0), "var": jnp.full(2, 4.0)}
    params = {"scale": jnp.full(2, 5.0), "bias": jnp.full(2, 1.0)}
    variables = {
        "params": {"BatchNorm_0": params},
        "batch_stats": {"BatchNorm_0": stats},
    }
    out = Norm("batch").apply(variables, jnp.full((1, 2), 7.0), train=False)
    np.testing.assert_allclose(out, (7 - 3) / np.sqrt(4 + 1e-5) * 5 + 1, rtol=1e-6)


def test_every_norm_keeps_the_shape_and_an_unknown_one_is_refused():
    values = jnp.arange(12.0).reshape(3, 4)
    for kind in NORMS:
        init = functools.partial(Norm(kind).init_with_output, train=True)
        out, _ = jax.jit(init)(jax.random.key(0), values)
        assert out.shape == values.shape
        if kind == "none":
            np.testing.assert_array_equal(out, values)
    with pytest.raises(ValueError, match="allowed: batch, layer, rms, none"):
        Norm("group").init(jax.random.key(0), values, train=True)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("plain_last", [True, False])
def test_mlp_equals_a_loop(share, plain_last):
    # Layers that share a norm have one width.
    mlp = MLP((4, 4, 4) if share else (5, 4, 3), "rms", share, plain_last)
    values = np.random.default_rng(2).normal(size=(6, 2)).astype("f4")
    out, variables = jax.jit(
        lambda v: mlp.init_with_output(jax.random.key(3), v, train=False)
    )(values)
    params = variables["params"]
    num_normed = 3 - int(plain_last)
    names = {name for name in params if name.startswith("norm")}
    assert names == {f"norm_{i}" for i in range(1 if share else num_normed)}
    for i in range(3):
        dense = params[f"dense_{i}"]
        values = values @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
        if i < num_normed:
            root = np.sqrt((values**2).mean(axis=1, keepdims=True) + 1e-5)
            values = np.maximum(values / root, 0)
    np.testing.assert_allclose(out, values, atol=1e-5)


def test_safe_norm_is_the_length_and_its_gradient_vanishes_at_zero():
    vectors = jnp.asarray([[3.0, 4.0], [0.0, 0.0], [1e-18, 0.0]])
    np.testing.assert_allclose(safe_norm(vectors)[:2], [[5.0], [0.0]])
    gradient = jax.grad(lambda v: safe_norm(v).sum())(vectors)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[:2], [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_gelu_is_the_exact_one():
    values = np.linspace(-3, 3, 13).astype("f4")
    expected = values * 0.5 * (1 + special.erf(values / np.sqrt(2)))
    np.testing.assert_allclose(exact_gelu(values), expected, atol=1e-6)
    # The tanh approximation is off by up to 5e-4.
    rough = np.asarray(jax.nn.gelu(values, approximate=True))
    assert np.abs(rough - expected).max() > 1e-4


def test_masked_statistics_count_the_rows_of_all_devices():
    """Devices with unequal numbers of real rows agree with one device."""
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, (8, 6, 4)).astype(np.float32)
    mask = np.arange(6)[None] < np.array([6, 1, 2, 6, 3, 1, 1, 5])[:, None]
    cotangent = rng.normal(size=values.shape).astype(np.float32)
    scale, bias = jnp.full(4, 1.5), jnp.full(4, 0.3)

    def run(values, mask, cotangent, axis_name):
        out, vjp = jax.vjp(
            lambda v: batch_norm(v, scale, bias, mask, axis_name)[0], values
        )
        return out, vjp(cotangent)[0]

    flat = (a.reshape(-1, *a.shape[2:]) for a in (values, mask, cotangent))
    expected = run(*flat, None)
    lifted = jax.vmap(lambda *args: run(*args, "device"), axis_name="device")
    for found, whole in zip(lifted(values, mask, cotangent), expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(found).reshape(-1, 4), whole, rtol=1e-4, atol=1e-5
        )


def test_pairs_go_through_a_dense_layer_unjoined():
    """Parameters, values and gradients equal those of a layer of the joined array."""
    left, right, weight = (
        jax.random.normal(jax.random.key(i), (9, width))
        for i, width in enumerate((5, 7, 4))
    )
    pair, joined = PairDense(4), nn.Dense(4)
    variables = pair.init(jax.random.key(3), left, right)
    chex.assert_trees_all_equal_shapes(
        variables, joined.init(jax.random.key(3), jnp.ones((1, 12)))
    )
    variables["params"]["bias"] = jnp.arange(4.0)

    def by_pair(variables, left, right):
        return jnp.sum(weight * pair.apply(variables, left, right))

    def by_joined(variables, left, right):
        both = jnp.concatenate([left, right], axis=1)
        return jnp.sum(weight * joined.apply(variables, both))

    found, expected = (
        jax.value_and_grad(fn, (0, 1, 2))(variables, left, right)
        for fn in (by_pair, by_joined)
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)
    program = str(jax.make_jaxpr(jax.grad(by_pair, (0, 1, 2)))(variables, left, right))
    assert "[9,12]" not in program
