"""Defines the networks, flax.linen modules on multiscale graphs and images."""
