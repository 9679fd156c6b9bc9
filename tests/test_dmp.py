"""`ncgn.DMP` around networks of one's own: Linen, NNX and exact ones."""

from pathlib import Path

import jax
import numpy as np
import pytest

import ncgn_jax as ncgn
from ncgn_jax.faults import RequestError

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"


def exact(params, x_t, level, graph):
    """The velocity of data N(0.5, 0.2^2) in every coordinate, on the straight line."""
    mean, spread = 0.5, 0.2
    t = level[:, None, None]  # of the linear process alpha / (alpha + sigma) is t
    var = t**2 * spread**2 + (1 - t) ** 2
    data_hat = mean + t * spread**2 / var * (x_t - t * mean)
    return data_hat - (1 - t) / var * (x_t - t * mean)


def test_samples_of_the_exact_velocity_have_the_law_of_the_data():
    dmp = ncgn.DMP(num_nodes=32, num_neighbors=4, dim=2)
    made = dmp.sample(exact, {}, num=200, steps=40, batch_size=200)
    assert made.shape == (200, 32, 2)
    assert made.mean() == pytest.approx(0.5, abs=0.01)
    assert made.std() == pytest.approx(0.2, rel=0.03)
    again = dmp.sample(exact, {}, num=3, steps=40, batch_size=200)
    np.testing.assert_allclose(again, made[:3], atol=1e-5)


def test_the_loss_is_that_of_times_uniform_in_the_unit_interval():
    """0 instead of the velocity of points at the origin leaves E[noise^2] = 1."""
    dmp = ncgn.DMP(num_nodes=32, num_neighbors=4, dim=3)

    def apply(factor, x, level, _):
        return factor * (level - 0.5)[:, None, None] + 0 * x

    @jax.jit
    def loss(factor, rng):
        return dmp.loss(apply, factor, np.zeros((96, 32, 3), np.float32), rng)

    nothing = loss(0.0, jax.random.key(0))
    assert nothing == pytest.approx(1.0, abs=0.05)
    # E[(t - level)^2] of the mean level, 1/12, says how times are spread.
    spread = loss(1.0, jax.random.key(1))
    assert spread - nothing == pytest.approx(1 / 12, abs=0.03)


def test_paired_noise_is_nearer_to_the_data():
    """0 instead of the velocity leaves E[(data - noise)^2], 2 without pairs."""
    data = np.random.default_rng(1).normal(size=(32, 32, 2)).astype(np.float32)

    def loss(pairing):
        dmp = ncgn.DMP(32, 4, 2, pairing=pairing)
        return dmp.loss(lambda p, x, *_: 0 * x, {}, data, jax.random.key(0))

    pairings = ("none", "splits", "transport")
    losses = jax.jit(lambda: [loss(pairing) for pairing in pairings])()
    losses = np.asarray(losses)
    assert losses[0] == pytest.approx(2.0, abs=0.15)
    assert losses[2] < losses[1] < 0.5


def test_graphs_follow_the_noise():
    dmp = ncgn.DMP(num_nodes=32, num_neighbors=4, dim=3)
    x_t = np.random.default_rng(0).normal(size=(2, 32, 3)).astype(np.float32)
    coarse, fine = (dmp.graph(x_t, level) for level in (0.1, 0.99))
    assert coarse.num_supernodes < fine.num_supernodes == 2 * 32


def test_what_does_not_fit_is_refused():
    with pytest.raises(RequestError, match="DMP: "):
        ncgn.DMP(num_nodes=32, num_neighbors=4, dim=3, schedule="fast")
    with pytest.raises(RequestError, match="pairing: found 'near'; allowed: none, sp"):
        ncgn.DMP(num_nodes=32, num_neighbors=4, dim=3, pairing="near")
    dmp = ncgn.DMP(num_nodes=32, num_neighbors=4, dim=3)
    for shape, said in (((4, 31, 3), "found shape"), ((1, 32, 3), "found 1 clouds")):
        with pytest.raises(RequestError, match=said):
            dmp.loss(exact, {}, np.zeros(shape), jax.random.key(0))


@pytest.mark.parametrize("name", ["dmp_linen", "dmp_nnx"])
def test_examples_train_and_sample(name, monkeypatch):
    text = (EXAMPLES / f"{name}.py").read_text()
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 40
    monkeypatch.setenv("STEPS", "30")
    names: dict = {"__name__": "example"}
    exec(compile(text, name, "exec"), names)
    losses = names["losses"]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert np.isfinite(names["clouds"]).all()
    assert names["clouds"].shape == (4, 64, 3)
