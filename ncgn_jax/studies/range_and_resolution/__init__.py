"""Studies range and resolution at each noise level (arXiv 2507.09391)."""
