"""Networks: flax.linen modules on multiscale graphs."""
