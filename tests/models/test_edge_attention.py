import dataclasses

import jax
import numpy as np
import pytest

from ncgn_jax.graphs import build_graphs, join_graphs, make_noise_buckets
from ncgn_jax.models import edges, graph_convolutions
from ncgn_jax.models.graph_convolutions import (
    edge_attention,
    make_convolution,
)

WIDTH = 8


def graphs_of(rng, clustering):
    buckets = make_noise_buckets(20, 3, 2, clustering=clustering)
    clouds = jax.random.normal(rng, (2, 20, 2))
    build = jax.jit(build_graphs, static_argnums=1)
    return join_graphs([build(clouds, buckets[0]), build(clouds, buckets[-1])])


def choose_form(monkeypatch, dense):
    monkeypatch.setattr(graph_convolutions, "is_dense", lambda *_: dense)
    monkeypatch.setattr(edges, "is_dense", lambda *_: dense)


def attend(kind, graph, rng):
    layer = make_convolution(kind, WIDTH)
    values = jax.random.normal(rng, (graph.num_supernodes, WIDTH))

    def run(rng, values, graph):
        variables = layer.init(rng, values, graph)
        _, sown = layer.apply(variables, values, graph, mutable=["intermediates"])
        return edge_attention(sown["intermediates"]["attention"], graph)

    return np.asarray(jax.jit(run)(rng, values, graph))


@pytest.mark.parametrize(
    ("kind", "clustering"),
    [
        ("gat", "balanced"),
        ("geometric", "voxel"),
        pytest.param("gat", "voxel", marks=pytest.mark.thorough),
        pytest.param("geometric", "balanced", marks=pytest.mark.thorough),
    ],
)
def test_dense_and_listed_blocks_sow_the_same(rng, monkeypatch, kind, clustering):
    graph = graphs_of(rng, clustering)
    real = np.asarray(graph.coarse.edges["mask"])
    choose_form(monkeypatch, dense=True)
    dense = attend(kind, graph, rng)
    choose_form(monkeypatch, dense=False)
    listed = attend(kind, graph, rng)
    assert dense.shape == listed.shape == real.shape
    assert np.std(dense[real]) > 1e-3
    np.testing.assert_allclose(dense[real], listed[real], rtol=1e-4, atol=1e-6)
    receivers = np.asarray(graph.coarse.receivers)
    without_loop = np.bincount(receivers[real], dense[real], graph.num_supernodes)
    assert np.all(without_loop < 1)
    assert np.all(dense[real] > 0)


def test_ragged_graph_sows_the_same(rng):
    graph = graphs_of(rng, "voxel")
    ragged = dataclasses.replace(graph, blocks=())
    real = np.asarray(graph.coarse.edges["mask"])
    np.testing.assert_allclose(
        attend("gat", graph, rng)[real],
        attend("gat", ragged, rng)[real],
        rtol=1e-4,
        atol=1e-6,
    )
