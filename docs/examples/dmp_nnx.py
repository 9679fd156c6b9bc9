"""Dynamic Message Passing around a Flax NNX network, with a loop of one's own."""

import os

import jax
import jax.numpy as jnp
import jraph
import optax
from flax import nnx

import ncgn_jax as ncgn
from ncgn_jax.graphs import on_coarse_graph


class Network(nnx.Module):
    def __init__(self, rngs):
        self.enter = nnx.Linear(4, 32, rngs=rngs)
        self.message = nnx.Linear(32, 32, rngs=rngs)
        self.leave = nnx.Linear(35, 3, rngs=rngs)

    def __call__(self, x_t, level, graph):
        told = jnp.broadcast_to(level[:, None, None], (*x_t.shape[:2], 1))
        nodes = nnx.gelu(self.enter(jnp.concatenate([x_t, told], -1)))
        layer = jraph.GraphConvolution(self.message, add_self_edges=True)
        nodes = nodes + nnx.gelu(on_coarse_graph(layer, nodes, graph))
        return self.leave(jnp.concatenate([nodes, x_t], -1))


dmp = ncgn.DMP(num_nodes=64, num_neighbors=6, dim=3)
data = jax.random.normal(jax.random.key(0), (64, 64, 3))
data = data / jnp.linalg.norm(data, axis=-1, keepdims=True)  # spheres

definition, params = nnx.split(Network(nnx.Rngs(1)))


def apply(params, x_t, level, graph):
    return nnx.merge(definition, params)(x_t, level, graph)


optimiser = optax.adam(3e-3)
state, losses = optimiser.init(params), []
grade = jax.value_and_grad(lambda p, k: dmp.loss(apply, p, data, k))


@jax.jit
def step(params, state, key):
    loss, gradient = grade(params, key)
    updates, state = optimiser.update(gradient, state)
    return optax.apply_updates(params, updates), state, loss


for i in range(int(os.environ.get("STEPS", "500"))):
    params, state, loss = step(params, state, jax.random.key(i))
    losses.append(float(loss))

clouds = dmp.sample(apply, params, num=4, steps=10)
