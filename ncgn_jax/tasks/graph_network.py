"""Builds the noise buckets and the network of domains whose data are graphs."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from ncgn_jax.graphs import NoiseBucket, RangeResolution, make_noise_buckets
from ncgn_jax.models.hourglass import Hourglass
from ncgn_jax.models.ncgn import NCGN

# Networks on graphs by their name, `model.network`; the default first.
NETWORKS: dict[str, type[NCGN] | type[Hourglass]] = {
    "ncgn": NCGN,
    "hourglass": Hourglass,
}


@dataclasses.dataclass(frozen=True)
class GraphSettings:
    """How the shape of graphs follows the noise; see `graphs.make_noise_buckets`.

    Attributes:
      schedule: Range and resolution by signal level.
      num_neighbors: Neighbours of a node on the full graph.
      connectivity: One of `graphs.CONNECTIVITIES`.
      clustering: One of `graphs.CLUSTERINGS`.
      reverse_schedule: Whether graphs are fine where noisy, the control.
      short_fraction: Share of short edges of `long_short` graphs.
    """

    schedule: RangeResolution
    num_neighbors: int
    connectivity: str = "dmp"
    clustering: str = "balanced"
    reverse_schedule: bool = False
    short_fraction: float = 0.5

    def buckets(self, num_nodes: int, dim: int) -> tuple[NoiseBucket, ...]:
        """Returns the noise buckets of graphs.

        Args:
          num_nodes: Nodes of a graph.
          dim: Dimension of the positions.

        Raises:
          ValueError: If no bucket of this size exists.
        """
        return make_noise_buckets(
            num_nodes,
            self.num_neighbors,
            dim,
            schedule=self.schedule,
            clustering=self.clustering,
            connectivity=self.connectivity,
            reverse_schedule=self.reverse_schedule,
            short_fraction=self.short_fraction,
        )

    def describe(self, buckets: tuple[NoiseBucket, ...]) -> str:
        """Describes the graphs in a line."""
        shapes = (f"{b.num_supernodes} x {b.num_neighbors}" for b in buckets)
        return (
            f"graphs: {self.connectivity}, {self.clustering} clustering, "
            f"{self.schedule.name} schedule; supernodes x neighbours "
            f"{', '.join(shapes)}"
        )


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """The size and kind of a network on graphs.

    Attributes:
      width: Hidden features.
      num_layers: Layers.
      convolution: Message passing, see `models.graph_convolutions`.
      norm: Normalisation, see `models.layers.Norm`.
      dtype: Type of hidden products.
      network: Its name: one of `NETWORKS`, or of a plug-in.
      make: Builds a network of a plug-in; None for one of `NETWORKS`.
      knows_span: Whether a network of ours has a flow map, see `tasks.flow_map`.
    """

    width: int
    num_layers: int
    convolution: str
    norm: str
    dtype: str
    network: str = "ncgn"
    make: Callable[..., nn.Module] | None = None
    knows_span: bool = False

    def build(self, out_dim: int, axis_name: str | None = None) -> nn.Module:
        """Builds the network, which is called as `models.ncgn.NCGN` is.

        Args:
          out_dim: Features predicted for each point.
          axis_name: Device axis over which batch norm is joined; None outside pmap.
        """
        if self.make is not None:
            return self.make(self, out_dim, axis_name)
        return NETWORKS[self.network](
            out_dim=out_dim,
            width=self.width,
            num_layers=self.num_layers,
            convolution=self.convolution,
            norm=self.norm,
            axis_name=axis_name,
            dtype=jnp.dtype(self.dtype),
            knows_span=self.knows_span,
        )

    def describe(self) -> str:
        """Describes the network in a few words."""
        if self.make is not None:
            return f"model: {self.network}"
        narrow = "" if self.dtype == "float32" else f", {self.dtype}"
        name = "NCGN" if self.network == "ncgn" else self.network
        return (
            f"model: {name} {self.convolution}, width {self.width}, {self.num_layers} "
            f"layers, {self.norm} norm{narrow}"
        )
