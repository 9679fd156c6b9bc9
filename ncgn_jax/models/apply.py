"""Runs networks whose collections stay as they are."""

from typing import Any

import flax.linen as nn


def apply_network(network: nn.Module, variables: Any, *args: Any, **fields: Any) -> Any:
    """Returns what a network returns.

    `Module.apply` is typed as if it might return changed collections too.

    Args:
      network: The network.
      variables: Parameters and statistics.
      *args: Inputs.
      **fields: Inputs by name.
    """
    return network.apply(variables, *args, **fields)
