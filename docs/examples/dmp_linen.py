"""Dynamic Message Passing around a Flax Linen network, with a loop of one's own."""

import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import optax

import ncgn_jax as ncgn
from ncgn_jax.graphs import on_coarse_graph


class Network(nn.Module):
    @nn.compact
    def __call__(self, x_t, level, graph):
        told = jnp.broadcast_to(level[:, None, None], (*x_t.shape[:2], 1))
        nodes = nn.gelu(nn.Dense(32)(jnp.concatenate([x_t, told], -1)))
        layer = jraph.GraphConvolution(nn.Dense(32), add_self_edges=True)
        nodes = nodes + nn.gelu(on_coarse_graph(layer, nodes, graph))
        return nn.Dense(3)(jnp.concatenate([nodes, x_t], -1))


dmp = ncgn.DMP(num_nodes=64, num_neighbors=6, dim=3)
data = jax.random.normal(jax.random.key(0), (64, 64, 3))
data = data / jnp.linalg.norm(data, axis=-1, keepdims=True)  # spheres

network, optimiser = Network(), optax.adam(3e-3)
start = data[:1], jnp.zeros(1), dmp.graph(data[:1], 0)
params = jax.jit(network.init)(jax.random.key(1), *start)
state, losses = optimiser.init(params), []
grade = jax.value_and_grad(lambda p, k: dmp.loss(network.apply, p, data, k))


@jax.jit
def step(params, state, key):
    loss, gradient = grade(params, key)
    updates, state = optimiser.update(gradient, state)
    return optax.apply_updates(params, updates), state, loss


for i in range(int(os.environ.get("STEPS", "500"))):
    params, state, loss = step(params, state, jax.random.key(i))
    losses.append(float(loss))

clouds = dmp.sample(network.apply, params, num=4, steps=10)
