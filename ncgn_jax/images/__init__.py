"""Images by a diffusion transformer whose patches follow the noise."""
