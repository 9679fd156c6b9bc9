"""Two Gaussians in the plane: schedule, sampler, target, noise (2409.00374)."""
