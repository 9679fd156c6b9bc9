"""Generative models of geometric graphs whose network follows the noise level.

Diffusion and flow matching with Noise-Conditioned Graph Networks
(Pao-Huang, Black and Qiu 2025, arXiv 2507.09391) and its neighbours, in JAX.
`load` gives a trained model, `train` trains one on data of one's own, `DMP` has the
noise buckets, loss and sampler around a network of one's own. Start at
`ncgn_jax.process` for the notation and at `ncgn_jax.loop` for the loop.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncgn_jax.dmp import DMP
    from ncgn_jax.loading import load
    from ncgn_jax.training import train

__version__ = "0.1.0"
__all__ = ["DMP", "load", "train"]
# Imported when first asked for, because JAX takes a second.
_HOMES = {
    "DMP": "ncgn_jax.dmp",
    "load": "ncgn_jax.loading",
    "train": "ncgn_jax.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
