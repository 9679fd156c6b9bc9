"""Generative models of geometric graphs whose network follows the noise level.

Diffusion and flow matching with Noise-Conditioned Graph Networks
(Pao-Huang, Black and Qiu 2025, arXiv 2507.09391) and its neighbours, in JAX.
Start at `ncgn_jax.process` for the notation and `ncgn_jax.train` for the loop.
"""

__version__ = "0.1.0"
