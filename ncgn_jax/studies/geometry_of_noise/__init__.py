"""Studies models without the noise level as an input (arXiv 2602.18428)."""
