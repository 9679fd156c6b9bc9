"""Holds what this package takes of jraph: all other modules import it from here.

jraph is archived. Should a later JAX break it, this is the one module to write anew: a
batch of graphs, the network function of Battaglia et al. 2018 (arXiv 1806.01261), and
reductions over segments. Networks of users may be any jraph network, because graphs
are jraph's own type.

>>> import jax.numpy as jnp
>>> segment_sum(jnp.ones(3), jnp.array([0, 2, 2]), 3).tolist()
[1.0, 0.0, 2.0]
"""

from jraph import (
    GraphNetwork,
    GraphsTuple,
    segment_mean,
    segment_softmax,
    segment_sum,
)

__all__ = [
    "GraphNetwork",
    "GraphsTuple",
    "segment_mean",
    "segment_softmax",
    "segment_sum",
]
