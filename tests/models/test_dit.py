"""Compares the diffusion transformer with one in numpy; tests its locality."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.models.dit import DIT_SIZES, DiT
from ncgn_jax.models.patches import PatchEmbedding, patch_positions
from tests.weights import drawn

WIDTH, HEADS, CLASSES = 16, 2, 3


def make_net(patches=(4, 2, 1), **changes):
    fields = {
        "out_channels": 2,
        "width": WIDTH,
        "num_layers": 2,
        "num_heads": HEADS,
        "num_classes": CLASSES,
    }
    return DiT(patches=patches, **(fields | changes))


def init(net, *inputs, window):
    start = partial(net.init, patch=4, window=window)
    return jax.jit(start)(jax.random.key(0), *inputs)


@pytest.fixture(scope="module")
def case():
    net = make_net()
    x = np.random.default_rng(1).normal(size=(3, 8, 8, 1)).astype(np.float32)
    level, label = np.float32([0.1, 0.5, 0.9]), np.asarray([0, 2, CLASSES])
    key = jax.random.key(0)
    params = drawn(net.init, key, x, level, label, patch=4, window=2)["params"]
    return net, params, x, level, label


def turned(values, side, patch):
    """Computes RoPE on two axes (arXiv 2104.09864) by products of complex numbers."""
    half = values.shape[-1] // 2
    centre = (np.arange(side) + 0.5) * patch
    rates = 100.0 ** (-np.arange(half // 2) / (half // 2))
    y, x = np.repeat(centre, side)[:, None], np.tile(centre, side)[:, None]
    angles = np.concatenate([y * rates, x * rates], axis=-1)[:, None]
    numbers = (values[..., :half] + 1j * values[..., half:]) * np.exp(1j * angles)
    return np.concatenate([numbers.real, numbers.imag], axis=-1)


def written_out(params, x, level, label, patch, rotary):
    """Computes DiT in numpy (arXiv 2212.09748), with full attention."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x, level = np.asarray(x, np.float64), np.asarray(level, np.float64)

    def dense(values, at):
        return values @ at["kernel"] + at["bias"]

    def silu(v):
        return v / (1 + np.exp(-v))

    def norm(v):
        mean, var = v.mean(-1, keepdims=True), v.var(-1, keepdims=True)
        return (v - mean) / np.sqrt(var + 1e-5)

    def gelu(v):
        return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))

    rates = 1000 * 10_000.0 ** (-np.arange(128) / 128)
    angles = level[:, None] * rates
    embedded = np.concatenate([np.cos(angles), np.sin(angles)], -1)
    c = dense(silu(dense(embedded, p["level_in"])), p["level_out"])
    c = silu(c + p["label"]["embedding"][np.asarray(label)])[:, None]
    batch, side = x.shape[0], x.shape[1] // patch
    cut = x.reshape(batch, side, patch, side, patch, -1).transpose(0, 1, 3, 2, 4, 5)
    cut = cut.reshape(batch, side**2, -1)
    # Other tests cover the embedding itself; here it is a linear map.
    tokens = cut @ p["embed"] + p["embedding"]["bias"]
    tokens = tokens + patch_positions((side, side), patch, WIDTH)
    for i in range(2):
        block = p[f"block_{i}"]
        parts = np.split(dense(c, block["modulation"]["dense"]), 6, -1)
        values = norm(tokens) * (1 + parts[1]) + parts[0]
        qkv = dense(values, block["qkv"]).reshape(batch, side**2, 3, HEADS, -1)
        q, k, v = (qkv[:, :, j] for j in range(3))
        if rotary:
            q, k = turned(q, side, patch), turned(k, side, patch)
        logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(WIDTH // HEADS)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        seen = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(tokens.shape)
        tokens = tokens + parts[2] * dense(seen, block["project"])
        values = norm(tokens) * (1 + parts[4]) + parts[3]
        values = dense(gelu(dense(values, block["mlp_in"])), block["mlp_out"])
        tokens = tokens + parts[5] * values
    head = p[f"head_{patch}"]
    shift, scale = np.split(dense(c, head["modulation"]["dense"]), 2, -1)
    out = dense(norm(tokens) * (1 + scale) + shift, head["dense"])
    out = out.reshape(batch, side, side, patch, patch, -1).transpose(0, 1, 3, 2, 4, 5)
    return out.reshape(batch, side * patch, side * patch, -1)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("patch", [4, 1, pytest.param(2, marks=pytest.mark.thorough)])
def test_equals_the_transformer_written_out(case, patch, rotary):
    _, params, x, level, label = case
    net = make_net(rotary=rotary)
    side = 8 // patch
    apply = jax.jit(net.apply, static_argnames=("patch", "window"))
    found = apply({"params": params}, x, level, label, patch=patch, window=side)
    # The linear map of the embedding, from its output for unit patches.
    units = np.eye(1 + patch**2, patch**2, k=-1, dtype=np.float32)
    embed = jax.jit(PatchEmbedding(WIDTH, 8).apply, static_argnums=2)
    embedding = {"params": params["embedding"]}
    tokens = embed(embedding, units.reshape(-1, patch, patch, 1), patch)[:, 0]
    offset, table = np.split(np.asarray(tokens), [1])
    whole = {**params, "embed": table - offset}
    whole["embedding"] = {"bias": offset}
    wanted = written_out(whole, x, level, label, patch, rotary)
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)


def test_finest_bucket_with_a_full_window_is_the_plain_transformer(case):
    """DiT-DMP and DiT of the smallest patch share weights and agree to the bit."""
    net, params, x, level, label = case
    plain = make_net(patches=(1,))
    own = {k: v for k, v in params.items() if k not in ("head_4", "head_2")}
    found, wanted = (
        jax.jit(partial(one.apply, patch=1, window=8))(
            {"params": weights}, x, level, label
        )
        for one, weights in ((net, params), (plain, own))
    )
    np.testing.assert_array_equal(found, wanted)


def test_predicts_zero_at_initialisation_and_learns_from_there(case):
    net, _, x, level, label = case
    params = init(net, x, level, label, window=2)["params"]

    @partial(jax.grad, has_aux=True)
    def slope(params):
        out = net.apply({"params": params}, x, level, label, patch=2, window=3)
        return jnp.mean((out - 1) ** 2), out

    grads, out = jax.jit(slope)(params)
    assert not np.any(out)
    assert np.any(grads["head_2"]["dense"]["kernel"])


def test_heads_of_other_patches_get_no_gradient(case):
    net, params, x, level, label = case

    def loss(params):
        out = net.apply({"params": params}, x, level, label, patch=2, window=3)
        return jnp.mean((out - x) ** 2)

    grads = jax.jit(jax.grad(loss))(params)
    for name, part in grads.items():
        used = any(np.any(leaf) for leaf in jax.tree.leaves(part))
        assert used == (name not in ("head_4", "head_1")), name


def test_a_pixel_sees_as_far_as_windows_reach(case):
    """Two layers with windows of 3 tokens reach two tokens in each direction."""
    net, params, x, level, label = case

    def pixel(x):
        out = net.apply({"params": params}, x, level, label, patch=1, window=3)
        return out[0, 3, 3].sum()

    reach = np.asarray(jax.jit(jax.grad(pixel))(x))[..., 0]
    assert not np.any(reach[1:])
    rows, columns = np.nonzero(reach[0])
    assert (rows.min(), rows.max()) == (1, 5)
    assert (columns.min(), columns.max()) == (1, 5)


@pytest.mark.parametrize("what", ["level", "label"])
def test_depends_on_noise_and_class(case, what):
    net, params, x, level, label = case
    call = {"level": level, "label": label}
    other = call | {what: call[what][::-1]}
    run = jax.jit(partial(net.apply, patch=4, window=2))
    first, second = (
        np.asarray(run({"params": params}, x, c["level"], c["label"]))
        for c in (call, other)
    )
    assert np.all(np.abs(first - second)[0].max() > 1e-3)
    np.testing.assert_allclose(first[1], second[1], atol=1e-6)


def test_bfloat16_is_near(case):
    net, params, x, level, label = case
    small = make_net(dtype=jnp.bfloat16)
    one, other = (
        jax.jit(partial(m.apply, patch=2, window=3))(
            {"params": params}, x, level, label
        )
        for m in (net, small)
    )
    assert other.dtype == jnp.float32
    assert np.any(np.asarray(one) != other)
    assert np.abs(one - other).mean() < 0.05 * np.abs(one).mean()


def test_images_need_not_be_square():
    net = make_net(patches=(4, 2), num_classes=0)
    x, level = np.ones((2, 8, 12, 3), np.float32), np.zeros(2, np.float32)
    variables = init(net, x, level, window=3)
    out = jax.jit(partial(net.apply, patch=2, window=3))(variables, x, level)
    assert out.shape == (2, 8, 12, 2)


def test_refuses_a_patch_it_has_no_head_for(case):
    net, params, x, level, label = case
    with pytest.raises(ValueError, match=r"patch: found 8; allowed: \(4, 2, 1\)"):
        net.apply({"params": params}, x, level, label, patch=8, window=1)


def test_published_sizes():
    """On latents DiT-S/4 has 32.9 M and DiT-B/4 130.3 M weights (arXiv 2212.09748).

    Ours have a larger kernel, of 8 x 8, that is resized.
    """
    for name, millions in (("S", 32.9), ("B", 130.3)):
        width, layers, heads = DIT_SIZES[name]
        net = DiT((4,), 8, width, layers, heads, num_classes=1000)
        x, label = jnp.zeros((1, 32, 32, 4)), jnp.zeros(1, int)
        shapes = jax.eval_shape(
            lambda net=net, x=x, label=label: net.init(
                jax.random.key(0), x, jnp.zeros(1), label, patch=4, window=8
            )
        )
        count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        kernel = (64 - 16) * 4 * width
        assert (count - kernel) / 1e6 == pytest.approx(millions, rel=0.01)
