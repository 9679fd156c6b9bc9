"""Studies diffusion of two Gaussians in the plane (arXiv 2409.00374)."""
