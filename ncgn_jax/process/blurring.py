"""Blurs the data over the nodes as noise grows: processes with heat dissipation.

Heat flows along a graph with Laplacian L = V^T diag(rates) V. In the coordinates V x
of its modes every coefficient has its own schedule,

  x_t = alpha(t) exp(-rates tau(t)) * data + sigma(t) * noise,   tau = blur(t)^2 / 2

(Hoogeboom & Salimans 2022, eq. 10-12), which is the interpolant of the whole library
with one alpha per mode. `with_heat` makes it a `Schedule`, which targets, losses and
sampler steps accept like any other. Noise is standard normal in both coordinates,
because V is orthonormal.

With alpha = 1 and a small constant sigma (`still_schedule`) it is the inverse heat
dissipation of Rissanen et al. (2023). Their sampler, which predicts the data, blurs
the prediction less and adds noise, is `renoise_step`. That process keeps the mean of
the nodes and has no fixed end distribution, so sampling starts from blurred data.

There are two Laplacians. `dct` is a path through the nodes in stored order (as
arXiv 2501.03696 blurs molecules; not equivariant). `complete` joins all nodes, and
blurring draws every node to the mean: exp(-tau) (x - mean) + mean.

>>> import numpy as np
>>> modes = make_heat_modes("complete", 3)
>>> kernel = modes.basis[3].T @ np.diag(np.exp(-modes.rates[3])) @ modes.basis[3]
>>> np.round(kernel @ [3.0, 0.0, 0.0], 3).tolist()
[1.736, 0.632, 0.632]
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ncgn_jax.process import naming
from ncgn_jax.process.schedules import Schedule

HEAT_KINDS = ("dct", "complete")
BLURS = ("sine", "levels")
STILL = "still"  # name of the schedule without change


@dataclasses.dataclass(frozen=True)
class HeatModes:
    """Holds the modes of the heat equation for each number of nodes up to a maximum.

    Attributes:
      basis: Orthonormal rows for n nodes at index n, float32 [n, mode, node]; zero
        outside the first n modes and nodes.
      rates: Eigenvalues of the Laplacian, float32 [n, mode]; 0 for the mean.
    """

    basis: np.ndarray
    rates: np.ndarray


def dct_basis(num_nodes: int) -> np.ndarray:
    """Returns the orthonormal DCT-II, float64 [mode, node].

    V[k, i] = sqrt((2 - [k = 0]) / n) cos(pi k (2 i + 1) / (2 n)). The rows are the
    eigenvectors of a path with reflecting ends; the first is constant.

    Args:
      num_nodes: Number of nodes n, at least 1.

    Raises:
      ValueError: if there are no nodes.
    """
    if num_nodes < 1:
        raise ValueError(f"num_nodes must be at least 1, got {num_nodes}")
    mode, node = np.arange(num_nodes)[:, None], np.arange(num_nodes)[None]
    waves = np.cos(np.pi * mode * (2 * node + 1) / (2 * num_nodes))
    scale = np.where(mode == 0, 1.0, 2.0) / num_nodes
    return np.sqrt(scale) * waves


def heat_rates(kind: str, num_nodes: int) -> np.ndarray:
    """Returns the decay rate of each mode of `dct_basis`, float64 [mode].

    `dct` gives (pi k / n)^2, heat on a rod of n unit lengths. `complete` gives 0 for
    the mean and 1 for all others, the Laplacian of the complete graph over n.

    Args:
      kind: One of `HEAT_KINDS`.
      num_nodes: Number of nodes n.

    Raises:
      ValueError: if the kind does not exist.
    """
    naming.require_choice("heat kind", kind, HEAT_KINDS)
    mode = np.arange(num_nodes)
    if kind == "complete":
        return (mode > 0).astype(float)
    return (np.pi * mode / num_nodes) ** 2


@functools.lru_cache(maxsize=16)
def make_heat_modes(kind: str, max_nodes: int) -> HeatModes:
    """Tabulates modes for 0 to `max_nodes` nodes.

    Args:
      kind: One of `HEAT_KINDS`.
      max_nodes: Largest number of nodes.
    """
    basis = np.zeros((max_nodes + 1, max_nodes, max_nodes), np.float32)
    rates = np.zeros((max_nodes + 1, max_nodes), np.float32)
    for n in range(1, max_nodes + 1):
        basis[n, :n, :n] = dct_basis(n)
        rates[n, :n] = heat_rates(kind, n)
    basis.flags.writeable = rates.flags.writeable = False
    return HeatModes(basis, rates)


def make_blur(
    name: str, max_blur: float, min_blur: float = 0.5, num_levels: int = 100
) -> Callable[[jax.Array], jax.Array]:
    """Returns blur(t), the width over which heat has spread, falling to 0 at t = 1.

    Args:
      name: `sine`: max_blur sin^2(pi (1 - t) / 2) (Hoogeboom & Salimans 2022).
        `levels`: `num_levels` levels from `min_blur` to `max_blur`, evenly spaced in
        the logarithm, and 0 (Rissanen et al. 2023), joined by straight lines.
      max_blur: Blur at t = 0; in nodes for `dct`.
      min_blur: Smallest nonzero blur, for `levels`.
      num_levels: Number of nonzero levels, for `levels`.

    Raises:
      ValueError: if the name does not exist or the range is empty.
    """
    naming.require_choice("blur", name, BLURS)
    if not max_blur > 0:
        raise ValueError(f"max_blur must be positive, got {max_blur}")
    if name == "sine":
        return lambda t: max_blur * jnp.sin(0.5 * jnp.pi * (1.0 - t)) ** 2
    if not 0 < min_blur <= max_blur or num_levels < 2:
        raise ValueError(
            f"levels need 0 < min_blur <= max_blur and at least 2 of them, got "
            f"{min_blur}, {max_blur}, {num_levels}"
        )
    levels = np.concatenate([[0.0], np.geomspace(min_blur, max_blur, num_levels)])

    def blur(t: jax.Array) -> jax.Array:
        table = jnp.asarray(levels, t.dtype)
        place = jnp.arange(num_levels + 1, dtype=t.dtype) / num_levels
        return jnp.interp(1.0 - t, place, table)

    return blur


def still_schedule(sigma: float) -> Schedule:
    """Returns the schedule with alpha = 1 and constant noise.

    Args:
      sigma: Noise at all times, at least 0.

    Raises:
      ValueError: if sigma is negative.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0, got {sigma}")
    return Schedule(STILL, jnp.ones_like, lambda t: jnp.full_like(t, sigma))


def with_heat(
    schedule: Schedule,
    rates: ArrayLike,
    blur: Callable[[jax.Array], jax.Array],
) -> Schedule:
    """Adds heat dissipation to a schedule, in the coordinates of the modes.

    Args:
      schedule: The noise; its alpha and sigma hold for the mode that does not decay.
      rates: Decay of each mode, [row, mode].
      blur: Function of t, as `make_blur` returns it.

    Returns:
      A schedule for x_t [row, mode, feature] in the coordinates of the modes. Its
      coefficients are [row, mode, 1] for times [row] or a scalar. Loss weights (one
      per row) are those of `schedule` alone.
    """
    decay = jnp.asarray(rates)[:, :, None]  # [row, mode, 1]

    def spread(value: jax.Array) -> jax.Array:
        return jnp.asarray(value)[..., None, None] * jnp.ones_like(decay)

    def alpha(t: jax.Array) -> jax.Array:
        return spread(schedule.alpha(t)) * jnp.exp(-0.5 * decay * spread(blur(t)) ** 2)

    return Schedule(
        f"{schedule.name} with heat", alpha, lambda t: spread(schedule.sigma(t))
    )


def to_modes(basis: jax.Array, values: jax.Array) -> jax.Array:
    """Returns the coefficients of each row's modes, [row, mode, feature].

    Args:
      basis: [row, mode, node].
      values: [row, node, feature], 0 in padding.
    """
    return jnp.einsum("bkn,bnf->bkf", basis, values)


def from_modes(basis: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Undoes `to_modes`; padding is 0."""
    return jnp.einsum("bkn,bkf->bnf", basis, coefficients)
